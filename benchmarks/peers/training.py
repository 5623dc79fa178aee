"""Peers of a training step: blocks under autocast with f32 weights, recomputed in the backward pass, and AdamW."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from drawing import offsets
from models import Block, autocast, rope_table


class Transformer(nn.Module):
    def __init__(self, cases, sides, device):
        super().__init__()
        model, D = cases["model"], cases["bits"]
        C, self.heads = model["embed_dim"], model["num_heads"]
        with torch.device(device):
            self.blocks = nn.ModuleList(Block(C, self.heads) for _ in range(model["depth"]))
            self.word, self.head = nn.Linear(D, C), nn.Linear(C, 2 * D)
            self.cond, self.text = nn.Linear(C, 6 * C), nn.Linear(model["text_channels"], C)
        ends = offsets(sides)
        self.C, self.D, self.tokens = C, D, ends[-1]
        self.table = rope_table(ends[-1], C // self.heads, device)
        seen = torch.cat([torch.full((ends[k + 1] - ends[k],), ends[k + 1]) for k in range(len(sides))]).to(device)
        self.mask = torch.arange(ends[-1], device=device)[None, :] < seen[:, None]

    def loss(self, x_BLD, labels, text, run):
        B = x_BLD.shape[0]
        text = self.text(text)
        cond = self.cond(text.mean(1)).view(B, 1, 6, self.C)
        x = torch.cat([text.mean(1, keepdim=True), self.word(x_BLD)], 1)
        for block in self.blocks:
            x = checkpoint(run, block, x, cond, text, self.table, self.mask, use_reentrant=False)
        logits = self.head(F.layer_norm(x.float(), (self.C,)))
        return F.cross_entropy(logits.float().view(-1, 2), labels.view(-1))


def forward(block, x, cond, text, table, mask):
    return block(x, cond, text, table, 0, mask)


def rows(cases, sides, meter, report, compiler):
    scales, B = cases["training"]["scales"], cases["training"]["batch"]
    device, text_tokens = meter.device, cases["text_tokens"]
    name = f"training {cases['model']['size']}, {B} x {offsets(sides[:scales])[-1]} tokens"

    def step(run, options):
        model = Transformer(cases, sides[:scales], device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.97), weight_decay=0.01, **options)
        x = torch.randn(B, model.tokens - 1, model.D, device=device)
        labels = torch.randint(0, 2, (B, model.tokens, model.D), device=device)
        text = torch.randn(B, text_tokens, cases["model"]["text_channels"], device=device)

        def call():
            with autocast(device):
                loss = model.loss(x, labels, text, run)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return call

    torch._dynamo.reset()
    eager = lambda: meter.measure(step(forward, {"foreach": True}), whole=True)
    report.row("train", "eager", f"{name}, step", eager)
    compiled = lambda: meter.measure(step(compiler(forward), {"fused": True}), whole=True)
    report.row("train", "compiled", f"{name}, step", compiled)
