"""Peers of `npm run bench -- --device cuda`, over the same cases: `python3 benchmarks/peers/run.py LEVEL...`.

Needs PyTorch alone. `--short --device cpu` rehearses everything at tiny sizes, without compiling.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import ceilings
import pictures
import training
from kernels import Kernels
from measure import Meter, Report

CASES = Path(__file__).parent.parent / "card" / "cases.json"
LEVELS = ("kernels", "block", "pictures", "train")


def compiler(device):
    """Compiled for one shape; on the processor only traced, which finds what cannot be compiled."""
    backend = {"backend": "eager"} if device == "cpu" else {}
    return lambda fn: torch.compile(fn, dynamic=False, **backend)


def kernels(cases, sides, meter, report, device, only):
    made = Kernels(device, sides, compiler(device))
    cases = cases["kernels"] + [{"kind": "adamw", "name": adamw_name(cases["adamw"]), **cases["adamw"]}]
    for case in cases:
        if only not in case["name"]:
            continue
        torch._dynamo.reset()
        try:
            peers = made.peers(case)
        except Exception as error:
            peers = {"eager": raising(error)}
        for peer, call in peers.items():
            report.row("kernels", peer, case["name"], lambda: meter.measure(call))


def raising(error):
    def call():
        raise error

    return call


def adamw_name(case):
    return f"AdamW, clip and norm, {case['tensors']} x {case['elements']} parameters"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help=", ".join(LEVELS))
    parser.add_argument("--out", help="file for the JSON lines; default: stdout")
    parser.add_argument("--short", action="store_true", help="tiny sizes")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--filter", default="", help="only names that hold this text")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    unknown = set(args.levels) - set(LEVELS)
    if unknown:
        parser.error(f"no level {', '.join(sorted(unknown))}; there are {', '.join(LEVELS)}")
    file = json.loads(CASES.read_text())
    cases = file["short" if args.short else "full"]
    torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    meter = Meter(args.device, args.rounds or cases["rounds"])
    with open(args.out, "w") if args.out else sys.stdout as out:
        report = Report(out, args.device)
        ceilings.rows(cases, meter, report)
        levels = args.levels or LEVELS
        if "kernels" in levels:
            kernels(cases, file["sides"], meter, report, args.device, args.filter)
        if "block" in levels or "pictures" in levels:
            pictures.rows(cases, file["sides"], meter, report, compiler(args.device), levels, args.filter)
        if "train" in levels:
            training.rows(cases, file["sides"], meter, report, compiler(args.device))


main()
