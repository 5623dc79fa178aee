"""What the card can do at most: a long copy and a large square product, measured as everything else."""

import torch


def rows(cases, meter, report):
    size = cases["copy_mib"] * 2**20 // 2
    source = torch.randn(size // 4, device=meter.device)
    target = torch.empty_like(source)

    def copy():
        return {**meter.measure(lambda: target.copy_(source)), "mbyte": 2 * size / 1e6}

    report.row("ceilings", "copy", f"copy of {cases['copy_mib'] / 2:g} MiB", copy)
    del source, target
    n = cases["product"]
    a, b = (torch.randn(n, n, device=meter.device).bfloat16() for _ in range(2))
    product = lambda: {**meter.measure(lambda: a @ b.t()), "gflop": 2 * n**3 / 1e9}
    report.row("ceilings", "product", f"product {n}x{n}x{n}", product)
