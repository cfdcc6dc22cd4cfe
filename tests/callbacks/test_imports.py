"""Callbacks know models by what they hand over, not by their classes."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from types import ModuleType
sys.modules["lightning_modules"] = ModuleType("lightning_modules")  # without what it exports
sys.modules["lightning_modules"].__path__ = ["lightning_modules"]
import callbacks
print(*(m for m in sys.modules if m.split(".")[0] in ("lightning_modules", "datamodules")))
"""


def test_callbacks_import_no_lightning_module_of_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    loaded = set(done.stdout.split())
    assert "datamodules.batch" in loaded
    models = {name for name in loaded if name.startswith("lightning_modules.")}
    assert {name for name in models if not name.startswith("lightning_modules.core")} == set()
    assert "datamodules.base" not in loaded
