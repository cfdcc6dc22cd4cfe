"""Which real and which synthetic nodules are shown: alike in subtype, size and surroundings."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from noduleforge.evaluation.groups import LARGE_MM

SAME_PLACE_MM = 5.0
"""Nodules of one patient whose centres are nearer than this lie in the same place."""

PREFERRED = 100.0
"""By how much a pair at the same place is better than any other."""

FORBIDDEN = 1e6
"""Cost of a pair of different subtypes."""

MAX_RATIO = 2.0
"""Diameters of a pair may differ by this factor."""

PAIR = ("real", "synthetic", "same_place")


def all_pairs(real: pd.DataFrame, synthetic: pd.DataFrame) -> pd.DataFrame:
    """Give each nodule at most one of the other kind: at its place, or else like it.

    The sum of differences is the smallest possible (linear assignment), where a pair differs by
    the logarithm (base 2) of its diameters' ratio and by how much brighter or darker the
    surroundings are, over their deviation among real nodules. Both have one subtype.

    Args:
        real: of `Source.table`.
        synthetic: likewise.

    Returns:
        One pair a row: `real` and `synthetic`, positions in the tables, and `same_place`.
    """
    size = np.abs(np.log2(_differences(real, synthetic, "diameter_mm", np.divide)))
    spread = float(real["surroundings"].std()) or 1.0
    around = _differences(real, synthetic, "surroundings", np.subtract) / (spread or 1.0)
    same = _same_place(real, synthetic)
    cost = size + np.abs(np.nan_to_num(around)) - PREFERRED * same
    unlike = real["subtype"].to_numpy()[:, None] != synthetic["subtype"].to_numpy()[None]
    cost[unlike | (~same & (size > np.log2(MAX_RATIO)))] = FORBIDDEN
    rows, columns = linear_sum_assignment(cost)
    kept = cost[rows, columns] < FORBIDDEN / 2
    rows, columns = rows[kept], columns[kept]
    return pd.DataFrame(dict(zip(PAIR, (rows, columns, same[rows, columns]), strict=True)))


def _differences(
    real: pd.DataFrame, synthetic: pd.DataFrame, column: str, how: np.ufunc
) -> NDArray[np.float64]:
    first, second = (table[column].to_numpy(float) for table in (real, synthetic))
    found: NDArray[np.float64] = how(first[:, None], second[None])
    return found


def _same_place(real: pd.DataFrame, synthetic: pd.DataFrame) -> NDArray[np.bool_]:
    axes = ("x_mm", "y_mm", "z_mm")
    steps = np.stack([_differences(real, synthetic, axis, np.subtract) for axis in axes])
    near = np.sqrt(np.nansum(steps**2, axis=0)) < SAME_PLACE_MM
    patients = real["patient_id"].to_numpy()[:, None] == synthetic["patient_id"].to_numpy()[None]
    both: NDArray[np.bool_] = near & patients
    return both


def draw_pairs(
    pairs: pd.DataFrame, real: pd.DataFrame, number: int, rng: Generator
) -> pd.DataFrame:
    """Draw pairs in turn from each subtype and size, of patients that were not drawn if possible.

    Args:
        pairs: of `all_pairs`.
        real: of `Source.table`.
        number: of pairs.
        rng: where chance comes from.

    Returns:
        Rows of `pairs`, in the order in which they were drawn.

    Raises:
        ValueError: If there are fewer pairs.
    """
    if len(pairs) < number:
        message = (
            f"There are {len(pairs)} pairs of a real and a synthetic nodule of the same subtype "
            f"and like size, fewer than the {number} that are asked for: ask for fewer --cases or "
            "--practice, or give more nodules"
        )
        raise ValueError(message)
    drawn = real.iloc[pairs["real"]].reset_index(drop=True)
    large = drawn["diameter_mm"] > LARGE_MM
    order = rng.permutation(len(pairs))
    subtypes = {name: list(rng.permutation([False, True])) for name in sorted({*drawn["subtype"]})}
    patients: set[str] = set()
    found: list[int] = []
    while len(found) < number:
        for subtype, sizes in subtypes.items():
            left = [k for k in order if drawn["subtype"][k] == subtype and k not in found]
            if not left or len(found) == number:
                continue
            sizes.reverse()  # small and large ones in turn
            wanted = [k for k in left if large[k] == sizes[0]] or left
            chosen = next((k for k in wanted if drawn["patient_id"][k] not in patients), wanted[0])
            patients.add(drawn["patient_id"][chosen])
            found.append(int(chosen))
    return pairs.iloc[found].reset_index(drop=True)


def balance(real: pd.DataFrame, synthetic: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """How alike what was drawn is, by subtype: numbers, diameters and surroundings."""
    chosen = {
        "real": real.iloc[drawn["real"]].reset_index(drop=True),
        "synthetic": synthetic.iloc[drawn["synthetic"]].reset_index(drop=True),
    }
    rows = []
    for name in dict.fromkeys([*chosen["real"]["subtype"], "all"]):
        row: dict[str, object] = {"subtype": name or "unknown"}
        for kind, table in chosen.items():
            part = table if name == "all" else table[table["subtype"] == name]
            row |= {
                f"{kind}": len(part),
                f"{kind}_diameter_mm": part["diameter_mm"].median(),
                f"{kind}_surroundings": part["surroundings"].mean(),
            }
        rows.append(row)
    return pd.DataFrame(rows)
