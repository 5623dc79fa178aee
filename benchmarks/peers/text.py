"""The text encoder, T5 v1.1 with random weights: as the released program runs it, and as PyTorch runs it best.

Source: transformers, models/t5/modeling_t5.py (T5Stack, T5Attention, T5DenseGatedActDense, T5LayerNorm) in float16,
whose `wo` stays in float32; Infinity, tools/run_infinity.py (encode_prompt): every prompt is filled up to 512 tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
BUCKETS, FARTHEST = 32, 128


def position_buckets(n, device):
    """Bucket of key position minus query position, [query, key]: exact near zero, logarithmic farther away."""
    at = torch.arange(n, device=device)
    delta = at[None, :] - at[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    distance = delta.abs()
    far = exact + ((distance.float() / exact).log() / math.log(FARTHEST / exact) * (half - exact)).long()
    return (delta > 0).long() * half + torch.where(distance < exact, distance, far.clamp_max(half - 1))


def rms_norm(x, weight):
    x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * x.to(weight.dtype)


def gelu(x):
    """As it is written there, in single operations."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def clamped(x):
    """Keeps float16 from overflowing; the stream is float32 behind the first `wo`."""
    if x.dtype != F16:
        return x
    most = torch.finfo(F16).max
    most = torch.where(torch.isinf(x).any(), most - 1000, most)
    return x.clamp(min=-most, max=most)


class Layer(nn.Module):
    def __init__(self, d_model, d_kv, num_heads, d_ff):
        super().__init__()
        self.heads, self.c = num_heads, d_kv
        inner = num_heads * d_kv
        weight = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.02)
        self.q, self.k, self.v, self.o = (weight(*s) for s in [(inner, d_model)] * 3 + [(d_model, inner)])
        self.wi_0, self.wi_1, self.wo = weight(d_ff, d_model), weight(d_ff, d_model), weight(d_model, d_ff)
        self.norm1, self.norm2 = (nn.Parameter(torch.ones(d_model)) for _ in range(2))

    def split(self, x):
        return x.view(*x.shape[:2], self.heads, self.c).transpose(1, 2)

    def forward(self, x, bias):
        B, n, _ = x.shape
        h = rms_norm(x, self.norm1)
        q, k, v = (self.split(F.linear(h, w)) for w in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(3, 2)) + bias
        o = torch.matmul(F.softmax(scores.float(), dim=-1).type_as(scores), v)
        x = clamped(x + F.linear(o.transpose(1, 2).contiguous().view(B, n, -1), self.o))
        h = rms_norm(x, self.norm2)
        h = gelu(F.linear(h, self.wi_0)) * F.linear(h, self.wi_1)
        return clamped(x + F.linear(h.to(self.wo.dtype), self.wo))


class TextEncoder(nn.Module):
    def __init__(self, d_model, d_kv, num_heads, d_ff, num_layers, vocab_size, padded):
        super().__init__()
        self.padded = padded
        self.embed = nn.Parameter(torch.randn(vocab_size, d_model))
        self.relative = nn.Parameter(torch.randn(BUCKETS, num_heads) * 0.02)
        self.layers = nn.ModuleList(Layer(d_model, d_kv, num_heads, d_ff) for _ in range(num_layers))
        self.norm = nn.Parameter(torch.ones(d_model))

    def bias(self, n):
        return F.embedding(position_buckets(n, self.embed.device), self.relative).permute(2, 0, 1).unsqueeze(0)

    def released(self):
        """To the precision that it is loaded in."""
        self.to(F16)
        for layer in self.layers:
            layer.wo.data = layer.wo.data.to(F32)
        return self

    def encode(self, ids, mask):
        """Features of one prompt, [tokens, d_model] in float32; all rows are computed, those of the mask kept."""
        x = F.embedding(ids, self.embed)
        masked = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        bias = self.bias(ids.shape[1]) + masked
        for layer in self.layers:
            x = layer(x, bias)
        x = rms_norm(x, self.norm).float()
        return torch.cat([row[:n] for n, row in zip(mask.sum(-1).tolist(), x.unbind(0))])


def best_layer(x, bias, norm1, qkv, o, norm2, wi, wo, heads):
    B, n, C = x.shape
    q, k, v = F.linear(F.rms_norm(x, (C,), norm1, 1e-6), qkv).view(B, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    x = x + F.linear(a.transpose(1, 2).reshape(B, n, -1), o)
    gate, h = F.linear(F.rms_norm(x, (C,), norm2, 1e-6), wi).chunk(2, -1)
    return x + F.linear(F.gelu(gate, approximate="tanh") * h, wo)


class BestTextEncoder:
    """bf16 throughout, real tokens only, products of one operand joined, biases of positions made once."""

    def __init__(self, encoder, tokens, compiler):
        cast = lambda *weights: torch.cat([w.detach() for w in weights]).to(BF16)
        self.layer = compiler(best_layer)
        self.embed, self.norm = cast(encoder.embed), cast(encoder.norm)
        self.bias = encoder.bias(tokens).detach().to(BF16).contiguous()
        self.weights = [
            (cast(l.norm1), cast(l.q, l.k, l.v), cast(l.o), cast(l.norm2), cast(l.wi_0, l.wi_1), cast(l.wo), l.heads)
            for l in encoder.layers
        ]

    def encode(self, ids):
        with torch.no_grad():
            x = F.embedding(ids, self.embed)
            for weights in self.weights:
                x = self.layer(x, self.bias, *weights)
            return F.rms_norm(x, x.shape[-1:], self.norm, 1e-6)[0]


def text_encoders(cases, device, compiler):
    """Two calls that return the features of a prompt: as released, and best, to be replayed as a graph."""
    tokens = cases["text_tokens"]
    with torch.device(device), torch.no_grad():
        encoder = TextEncoder(**cases["text_encoder"])
        best = BestTextEncoder(encoder, tokens, compiler)
    encoder.released()
    ids = torch.zeros(1, encoder.padded, dtype=torch.long, device=device)
    ids[:, :tokens] = torch.arange(1, tokens + 1, device=device)
    mask = (torch.arange(encoder.padded, device=device) < tokens).long()[None]

    def eager():
        with torch.no_grad():
            return encoder.encode(ids, mask)

    real = ids[:, :tokens].contiguous()
    return eager, lambda: best.encode(real)
