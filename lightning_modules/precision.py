"""The precision that a machine can compute in."""

import torch
from lightning.pytorch.utilities import rank_zero_info

WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
"""What `torch.backends.cpu.get_cpu_capability` says of CPUs without instructions for bf16."""


def fast_precision(precision: str, accelerator: str) -> str:
    """Replace bf16 by float32 where the CPU would have to imitate it, and say so.

    A 3D convolution in imitated bf16 takes some 20 times as long as in float32.

    Args:
        precision: as Lightning's Trainer takes it.
        accelerator: likewise; `auto` is the CPU where there is no other.

    Returns:
        `32-true` where `precision` is `bf16-mixed` and cannot be had, else `precision`.
    """
    on_cpu = accelerator == "cpu" or (
        accelerator == "auto" and not torch.accelerator.is_available()
    )
    capability = torch.backends.cpu.get_cpu_capability()
    if precision != "bf16-mixed" or not on_cpu or capability not in WITHOUT_BF16:
        return precision
    rank_zero_info(
        f"PyTorch knows no instructions for bf16 on this CPU ({capability}), which imitated is "
        "some 20 times slower: precision is 32-true in place of bf16-mixed"
    )
    return "32-true"
