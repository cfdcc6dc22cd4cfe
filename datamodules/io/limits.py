"""The largest sizes that are read: what a header claims is checked before memory is taken.

Each can be raised (or lowered) with an environment variable of its name.
"""

import math
import os
from collections.abc import Sequence

LIMITS = {
    "NODULEFORGE_MAX_SIDE": 2**14,
    "NODULEFORGE_MAX_VOXELS": 2**31,
    "NODULEFORGE_MAX_LABEL": 2**16 - 1,
}
"""Voxels along one axis, voxels in all (a CT of 2048 slices of 1024 x 1024), and a mask's label."""


def check_size(shape: Sequence[int], what: object) -> None:
    """Refuse an image, or a box of one, that is too large to be real.

    Args:
        shape: voxels along each axis, as the header or the coordinates say.
        what: the file, or what lies in it, for the message.

    Raises:
        ValueError: If it is larger than `LIMITS`.
    """
    claimed = f"{what} would have {' x '.join(map(str, shape))} voxels"
    _check(max(shape, default=0), "NODULEFORGE_MAX_SIDE", f"{claimed}, along an axis")
    _check(math.prod(map(int, shape)), "NODULEFORGE_MAX_VOXELS", f"{claimed}, in all")


def check_label(label: float, what: object) -> None:
    """Refuse a mask whose highest label is too high to number nodules.

    Args:
        label: the highest.
        what: the file, for the message.

    Raises:
        ValueError: If it is higher than `LIMITS`.
    """
    _check(label, "NODULEFORGE_MAX_LABEL", f"{what} has the label {label:.0f},")


def _check(value: float, name: str, claimed: str) -> None:
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        message = f"The environment variable {name} is {text!r}: give a whole number"
        raise ValueError(message)
    limit = int(text) if text else LIMITS[name]
    if value > limit:
        message = (
            f"{claimed} more than the {limit} that are allowed: it is damaged, or set the "
            f"environment variable {name} to at least {int(value)}"
        )
        raise ValueError(message)
