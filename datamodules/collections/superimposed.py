"""Real nodules of CT projected into real radiographs, with the labels that radiographs lack."""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.collections.lidc import read_table
from datamodules.collections.radiographs import (
    Content,
    RadiographCollection,
    RadiographRegions,
)
from datamodules.digest import sha256
from datamodules.hounsfield import TYPICAL_LUNG_HU
from datamodules.io.paths import name_of
from datamodules.io.radiographs import lung_point, read_lungs
from datamodules.io.volumes import Volume, binarize, equivalent_diameter_mm, read_volume
from datamodules.progress import Progress
from datamodules.ratings import CHARACTERISTICS, characteristics
from datamodules.splits import Split, split_by_patient
from datamodules.tables import raise_together

CONTRAST = {1: 0.08, 2: 0.13, 3: 0.19, 4: 0.26, 5: 0.34}
"""By subtlety: how much brighter a ball of soft tissue is in its middle, as a share of the
radiograph's range of grey (1st to 99th percentile)."""


LUNG_VOXELS = 3
"""So far from a nodule the lung is measured that it stands in."""


def project(image: Volume, mask: Volume) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Look through a nodule from front to back, as a radiograph does.

    X-rays are attenuated in proportion to the density that they cross, and a radiograph shows the
    logarithm of what is left: a nodule adds to it the density that it has over the lung it stands
    in. (Litjens et al. 2010, SPIE, and NODE21's baseline do likewise, but clip at 400 HU, which
    would hide calcification, and scale every nodule to the same brightness, which would hide
    ground glass.)

    Args:
        image: CT patch `(z, y, x)` in HU.
        mask: the nodule on the same grid.

    Returns:
        The nodule's excess in mm of water and its outline, `(row, column)` at the patch's spacing
        along z and x; the first row is the patient's upper end.
    """
    from scipy import ndimage

    inside = mask.array > 0
    around = (
        ndimage.binary_dilation(inside, iterations=LUNG_VOXELS) & ~inside & (image.array < -500)
    )
    lung = float(np.median(image.array[around])) if around.any() else TYPICAL_LUNG_HU
    excess = np.where(inside, np.clip(image.array - lung, 0, None), 0) / 1000
    water = excess.sum(1) * image.spacing_mm[1]
    outline: NDArray[np.bool_] = np.any(inside, axis=1)
    return water[::-1], outline[::-1]


def superimpose(
    radiograph: Volume,
    image: Volume,
    mask: Volume,
    center: tuple[float, float],
    subtlety: float,
) -> tuple[Volume, NDArray[np.bool_]]:
    """Put a nodule into a radiograph, at its physical size.

    Args:
        radiograph: bone bright.
        image: the nodule's CT patch, as for `project`.
        mask: the nodule on the same grid.
        center: the pixel (y, x) of the radiograph where the patch's middle comes to lie.
        subtlety: 1 (hardly visible) to 5 (obvious), LIDC's scale; sets the contrast, `CONTRAST`.

    Returns:
        The radiograph with the nodule, in the radiograph's type, and the nodule's mask on the
        radiograph.
    """
    from scipy import ndimage

    water, outline = project(image, mask)
    step = np.divide(radiograph.spacing_mm, (image.spacing_mm[0], image.spacing_mm[2]))
    offset = (np.asarray(water.shape) - 1) / 2 - np.asarray(center) * step
    low, high = np.percentile(radiograph.array, (1, 99))
    water_per_mm = (0 - TYPICAL_LUNG_HU) / 1000
    ball = equivalent_diameter_mm(mask.array, mask.spacing_mm) * water_per_mm
    contrast = np.interp(subtlety, list(CONTRAST), list(CONTRAST.values()))

    def onto_radiograph(values: NDArray[Any]) -> NDArray[Any]:
        placed: NDArray[Any] = ndimage.affine_transform(
            values.astype(np.float32), step, offset, radiograph.array.shape, order=1
        )
        return placed

    bright = radiograph.array + contrast * (high - low) * onto_radiograph(water) / ball
    if np.issubdtype(radiograph.array.dtype, np.integer):
        bright = np.clip(np.rint(bright), 0, np.iinfo(radiograph.array.dtype).max)
    result = Volume(
        bright.astype(radiograph.array.dtype),
        radiograph.spacing_mm,
        radiograph.origin_mm,
        radiograph.direction,
    )
    return result, binarize(onto_radiograph(outline)) > 0


def turn(image: Volume, mask: Volume, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """A nodule's CT patch turned by chance about the nodule, so that it is seen from elsewhere.

    Args:
        image: CT patch in HU.
        mask: the nodule on the same grid.
        rng: where chance comes from.

    Returns:
        Both on a cubic grid of the patch's finest spacing, the nodule in its middle.
    """
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    spacing, step = np.array(mask.spacing_mm), min(mask.spacing_mm)
    points = np.argwhere(mask.array != 0) * spacing
    center = points.mean(axis=0)
    half = int(np.ceil(np.linalg.norm(points - center, axis=1).max() / step)) + LUNG_VOXELS + 1
    onto = Rotation.random(random_state=rng).as_matrix() * step / spacing[:, None]
    offset = center / spacing - onto @ np.full(3, half)

    def onto_grid(values: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any] = ndimage.affine_transform(
            values.astype(np.float32), onto, offset, (2 * half + 1,) * 3, order=1, mode="nearest"
        )
        return turned

    seen = np.rint(onto_grid(image.array)).astype(np.int16)
    grid = ((step,) * 3, (0.0,) * 3, np.eye(3))
    return Volume(seen, *grid), Volume(binarize(onto_grid(mask.array != 0)), *grid)


@lru_cache(maxsize=64)
def _patch(path: Path, changed_ns: int) -> Volume:
    """Read a nodule's patch or mask, or give it again."""
    del changed_ns  # only makes a file that was rewritten another key
    return read_volume(path)


class SuperimposedNodules(RadiographRegions):
    """Nodules of CT in radiographs.

    Rows also have `nodule_image`, `nodule_mask` and `radiograph_patient_id`.
    """

    image_per_row = True

    @property
    def patients(self) -> set[str]:
        """The nodules' patients and the radiographs'."""
        return super().patients | {*self.table["radiograph_patient_id"]}

    def facts(self) -> Iterable[str]:
        """List rows, files, their sizes, the ROI and the contrast."""
        yield json.dumps([TYPICAL_LUNG_HU, CONTRAST])
        yield from self.settings()
        columns = ["path", "nodule_image", "nodule_mask"]
        yield self.table.drop(columns=columns).to_json(orient="split")
        for column in columns:
            for path in self.table[column]:
                yield f"{path.name} {path.stat().st_size}"

    def nodule(self, row: dict[str, Any]) -> tuple[Volume, NDArray[np.bool_], tuple[float, float]]:
        """Read a radiograph and put the nodule into it."""
        radiograph = self.radiograph(row)
        lungs = None
        if self.lungs is not None:
            lungs = read_lungs(self.lungs, name_of(row["path"]), radiograph.array.shape)
        center = lung_point(radiograph.array.shape, lungs, self.generator(row))
        image, mask = (
            _patch(path, path.stat().st_mtime_ns)
            for path in (row["nodule_image"], row["nodule_mask"])
        )
        if row.get("turned", False):
            seed = int(sha256("direction", row["name"])[:16], 16)
            image, mask = turn(image, mask, np.random.default_rng(seed))
        radiograph, inside = superimpose(radiograph, image, mask, center, row["subtlety"])
        if not inside.any():
            message = (
                f"Nodule {row['name']} comes to lie outside its radiograph: give patches whose "
                "middle is the nodule, not whole volumes"
            )
            raise ValueError(message)
        middle = [float(axis.mean()) for axis in np.nonzero(inside)]
        return radiograph, inside, (middle[0], middle[1])

    def without_nodule(self, row: dict[str, Any]) -> Volume | None:
        """The radiograph that the nodule is put into."""
        return self.radiograph(row)

    def requests(self) -> "SuperimposedRequests":
        """The same radiographs as they are, with the masks of the nodules."""
        return SuperimposedRequests(
            self.table, self.attributes, self.roi, self.split_seed, self.lungs
        )


class SuperimposedRequests(SuperimposedNodules):
    """The same places and masks, on radiographs without the nodule."""

    def nodule(self, row: dict[str, Any]) -> tuple[Volume, NDArray[np.bool_], tuple[float, float]]:
        """Read a radiograph and say where its nodule would be."""
        _, inside, center = super().nodule(row)
        return self.radiograph(row), inside, center


class SuperimposedCollection(RadiographCollection):
    """Real nodules with LIDC's ratings, projected into real radiographs without a nodule.

    No public set of radiographs says whether a nodule is calcified, what its border and its texture
    are: here the labels come from the readers of the CT (`characteristics`), subtlety sets the
    contrast, and the mask is exact. Nodules and radiographs are both split by their patients.
    """

    attributes = CHARACTERISTICS
    regions = SuperimposedNodules

    def __init__(
        self,
        root: Path,
        background_radiographs: RadiographCollection,
        csv: str = "nodules.csv",
        columns: dict[str, str] | None = None,
        select: str | None = None,
        only: dict[str, float] | None = None,
        min_diameter_mm: float = 0.0,
        radiographs_per_nodule: int = 4,
        training_radiographs_per_nodule: int | None = None,
        subtlety: Literal["rated", "drawn"] = "rated",
        lungs: Path | None = None,
        direction: Literal["front", "drawn"] = "front",
    ) -> None:
        """Say what there is.

        Args:
            root: folder of CT nodules as `LIDCCollection` reads it, in 3D; patches with the nodule
                in their middle, not whole volumes.
            background_radiographs: whose radiographs without a nodule are used.
            csv: name of the table in `root`.
            columns: our column names to the table's, where they differ.
            select: an expression over the table of nodules, in its own column names.
            only: the characteristics that nodules must have, such as {calcified: 1}.
            min_diameter_mm: leave out nodules in CT that are smaller, by the ball of their mask's
                volume: under some 8 mm hardly any is seen on a radiograph. Above 0 reads every
                mask.
            radiographs_per_nodule: into how many radiographs each nodule is put.
            training_radiographs_per_nodule: the same for the training split; null for as many.
            subtlety: `rated` is the one in CT; `drawn` is drawn by chance, 1 to 5, for each nodule
                and radiograph, since it is the contrast that makes a nodule subtle on a radiograph.
            lungs: folder with lung masks named like the radiographs, where nodules are put; null
                for those of `background_radiographs`, and without these they lie where upright
                radiographs have their lungs.
            direction: from where nodules are seen: `front` is the patient's front; `drawn` is drawn
                by chance for each nodule and radiograph, so that one nodule has many views.

        Raises:
            ValueError: If `only` names no characteristic, or a number is out of its range.
        """
        super().__init__(root, select, lungs or background_radiographs.lungs)
        in_training = (
            radiographs_per_nodule
            if training_radiographs_per_nodule is None
            else training_radiographs_per_nodule
        )
        if min(radiographs_per_nodule, in_training) < 1 or not min_diameter_mm >= 0:
            message = (
                f"radiographs_per_nodule is {radiographs_per_nodule}, "
                f"training_radiographs_per_nodule {training_radiographs_per_nodule} and "
                f"min_diameter_mm {min_diameter_mm}: give at least one radiograph and 0 mm"
            )
            raise ValueError(message)
        for name in only or {}:
            if name not in CHARACTERISTICS:
                message = f"only names {name!r}, expected some of {', '.join(CHARACTERISTICS)}"
                raise ValueError(message)
        self.only = only or {}
        self.background_radiographs = background_radiographs
        self.csv = csv
        self.columns = columns
        self.min_diameter_mm = min_diameter_mm
        self.radiographs_per_nodule = radiographs_per_nodule
        self.training_radiographs_per_nodule = in_training
        self.subtlety = subtlety
        self.direction = direction

    def nodules(self) -> pd.DataFrame:
        """The table of nodules, with their characteristics.

        Raises:
            ValueError: If no nodule has what `only` asks for.
        """
        table = read_table(self.root / self.csv, self.columns, self.select)
        labels = pd.DataFrame([characteristics(row) for row in table.to_dict("records")])
        table = table.assign(**{name: labels[name] for name in CHARACTERISTICS})
        drawn = ["subtlety"] if self.subtlety == "drawn" else []
        table = self._having(table, [name for name in self.only if name not in drawn])
        table = table.assign(
            nodule_image=table["image"].map(lambda name: self.root / name),
            nodule_mask=table["mask"].map(lambda name: self.root / name),
        )
        return self._large_enough(table) if self.min_diameter_mm else table

    def _large_enough(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows whose nodules have the least diameter."""
        paths = Progress(table["nodule_mask"], desc="diameters", unit="nodule", leave=False)
        masks = (read_volume(path) for path in paths)
        sizes = [equivalent_diameter_mm(mask.array, mask.spacing_mm) for mask in masks]
        kept = table[np.array(sizes) >= self.min_diameter_mm]
        if kept.empty:
            message = (
                f"{self.root / self.csv} has no nodule of {self.min_diameter_mm} mm or more: lower "
                "min_diameter_mm"
            )
            raise ValueError(message)
        return kept

    def _having(self, table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
        """The rows that have what `only` says under these names."""
        for name in names:
            table = table[table[name] == self.only[name]]
        if table.empty:
            message = f"{self.root / self.csv} has no nodule with {self.only}: ask for less"
            raise ValueError(message)
        return table

    def normal_radiographs(self) -> pd.DataFrame:
        """The background radiographs."""
        return self.background_radiographs.normal_radiographs()

    def split(
        self, table: pd.DataFrame, fractions: tuple[float, float, float], split_seed: int
    ) -> dict[Split, pd.DataFrame]:
        """Divide radiographs as their own collection does, which may have an official list."""
        return self.background_radiographs.split(table, fractions, split_seed)

    def parts(
        self,
        fractions: tuple[float, float, float],
        split_seed: int,
        content: Content = "nodules",
        points_per_radiograph: int = 1,
    ) -> dict[Split, pd.DataFrame]:
        """Split nodules and radiographs by patient; each nodule gets radiographs of its split.

        Raises:
            ValueError: If a nodule has no subtlety, or a split has nodules but no radiograph.
        """
        if content == "normal":
            return super().parts(fractions, split_seed, content, points_per_radiograph)
        nodules = self.nodules()
        if self.subtlety == "rated":
            raise_together(
                [
                    f"{self.root / self.csv}: nodule {name} has no subtlety, which sets its "
                    "contrast: leave it out with select: subtlety == subtlety, or set subtlety to "
                    "drawn"
                    for name in nodules.loc[nodules["subtlety"].isna(), "nodule_id"]
                ]
            )
        radiographs = self.split(self.normal_radiographs(), fractions, split_seed)
        parts = split_by_patient(nodules, split_seed, fractions)
        raise_together(
            [
                f"The {split} split has {len(part)} nodules, but the background_radiographs have "
                "no radiograph in it: give background_radiographs with radiographs in every split, "
                "or fractions without a share for it"
                for split, part in parts.items()
                if len(part) and radiographs[split].empty
            ]
        )
        number = dict.fromkeys(parts, self.radiographs_per_nodule)
        number["train"] = self.training_radiographs_per_nodule
        return {
            split: self._pair(part, radiographs[split], number[split])
            for split, part in parts.items()
        }

    def _pair(self, nodules: pd.DataFrame, radiographs: pd.DataFrame, number: int) -> pd.DataFrame:
        """Give each nodule some radiographs; the first ones do not depend on how many."""
        table = nodules.loc[nodules.index.repeat(number)].reset_index(drop=True)
        table["name"] = table["nodule_id"] + "-" + table.groupby("nodule_id").cumcount().astype(str)
        if self.subtlety == "drawn":
            numbers = [int(sha256("subtlety", name)[:8], 16) for name in table["name"]]
            table["subtlety"] = [1.0 + number % 5 for number in numbers]
            if "subtlety" in self.only and len(table):
                table = self._having(table, ["subtlety"]).reset_index(drop=True)
        if self.direction == "drawn":
            table["turned"] = True
        drawn = [int(sha256("film", name)[:8], 16) % len(radiographs) for name in table["name"]]
        chosen = radiographs.iloc[drawn][["path", "spacing_mm", "patient_id"]].reset_index(
            drop=True
        )
        return table.assign(
            path=chosen["path"],
            spacing_mm=chosen["spacing_mm"],
            radiograph_patient_id=chosen["patient_id"],
        )
