"""Times taken in turn, memory, and computing against what a card can do."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.precision import fast_precision

Row = dict[str, Any]
Step = Callable[[], object]

PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "A10G": 70, "L40S": 362,
    "L4": 121, "RTX 4090": 165, "RTX 3090": 71}  # fmt: skip
"""Dense bf16 TFLOP/s with float32 accumulation by a part of the card's name, of NVIDIA's data
sheets; the first that is in the name counts."""


@dataclass(frozen=True)
class Machine:
    """Where to measure, and until when.

    Attributes:
        device: `cpu` or `cuda`.
        sizes: `gpu`, `cpu` or `tiny`; how large networks and batches are.
        until: time of `time.monotonic` at which measuring should end.
    """

    device: str
    sizes: str
    until: float

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in bf16 where the machine can, as training does."""
        if precision(self.device) == "32-true":
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.until - time.monotonic()

    def seconds(self, step: Step) -> float:
        """How long a step takes."""
        begin = self.now()
        step()
        return self.now() - begin

    def in_turn(self, steps: Mapping[str, Step], rounds: int = 15) -> dict[str, list[float]]:
        """Seconds of several steps, A B A B, after one of each that does not count.

        There are fewer rounds where time is short, one at least, and three at most in a test.
        """
        rounds = min(rounds, 3) if self.sizes == "tiny" else rounds
        begin = time.monotonic()
        for step in steps.values():
            step()
        a_round = time.monotonic() - begin
        times: dict[str, list[float]] = {name: [] for name in steps}
        for done in range(rounds):
            if done and self.left < a_round:
                break
            for name, step in steps.items():
                times[name].append(self.seconds(step))
        return times

    def memory_mib(self) -> float:
        """The most memory so far: that of tensors on a GPU, of the process on the CPU."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def computing(self, flops: float, seconds: float) -> Row:
        """TFLOP/s, and their share of the card's dense bf16 peak."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
        rate = flops / seconds / 1e12
        share = "unknown" if peak is None else round(rate / peak, 4)
        return {"tflops_per_s": round(rate, 4), "mfu": share}


@cache
def precision(device: str) -> str:
    """As Lightning's Trainer takes it: bf16 where the machine computes in it."""
    return fast_precision("bf16-mixed", "gpu" if device == "cuda" else "cpu")


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Median and quartiles; those of one value are itself."""
    given = list(values)
    quartiles = (
        statistics.quantiles(given, n=4, method="inclusive") if len(given) > 1 else given * 3
    )
    low, middle, high = (float(f"{value:.{digits}g}") for value in quartiles)
    return {"median": middle, "low": low, "high": high, "rounds": len(given)}


def milliseconds(seconds: Iterable[float]) -> dict[str, float]:
    """`spread` of times, in ms."""
    return spread([1000 * value for value in seconds], 4)


def ratio(over: Iterable[float], under: Iterable[float]) -> dict[str, float]:
    """`spread` of the ratios of each round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def facts(machine: Machine) -> list[Row]:
    """The machine."""
    card = torch.cuda.get_device_name() if machine.device == "cuda" else ""
    cpu = torch.backends.cpu.get_cpu_capability()
    return [
        {
            "device": card or f"CPU, {cpu}",
            "threads": torch.get_num_threads(),
            "precision": precision(machine.device),
            "torch": torch.__version__,
        }
    ]


def flops_of(step: Step) -> int:
    """Floating-point operations of convolutions, matrix products and attention in a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
