"""A transformer that draws guided pictures: the official structure eager, and its mathematics compiled."""

from copy import deepcopy

import torch
import torch.nn.functional as F

from best import Cache, draw_bits, graphed, project_text
from models import BF16, Block, Conditions, ada_layer_norm, autocast, fused_ada_layer_norm, rope_table

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

    def __init__(self, cases, sides, device, compiler, run_block, depth=None):
        model, tokens = cases["model"], cases["text_tokens"]
        self.device, self.bits, self.run_block = device, cases["bits"], run_block
        self.C, self.heads, Ct = model["embed_dim"], model["num_heads"], model["text_channels"]
        C, D = self.C, self.bits
        with torch.device(device):
            self.blocks = [Block(C, self.heads).to(BF16) for _ in range(depth or model["depth"])]
            self.conditions = Conditions(Ct, C, tokens)
            self.features = torch.randn(tokens, Ct)
            self.word, self.word_b = torch.randn(C, D) * 0.02, torch.randn(C) * 0.02
            self.levels = torch.randn(len(sides), C) * 0.02
            self.head, self.head_b = torch.randn(2 * D, C) * 0.02, torch.randn(2 * D) * 0.02
        self.best_conditions = compiler(deepcopy(self.conditions).to(BF16))
        self.at = offsets(sides)
        self.table = rope_table(self.at[-1], C // self.heads, device)
        self.use(sides)

    def use(self, sides):
        """From now on pictures of these scales."""
        self.sides, self.finest = sides, (sides[-1], sides[-1])

    def next_input(self, total, k, word, bias):
        side = self.sides[k]
        x = F.interpolate(total, size=(side, side), mode="bilinear").flatten(2).transpose(1, 2)
        return F.linear(x.to(word.dtype), word, bias).repeat(ROWS, 1, 1)

    def add_codes(self, total, bits, k):
        side = self.sides[k]
        codes = ((bits.float() * 2 - 1) / self.bits**0.5).transpose(1, 2).reshape(1, self.bits, side, side)
        return total + (codes if side == self.finest[0] else F.interpolate(codes, size=self.finest, mode="bilinear"))

    # ---- as released

    def sample_eager(self, h, pooled):
        """The head computes in f32."""
        with autocast(self.device, enabled=False):
            x = fused_ada_layer_norm(self.C, h.float(), *self.conditions.head_modulation(pooled))
            logits = F.linear(x, self.head, self.head_b).mul(1 / TAU)
        logits = (GUIDANCE * logits[:1] + (1 - GUIDANCE) * logits[1:]).reshape(-1, 2)
        logits = logits.masked_fill(logits < logits.topk(2, dim=-1)[0].amin(-1, keepdim=True), float("-inf"))
        return torch.multinomial(logits.softmax(-1), 1).view(1, -1, self.bits)

    def eager(self, told=lambda: None):
        """Draws from the features of the text, and tells the end of each scale."""
        with torch.no_grad(), autocast(self.device):
            for block in self.blocks:
                block.cache = None
            text, x, pooled = self.conditions(self.features)
            cond = self.conditions.modulation(pooled)
            total = torch.zeros(1, self.bits, *self.finest, device=self.device)
            for k in range(len(self.sides)):
                x = x + self.levels[k]
                for block in self.blocks:
                    x = block(x, cond, text, self.table, self.at[k], caching=True)
                total = self.add_codes(total, self.sample_eager(x, pooled), k)
                if k + 1 < len(self.sides):
                    x = self.next_input(total, k + 1, self.word, self.word_b)
                told()
            return total

    def eager_block(self, k):
        block, n = self.blocks[0], self.sides[k] ** 2
        x = torch.randn(ROWS, n, self.C, device=self.device).to(BF16)
        past = torch.randn(ROWS, self.heads, self.at[k], self.C // self.heads, device=self.device).to(BF16)
        with torch.no_grad(), autocast(self.device):
            text, _, pooled = self.conditions(self.features)
            cond = self.conditions.modulation(pooled)

        def call():
            with torch.no_grad(), autocast(self.device):
                block.cache = (past, past) if self.at[k] else None
                return block(x, cond, text, self.table, self.at[k], caching=True)

        return call

    # ---- compiled

    def take_weights(self):
        """What is made when a model is loaded: caches, weights in bf16, the folded head."""
        c, tokens = self.C // self.heads, self.at[-1]
        self.caches = [Cache(ROWS, self.heads, tokens, c, self.device) for _ in self.blocks]
        self.folded = (self.head[1::2] - self.head[::2]).to(BF16)
        self.folded_b = (self.head_b[1::2] - self.head_b[::2]).to(BF16)
        self.best_word, self.best_word_b, self.best_levels = (
            t.to(BF16) for t in (self.word, self.word_b, self.levels)
        )

    def take_text(self):
        """What a prompt gives to all scales: keys and values of the text, modulations, the first input."""
        conditions = self.best_conditions
        text, self.start, pooled = conditions(self.features)
        cond = conditions.modulation(pooled)
        self.texts = [project_text(block, text) for block in self.blocks]
        self.modulations = [[m.to(BF16) for m in block.modulation(cond)] for block in self.blocks]
        self.head_modulation = conditions.head_modulation(pooled)

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
                self.take_text()
                self.total.zero_()
                x = self.start
            else:
                x = self.next_input(self.total, k, self.best_word, self.best_word_b)
            x = x + self.best_levels[k]
            for i in range(len(self.blocks)):
                x = self.compiled_block(i, x, k)
            h = ada_layer_norm(self.C, x, *self.head_modulation).to(BF16)
            bits = draw_bits(h, self.folded, self.folded_b, GUIDANCE, TAU, TOP_P)
            self.total.copy_(self.add_codes(self.total, bits, k))

    def compiled(self):
        """A graph a scale; the first takes the text."""
        with torch.no_grad():
            self.take_weights()
        self.total = torch.zeros(1, self.bits, *self.finest, device=self.device)
        steps = [graphed(lambda k=k: self.scale(k), self.device) for k in range(len(self.sides))]

        def draw(told=lambda: None):
            for step in steps:
                step()
                told()
            return self.total

        return draw

    def one_compiled_block(self, k):
        x = torch.randn(ROWS, self.sides[k] ** 2, self.C, device=self.device).to(BF16)

        def call():
            with torch.no_grad():
                return self.compiled_block(0, x, k)

        return graphed(call, self.device)
