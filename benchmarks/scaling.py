"""Training on one process against two, with the same global batch, on this machine's cores.

Prints steps per second, as medians over interleaved rounds: a step's time is that of a run of many
steps less that of a run of few. Each process has one thread; one process with two threads stands
beside them. After `make quickstart`, in the same folder:

Usage: python benchmarks/scaling.py [--rounds 3] [--steps 60]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

BATCH = 16
FEW = 10
CONFIGS = ("configs/ct/diffusion.yaml", "configs/quickstart/diffusion.yaml")
WAYS = {"1 process": (1, 1), "2 processes": (2, 1), "1 process, 2 threads": (1, 2)}


def seconds(processes: int, threads: int, steps: int) -> float:
    """How long a run of so many steps takes, with everything around it."""
    words = [word for config in CONFIGS for word in ("--config", config)]
    words += ["--trainer.devices", str(processes), "--trainer.max_steps", str(steps)]
    words += ["--data.init_args.batch_size", str(BATCH // processes), "--trainer.logger", "false"]
    words += ["--trainer.strategy", "auto" if processes == 1 else "ddp"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.max_epochs", "-1"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        words += ["--trainer.default_root_dir", folder]
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "lightning_modules.cli", "fit", *words],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - begin


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    steps: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, (processes, threads) in WAYS.items():
            spent = seconds(processes, threads, FEW + options.steps)
            steps[way].append((spent - seconds(processes, threads, FEW)) / options.steps)
    first = steps["1 process"]
    for way, spent in steps.items():
        ratios = [one / other for one, other in zip(first, spent, strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{way}: {middle:.2f} times as fast as one ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
