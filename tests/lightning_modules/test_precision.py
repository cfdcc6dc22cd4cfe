"""bf16 is taken where the machine has it, and float32 where it would be imitated."""

import logging

import pytest
import torch

from lightning_modules.precision import fast_precision


@pytest.mark.parametrize(
    ("capability", "gpu", "accelerator", "precision", "expected"),
    [
        ("AVX2", False, "auto", "bf16-mixed", "32-true"),
        ("AVX2", True, "cpu", "bf16-mixed", "32-true"),
        ("DEFAULT", False, "cpu", "bf16-mixed", "32-true"),
        ("AVX512", False, "auto", "bf16-mixed", "bf16-mixed"),
        ("AVX2", True, "auto", "bf16-mixed", "bf16-mixed"),
        ("AVX2", True, "gpu", "bf16-mixed", "bf16-mixed"),
        ("AVX2", False, "cpu", "64-true", "64-true"),
    ],
)
def test_bf16_is_not_imitated(
    capability: str,
    gpu: bool,
    accelerator: str,
    precision: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    with caplog.at_level(logging.INFO):
        assert fast_precision(precision, accelerator) == expected
    assert ("no instructions for bf16" in caplog.text) == (expected != precision)
