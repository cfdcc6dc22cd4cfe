"""Regions of interest on radiographs, for training."""

from pathlib import Path
from typing import Any, Literal

from datamodules.base import NoduleDataModule
from datamodules.batch import Roi
from datamodules.collections.chestxray14 import ChestXray14Collection
from datamodules.collections.folder import FolderCollection
from datamodules.collections.jsrt import JSRTCollection
from datamodules.collections.node21 import Node21Collection
from datamodules.collections.radiographs import Content, RadiographCollection
from datamodules.collections.superimposed import SuperimposedCollection
from datamodules.combined import side_by_side
from datamodules.dataset import NoduleDataset
from datamodules.splits import check_fractions


class RadiographDataModule(NoduleDataModule):
    """Regions of interest on the radiographs of a collection; nodules are asked for in the test's.

    Where nodules were put into radiographs, prediction asks for nodules like those of the test
    split, in its radiographs as they are.
    """

    def __init__(
        self,
        collection: RadiographCollection,
        content: Content = "nodules",
        points_per_radiograph: int = 4,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
        batches_per_epoch: int = 250,
    ) -> None:
        """Describe the regions.

        Args:
            collection: the radiographs.
            content: `nodules`, or `normal` for points in the lungs of radiographs without a nodule.
            points_per_radiograph: points in each radiograph with `normal`.
            fractions: shares of the patients for train, val and test.
            roi: how regions are cut; null for the model's.
            batch_size: regions per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the order and the augmentation.
            split_seed: of the splits, of points without a nodule, and of where in radiographs
                nodules are put.
            augmented_copies: deterministic versions of each training region, the first not
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
            False,
            augmented_copies,
            cache_dir,
            batches_per_epoch,
        )
        check_fractions(fractions)
        if points_per_radiograph < 1:
            message = f"points_per_radiograph is {points_per_radiograph}: give at least one point"
            raise ValueError(message)
        self.collection = collection
        self.content: Content = content
        self.points_per_radiograph = points_per_radiograph
        self.fractions, self.split_seed = fractions, split_seed

    def build(self) -> dict[str, NoduleDataset]:
        """Read the tables and split them by patient.

        Raises:
            FileNotFoundError: If a table is missing.
            ValueError: If tables or files are faulty, or a split is empty that should not be.
        """
        return self.datasets_of(self.collection)

    def datasets_of(self, collection: RadiographCollection) -> dict[str, NoduleDataset]:
        """The datasets of a collection; raises as `build` does."""
        splits = collection.splits(
            self.roi, self.fractions, self.split_seed, self.content, self.points_per_radiograph
        )
        asked = NoduleDataset(splits["test"].requests())
        return {**self.training_and_held_out(splits), "predict": asked}


class JSRTDataModule(RadiographDataModule):
    """JSRT's 247 radiographs; see `JSRTCollection`."""

    def __init__(
        self, root: Path, select: str | None = None, lungs: Path | None = None, **settings: Any
    ) -> None:
        """Describe the data.

        Args:
            root: folder with the `.IMG` files, in whatever subfolders, and `CLNDAT_EN.txt`.
            select: see `RadiographCollection`.
            lungs: see `RadiographCollection`.
            settings: see `RadiographDataModule`.
        """
        super().__init__(JSRTCollection(root, select, lungs), **settings)


class ChestXray14DataModule(RadiographDataModule):
    """ChestX-ray14: its boxes, or its radiographs without a nodule; see `ChestXray14Collection`."""

    def __init__(
        self,
        root: Path,
        entries: str = "Data_Entry_2017_v2020.csv",
        boxes: str = "BBox_List_2017.csv",
        sideways: Literal["leave_out", "keep"] = "leave_out",
        select: str | None = None,
        lungs: Path | None = None,
        outlines: list[str] | None = None,
        renamed: str | None = None,
        **settings: Any,
    ) -> None:
        """Describe the data.

        Args:
            root: folder with the tables and images.
            entries: name of the table of images in `root`.
            boxes: name of the table of boxes in `root`.
            sideways: what to do with images that lie on their side: `leave_out` or `keep`.
            select: see `RadiographCollection`.
            lungs: see `RadiographCollection`.
            outlines: names of ChestX-Det's files in `root`; see `ChestXray14Collection`.
            renamed: name of the table of their films; see `ChestXray14Collection`.
            settings: see `RadiographDataModule`.
        """
        collection = ChestXray14Collection(
            root, entries, boxes, sideways, select, lungs, outlines, renamed
        )
        super().__init__(collection, **settings)


class Node21DataModule(RadiographDataModule):
    """NODE21 without JSRT's and ChestX-ray14's radiographs; see `Node21Collection`."""

    def __init__(
        self,
        root: Path,
        csv: str = "proccessed_data/metadata.csv",
        patients: str | None = None,
        select: str | None = None,
        lungs: Path | None = None,
        **settings: Any,
    ) -> None:
        """Describe the data.

        Args:
            root: NODE21's folder `cxr_images`.
            csv: table of the radiographs in `root`.
            patients: table in `root` with `img_name` and `patient_id`, where it is known.
            select: see `RadiographCollection`.
            lungs: see `RadiographCollection`.
            settings: see `RadiographDataModule`.
        """
        super().__init__(Node21Collection(root, csv, patients, select, lungs), **settings)


class FolderDataModule(RadiographDataModule):
    """Any folder of radiographs with a table; see `FolderCollection`."""

    def __init__(
        self,
        root: Path,
        csv: str | None = None,
        content: Content = "normal",
        select: str | None = None,
        lungs: Path | None = None,
        **settings: Any,
    ) -> None:
        """Describe the folder.

        Args:
            root: folder with the table and the radiographs, bone bright.
            csv: name of the table in `root`; null for `radiographs.csv` or `nodules.csv`.
            content: `normal`, or `nodules`.
            select: see `RadiographCollection`.
            lungs: see `RadiographCollection`.
            settings: see `RadiographDataModule`.
        """
        super().__init__(FolderCollection(root, csv, select, lungs), content=content, **settings)


class SuperimposedDataModule(RadiographDataModule):
    """Real nodules of CT projected into real radiographs; see `SuperimposedCollection`.

    With `parts` a training batch has nodules of each part; validation, test and prediction are
    those of the first part.
    """

    def __init__(
        self,
        root: Path,
        background_radiographs: RadiographCollection,
        csv: str = "nodules.csv",
        columns: dict[str, str] | None = None,
        select: str | None = None,
        only: dict[str, float] | None = None,
        parts: dict[str, dict[str, float]] | None = None,
        min_diameter_mm: float = 0.0,
        radiographs_per_nodule: int = 4,
        training_radiographs_per_nodule: int | None = None,
        subtlety: Literal["rated", "drawn"] = "rated",
        lungs: Path | None = None,
        direction: Literal["front", "drawn"] = "front",
        **settings: Any,
    ) -> None:
        """Describe the data.

        Args:
            root: folder of CT nodules as `LIDCDataModule` reads it, in 3D; patches with the nodule
                in their middle, not whole volumes.
            background_radiographs: whose radiographs without a nodule are used.
            csv: name of the table in `root`.
            columns: our column names to the table's, where they differ.
            select: an expression over the table of nodules, in its own column names.
            only: the characteristics that nodules must have, such as {calcified: 1}.
            parts: for a model that is trained on several sets of nodules at once, by the parts'
                names what their nodules must have beside `only`, such as
                {calcified: {calcified: 1}, irregular: {irregular: 1}}.
            min_diameter_mm: leave out nodules in CT that are smaller, by the ball of their mask's
                volume: under some 8 mm hardly any is seen on a radiograph. Above 0 reads every
                mask.
            radiographs_per_nodule: into how many radiographs each nodule is put.
            training_radiographs_per_nodule: the same for the training split; null for as many.
            subtlety: `rated` is the one in CT; `drawn` is drawn by chance, 1 to 5, for each nodule
                and radiograph, since it is the contrast that makes a nodule subtle on a radiograph.
            lungs: folder with lung masks named like the radiographs, where nodules are put; null
                for those of `background_radiographs`.
            direction: from where nodules are seen: `front` is the patient's front; `drawn` is drawn
                by chance for each nodule and radiograph, so that one nodule has many views.
            settings: see `RadiographDataModule`.

        Raises:
            ValueError: If `only` or a part names no characteristic, or a number is out of its
                range.
        """
        whole, *of_parts = (
            SuperimposedCollection(
                root,
                background_radiographs,
                csv,
                columns,
                select,
                having,
                min_diameter_mm,
                radiographs_per_nodule,
                training_radiographs_per_nodule,
                subtlety,
                lungs,
                direction,
            )
            for having in ({**(only or {}), **more} for more in ({}, *(parts or {}).values()))
        )
        super().__init__(whole, **settings)
        self.collections = dict(zip(parts or {}, of_parts, strict=True))

    def build(self) -> dict[str, NoduleDataset]:
        """Read the tables, of each part, and split them by patient; raises as the others do."""
        if not self.collections:
            return super().build()
        built = {name: self.datasets_of(part) for name, part in self.collections.items()}
        self.parts = side_by_side(built)
        return next(iter(built.values()))
