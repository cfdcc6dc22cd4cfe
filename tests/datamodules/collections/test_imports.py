"""What there is can be read without what training needs."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("lightning", "torch", "torchio", "scipy", "SimpleITK", "pydicom", "matplotlib")


def loaded_by(*modules: str) -> set[str]:
    """The packages that are loaded once these modules are imported."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "module",
    [
        "datamodules.collections",
        "datamodules.collections.whole_radiographs",
        "datamodules.patients",
    ],
)
def test_collections_need_neither_lightning_nor_torch(module: str) -> None:
    assert loaded_by(module).isdisjoint(HEAVY)


def test_requests_and_latents_need_no_lightning() -> None:
    rooms = ("insertion.requests", "insertion.rois", "insertion.edits", "dataset", "latents")
    assert "lightning" not in loaded_by(*(f"datamodules.{room}" for room in rooms))
