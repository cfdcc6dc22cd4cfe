"""Nodules in CT, for training."""

from pathlib import Path

from datamodules.base import NoduleDataModule
from datamodules.batch import Roi
from datamodules.collections.lidc import LIDCCollection, LIDCNodules, every_subtype
from datamodules.dataset import NoduleDataset
from datamodules.splits import Split, check_fractions


class LIDCDataModule(NoduleDataModule):
    """Nodules in CT: a folder with a table, images and one binary mask for each nodule.

    See `LIDCCollection` for what the folder holds. Regions of healthy lung (`noduleforge prepare
    healthy`) are for training alone: validation, test and prediction leave them out.
    """

    def __init__(
        self,
        root: Path,
        csv: str = "nodules.csv",
        columns: dict[str, str] | None = None,
        select: str | None = None,
        ground_glass_max: float = 2.0,
        solid_min: float = 4.5,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        predict_csv: str | None = None,
        predict_split: Split = "test",
        predict_every_subtype: bool = False,
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        balance: bool = True,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
        batches_per_epoch: int = 250,
    ) -> None:
        """Describe the data.

        Args:
            root: folder with the table and the files it names.
            csv: name of the table in `root`, one nodule a row, with the columns `nodule_id`,
                `patient_id`, `image` and `mask` (files relative to `root`), `texture` or
                `subtype` (solid, part-solid or ground-glass), and any other LIDC rating.
            columns: our column names to the table's, where they differ.
            select: an expression that says which rows to use, for example "link_cost < 3".
            ground_glass_max: nodules of a texture up to this are ground-glass; LIDC's texture is
                1 for ground glass, 3 for part-solid and 5 for solid, the mean of its readers.
            solid_min: nodules of a texture from this on are solid, those between part-solid; at
                4.5 at least half of the readers must have said 5.
            fractions: shares of the patients for train, val and test.
            predict_csv: name of a table of the same form in `root`, whose images are backgrounds
                and whose masks say where a nodule is wanted; null for the nodules of a split,
                each of which is synthesized anew in its own place, in all its `augmented_copies`.
            predict_split: that split; `train` for nodules that are to be trained with.
            predict_every_subtype: ask for each of these nodules once as every subtype.
            roi: how regions are cut; null for the model's.
            batch_size: nodules per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the order and the augmentation.
            split_seed: another seed gives another split.
            balance: draw every subtype equally often in training.
            augmented_copies: deterministic versions of each training nodule, the first not
                augmented.
            cache_dir: folder for cached latents; null for none.
            batches_per_epoch: of training, on each process, whatever the data.

        Raises:
            ValueError: If a setting is out of its range.
        """
        super().__init__(
            roi,
            batch_size,
            num_workers,
            seed,
            balance,
            augmented_copies,
            cache_dir,
            batches_per_epoch,
        )
        check_fractions(fractions)
        limits = ground_glass_max, solid_min
        self.collection = LIDCCollection(root, csv, columns, select, *limits)
        self.fractions, self.split_seed = fractions, split_seed
        self.predict_csv = predict_csv
        self.predict_split: Split = predict_split
        self.predict_every_subtype = predict_every_subtype

    def build(self) -> dict[str, NoduleDataset]:
        """Divide the nodules by patient, and say what is predicted.

        Raises:
            FileNotFoundError: If the table is missing.
            ValueError: If the table or the files are faulty (all faults together, the first 10
                in words), or a split that should have a share of the patients got none.
        """
        splits = self.collection.splits(self.roi, self.fractions, self.split_seed)
        parts: dict[Split, LIDCNodules] = {
            split: part if split == "train" else part.without_healthy()
            for split, part in splits.items()
        }
        datasets = self.training_and_held_out(parts)
        chosen = datasets[self.predict_split]
        if self.predict_csv is not None:
            wanted = NoduleDataset(self.collection.requests(self.predict_csv, self.roi))
        elif self.predict_every_subtype:
            asked = self.collection.nodules(every_subtype(chosen.table), self.roi)
            wanted = NoduleDataset(asked, chosen.augmented_copies, self.seed)
        else:
            wanted = chosen
        return {**datasets, "predict": wanted}
