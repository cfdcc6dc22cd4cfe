"""Nodules into whole radiographs: pixels, files, failures."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom import write_radiograph
from insertions import RADIOGRAPH_ROI, asked_of, painted
from PIL import Image

from callbacks.insertion import StudyWriter
from datamodules.insertion.modules import RadiographInsertionDataModule
from datamodules.io.volumes import read_volume


def radiograph(tmp_path: Path, form: str) -> tuple[Path, np.ndarray]:
    """A radiograph in a file of a form, and its pixels, bone bright."""
    rng = np.random.default_rng(0)
    if form == "img":
        density = rng.integers(500, 3500, (2048, 2048)).astype(">u2")
        (tmp_path / "radiograph.IMG").write_bytes(density.tobytes())
        return tmp_path / "radiograph.IMG", 4095 - density.astype(int)
    if form in ("png8", "png16"):
        top, kind = (200, np.uint8) if form == "png8" else (40_000, np.uint16)
        pixels = rng.integers(top // 4, top, (300, 260)).astype(kind)
        Image.fromarray(pixels).save(tmp_path / "radiograph.png")
        return tmp_path / "radiograph.png", pixels
    pixels = rng.integers(500, 3000, (300, 260)).astype(np.uint16)
    write_radiograph(tmp_path / "radiograph.dcm", pixels, "Known^Patient", form)
    return tmp_path / "radiograph.dcm", pixels if form == "MONOCHROME2" else 4095 - pixels


@pytest.mark.parametrize("form", ["png8", "png16", "img", "MONOCHROME1", "MONOCHROME2"])
def test_a_radiograph_comes_back_in_its_form(form: str, tmp_path: Path) -> None:
    path, pixels = radiograph(tmp_path, form)
    row = {"study": path.name, "y": 150, "x": 130, "diameter_mm": 9, "spacing_mm": "0.5"}
    row["patient_id"] = "007"
    pd.DataFrame([row]).to_csv(tmp_path / "requests.csv", index=False)
    data = RadiographInsertionDataModule(tmp_path / "requests.csv")
    painted(data, tmp_path / "out", StudyWriter(), RADIOGRAPH_ROI)
    table = pd.read_csv(tmp_path / "out/nodules.csv")
    assert table["status"].tolist() == ["inserted"]
    assert (tmp_path / "out/nodules.csv").read_text().splitlines()[1].split(",")[1] == "007"
    written = tmp_path / "out" / table["image"][0]
    assert written.suffix == path.suffix
    before, after = (data.read(name, row) for name in (path, written))
    np.testing.assert_array_equal(before.array, pixels)
    assert after.array.dtype == before.array.dtype
    assert after.spacing_mm == before.spacing_mm
    changed = np.argwhere(before.array != after.array)
    reach_mm = np.abs(changed - [150, 130]).max() * before.spacing_mm[0]
    assert 4 < reach_mm < 9 / 2 + 3 * 0.8 + 0.8
    mask = read_volume(tmp_path / "out" / table["mask"][0])
    area = mask.array.sum() * np.prod(mask.spacing_mm)
    assert area == pytest.approx(np.pi / 4 * 81, rel=0.15)
    # painted with 0, with the radiograph's own finest detail left
    assert after.array[mask.array > 0].mean() < 0.3 * before.array[mask.array > 0].mean()
    page = (tmp_path / "out/index.html").read_text()
    assert 'src="pictures/synthetic-nodule-0000.png"' in page
    assert (tmp_path / "out/pictures/synthetic-nodule-0000.png").stat().st_size > 3_000
    if path.suffix == ".png":
        assert "SYNTHETIC" in Image.open(written).text["Description"]
    if path.suffix == ".dcm":
        assert b"Known" not in written.read_bytes()
        assert list(pydicom.dcmread(written).ImageType[:2]) == ["DERIVED", "SECONDARY"]
        if shutil.which("dciodvfy"):
            told = subprocess.run(
                ["dciodvfy", written], capture_output=True, text=True, check=False
            )
            assert "Error" not in told.stderr + told.stdout, told.stderr


def test_radiographs_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    path, _ = radiograph(tmp_path, "png8")
    (tmp_path / "broken.dcm").write_bytes(b"not DICOM")
    write_radiograph(tmp_path / "colour.dcm", np.zeros((300, 260), np.uint16), "p", "MONOCHROME2")
    data = pydicom.dcmread(tmp_path / "colour.dcm")
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = bytes(300 * 260 * 6)
    data.save_as(tmp_path / "colour.dcm")
    where = {"y": 100, "x": 100, "diameter_mm": 9}
    names = (path.name, "broken.dcm", "none.dcm", "colour.dcm")
    rows = [{"study": name, **where} for name in names]
    pd.DataFrame(rows).to_csv(tmp_path / "requests.csv", index=False)
    requested = RadiographInsertionDataModule(tmp_path / "requests.csv")
    plan, batches = asked_of(requested, RADIOGRAPH_ROI)
    told = " ".join(plan.failed.values())
    assert not batches
    reasons = ("give its spacing_mm", "cannot be read as a DICOM image", "does not exist")
    for what in (*reasons, "pixels of shape (300, 260, 3)"):
        assert what in told


def test_a_pictures_spacing_may_differ_by_axis(tmp_path: Path) -> None:
    path, _ = radiograph(tmp_path, "png8")
    row = {"study": path.name, "y": 150, "x": 130, "diameter_mm": 9}
    rows = [
        {**row, "spacing_mm": "0.5 0.25"},
        {**row, "study": f"./{path.name}", "spacing_mm": "-"},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "requests.csv", index=False)
    data = RadiographInsertionDataModule(tmp_path / "requests.csv")
    plan, _ = asked_of(data, RADIOGRAPH_ROI)
    assert data.read(path, rows[0]).spacing_mm == (0.5, 0.25)
    assert list(plan.failed.values()) == [
        "spacing_mm is '-': give a number above 0, or two, along y and x"
    ]
