"""What is hidden, and that nothing else is."""

import logging
import warnings

import pytest

from lightning_modules.quiet import LOGGERS, WARNINGS, hide_noise

SAID = {
    "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`.": True,
    "Found 64 module(s) in eval mode at the start of training.": True,
    "You're resuming from a checkpoint that ended before the epoch ended and your dataloader": True,
    "Checkpoint directory /runs/x/checkpoints exists and is not empty.": True,
    '.fit(ckpt_path="last") is set, but there is no last checkpoint available.': True,
    "The `srun` command is available on your system but is not used. HINT: If": True,
    "The 'train_dataloader' does not have many workers which may be a bottleneck.": True,
    "GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.": False,
    "The number of training batches (3) is smaller than the logging interval": False,
    "`training_step` returned `None`.": False,
}


def test_warnings_are_hidden_by_their_text_and_package() -> None:
    hidden = set()
    for message in SAID:
        for module in ("lightning.pytorch.loops.fit_loop", "datamodules.base"):
            with warnings.catch_warnings(record=True) as given:
                warnings.resetwarnings()
                hide_noise()
                warnings.warn_explicit(message, UserWarning, "x.py", 1, module)
            if not given:
                hidden.add((message, module))
    expected = {message for message, is_hidden in SAID.items() if is_hidden}
    assert hidden == {(message, "lightning.pytorch.loops.fit_loop") for message in expected}
    assert len(expected) == len(WARNINGS)


@pytest.mark.parametrize(
    ("message", "is_shown"),
    [
        ("Seed set to 0", False),
        ("TPU available: False, using: 0 TPU cores", False),
        ("Restored all states from the checkpoint at last.ckpt", False),
        ("Loaded model weights from the checkpoint at last.ckpt", True),
        ("Memory: 3 MiB for weights", True),
    ],
)
def test_lines_are_hidden_by_their_beginning(message: str, is_shown: bool) -> None:
    hide_noise()
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, message, (), None)
    for name in LOGGERS:
        assert bool(logging.getLogger(name).filter(record)) == is_shown
