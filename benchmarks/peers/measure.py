"""How the peers are timed and told: CUDA events around batches of calls, one JSON line a result."""

import json
import platform
import time

import torch

BATCH_MS = 20.0
WARM_UPS = 3


def summary(times_ms, digits=4):
    ordered = sorted(times_ms)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return {"median_ms": round(at(0.5), digits), "p10_ms": round(at(0.1), digits), "p90_ms": round(at(0.9), digits)}


class Meter:
    """Measures calls on one device; on the processor, for rehearsals, by the clock."""

    def __init__(self, device, rounds):
        self.device = torch.device(device)
        self.rounds = rounds
        self.cuda = self.device.type == "cuda"

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def elapsed_ms(self, call, calls=1):
        self.sync()
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) * 1e3 / calls
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    def mark(self):
        """A moment, on the card's clock."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stages(self, call, count):
        """Median and spread of each of `count` stages of `call(told)`, which calls `told` at the end of each."""
        call(lambda: None)
        times = [[] for _ in range(count)]
        for _ in range(self.rounds):
            self.sync()
            marks = [self.mark()]
            call(lambda: marks.append(self.mark()))
            self.sync()
            for stage, begin, end in zip(times, marks, marks[1:]):
                stage.append(begin.elapsed_time(end) if self.cuda else (end - begin) * 1e3)
        return [summary(stage) for stage in times]

    def launches(self, call):
        """Kernels that one call runs, or nothing where the profiler does not tell."""
        if not self.cuda:
            return {}
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                self.sync()
            names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            return {"launches": sum(not n.startswith(("Memcpy", "Memset")) for n in names)}
        except Exception:
            return {}

    def memory(self, call):
        """Peak of all tensors during one call, and what it takes beside those that were there."""
        if not self.cuda:
            call()
            return {}
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return {"peak_mib": round(peak / 2**20, 1), "beside_mib": round((peak - before) / 2**20, 1)}

    def measure(self, call, whole=False):
        """Median and spread; `whole` times single calls, for work of many milliseconds."""
        for _ in range(1 if whole else WARM_UPS):
            call()
        once = self.elapsed_ms(call)
        calls = 1 if whole else max(1, min(1000, round(BATCH_MS / max(once, 1e-3))))
        times = [self.elapsed_ms(call, calls) for _ in range(self.rounds)]
        return {**summary(times), **self.memory(call), **self.launches(call)}


class Report:
    """Writes JSON lines; a peer that fails is told of and does not end the run."""

    def __init__(self, out, device):
        self.out = out
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
        self.context = {"machine": name, "torch": torch.__version__}

    def row(self, benchmark, peer, name, make):
        self.rows(benchmark, peer, [name], lambda: [make()])

    def rows(self, benchmark, peer, names, make):
        """`make` gives the figures of every name."""
        try:
            made = make()
        except Exception as error:
            made = [{"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}] * len(names)
        for name, figures in zip(names, made):
            line = json.dumps({"benchmark": benchmark, "peer": peer, "name": name, **figures, **self.context})
            print(line, file=self.out, flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
