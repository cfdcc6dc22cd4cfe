"""LIDC's ratings of nodules, and what is made of them: subtypes and characteristics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE

RATINGS = {
    "subtlety": (1, 5),
    "internal_structure": (1, 4),
    "calcification": (1, 6),
    "sphericity": (1, 5),
    "margin": (1, 5),
    "lobulation": (1, 5),
    "spiculation": (1, 5),
    "texture": (1, 5),
    "malignancy": (1, 5),
}
"""LIDC's ratings and the ends of their scales, in the order of its forms."""

CHARACTERISTICS = ("subtlety", "calcified", "irregular", "inhomogeneous")
"""What radiographs are labelled with, out of these ratings."""


def subtype_of(texture: float, ground_glass_max: float = 2.0, solid_min: float = 4.5) -> int:
    """Return the subtype that a mean LIDC texture stands for.

    LIDC's texture is 1 for ground glass, 3 for part-solid and 5 for solid; it is the mean over up
    to four readers. Up to 2 ground glass outweighs the rest. For a mean of 4.5 at least half of
    the readers must have said 5, so solid is what most call solid.

    Args:
        texture: 1 to 5; NaN where unknown.
        ground_glass_max: up to this the nodule is ground-glass.
        solid_min: from this on it is solid; between the two it is part-solid.

    Returns:
        A position in `SUBTYPES`, or `UNKNOWN_SUBTYPE`.
    """
    if np.isnan(texture):
        return UNKNOWN_SUBTYPE
    if texture <= ground_glass_max:
        return SUBTYPES.index("ground-glass")
    return SUBTYPES.index("solid" if texture >= solid_min else "part-solid")


def characteristics(ratings: Mapping[Any, Any]) -> dict[str, float]:
    """What paper A (Singh et al., MIDL 2026) labels, from LIDC's mean ratings.

    `calcified`: calcification up to 5 (6 is absent, up to 5.5 is left open). `irregular`: 1 where
    the margin is at most 2, or spiculation or lobulation at least 4; 0 where the margin is at least
    4 and both others at most 2. `inhomogeneous`: 1 for a texture up to 4, 0 for 5.

    Args:
        ratings: LIDC's, NaN where unknown.

    Returns:
        `subtlety` (1 to 5) and the three others: 1, 0 or NaN where it cannot be told.
    """
    calcification, margin, spiculation, lobulation, texture = (
        float(ratings.get(name, np.nan))
        for name in ("calcification", "margin", "spiculation", "lobulation", "texture")
    )
    calcified = irregular = inhomogeneous = np.nan
    if calcification <= 5 or calcification > 5.5:
        calcified = float(calcification <= 5)
    if margin <= 2 or spiculation >= 4 or lobulation >= 4:
        irregular = 1.0
    elif margin >= 4 and spiculation <= 2 and lobulation <= 2:
        irregular = 0.0
    if texture <= 4 or texture == 5:
        inhomogeneous = float(texture <= 4)
    return {
        "subtlety": float(ratings.get("subtlety", np.nan)),
        "calcified": calcified,
        "irregular": irregular,
        "inhomogeneous": inhomogeneous,
    }
