"""Peers of single kernels: what PyTorch runs as one writes it down (eager), and its best (compiled, fused, chosen)."""

import torch
import torch.nn.functional as F

BF16, F32 = torch.bfloat16, torch.float32


class Kernels:
    """A method for every kind of case returns its peers, name -> call, with random operands of the case's shapes."""

    def __init__(self, device, sides, compiler):
        self.device, self.sides, self.compiler = torch.device(device), sides, compiler

    def random(self, *shape, dtype=BF16, std=1.0):
        return (torch.randn(*shape, device=self.device) * std).to(dtype)

    def both(self, fn, *operands):
        compiled = self.compiler(fn)
        return {"eager": lambda: fn(*operands), "compiled": lambda: compiled(*operands)}

    def peers(self, case):
        with torch.no_grad():
            return getattr(self, case["kind"])(**{k: v for k, v in case.items() if k not in ("kind", "name")})

    # ---- products

    def linear(self, rows, out, inputs, epilogue):
        x, w, b = self.random(2, rows // 2, inputs), self.random(out, inputs, std=0.02), self.random(out)
        if epilogue == "none":
            return self.both(lambda x: F.linear(x, w, b), x)
        if epilogue == "gelu":
            return self.both(lambda x: F.gelu(F.linear(x, w, b), approximate="tanh"), x)
        base, gate = self.random(2, rows // 2, out), self.random(2, 1, out)
        return self.both(lambda x: base + F.linear(x, w, b) * gate, x)

    def products_around_norm(self, rows, width, out, folded):
        x, base, gate = self.random(2, rows // 2, width), self.random(2, rows // 2, width), self.random(2, 1, width)
        scale, shift = self.random(2, 1, width), self.random(2, 1, width)
        w, v = self.random(width, width, std=0.02), self.random(out, width, std=0.02)

        def run(x):
            y = F.layer_norm((base + F.linear(x, w) * gate).float(), (width,), eps=1e-6)
            return F.linear(y.mul(scale.add(1)).add_(shift).to(BF16), v)

        return self.both(run, x)

    def linear_backward(self, rows, out, inputs):
        gy, x, w = self.random(rows, out), self.random(rows, inputs), self.random(out, inputs, std=0.02)
        return self.both(lambda gy, x: (gy @ w, gy.t() @ x, gy.sum(0)), gy, x)

    def conv(self, size, inputs, out):
        x, w, b = self.random(1, inputs, size, size), self.random(out, inputs, 3, 3, std=0.02), self.random(out)
        last = torch.channels_last
        y, v = x.to(memory_format=last), w.to(memory_format=last)
        return {"eager": lambda: F.conv2d(x, w, b, padding=1), "compiled": lambda: F.conv2d(y, v, b, padding=1)}

    def upsample(self, size, inputs):
        x, w, b = self.random(1, inputs, size, size), self.random(inputs, inputs, 3, 3, std=0.02), self.random(inputs)
        last = torch.channels_last
        y, v = x.to(memory_format=last), w.to(memory_format=last)
        run = lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, b, padding=1)
        compiled = self.compiler(run)
        return {"eager": lambda: run(x, w), "compiled": lambda: compiled(y, v)}

    def group_norm(self, size, channels):
        x, w, b = self.random(1, channels, size, size), self.random(channels), self.random(channels)
        return self.both(lambda x: F.silu(F.group_norm(x, 32, w, b, 1e-6)), x)

    # ---- attention

    def visible(self, queries, form, scales):
        """Where a block-causal query sees a key; nothing for the other forms."""
        if form != "causal":
            return None
        ends, start = [], 0
        for side in self.sides[:scales]:
            start += side * side
            ends += [start] * (side * side)
        ends = torch.tensor(ends, device=self.device)
        return torch.arange(queries, device=self.device)[None, :] < ends[:, None]

    def operands(self, batch, queries, keys, heads, width, form):
        rows = keys // batch if form == "text" else keys
        shape = lambda n: (batch, heads, n, width)
        return [self.random(*shape(n), std=width**-0.25) for n in (queries, rows, rows)]

    def attention(self, batch, queries, keys, heads, width, form, scales=1, backward=False):
        q, k, v = self.operands(batch, queries, keys, heads, width, form)
        mask = self.visible(queries, form, scales)
        if backward:
            for t in (q, k, v):
                t.requires_grad_()
        go = self.random(*q.shape)

        def call(attend):
            if not backward:
                return lambda: attend(q, k, v)
            with torch.enable_grad():
                o = attend(q, k, v)
            return lambda: torch.autograd.grad(o, (q, k, v), go, retain_graph=True)

        plain = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return {"eager": call(plain), **self.best_attention(call, plain, mask)}

    def attention_backward(self, **case):
        return self.attention(backward=True, **case)

    def best_attention(self, call, plain, mask):
        """Every backend that takes these operands, and flex attention for masks: the fastest is the peer."""
        if self.device.type != "cuda":
            return {"compiled": call(plain)}
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def on(backend):
            def attend(q, k, v):
                with sdpa_kernel(backend):
                    return plain(q, k, v)

            return attend

        names = ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"]
        ways = {f"compiled:{n.lower()}": on(getattr(SDPBackend, n)) for n in names if hasattr(SDPBackend, n)}
        if mask is not None:
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention

            n = mask.shape[0]
            block = create_block_mask(lambda b, h, q, k: mask[q, k], None, None, n, n, device=self.device)
            flex = torch.compile(flex_attention, dynamic=False)
            ways["compiled:flex"] = lambda q, k, v: flex(q, k, v, block_mask=block, scale=1.0)
        ready = {}
        for name, attend in ways.items():
            try:
                ready[name] = call(attend)
                ready[name]()
            except Exception:
                ready.pop(name, None)
        return ready

    def append(self, batch, tokens, heads, width):
        qkv, gain = self.random(batch, tokens, 3 * heads * width), self.random(1, heads, 1, 1, dtype=F32)
        angle = self.random(tokens, width // 2, dtype=F32)
        cos, sin = angle.cos(), angle.sin()

        def rotate(x):
            a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2).to(x.dtype)

        # Keys and values in tensors of their own are as many bytes as in a cache, and keep graphs captured.
        def run(qkv):
            q, k, v = qkv.view(batch, tokens, 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
            q = F.normalize(q, dim=-1, eps=1e-12).mul(gain.clamp_max(4.605).exp().to(q.dtype)).contiguous()
            k = F.normalize(k, dim=-1, eps=1e-12).contiguous()
            return rotate(q), rotate(k), v.contiguous()

        return self.both(run, qkv)

    def ada_norm(self, batch, tokens, width):
        x, scale, shift = self.random(batch, tokens, width), self.random(batch, 1, width), self.random(batch, 1, width)
        run = lambda x: F.layer_norm(x.float(), (width,), eps=1e-6).mul(scale.add(1)).add_(shift).to(BF16)
        return self.both(run, x)

    # ---- bits

    def bit_sample(self, tokens, width, bits):
        x, w, b = self.random(2, tokens, width), self.random(2 * bits, width, std=0.02), self.random(2 * bits)

        def run(x):
            cond, uncond = F.linear(x, w, b).float().unsqueeze(1).unbind(0)
            logits = ((3.0 * cond + (1 - 3.0) * uncond) / 0.5).reshape(-1, 2)
            ordered, index = logits.sort(dim=-1, descending=False)
            drop = ordered.softmax(-1).cumsum_(-1) <= 1 - 0.97
            drop[..., -1:] = False
            logits = logits.masked_fill(drop.scatter(-1, index, drop), float("-inf"))
            drawn = torch.multinomial(logits.softmax(-1), 1).view(1, tokens, bits)
            return drawn, (drawn * 2 - 1) / bits**0.5

        return self.both(run, x)

    def bit_loss(self, tokens, width, bits):
        x = self.random(tokens, width)
        w, b = self.random(2 * bits, width, dtype=F32, std=0.02), self.random(2 * bits, dtype=F32)
        labels = torch.randint(0, 2, (tokens * bits,), device=self.device)
        for t in (x, w, b):
            t.requires_grad_()
        forward = lambda x, w, b: F.cross_entropy(F.linear(x, w.to(BF16), b.to(BF16)).float().view(-1, 2), labels)
        compiled = self.compiler(forward)

        def step(loss):
            with torch.enable_grad():
                return torch.autograd.grad(loss(x, w, b), (x, w, b))

        return {"eager": lambda: step(forward), "compiled": lambda: step(compiled)}

    def quantise(self, pictures, channels, scales):
        sides = self.sides[:scales]
        features = self.random(pictures, channels, sides[-1], sides[-1], dtype=F32)
        size = (sides[-1], sides[-1])

        def run(features):
            residual, total, labels, inputs = features, torch.zeros_like(features), [], []
            for i, side in enumerate(sides):
                down = F.interpolate(residual, size=(side, side), mode="area") if side != sides[-1] else residual
                bits = down > 0
                labels.append(bits)
                flipped = torch.where(torch.rand_like(down) < 0.2, ~bits, bits)
                code = (flipped.float() * 2 - 1) / channels**0.5
                up = F.interpolate(code, size=size, mode="bilinear") if side != sides[-1] else code
                residual, total = residual - up, total + up
                if i + 1 < len(sides):
                    inputs.append(F.interpolate(total, size=(sides[i + 1],) * 2, mode="bilinear"))
            flat = lambda maps: torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2)
            return flat(labels).contiguous(), flat(inputs).contiguous() if inputs else None, total

        return self.both(run, features)

    # ---- optimizer

    def adamw(self, tensors, elements):
        ways = {"eager": {"foreach": False}, "compiled:foreach": {"foreach": True}, "compiled:fused": {"fused": True}}
        return {name: self.optimizer(tensors, elements, options) for name, options in ways.items()}

    def optimizer(self, tensors, elements, options):
        state = {}

        def run():
            if not state:
                parameters = [self.random(elements, dtype=F32) for _ in range(tensors)]
                for p in parameters:
                    p.grad = self.random(elements, dtype=F32)
                state["parameters"] = parameters
                state["adamw"] = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.97), weight_decay=0.01, **options)
            torch.nn.utils.clip_grad_norm_(state["parameters"], 1.0)
            state["adamw"].step()

        return run
