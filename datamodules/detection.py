"""Whole radiographs with and without a nodule, of several data sets, for a detector."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_info

from datamodules.base import (
    SPLITS,
    NoduleDataModule,
    NoduleDataset,
    hold_nothing_out,
    raise_together,
)
from datamodules.batch import UNKNOWN_SUBTYPE, NoduleBatch, Roi
from datamodules.io.volumes import Volume, equivalent_diameter_mm, resample, resample_mask
from datamodules.patients import GENERATOR
from datamodules.radiographs import RadiographDataModule, RadiographDataset
from datamodules.real_and_synthetic import check_generator, draw
from datamodules.superimposed import SuperimposedDataset

COLLECTIONS = {"JSRT": r"(JPC[LN]N\d{3})(?!\d)", "ChestX-ray14": r"0*(\d+)_\d{3}(?!\d)"}
"""How file names of public collections begin; the group says the patient. NODE21 is made of
radiographs of these two, of PadChest and of Open-I."""

RENAMED = ("image", "source_id")
"""Columns of a table of radiographs that were renamed: the file's name now, and in its
collection."""


DARK, BRIGHT = 0.5, 99.5
"""Percentiles of a radiograph that become 0 and 255: sources differ in their range of grey."""


@dataclass(frozen=True)
class Radiograph:
    """One image.

    Attributes:
        name: unique in all sources.
        patient_id: whose radiograph it is.
        has_nodule: whether there is a nodule in it.
        origins: whom and what it shows, in words; see `origins`.
        rows: those of `dataset` that show this image.
        dataset: what reads them.
    """

    name: str
    patient_id: str
    has_nodule: bool
    origins: frozenset[str]
    rows: list[dict[str, Any]]
    dataset: RadiographDataset


def origins(row: Mapping[str, Any], source_ids: Mapping[str, str]) -> frozenset[str]:
    """Say in words whom and what an image shows.

    A radiograph is known by the file name that it had in the collection it comes from. Where this
    is a name of JSRT's or ChestX-ray14's, it says the patient; patients of all other radiographs
    go by their `patient_id`. Where a nodule was put into a radiograph, the nodule's patient is one
    more.

    Args:
        row: of a `RadiographDataset`: `path` and `patient_id`, and `radiograph_patient_id` where a
            nodule was put into the radiograph.
        source_ids: of files that were renamed, by their names now, the names that they had; both
            in capitals, without ending.
    """
    now = _stem(row["path"])
    radiograph = source_ids.get(now, now)
    found = {f"radiograph {radiograph!r}"} if now in source_ids else set()
    matches = {name: re.match(pattern, radiograph) for name, pattern in COLLECTIONS.items()}
    patients = [f"patient {match[1]!r} of {name}" for name, match in matches.items() if match]
    found.update(patients or [f"patient {whose(row)!r}"])
    if "radiograph_patient_id" in row:
        found.add(f"patient {row['patient_id']!r}")
    return frozenset(found)


def whose(row: Mapping[str, Any]) -> str:
    """The patient of the radiograph, not of a nodule that was put into it."""
    patient: str = row.get("radiograph_patient_id", row["patient_id"])
    return patient


def read_source_ids(path: Path) -> dict[str, str]:
    """Read which names radiographs had in the collections that they come from.

    Args:
        path: a CSV table with the columns `image` and `source_id`, file names.

    Returns:
        By the name now the name then, both in capitals and without ending.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing.
    """
    if not path.is_file():
        message = (
            f"{path} does not exist: give a table of renamed radiographs, or null if there are none"
        )
        raise FileNotFoundError(message)
    table = pd.read_csv(path, dtype=str)
    if missing := [name for name in RENAMED if name not in table]:
        message = f"{path} lacks the column(s) {missing} (found: {', '.join(table.columns)})"
        raise ValueError(message)
    now, then = (table[name].map(_stem) for name in RENAMED)
    return dict(zip(now, then, strict=True))


def _stem(file: str | Path) -> str:
    """A file's name in capitals, without ending.

    Synthetic radiographs are called after their source, with a key of six digits behind it.
    """
    stem = Path(file).stem.upper()
    return re.sub(r"^SYNTHETIC-(.+?)(-[0-9A-F]{6})?$", r"\1", stem)


def list_radiographs(
    source: str, dataset: RadiographDataset, has_nodule: bool, source_ids: Mapping[str, str]
) -> list[Radiograph]:
    """Find the images that the rows of a data set show.

    Rows with the same file are one image. Where nodules were put into radiographs, each row is an
    image of its own.

    Args:
        source: begins the images' names.
        dataset: one region of interest a row.
        has_nodule: whether there is a nodule in the images.
        source_ids: see `origins`.
    """
    apart = isinstance(dataset, SuperimposedDataset)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in dataset.rows:
        groups.setdefault(row["name"] if apart else str(row["path"]), []).append(row)
    return [
        Radiograph(
            f"{source}-{rows[0]['name']}",
            whose(rows[0]),
            has_nodule,
            origins(rows[0], source_ids),
            rows,
            dataset,
        )
        for rows in groups.values()
    ]


def check_no_origin_crosses(radiographs: Mapping[str, Mapping[str, Sequence[Radiograph]]]) -> None:
    """Check that nothing is shown in two splits, whatever the sources.

    Args:
        radiographs: of each source and split, the images.

    Raises:
        ValueError: If a patient or a radiograph is in more than one split; all such together.
    """
    seen: dict[str, tuple[str, str]] = {}
    crossing: dict[str, str] = {}
    for source, parts in radiographs.items():
        for split, part in parts.items():
            for origin in sorted(set().union(*[radiograph.origins for radiograph in part])):
                before, first = seen.setdefault(origin, (split, source))
                if before != split:
                    crossing.setdefault(
                        origin,
                        f"The {origin} is in {before} of {first} and in {split} of {source}: give "
                        "it one patient_id and all sources the same seed and fractions, or leave "
                        "it out of one",
                    )
    raise_together(list(crossing.values()))


class DetectionDataset(NoduleDataset):
    """Whole radiographs, each resampled about its middle, with grey from 0 to 255.

    The radiograph's 0.5th and 99.5th percentiles become 0 and 255; what lies beyond is not clipped.
    Augmented radiographs stay upright.
    The images' attributes are `nodule` (1 or 0), `subtlety` (that of the most obvious nodule) and
    `diameter_mm` (of the disc with the nodules' area). `subtypes` is what training balances: 1 for
    an image with a nodule and 0 for one without.
    """

    upright = True

    def __init__(
        self,
        radiographs: Sequence[Radiograph],
        radiograph_size: int,
        radiograph_spacing_mm: float,
        augmented_copies: int = 1,
        seed: int = 0,
    ) -> None:
        """Describe the images.

        Args:
            radiographs: what is read.
            radiograph_size: pixels along each side.
            radiograph_spacing_mm: distance between pixels.
            augmented_copies: deterministic versions of each image.
            seed: of the augmentation.
        """
        labels = [int(radiograph.has_nodule) for radiograph in radiographs]
        super().__init__(labels, (radiograph_size, radiograph_size), augmented_copies, seed)
        self.radiographs = list(radiographs)
        self.radiograph_spacing_mm = radiograph_spacing_mm
        names, patients = [f.name for f in radiographs], [f.patient_id for f in radiographs]
        self.table = pd.DataFrame({"name": names, "patient_id": patients, "nodule": labels})

    @property
    def patients(self) -> set[str]:
        """Everybody of whom the items show something, in radiographs and as nodules."""
        return set().union(*[radiograph.dataset.patients for radiograph in self.radiographs])

    def facts(self) -> Iterable[str]:
        """List the images, and what the sources depend on."""
        yield json.dumps([DARK, BRIGHT, self.radiograph_spacing_mm, self.table.to_dict("list")])
        for dataset in dict.fromkeys(radiograph.dataset for radiograph in self.radiographs):
            yield from dataset.facts()

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one item; where augmentation moved the nodule out of the image, there is none."""
        item = super().__getitem__(index)
        item["attributes"]["nodule"] = item["mask"].any().float()
        return item

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """Read one radiograph, with the masks of all its nodules in one.

        Raises:
            FileNotFoundError: If the radiograph is missing.
            ValueError: If the radiograph is damaged, or no nodule is within the image.
        """
        radiograph = self.radiographs[nodule]
        read = [radiograph.dataset.nodule(row) for row in radiograph.rows]
        whole = read[0][0]
        inside = np.logical_or.reduce([mask for _, mask, _ in read])
        spacing = (self.radiograph_spacing_mm,) * 2
        middle = whole.grid.world([(n - 1) / 2 for n in whole.array.shape])
        # beyond the radiograph's edge is what was not exposed, and dark
        image = resample(whole, middle, size, spacing, fill=float(whole.array.min()))
        outline = Volume(inside, whole.spacing_mm, whole.origin_mm, whole.direction)
        mask = resample_mask(outline, middle, size, spacing)
        if radiograph.has_nodule and not mask.array.any():
            message = (
                f"No nodule of {radiograph.name} is within {size[0]} pixels of "
                f"{self.radiograph_spacing_mm} mm "
                "about the radiograph's middle: raise radiograph_size or radiograph_spacing_mm"
            )
            raise ValueError(message)
        low, high = np.percentile(whole.array, (DARK, BRIGHT))
        grey = (image.array.astype(np.float32) - low) * 255 / max(high - low, 1e-6)
        attributes = {
            "nodule": float(radiograph.has_nodule),
            "subtlety": np.fmax.reduce([float(r.get("subtlety", np.nan)) for r in radiograph.rows]),
            "diameter_mm": equivalent_diameter_mm(inside, whole.spacing_mm) or np.nan,
        }
        return {
            "image": torch.from_numpy(grey.astype(np.float32))[None],
            "mask": torch.from_numpy(mask.array.astype(np.float32))[None],
            "subtype": torch.tensor(UNKNOWN_SUBTYPE),
            "attributes": {
                name: torch.tensor(value, dtype=torch.float32) for name, value in attributes.items()
            },
            "spacing_mm": torch.tensor(spacing, dtype=torch.float32),
            "origin_mm": torch.tensor(image.origin_mm, dtype=torch.float64),
            "direction": torch.from_numpy(image.direction.copy()),
            "name": radiograph.name,  # type: ignore[typeddict-item]  # one name
            "patient_id": radiograph.patient_id,  # type: ignore[typeddict-item]
            "index": torch.tensor(nodule),
        }


class DetectionDataModule(NoduleDataModule):
    """Whole radiographs of several sources: those with a nodule, with its mask, and those without.

    Each source says which of its patients are in training, validation and test. Some collections
    contain parts of others: that nobody is in training of one source and in validation or test of
    another is checked by the radiographs' names in the collections that they come from (`origins`).
    """

    def __init__(
        self,
        sources: dict[str, RadiographDataModule],
        synthetic: dict[str, RadiographDataModule] | None = None,
        per_real: float = 1.0,
        without_real: bool = False,
        source_ids: Path | None = None,
        radiograph_size: int = 256,
        radiograph_spacing_mm: float = 1.6,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        balance: bool = True,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
    ) -> None:
        """Describe the images.

        Args:
            sources: data modules of radiographs, each with nodules or without (`content`), by
                names that begin the images' names. Their regions of interest, batches and
                augmented_copies do not count.
            synthetic: more sources, whose nodules are synthetic: all their radiographs are for
                training. Their folder's `generator.json` must say that the generator has seen
                nobody of validation and test.
            per_real: synthetic radiographs, of all of `synthetic`, for each real training
                radiograph with a nodule.
            without_real: leave out the real training radiographs with a nodule; those without stay.
            source_ids: a CSV table of radiographs that were renamed, with the columns `image` (the
                file's name) and `source_id` (its name in the collection that it comes from);
                NODE21, whose radiographs are JSRT's, ChestX-ray14's and others', has such a list.
            radiograph_size: pixels along each side.
            radiograph_spacing_mm: distance between pixels.
            batch_size: images per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the choice among synthetic radiographs, the order and the augmentation.
            balance: draw images with a nodule and without equally often in training.
            augmented_copies: deterministic versions of each training image, the first not
                augmented.
            cache_dir: folder for cached images; null for none. Old entries are never deleted.

        Raises:
            ValueError: If a setting is out of its range.
        """
        super().__init__(
            Roi(radiograph_size, radiograph_spacing_mm),
            batch_size,
            num_workers,
            seed,
            balance,
            augmented_copies,
            cache_dir,
        )
        if not sources or radiograph_size < 1 or not radiograph_spacing_mm > 0:
            message = (
                f"There are {len(sources)} sources, radiograph_size is {radiograph_size} and "
                f"radiograph_spacing_mm "
                f"{radiograph_spacing_mm}: give at least one source, one pixel and a spacing "
                f"above 0 mm"
            )
            raise ValueError(message)
        self.synthetic = synthetic or {}
        if twice := sorted({*sources} & {*self.synthetic}):
            message = f"{twice} are among sources and synthetic: give every source its own name"
            raise ValueError(message)
        if per_real < 0 or (without_real and not self.synthetic):
            message = (
                f"per_real is {per_real} and without_real {without_real}: give at least 0, and "
                "synthetic radiographs where there are no real ones"
            )
            raise ValueError(message)
        self.sources = sources
        for source in {**sources, **self.synthetic}.values():
            source.own_roi = self.own_roi
        self.per_real, self.without_real = per_real, without_real
        self.source_ids = source_ids
        self.radiograph_size = radiograph_size
        self.radiograph_spacing_mm = radiograph_spacing_mm

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets once, and say what is in them."""
        if not self.datasets:
            self.datasets = self.build()
            for split, dataset in self.datasets.items():
                nodules = sum(dataset.subtypes)
                rank_zero_info(f"{split}: {len(dataset.subtypes)} images, {nodules} with a nodule")

    def build(self) -> dict[str, NoduleDataset]:
        """Read the sources' tables; what is predicted is the test split.

        Raises:
            FileNotFoundError: If a table or radiograph is missing.
            ValueError: If they are faulty, something is shown in two splits, or there are too few
                synthetic radiographs.
        """
        renamed = {} if self.source_ids is None else read_source_ids(Path(self.source_ids))
        radiographs: dict[str, dict[str, list[Radiograph]]] = {}
        for source in self.synthetic.values():
            hold_nothing_out(source)
        for name, source in {**self.sources, **self.synthetic}.items():
            parts: dict[str, Any] = dict(source.build())
            del parts["predict"]  # without the nodules that would be put into radiographs
            has_nodule = source.content == "nodules"
            radiographs[name] = {
                split: list_radiographs(name, part, has_nodule, renamed)
                for split, part in parts.items()
            }
        check_no_origin_crosses(radiographs)
        datasets: dict[str, NoduleDataset] = {
            split: DetectionDataset(
                self._training(radiographs)
                if split == "train"
                else [radiograph for parts in radiographs.values() for radiograph in parts[split]],
                self.radiograph_size,
                self.radiograph_spacing_mm,
                self.augmented_copies if split == "train" else 1,
                self.seed,
            )
            for split in SPLITS
        }
        held_out = {split: datasets[split] for split in ("val", "test")}
        for synthetic in self.synthetic.values():
            settings: Any = synthetic
            check_generator(Path(settings.root) / GENERATOR, held_out)
        return {**datasets, "predict": datasets["test"]}

    def _training(
        self, radiographs: Mapping[str, Mapping[str, Sequence[Radiograph]]]
    ) -> list[Radiograph]:
        """The real radiographs of the training split, and as many synthetic ones as are wanted."""
        real = [radiograph for name in self.sources for radiograph in radiographs[name]["train"]]
        synthetic = [
            radiograph for name in self.synthetic for radiograph in radiographs[name]["train"]
        ]
        if self.synthetic:
            wanted = round(self.per_real * sum(radiograph.has_nodule for radiograph in real))
            order = np.random.default_rng((self.seed, 1)).permutation(len(synthetic))
            synthetic = [synthetic[k] for k in draw(order, wanted, "radiographs with ")]
        kept = [
            radiograph for radiograph in real if not (self.without_real and radiograph.has_nodule)
        ]
        return kept + synthetic
