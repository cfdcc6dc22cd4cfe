"""Whole radiographs with and without a nodule, of several collections, for a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Roi
from datamodules.collections.origins import check_no_origin_crosses, read_source_ids
from datamodules.collections.radiographs import Content, RadiographCollection
from datamodules.collections.whole_radiographs import (
    Radiograph,
    WholeRadiographs,
    list_radiographs,
)
from datamodules.dataset import NoduleDataset
from datamodules.patients import GENERATOR, check_generator
from datamodules.real_and_synthetic import draw
from datamodules.splits import SPLITS, TRAINING_ALONE, check_fractions

OfSplits = Mapping[str, Sequence[Radiograph]]
"""The images of a source, by split."""


@dataclass(frozen=True)
class RadiographSource:
    """Radiographs that a detector is trained and tested with.

    Attributes:
        collection: where they are.
        content: `nodules`, or `normal` for radiographs without a nodule.
        fractions: shares of the patients for train, val and test; null for those of all sources.
    """

    collection: RadiographCollection
    content: Content = "nodules"
    fractions: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse fractions that are no shares."""
        if self.fractions is not None:
            check_fractions(self.fractions)


class DetectionDataset(NoduleDataset):
    """Whole radiographs; where augmentation moved the nodule out of the image, there is none."""

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one item."""
        item = super().__getitem__(index)
        item["attributes"]["nodule"] = item["mask"].any().float()
        return item


class DetectionDataModule(NoduleDataModule):
    """Whole radiographs of several sources: those with a nodule, with its mask, and those without.

    Some collections contain parts of others: that nobody is in training of one source and in
    validation or test of another is checked by the radiographs' names in the collections that they
    come from (`origins`).
    """

    def __init__(
        self,
        sources: dict[str, RadiographSource],
        synthetic: dict[str, RadiographCollection] | None = None,
        per_real: float = 1.0,
        without_real: bool = False,
        source_ids: Path | None = None,
        radiograph_size: int = 256,
        radiograph_spacing_mm: float = 1.6,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        balance: bool = True,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
        batches_per_epoch: int = 250,
    ) -> None:
        """Describe the images.

        Args:
            sources: radiographs with nodules or without, by names that begin the images' names.
            synthetic: collections of radiographs whose nodules are synthetic, by such names too:
                all are for training. The `generator.json` in their folders must say that the
                generator has seen nobody of validation and test.
            per_real: synthetic radiographs, of all of `synthetic`, for each real training
                radiograph with a nodule.
            without_real: leave out the real training radiographs with a nodule; those without stay.
            source_ids: a CSV table of radiographs that were renamed, with the columns `image` (the
                file's name) and `source_id` (its name in the collection that it comes from);
                NODE21, whose radiographs are JSRT's, ChestX-ray14's and others', has such a list.
            radiograph_size: pixels along each side.
            radiograph_spacing_mm: distance between pixels.
            fractions: shares of the patients for train, val and test, of sources that have none of
                their own.
            batch_size: images per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the choice among synthetic radiographs, the order and the augmentation.
            split_seed: of the splits, and of where in radiographs nodules are put.
            balance: draw images with a nodule and without equally often in training.
            augmented_copies: deterministic versions of each training image, the first not
                augmented.
            cache_dir: folder for cached images; null for none. Old entries are never deleted.
            batches_per_epoch: of training, on each process, whatever the data.

        Raises:
            ValueError: If a setting is out of its range.
        """
        if not sources or radiograph_size < 1 or not radiograph_spacing_mm > 0:
            message = (
                f"There are {len(sources)} sources, radiograph_size is {radiograph_size} and "
                f"radiograph_spacing_mm {radiograph_spacing_mm}: give at least one source, one "
                "pixel and a spacing above 0 mm"
            )
            raise ValueError(message)
        super().__init__(
            Roi(radiograph_size, radiograph_spacing_mm),
            batch_size,
            num_workers,
            seed,
            balance,
            augmented_copies,
            cache_dir,
            batches_per_epoch,
        )
        check_fractions(fractions)
        self.sources, self.synthetic = sources, synthetic or {}
        if twice := sorted({*sources} & {*self.synthetic}):
            message = f"{twice} are among sources and synthetic: give every source its own name"
            raise ValueError(message)
        if per_real < 0 or (without_real and not self.synthetic):
            message = (
                f"per_real is {per_real} and without_real {without_real}: give at least 0, and "
                "synthetic radiographs where there are no real ones"
            )
            raise ValueError(message)
        self.per_real, self.without_real = per_real, without_real
        self.source_ids = source_ids
        self.fractions, self.split_seed = fractions, split_seed

    def build(self) -> dict[str, NoduleDataset]:
        """Read the sources' tables; what is predicted is the test split.

        Raises:
            FileNotFoundError: If a table or radiograph is missing.
            ValueError: If they are faulty, something is shown in two splits, or there are too few
                synthetic radiographs.
        """
        renamed = {} if self.source_ids is None else read_source_ids(Path(self.source_ids))
        made = {
            name: RadiographSource(collection, fractions=TRAINING_ALONE)
            for name, collection in self.synthetic.items()
        }
        images: dict[str, OfSplits] = {
            name: self._list(name, source, renamed)
            for name, source in {**self.sources, **made}.items()
        }
        check_no_origin_crosses(
            {
                name: {split: [image.origins for image in part] for split, part in parts.items()}
                for name, parts in images.items()
            }
        )
        of_split = {
            split: [one for parts in images.values() for one in parts[split]] for split in SPLITS
        }
        of_split["train"] = self._training(images)
        datasets: dict[str, NoduleDataset] = {
            split: DetectionDataset(
                WholeRadiographs(radiographs, self.roi.shape(2)[0], self.roi.spacing_mm),
                self.augmented_copies if split == "train" else 1,
                self.seed,
            )
            for split, radiographs in of_split.items()
        }
        held_out = {split: datasets[split].patients for split in ("val", "test")}
        for collection in self.synthetic.values():
            check_generator(collection.root / GENERATOR, held_out)
        return {**datasets, "predict": datasets["test"]}

    def describe(self, dataset: NoduleDataset) -> str:
        """Say how many images there are, and how many with a nodule."""
        return f"{len(dataset.subtypes)} images, {sum(dataset.subtypes)} with a nodule"

    def _list(
        self, name: str, source: RadiographSource, renamed: Mapping[str, str]
    ) -> dict[str, list[Radiograph]]:
        """The images of a source, by split."""
        parts = source.collection.splits(
            self.roi, source.fractions or self.fractions, self.split_seed, source.content
        )
        has_nodule = source.content == "nodules"
        return {
            split: list_radiographs(name, part, has_nodule, renamed)
            for split, part in parts.items()
        }

    def _training(self, images: Mapping[str, OfSplits]) -> list[Radiograph]:
        """The real radiographs of the training split, and as many synthetic ones as are wanted."""
        real = [image for name in self.sources for image in images[name]["train"]]
        synthetic = [image for name in self.synthetic for image in images[name]["train"]]
        if self.synthetic:
            wanted = round(self.per_real * sum(image.has_nodule for image in real))
            order = np.random.default_rng((self.seed, 1)).permutation(len(synthetic))
            synthetic = [synthetic[k] for k in draw(order, wanted, "radiographs with ")]
        return [
            *(image for image in real if not (self.without_real and image.has_nodule)),
            *synthetic,
        ]
