"""What libraries say that users can do nothing about, or that is untrue here: it is hidden."""

import logging
import re
import warnings

WARNINGS = {
    # Lightning's own use of PyTorch's pytrees
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "lightning",
    # a frozen codec or base is in evaluation mode on purpose
    r"Found \d+ module\(s\) in eval mode": "lightning",
    # untrue: `SubtypeSampler` goes on behind the nodules that were drawn
    r"You're resuming from a checkpoint that ended before the epoch ended": "lightning",
    # so it is in every run that goes on; the overview says where the run begins
    r"Checkpoint directory .* exists and is not empty": "lightning",
    # so it is in every new run; likewise
    r'.*ckpt_path="last"\) is set, but there is no last checkpoint': "lightning",
    # where there is a SLURM job without srun, the command says so in a sentence
    r"The `srun` command is available on your system but is not used": "lightning",
    # a guess by the number of cores: cached latents and small images need no more processes
    r"The '\w+' does not have many workers": "lightning",
}
"""Beginnings of warnings, and the package that gives them."""

INFORMATION = (
    # the overview says on what the run is computed, and with which seed
    r"Seed set to",
    r"GPU available: |TPU available: |HPU available: |💡 Tip: ",
    # the overview says where the run goes on and how it ended
    r"Restor(ing|ed) (all )?states from the checkpoint",
    r"`Trainer\.fit` stopped: ",
    # said in the project's own words
    r"\s*Detected KeyboardInterrupt",
)
"""Beginnings of lines that Lightning logs."""

LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
"""Loggers that log them."""

HIDDEN = re.compile("|".join(INFORMATION))


def hide_noise() -> None:
    """Hide it, in this process and those that load its data."""
    for message, package in WARNINGS.items():
        warnings.filterwarnings("ignore", message=message, module=rf"{package}\.")
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    return not HIDDEN.match(record.getMessage())
