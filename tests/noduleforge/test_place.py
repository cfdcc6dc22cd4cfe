from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from insertions import asked_of
from scipy import ndimage

from datamodules.batch import Roi
from datamodules.insertion.modules import InsertionDataModule
from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.cli import main
from noduleforge.place import find_lungs, lung_file, lungs_by_threshold, place, turned

SPACING = (2.5, 1.5, 1.5)
SHAPE = (100, 180, 220)


def chest() -> tuple[np.ndarray, np.ndarray]:
    """A body with two lungs, and where the lungs are."""
    z, y, x = (
        axis * step - extent / 2
        for axis, step, extent in zip(
            np.indices(SHAPE), SPACING, np.multiply(SHAPE, SPACING), strict=True
        )
    )
    hu = np.full(SHAPE, -1000, np.int16)
    hu[(y / 110) ** 2 + (x / 150) ** 2 < 1] = 40
    lungs = np.zeros(SHAPE, bool)
    for center in (-70, 70):
        lungs |= (z / 95) ** 2 + (y / 75) ** 2 + ((x - center) / 50) ** 2 < 1
    hu[lungs] = -850
    hu[(y + 20) ** 2 + x**2 < 81] = -1000  # the trachea
    return hu, lungs


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "chest.nii.gz"
    write_volume(path, Volume(chest()[0], SPACING, (-10.0, 20.0, 30.0), np.eye(3)))
    return path


def test_lungs_are_found_by_threshold() -> None:
    hu, lungs = chest()
    # on a grid of 2.5 mm, as in use
    step = np.divide(2.5, SPACING)
    size = [int(n / s) for n, s in zip(SHAPE, step, strict=True)]
    coarse, truth = (
        ndimage.affine_transform(a, np.diag(step), output_shape=size, order=0) for a in (hu, lungs)
    )
    found = lungs_by_threshold(coarse)
    assert (found & truth).sum() / (found | truth).sum() > 0.97


def test_requests_keep_to_the_policy(study: Path, store: Path, tmp_path: Path) -> None:
    avoid = pd.DataFrame(
        [{"study": str(study), "x_mm": 80, "y_mm": 150, "z_mm": 155, "diameter_mm": 60}]
    )
    avoid.to_csv(tmp_path / "there.csv", index=False)
    settings = {"per_study": 12, "wall_mm": 6.0, "hilum_mm": 25.0}
    place([study], store, tmp_path / "out", **settings, avoid=tmp_path / "there.csv")
    table = pd.read_csv(tmp_path / "out/requests.csv")
    assert len(table) == 12
    points = table[["x_mm", "y_mm", "z_mm"]].to_numpy()
    volume = read_volume(study)
    depth = ndimage.distance_transform_edt(chest()[1], SPACING)
    lungs = find_lungs(volume, None)
    for point, row in zip(points, table.itertuples(), strict=True):
        shape = read_volume(tmp_path / "out" / row.mask)
        inside = np.argwhere(shape.array)
        reach = np.linalg.norm(inside - inside.mean(0), axis=1).max()
        index = tuple(np.rint(volume.grid.index(point)).astype(int))
        assert depth[index] > reach + 6.0 - 3.0  # the grid is 2.5 mm
        near = tuple(np.rint(lungs.grid.grid.index(point)).astype(int))
        assert lungs.hilum_mm[near] >= 25
        assert np.linalg.norm(point - [80, 150, 155]) > 30 + reach
        size = (6 * shape.array.sum() / np.pi) ** (1 / 3)
        assert size == pytest.approx(row.diameter_mm, rel=0.12)
        assert 4 <= row.diameter_mm <= 20
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e3 * np.eye(12)
    assert apart.min() > 5
    assert table["shape_of"].str.startswith("n").all()
    # all of them can be fulfilled
    plan, _ = asked_of(InsertionDataModule(tmp_path / "out/requests.csv"), Roi(32))
    assert not plan.failed
    assert len(plan.waiting) == 12


def test_the_same_seed_gives_the_same_requests(study: Path, store: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        place([study], store, tmp_path / name, subtypes={"solid": 1.0}, seed=seed)
        texts.append((tmp_path / name / "requests.csv").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert set(pd.read_csv(tmp_path / "a/requests.csv")["subtype"]) == {"solid"}


def test_given_lung_masks_are_used(study: Path, store: Path, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[60:80, 60:110, 140:170] = 1
    volume = read_volume(study)
    given = Volume(mask, volume.spacing_mm, volume.origin_mm, volume.direction)
    write_volume(tmp_path / "lungs/chest.nii.gz", given)
    place([study], store, tmp_path / "out", per_study=3, lungs=tmp_path / "lungs")
    for row in pd.read_csv(tmp_path / "out/requests.csv").itertuples():
        index = np.rint(volume.grid.index((row.x_mm, row.y_mm, row.z_mm))).astype(int)
        assert mask[tuple(index)] == 1


def write_lungs(path: Path, study: Path, shift: float = 0.0, value: float = 1.0) -> None:
    """A mask of a small part of the lungs."""
    mask = np.zeros(SHAPE, np.uint8 if value == 1 else np.float32)
    mask[60:80, 60:110, 140:170] = value
    grid = read_volume(study).grid
    origin = (grid.origin_mm[0] + shift, *grid.origin_mm[1:])
    write_volume(path, Volume(mask, grid.spacing_mm, origin, grid.direction))


def test_lung_masks_have_the_whole_names_of_studies(tmp_path: Path) -> None:
    for folder in ("studies", "lungs"):
        (tmp_path / folder).mkdir()
    for name in ("1.3.6.1.100", "1.3.6.1.200", "1"):
        (tmp_path / f"lungs/{name}.mha").write_text("")
    for name in ("1.3.6.1.100.mha", "1.3.6.1.200.nii.gz", "1.3.6.1.100"):
        found = lung_file(tmp_path / "lungs", tmp_path / "studies" / name)
        assert found.name == f"{'.'.join(name.split('.')[:5])}.mha"
    with pytest.raises(FileNotFoundError, match=r"has no 1\.3\.6\.1\.300\.nii\.gz"):
        lung_file(tmp_path / "lungs", tmp_path / "1.3.6.1.300.mha")


def test_lung_masks_of_another_grid_or_study_are_refused(
    study: Path, store: Path, tmp_path: Path
) -> None:
    lungs = tmp_path / "lungs"
    write_lungs(lungs / "chest.nii.gz", study, shift=60.0)
    with pytest.raises(ValueError, match="lies on another grid than its study"):
        place([study], store, tmp_path / "out", lungs=lungs)
    other = tmp_path / "other/chest.nii.gz"
    other.parent.mkdir()
    other.symlink_to(study)
    write_lungs(lungs / "chest.nii.gz", study, value=255.0)
    place([study, other], store, tmp_path / "out", per_study=1, lungs=lungs)  # one and the same
    other.unlink()
    other.write_bytes(study.read_bytes())
    with pytest.raises(ValueError, match="would both get the lung mask"):
        place([study, other], store, tmp_path / "more", lungs=lungs)


def test_known_nodules_are_avoided_however_their_study_is_written(
    study: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """A nodule of 600 mm leaves no place."""
    monkeypatch.chdir(tmp_path)
    header = "study,x_mm,y_mm,z_mm,diameter_mm\n"
    (tmp_path / "there.csv").write_text(header + "./chest.nii.gz,155,155,155,600\n")
    settings = {"per_study": 1, "wall_mm": 35.0, "avoid": Path("there.csv")}
    with pytest.raises(ValueError, match="No nodule could be placed"):
        place([study], store, tmp_path / "out", **settings)
    (tmp_path / "there.csv").write_text(header + "ches.nii.gz,155,155,155,600\n")
    place([study], store, tmp_path / "out", **settings)
    assert "1 of 1 row(s) are of no study that is given" in capsys.readouterr().out


def test_requests_name_their_study_through_links(study: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "far/away/out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far/away/out")
    place([study], store, tmp_path / "out", per_study=1)
    table = pd.read_csv(tmp_path / "out/requests.csv")
    assert (tmp_path / "out" / table["study"][0]).samefile(study)


def test_a_turned_shape_keeps_its_volume() -> None:
    array = np.zeros((20, 40, 40), np.uint8)
    array[5:12, 10:30, 12:20] = 1
    volume = float(array.sum()) * 2.0 * 0.8 * 0.8
    rng = np.random.default_rng(0)
    for scale in (0.8, 1.0, 1.25):
        shape, reach = turned(
            Volume(array, (2.0, 0.8, 0.8), (0.0,) * 3, np.eye(3)), scale, (1.0,) * 3, rng
        )
        assert shape.array.sum() == pytest.approx(volume * scale**3, rel=0.05)
        inside = np.argwhere(shape.array)
        assert np.linalg.norm(inside - inside.mean(0), axis=1).max() == pytest.approx(
            reach, abs=1.5
        )
        assert not shape.array[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per_study", "0"], "per_study is 0"),
        (["--diameter_mm", "[50, 60]"], "has no nodule of known subtype from 50.0 to 60.0 mm"),
        (["--subtypes", "{cystic: 1.0}"], "subtypes has cystic: 1.0, but shapes has only"),
        (["--wall_mm", "80"], "No nodule could be placed"),
        (["--lungs", "configs"], "configs has no chest.nii.gz"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    message: str,
    study: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    words = ["place", str(study), "--shapes", str(store), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
