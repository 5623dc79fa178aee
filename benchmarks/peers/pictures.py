"""Peers of a block at every scale and of whole pictures: the official structure eager, and its mathematics compiled."""

import torch
import torch.nn.functional as F

from best import Cache, block_forward, draw_bits, graphed, project_text
from models import BF16, Block, Decoder, autocast, rope_table

ROWS = 2  # a guided picture is two samples
GUIDANCE, TAU, TOP_P = 3.0, 1.0, 1.0


def offsets(sides):
    ends = [0]
    for side in sides:
        ends.append(ends[-1] + side * side)
    return ends


class Model:
    """Weights and operands, which the two ways to draw share. Caches and positions are those of the largest picture:
    a block is compiled once a scale, and not once a scale of every picture."""

    def __init__(self, cases, sides, device, run_block, depth=None):
        model = cases["model"]
        self.device, self.bits, self.run_block = device, cases["bits"], run_block
        self.C, self.heads = model["embed_dim"], model["num_heads"]
        C, D = self.C, self.bits
        weight = lambda *shape: (torch.randn(*shape, device=device) * 0.02).to(BF16)
        with torch.device(device):
            self.blocks = [Block(C, self.heads).to(BF16) for _ in range(depth or model["depth"])]
        self.word, self.word_b, self.levels = weight(C, D), weight(C), weight(len(sides), C)
        self.head, self.head_b, self.head_scale = weight(2 * D, C), weight(2 * D), weight(ROWS, 1, 2, C)
        self.start = weight(ROWS, 1, C)
        self.cond, self.text = weight(ROWS, 1, 6, C), weight(ROWS, cases["text_tokens"], C)
        self.at = offsets(sides)
        self.table = rope_table(self.at[-1], C // self.heads, device)
        self.use(sides)

    def use(self, sides):
        """From now on pictures of these scales."""
        self.sides, self.finest = sides, (sides[-1], sides[-1])

    def next_input(self, total, k):
        side = self.sides[k]
        x = F.interpolate(total, size=(side, side), mode="bilinear").flatten(2).transpose(1, 2)
        return F.linear(x.to(BF16), self.word, self.word_b).repeat(ROWS, 1, 1)

    def add_codes(self, total, bits, k):
        side = self.sides[k]
        codes = ((bits.float() * 2 - 1) / self.bits**0.5).transpose(1, 2).reshape(1, self.bits, side, side)
        return total + F.interpolate(codes, size=self.finest, mode="bilinear")

    def normed(self, x):
        scale, shift = self.head_scale.unbind(2)
        return F.layer_norm(x.float(), (self.C,), eps=1e-6).mul(scale.add(1)).add_(shift)

    # ---- as released

    def sample_eager(self, h, D):
        logits = F.linear(self.normed(h), self.head, self.head_b).float()
        logits = (GUIDANCE * logits[:1] + (1 - GUIDANCE) * logits[1:]) / TAU
        logits = logits.reshape(-1, 2)
        logits = logits.masked_fill(logits < logits.topk(2, dim=-1)[0][..., -1:], float("-inf"))
        return torch.multinomial(logits.softmax(-1), 1).view(1, -1, D)

    def eager(self):
        with torch.no_grad(), autocast(self.device):
            for block in self.blocks:
                block.cache = None
            total = torch.zeros(1, self.bits, *self.finest, device=self.device)
            x = self.start
            for k in range(len(self.sides)):
                x = x + self.levels[k]
                for block in self.blocks:
                    x = block(x, self.cond, self.text, self.table, self.at[k], caching=True)
                total = self.add_codes(total, self.sample_eager(x, self.bits), k)
                if k + 1 < len(self.sides):
                    x = self.next_input(total, k + 1)
            return total

    def eager_block(self, k):
        block, n = self.blocks[0], self.sides[k] ** 2
        x = torch.randn(ROWS, n, self.C, device=self.device).to(BF16)
        past = torch.randn(ROWS, self.heads, self.at[k], self.C // self.heads, device=self.device).to(BF16)

        def call():
            with torch.no_grad(), autocast(self.device):
                block.cache = (past, past) if self.at[k] else None
                return block(x, self.cond, self.text, self.table, self.at[k], caching=True)

        return call

    # ---- compiled

    def prepare(self):
        """What a request makes once: caches, the text's keys and values, modulations, the folded head."""
        c, tokens = self.C // self.heads, self.at[-1]
        self.caches = [Cache(ROWS, self.heads, tokens, c, self.device) for _ in self.blocks]
        self.texts = [project_text(block, self.text) for block in self.blocks]
        self.modulations = [[m.to(BF16) for m in block.modulation(self.cond)] for block in self.blocks]
        self.folded, self.folded_b = self.head[1::2] - self.head[::2], self.head_b[1::2] - self.head_b[::2]
        self.total = torch.zeros(1, self.bits, *self.finest, device=self.device)

    def compiled_block(self, i, x, k):
        start, end = self.at[k], self.at[k + 1]
        cos, sin = (t[start:end] for t in self.table)
        cache, text = self.caches[i], self.texts[i]
        return self.run_block(
            self.blocks[i], x, self.modulations[i], *text, cache.k, cache.v, cos, sin, start, end
        )

    def scale(self, k):
        with torch.no_grad():
            if k == 0:
                self.total.zero_()
            x = (self.start if k == 0 else self.next_input(self.total, k)) + self.levels[k]
            for i in range(len(self.blocks)):
                x = self.compiled_block(i, x, k)
            bits = draw_bits(self.normed(x).to(BF16), self.folded, self.folded_b, GUIDANCE, TAU, TOP_P)
            self.total.copy_(self.add_codes(self.total, bits, k))

    def compiled(self):
        with torch.no_grad():
            self.prepare()
            steps = [graphed(lambda k=k: self.scale(k), self.device) for k in range(len(self.sides))]

        def draw():
            for step in steps:
                step()
            return self.total

        return draw

    def one_compiled_block(self, k):
        x = torch.randn(ROWS, self.sides[k] ** 2, self.C, device=self.device).to(BF16)

        def call():
            with torch.no_grad():
                return self.compiled_block(0, x, k)

        return graphed(call, self.device)


def decoders(cases, short, device, compiler):
    """Calls by peer, each with the sum of codes of a picture."""
    options = {"base": 32, "multipliers": (1, 1, 1, 1, 1), "blocks": 2} if short else {}
    with torch.device(device):
        decoder = Decoder(cases["bits"], **options)
        best = Decoder(cases["bits"], **options).to(BF16).to(memory_format=torch.channels_last)
    fast = compiler(best)

    def eager(total):
        with torch.no_grad(), autocast(device):
            return decoder(total).float()

    def compiled(total):
        with torch.no_grad():
            return fast(total.to(BF16).to(memory_format=torch.channels_last))

    return eager, lambda total: graphed(lambda: compiled(total), device)


def block_rows(cases, sides, meter, report, run_block):
    model = Model(cases, sides[: cases["block"]["scales"]], meter.device, run_block, depth=1)
    with torch.no_grad():
        model.prepare()
    for k, side in enumerate(model.sides):
        name = f"block, {ROWS} x {side * side} tokens"
        report.row("block", "eager", name, lambda: meter.measure(model.eager_block(k)))
        report.row("block", "compiled", name, lambda: meter.measure(model.one_compiled_block(k)))


def picture_rows(cases, sides, meter, report, compiler, run_block, only):
    short = cases["model"]["size"] != "infinity_2b"
    eager_decode, best_decode = decoders(cases, short, meter.device, compiler)
    most = max(picture["scales"] for picture in cases["pictures"])
    model = Model(cases, sides[:most], meter.device, run_block)
    for picture in cases["pictures"]:
        name = f"{cases['model']['size']} {picture['name']}"
        if only not in name:
            continue
        model.use(sides[: picture["scales"]])
        total = torch.randn(1, cases["bits"], *model.finest, device=meter.device)
        measure = lambda call: lambda: meter.measure(call(), whole=True)

        def both(draw, decode):
            drawn = draw()
            decoded = decode(total)
            return lambda: (drawn(), decoded())

        eager_draw = lambda: model.eager
        eager_decoded = lambda total: lambda: eager_decode(total)
        for peer, draw, decode in (("eager", eager_draw, eager_decoded), ("compiled", model.compiled, best_decode)):
            report.row("pictures", peer, f"{name}, transformer", measure(draw))
            report.row("pictures", peer, f"{name}, decoder", measure(lambda: decode(total)))
            report.row("pictures", peer, f"{name}, transformer and decoder", measure(lambda: both(draw, decode)))


def rows(cases, sides, meter, report, compiler, levels, only):
    if torch.cuda.is_available():
        torch._dynamo.config.cache_size_limit = 256
    torch._dynamo.reset()
    run_block = compiler(block_forward)
    if "block" in levels:
        block_rows(cases, sides, meter, report, run_block)
    if "pictures" in levels:
        picture_rows(cases, sides, meter, report, compiler, run_block, only)
