"""How fast this is on your machine: training, synthesis, insertion, and what else there is.

Prints a line of JSON for each row as it is measured, and tables in Markdown at the end. What is
compared is timed in turn (A B A B ...); figures are medians with quartiles. Each measurement has a
process of its own and a share of the time; what does not fit into time or memory is a row that says
so.

Usage: python benchmarks/speed.py [--device cuda] [--seconds 240] [--sizes gpu|cpu|tiny]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported in `main`, whose time counts
    from timing.clock import Machine, Row
    from timing.plan import Measurement

SPARE = 0.15
"""Share of a measurement's time after which it is stopped if it has not ended by itself."""


def measure(kept: Connection, measurement: Measurement, machine: Machine) -> None:
    """Send the rows of one measurement, or why there are none."""
    os.dup2(2, 1)  # rows alone go to standard output
    del sys.argv[1:]  # Lightning would read it
    try:
        for row in measurement.function(machine, **measurement.arguments):
            kept.send(row)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        kept.send({"skipped": f"failed: {type(error).__name__}: {error}"})


def rows_of(measurement: Measurement, device: str, sizes: str, seconds: float) -> Iterator[Row]:
    """The rows of one measurement as they come, in a process that is ended with its time."""
    from timing.clock import Machine

    if seconds < measurement.least:
        yield {"skipped": f"needs {measurement.least:.0f} s, its share is {seconds:.0f} s"}
        return
    begin = time.monotonic()
    # what is imported is there at once, and a card's memory is free again with the process
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    machine = Machine(device, sizes, begin + (1 - SPARE) * seconds)
    process = context.Process(target=measure, args=(theirs, measurement, machine))
    process.start()
    theirs.close()
    try:
        while ours.poll(max(begin + seconds - time.monotonic(), 0)):
            yield ours.recv()
        yield {"skipped": f"not done after {seconds:.0f} s, its share of the time: stopped"}
        process.kill()
    except EOFError:  # all rows have come
        process.join()
        if process.exitcode:
            yield {"skipped": f"its process was ended ({process.exitcode}): memory may be short"}
    finally:
        process.kill()
        process.join()


def measured(
    measurements: list[Measurement], device: str, sizes: str, ends: float
) -> Iterator[Row]:
    """All rows; time that one measurement leaves goes to those after it."""
    for number, each in enumerate(measurements):
        shares = sum(later.share for later in measurements[number:])
        share = max(ends - time.monotonic(), 0) * each.share / shares
        named = {"measurement": each.kind}
        if "what" in each.arguments:
            named["what"] = each.arguments["what"]
        for row in rows_of(each, device, sizes, share):
            yield {**named, **row}


def main() -> None:
    """Measure, and print."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--sizes", choices=["gpu", "cpu", "tiny"])
    options = parser.parse_args()
    # asks for a card without opening it, which forked processes could not do again
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch
    from timing.plan import PLANS
    from timing.report import table

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes = options.sizes or {"cuda": "gpu", "cpu": "cpu"}[device]
    rows = []
    for row in measured(PLANS[sizes](), device, sizes, begin + 0.97 * options.seconds):
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
