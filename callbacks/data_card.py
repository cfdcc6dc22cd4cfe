"""Data cards of synthetic nodules: how they were made, how many, and what was refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from callbacks.generation import code_version
from datamodules.batch import HEALTHY, Provenance
from datamodules.io.whole_files import written_whole
from datamodules.patients import UNKNOWN_PATIENTS

CARD, TITLE = "README.md", "# Synthetic lung nodules"

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Hugging Face's names of the numbers below these."""


def check_card(folder: Path) -> None:
    """Check that a data card overwrites no text of somebody else.

    To be called before anything is made.

    Raises:
        FileExistsError: If the folder has another `README.md`.
    """
    path = folder / CARD
    if path.is_file() and f"\n{TITLE}\n" not in path.read_text("utf-8", "replace"):
        message = f"{path} is none of ours: give another trainer.default_root_dir, or move it away"
        raise FileExistsError(message)


def write_data_card(
    folder: Path, rows: Sequence[Mapping[str, Any]], asked: int, provenance: Provenance
) -> None:
    """Write `README.md`, which says counts alone.

    Args:
        folder: of the data set.
        rows: of its table, each a synthetic nodule.
        asked: how many nodules were asked for.
        provenance: of the nodules.
    """
    size = next((name for limit, name in SIZES if len(rows) < limit), "n>1M")
    data = DatasetCardData(
        license="other",
        annotations_creators=["machine-generated"],
        tags=["noduleforge", "medical", "lung-nodule", "synthetic"],
        size_categories=[size],
        pretty_name="Synthetic lung nodules",
    )
    refused = asked - len(rows)
    seen = provenance.training_patients
    counts = Counter(str(row["subtype"]) or "without a subtype" for row in rows)
    erased = counts.pop(HEALTHY, 0)
    named = ", ".join(f"{count} {subtype}" for subtype, count in sorted(counts.items()))
    whose = "not known" if UNKNOWN_PATIENTS in seen else len(seen)
    facts = {
        "synthetic nodules": f"{counts.total()} ({named})" if counts else 0,
        **({"places made healthy lung": erased} if erased else {}),
        "asked for": asked,
        "refused": f"{refused} ({100 * refused / max(asked, 1):.1f} %)",
        "patients whose images they are in": len({row["patient_id"] for row in rows}),
        "patients that the generator has seen": whose,
        "weights": f"`{provenance.checkpoint}`",
        "seed": provenance.seed,
        "network evaluations for each": provenance.evaluations,
        "code": f"noduleforge {code_version()}",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    text = f"""---
{data.to_yaml()}
---
{TITLE}

Every nodule in `nodules.csv` is synthetic: a latent diffusion model put it into an image of a
patient. Beyond the nodule's margin the image is as it was.

|  |  |
| --- | --- |
{table}
Refused are requests that could not be fulfilled, such as a place beyond the lung; where the table
has the column `reason`, it says why. `generator.json` says by keys, which only the site that
trained the generator can read, whom the generator has seen: nodules must not be trained on beside
held-out patients of these.

## Terms

The images are those of patients, and under the terms of the data that they are from: name these
terms here before you give the images away.

## Intended use

Research: training and testing of algorithms, beside real data. Not for diagnosis. They are marked
as synthetic, and the mark is to stay.
"""
    with written_whole(folder / CARD) as path:
        path.write_text(text)
