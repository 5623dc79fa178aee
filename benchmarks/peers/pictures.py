"""Peers of a block at every scale and of whole pictures: the official structure eager, and its mathematics compiled."""

from functools import cache

import torch

from best import block_forward, graphed
from drawing import ROWS, Model
from models import BF16, Decoder, autocast
from text import text_encoders


WHOLES = {
    "transformer": ["transformer"],
    "decoder": ["decoder"],
    "transformer and decoder": ["transformer", "decoder"],
    "text encoder, transformer and decoder": ["text encoder", "transformer", "decoder"],
}


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


def block_rows(cases, sides, meter, report, compiler, run_block):
    model = Model(cases, sides[: cases["block"]["scales"]], meter.device, compiler, run_block, depth=1)
    with torch.no_grad():
        model.take_weights()
        model.take_text()
    for k, side in enumerate(model.sides):
        name = f"block, {ROWS} x {side * side} tokens"
        report.row("block", "eager", name, lambda: meter.measure(model.eager_block(k)))
        report.row("block", "compiled", name, lambda: meter.measure(model.one_compiled_block(k)))


def scale_names(name, sides):
    return [f"{name}, text conditioning and scale 1x1"] + [f"{name}, scale {side}x{side}" for side in sides[1:]]


def picture_rows(cases, sides, meter, report, compiler, run_block, only):
    device, tokens = meter.device, cases["text_tokens"]
    short = cases["model"]["size"] != "infinity_2b"
    eager_decode, best_decode = decoders(cases, short, device, compiler)
    eager_encode, best_encode = text_encoders(cases, device, compiler)
    most = max(picture["scales"] for picture in cases["pictures"])
    model = Model(cases, sides[:most], device, compiler, run_block)

    # Makers of a peer's calls: text encoder to features, features to the sum of codes, a sum to pixels.
    best_text = lambda: graphed(lambda: model.features.copy_(best_encode()), device)
    eager_text = lambda: lambda: model.features.copy_(eager_encode())
    makers = {
        "eager": (eager_text, lambda: model.eager, lambda total: lambda: eager_decode(total)),
        "compiled": (best_text, model.compiled, best_decode),
    }
    for peer, (encode, _, _) in makers.items():
        report.row("pictures", peer, f"text encoder, {tokens} tokens", lambda: meter.measure(encode()))
    for picture in cases["pictures"]:
        name = f"{cases['model']['size']} {picture['name']}"
        if only not in name:
            continue
        model.use(sides[: picture["scales"]])
        total = torch.randn(1, cases["bits"], *model.finest, device=device)
        for peer, (encode, draw, decode) in makers.items():
            # Graphs are captured once a picture.
            makes = {"text encoder": encode, "transformer": draw, "decoder": lambda: decode(total)}
            stages = {stage: cache(make) for stage, make in makes.items()}
            names = scale_names(name, model.sides)
            report.rows("pictures", peer, names, lambda: meter.stages(stages["transformer"](), len(names)))
            for title, parts in WHOLES.items():

                def measured():
                    calls = [stages[part]() for part in parts]
                    return meter.measure(lambda: [call() for call in calls], whole=True)

                report.row("pictures", peer, f"{name}, {title}", measured)


def rows(cases, sides, meter, report, compiler, levels, only):
    if torch.cuda.is_available():
        torch._dynamo.config.cache_size_limit = 256
    torch._dynamo.reset()
    run_block = compiler(block_forward)
    if "block" in levels:
        block_rows(cases, sides, meter, report, compiler, run_block)
    if "pictures" in levels:
        picture_rows(cases, sides, meter, report, compiler, run_block, only)
