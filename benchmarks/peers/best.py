"""The same mathematics as PyTorch runs it best: bf16, cache in place, text projected once, head folded, CUDA graphs."""

import torch
import torch.nn.functional as F

BF16 = torch.bfloat16


def graphed(call, device):
    """`call` as a graph that is replayed; on the processor the call itself. Its results lie in the graph's memory."""
    if torch.device(device).type != "cuda":
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


class Cache:
    """Keys and values of one block, taken whole."""

    def __init__(self, rows, heads, tokens, c, device):
        self.k, self.v = (torch.zeros(rows, heads, tokens, c, device=device, dtype=BF16) for _ in range(2))


def rotated(x, cos, sin):
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2).to(x.dtype)


def project_text(block, text):
    B = text.shape[0]
    kv = F.linear(text, block.mat_kv, torch.cat((block.zero_k_bias, block.ca_v_bias)))
    return [t.view(B, -1, block.heads, block.c).transpose(1, 2).contiguous() for t in kv.chunk(2, -1)]


def block_forward(block, x, modulation, text_k, text_v, cache_k, cache_v, cos, sin, start, end):
    """One block of `models.Block`, whose weights are bf16; writes rows [start, end) of the cache."""
    B, L, C = x.shape
    g1, g2, s1, s2, t1, t2 = modulation
    norm = lambda x: F.layer_norm(x, (C,), eps=1e-6)
    bias = torch.cat((block.q_bias, block.zero_k_bias, block.v_bias))
    qkv = F.linear(norm(x) * (1 + s1) + t1, block.mat_qkv, bias).view(B, L, 3, block.heads, block.c)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q = rotated(F.normalize(q.float(), dim=-1, eps=1e-12) * block.scale_mul.float().clamp_max(4.605).exp(), cos, sin)
    k = rotated(F.normalize(k.float(), dim=-1, eps=1e-12), cos, sin)
    cache_k[:, :, start:end] = k.to(BF16)
    cache_v[:, :, start:end] = v
    o = F.scaled_dot_product_attention(q.to(BF16), cache_k[:, :, :end], cache_v[:, :, :end], scale=1.0)
    x = x + F.linear(o.transpose(1, 2).reshape(B, L, C), block.proj, block.proj_b) * g1
    n = F.layer_norm(x, (C,), block.ca_norm.weight, block.ca_norm.bias, 1e-6)
    q = F.linear(n, block.mat_q, block.q_b).view(B, L, block.heads, block.c).transpose(1, 2)
    o = F.scaled_dot_product_attention(q, text_k, text_v)
    x = x + F.linear(o.transpose(1, 2).reshape(B, L, C), block.ca_proj, block.ca_proj_b)
    h = F.gelu(F.linear(norm(x) * (1 + s2) + t2, block.fc1, block.fc1_b), approximate="tanh")
    return x + F.linear(h, block.fc2, block.fc2_b) * g2


def draw_bits(h, head, bias, guidance, tau, top_p):
    """Bits u8 [1, L, D] of hidden states [2, L, C], by the gap between the two logits of each."""
    gap = F.linear(h, head, bias).float()
    gap = (guidance * gap[:1] + (1 - guidance) * gap[1:]) / tau
    p = torch.sigmoid(gap)
    p = torch.where(p <= 1 - top_p, 0.0, torch.where(1 - p <= 1 - top_p, 1.0, p))
    return torch.rand_like(p) < p
