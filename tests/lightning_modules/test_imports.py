"""What is loaded: the core without Lightning, and heavy libraries only where they are used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {
    "diffusers",
    "lpips",
    "peft",
    "segmentation_models_pytorch",
    "timm",
    "torch_fidelity",
    "torchvision",
}

CORE = """
import importlib, pkgutil, sys
from types import ModuleType
import monai.networks.nets
before = set(sys.modules)
for room in ("lightning_modules", "datamodules"):  # without what their own __init__ loads
    sys.modules[room] = ModuleType(room)
    sys.modules[room].__path__ = [room]
for module in pkgutil.iter_modules(["lightning_modules/core"]):
    importlib.import_module(f"lightning_modules.core.{module.name}")
print(*(set(sys.modules) - before))
"""

PACKAGE = """
import sys
import lightning, monai.networks.nets
before = set(sys.modules)
import lightning_modules
print(*(set(sys.modules) - before))
"""


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_the_core_loads_no_lightning_and_of_the_data_the_contract_alone() -> None:
    modules = loaded(CORE)
    assert "lightning_modules.core.synthesizer" in modules
    libraries = {name.split(".")[0] for name in modules}
    assert {"lightning", "pytorch_lightning", "lightning_fabric"} & libraries == set()
    assert HEAVY & libraries == set()
    data = {name for name in modules if name.startswith("datamodules.")}
    # patients' keys are made with the site's secret; files of them carry checksums
    keys = {"patients", "site_secret", "io", "io.checksums"}
    assert data == {f"datamodules.{name}" for name in ("batch", *keys)}


def test_heavy_libraries_wait_until_they_are_used() -> None:
    modules = loaded(PACKAGE)
    assert "lightning_modules.detector" in modules
    assert HEAVY & {name.split(".")[0] for name in modules} == set()
