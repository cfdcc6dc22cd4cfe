"""A smaller store than elsewhere: studies read it often."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, write_store: Callable[..., Path]) -> Path:
    """16 nodules of 8 patients."""
    return write_store(tmp_path / "store", 3, patients=8)
