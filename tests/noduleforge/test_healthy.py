"""Regions of healthy lung beside the nodules of a data set."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from datamodules.batch import NO_NODULE, Roi
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from noduleforge.prepare.healthy import GAP_MM, prepare_healthy

SPACING = (2.0, 1.0, 1.0)


def write_nodule(root: Path, number: int, lung: float = -850) -> dict[str, object]:
    image = np.full((24, 48, 48), lung, np.int16)
    image[:, :, 36:] = 30  # chest wall
    image[:, :, :2] = -900
    mask = np.zeros(image.shape, np.uint8)
    mask[10:13, 20:26, 14:22] = 1
    image[mask > 0] = 60
    for kind, array in (("images", image), ("masks", mask)):
        write_volume(root / f"{kind}/{number}.nii.gz", Volume(array, SPACING, (0, 0, 0), np.eye(3)))
    files = {kind: f"{kind}s/{number}.nii.gz" for kind in ("image", "mask")}
    return {"nodule_id": f"n{number}", "patient_id": f"P{number}", **files, "texture": 5}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "nodules"
    rows = [write_nodule(folder, number) for number in range(12)]
    pd.DataFrame(rows).to_csv(folder / "nodules.csv", index=False)
    return folder


def test_regions_lie_in_lung_and_away_from_the_nodule(root: Path, tmp_path: Path) -> None:
    prepare_healthy(root, tmp_path / "out", select="nodule_id != 'n11'")
    table = pd.read_csv(tmp_path / "out/nodules.csv").set_index("nodule_id")
    assert table["subtype"].value_counts().to_dict() == {"solid": 11, "none": 11}
    for number in range(11):
        row = table.loc[f"n{number}-healthy"]
        assert row["patient_id"] == table.loc[f"n{number}", "patient_id"]
        region = read_volume(tmp_path / "out" / row["mask"])
        image, nodule = (
            read_volume(tmp_path / "out" / table.loc[f"n{number}", kind]).array
            for kind in ("image", "mask")
        )
        assert region.spacing_mm == SPACING
        away = ndimage.distance_transform_edt(nodule == 0, SPACING)
        assert away[region.array > 0].min() > GAP_MM
        assert (image[region.array > 0] < -800).mean() > 0.8
        inside = np.argwhere(region.array) * SPACING
        assert (inside >= GAP_MM).all()


def test_regions_are_for_training_alone(root: Path, tmp_path: Path) -> None:
    prepare_healthy(root, tmp_path / "out")
    data = LIDCDataModule(tmp_path / "out", roi=Roi(16), fractions=(0.4, 0.3, 0.3))
    data.setup()
    codes = {split: set(dataset.subtypes) for split, dataset in data.datasets.items()}
    assert codes.pop("train") == {0, NO_NODULE}
    assert set(map(tuple, codes.values())) == {(0,)}
    item = data.datasets["train"][data.datasets["train"].subtypes.index(NO_NODULE)]
    assert int(item["subtype"]) == NO_NODULE
    assert item["mask"].any()


def test_the_same_seed_gives_the_same_regions(root: Path, tmp_path: Path) -> None:
    for out in ("first", "second"):
        prepare_healthy(root, tmp_path / out)
    masks = [sorted((tmp_path / out / "masks").iterdir()) for out in ("first", "second")]
    for first, second in zip(*masks, strict=True):
        np.testing.assert_array_equal(read_volume(first).array, read_volume(second).array)


def test_one_expression_selects_nodules_and_their_regions(root: Path, tmp_path: Path) -> None:
    nodules = pd.read_csv(root / "nodules.csv")
    nodules["link_cost"], nodules["malignancy"] = range(12), 4
    nodules.to_csv(root / "nodules.csv", index=False)
    prepare_healthy(root, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/nodules.csv").set_index("nodule_id")
    assert table.loc["n7-healthy", "link_cost"] == table.loc["n7", "link_cost"] == 7
    assert table["malignancy"].notna().to_dict() == {
        name: "healthy" not in name for name in table.index
    }
    data = LIDCDataModule(tmp_path / "out", roi=Roi(16), select="link_cost < 9")
    data.setup()
    assert sum(map(len, data.datasets.values())) >= 9


def test_what_cannot_be_made_is_refused(root: Path, tmp_path: Path) -> None:
    prepare_healthy(root, tmp_path / "out")
    with pytest.raises(FileExistsError, match="choose another folder"):
        prepare_healthy(root, tmp_path / "out")
    solid = tmp_path / "solid"
    pd.DataFrame([write_nodule(solid, 0, lung=20)]).to_csv(solid / "nodules.csv", index=False)
    with pytest.raises(ValueError, match="has room for healthy lung"):
        prepare_healthy(solid, tmp_path / "nothing")
    assert not (tmp_path / "nothing/nodules.csv").exists()
