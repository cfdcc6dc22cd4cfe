"""Radiographs projected from the sample CT."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.batch import Roi
from datamodules.radiographs import FolderDataModule
from noduleforge.cli import main
from noduleforge.prepare import projections


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "radiographs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "ANGLES_DEG", (0, 12))
        main(["prepare", "projections", "--out", str(out)])
    return out


def pixels(radiographs: Path, name: str, folder: str = "radiographs") -> np.ndarray:
    return np.asarray(Image.open(radiographs / folder / f"{name}.png"), float)


def test_a_ray_sums_the_water_that_it_crosses() -> None:
    """A ball of water, seen from any side: chord lengths of the closed form."""
    grid = np.stack(np.meshgrid(*[np.arange(64) - 31.5] * 3, indexing="ij"))
    ball = (np.sqrt((grid**2).sum(0)) < 20).astype(np.float32)
    spacing = np.full(3, projections.SPACING_MM)
    for angle in (0, 30):
        radiograph = projections._project(ball, angle, spacing, "sum")
        y, x = np.meshgrid(*[np.arange(64) - 31.5] * 2, indexing="ij")
        chord = 2 * np.sqrt(np.clip(400 - y**2 - x**2, 0, None)) * projections.SPACING_MM
        # voxels are cut in or out at the ball's edge
        assert np.abs(radiograph - chord)[np.hypot(y, x) < 17].max() < 1.5
        assert abs(radiograph.sum() / chord.sum() - 1) < 0.01


def test_radiographs_show_a_chest(radiographs: Path) -> None:
    """Lungs are darker than the spine between them, and the head is above."""
    right, left = (pixels(radiographs, f"projection+00-{side}") for side in ("right", "left"))
    radiograph = np.hstack([right, left])
    lungs = np.hstack(
        [pixels(radiographs, f"projection+00-{side}", "lungs") > 0 for side in ("right", "left")]
    )
    spine = radiograph[100:300, right.shape[1] - 20 : right.shape[1] + 20]
    assert radiograph[lungs].mean() + 60 < spine.mean()
    assert radiograph[:80].mean() < radiograph[-80:].mean()  # shoulders and neck against the liver
    assert 0.03 < lungs.mean() < 0.4


def test_no_patch_is_near_the_patients_own_nodule(radiographs: Path) -> None:
    """It lies in the left upper lobe and leaves a round hole in the mask."""
    lungs = pixels(radiographs, "projection+00-left", "lungs") > 0
    hole = ~lungs[100:250, 30:110]
    assert hole.sum() * projections.SPACING_MM**2 > 0.5 * np.pi * projections.CLEARANCE_MM**2


def test_the_halves_are_for_training_and_testing(radiographs: Path) -> None:
    table = pd.read_csv(radiographs / "radiographs.csv")
    assert table.groupby("split")["patient_id"].unique().str.len().to_dict() == {
        "test": 1,
        "train": 1,
    }
    data = FolderDataModule(radiographs, lungs=radiographs / "lungs", roi=Roi(32))
    data.setup()
    assert len(data.datasets["train"]) == 2 * 4
    for dataset in (data.datasets["train"], data.datasets["test"]):
        for item in dataset:
            assert item["image"].std() > 1


def test_it_is_done_once_and_refuses_other_folders(
    radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["prepare", "projections", "--out", str(radiographs)])
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["prepare", "projections", "--out", str(tmp_path)])
    assert "remove it or choose another one" in capsys.readouterr().err
