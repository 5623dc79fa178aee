"""The official structure with random weights, as released: autocast, norms in f32, a cache that is concatenated.

Source: Infinity, infinity/models/basic.py (CrossAttnBlock, AdaLNBeforeHead), infinity/models/infinity.py
(TextAttentivePool, text_proj_for_ca, shared_ada_lin), infinity/models/fused_op.py,
infinity/models/bsq_vae/flux_vqgan.py (Decoder).
"""

import torch
import torch.nn.functional as F
from torch import nn

BF16 = torch.bfloat16


def autocast(device, enabled=True):
    return torch.autocast(torch.device(device).type, dtype=BF16, enabled=enabled)


def rope_table(tokens, width, device):
    angle = torch.rand(tokens, width // 2, device=device) * 6.28
    return angle.cos(), angle.sin()


def rotate(q, k, table, start):
    """Pairs of neighbouring channels, in f32 as the official code does; q and k [B, H, L, c]."""
    n = q.shape[2]
    cos, sin = (t[start : start + n] for t in table)
    both = torch.stack((q, k)).float().unflatten(-1, (-1, 2))
    a, b = both.unbind(-1)
    turned = torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)
    return turned.to(q.dtype).unbind(0)


def ada_layer_norm(C, x, scale, shift):
    x = F.layer_norm(x.float(), (C,), eps=1e-6)
    return x.mul(scale.add(1)).add_(shift)


# The one function that the released program compiles.
fused_ada_layer_norm = torch.compile(ada_layer_norm, fullgraph=True) if torch.cuda.is_available() else ada_layer_norm


class Conditions(nn.Module):
    """What a guided picture takes of its text: rows of the prompt, and as many of the learned absence of one."""

    def __init__(self, Ct, C, tokens):
        super().__init__()
        self.C, self.heads = C, Ct // 128
        weight = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.02)
        self.absent, self.norm = weight(tokens, Ct), weight(Ct)
        self.pool_q, self.pool_kv, self.v_bias = weight(1, self.heads, 1, C // self.heads), weight(2 * C, Ct), weight(C)
        self.register_buffer("zero_k_bias", torch.zeros(C))
        self.pool_proj = nn.Linear(C, C)
        self.project = nn.Sequential(nn.Linear(Ct, C), nn.GELU(approximate="tanh"), nn.Linear(C, C))
        self.start, self.ada, self.head_ada = weight(1, 1, C), nn.Linear(C, 6 * C), nn.Linear(C, 2 * C)

    def forward(self, features):
        """Of features [n, Ct]: rows of text [2, n, C] for the blocks, first input [2, 1, C], pooled text [2, C]."""
        rows = torch.stack((features, self.absent)).float()
        rows = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        rows = rows.to(self.pool_kv.dtype)
        kv = F.linear(rows, self.pool_kv, torch.cat((self.zero_k_bias, self.v_bias)))
        k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in kv.chunk(2, -1))
        o = F.scaled_dot_product_attention(self.pool_q.to(k.dtype).expand(2, -1, -1, -1), k, v)
        pooled = self.pool_proj(o.flatten(1))
        return self.project(rows), pooled.unsqueeze(1) + self.start, pooled

    def modulation(self, pooled):
        """Of all blocks, [2, 1, 6, C], in the precision of the weights."""
        with autocast(pooled.device, enabled=False):
            return self.ada(F.silu(pooled.to(self.ada.weight.dtype))).view(2, 1, 6, self.C)

    def head_modulation(self, pooled):
        with autocast(pooled.device, enabled=False):
            return self.head_ada(F.silu(pooled.to(self.head_ada.weight.dtype))).view(2, 1, 2, self.C).unbind(2)


class Block(nn.Module):
    def __init__(self, C, heads):
        super().__init__()
        self.C, self.heads, self.c = C, heads, C // heads
        weight = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.02)
        self.mat_qkv, self.proj, self.proj_b = weight(3 * C, C), weight(C, C), weight(C)
        self.q_bias, self.v_bias = weight(C), weight(C)
        self.register_buffer("zero_k_bias", torch.zeros(C))
        self.scale_mul = nn.Parameter(torch.full((1, heads, 1, 1), 4.0).log())
        self.mat_q, self.q_b, self.mat_kv, self.ca_v_bias = weight(C, C), weight(C), weight(2 * C, C), weight(C)
        self.ca_proj, self.ca_proj_b = weight(C, C), weight(C)
        self.fc1, self.fc1_b, self.fc2, self.fc2_b = weight(4 * C, C), weight(4 * C), weight(C, 4 * C), weight(C)
        self.ada_gss = weight(1, 1, 6, C)
        self.ca_norm = nn.LayerNorm(C, eps=1e-6)
        self.cache = None

    def modulation(self, cond):
        return (self.ada_gss.float() + cond.float()).unbind(2)

    def attend(self, x, table, start, mask, caching):
        B, L, C = x.shape
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = F.linear(x, self.mat_qkv, bias).view(B, L, 3, self.heads, self.c)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = F.normalize(q, dim=-1, eps=1e-12).mul(self.scale_mul.clamp_max(4.605).exp()).contiguous()
        k = F.normalize(k, dim=-1, eps=1e-12).contiguous()
        q, k = rotate(q.to(v.dtype), k.to(v.dtype), table, start)
        if caching:
            if self.cache is not None:
                k, v = torch.cat((self.cache[0], k), dim=2), torch.cat((self.cache[1], v), dim=2)
            self.cache = (k, v)
        o = F.scaled_dot_product_attention(q, k, v.contiguous(), attn_mask=mask, scale=1.0)
        return F.linear(o.transpose(1, 2).reshape(B, L, C), self.proj, self.proj_b)

    def cross(self, x, text):
        """Keys and values of the text are projected at every call. All texts have one length: nothing is masked."""
        B, L, C = x.shape
        split = lambda t: t.view(B, -1, self.heads, self.c).transpose(1, 2)
        q = split(F.linear(x, self.mat_q, self.q_b))
        kv = F.linear(text, self.mat_kv, torch.cat((self.zero_k_bias, self.ca_v_bias)))
        k, v = (split(t) for t in kv.chunk(2, -1))
        o = F.scaled_dot_product_attention(q, k, v)
        return F.linear(o.transpose(1, 2).reshape(B, L, C), self.ca_proj, self.ca_proj_b)

    def forward(self, x, cond, text, table, start=0, mask=None, caching=False):
        g1, g2, s1, s2, t1, t2 = self.modulation(cond)
        x = x + self.attend(fused_ada_layer_norm(self.C, x, s1, t1), table, start, mask, caching).mul_(g1)
        x = x + self.cross(self.ca_norm(x.to(self.ca_norm.weight.dtype)), text).float()
        h = F.gelu(F.linear(fused_ada_layer_norm(self.C, x, s2, t2), self.fc1, self.fc1_b), approximate="tanh")
        return x + F.linear(h, self.fc2, self.fc2_b).mul(g2)


class ResnetBlock(nn.Module):
    def __init__(self, inputs, out):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, out, 1e-6)
        self.conv1, self.conv2 = nn.Conv2d(inputs, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, out, 1) if inputs != out else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Decoder(nn.Module):
    def __init__(self, bits, base=128, multipliers=(1, 2, 4, 4, 4), blocks=3):
        super().__init__()
        channels = base * multipliers[-1]
        layers = [nn.Conv2d(bits, channels, 3, padding=1)] + [ResnetBlock(channels, channels) for _ in range(2)]
        for level in reversed(range(len(multipliers))):
            for _ in range(blocks):
                layers.append(ResnetBlock(channels, base * multipliers[level]))
                channels = base * multipliers[level]
            if level > 0:
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1)]
        layers += [nn.GroupNorm(32, channels, 1e-6), nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)
