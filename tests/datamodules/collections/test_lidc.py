"""LIDC tables: what is right is read, what is wrong is told in one sentence."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.batch import Roi
from datamodules.collections.lidc import read_table
from datamodules.dataset import NoduleDataset
from datamodules.hounsfield import check_hu
from datamodules.io.volumes import Volume, write_volume
from datamodules.lidc import LIDCDataModule
from datamodules.ratings import subtype_of

ALL_TEST = (0.0, 0.0, 1.0)


def patch(n: int = 3, seed: int = 0, edge: int = 24) -> tuple[Volume, Volume]:
    """Lung with a ball of soft tissue off the centre, and the ball's mask."""
    axes = np.indices((edge,) * n)
    ball = np.sum([(axis - edge // 2 - 1) ** 2 for axis in axes], axis=0) <= 4**2
    noise = np.random.default_rng(seed).integers(-50, 50, ball.shape)
    array = (np.where(ball, 30, -850) + noise).astype(np.int16)
    geometry: tuple[Any, ...] = ((1.0,) * n, (-10.0, 20.5, 31.0)[:n], np.eye(n))
    return Volume(array, *geometry), Volume(ball.astype(np.uint8), *geometry)


def write_set(root: Path, nodules: int = 6, n: int = 3, suffix: str = ".mha") -> pd.DataFrame:
    rows = []
    for i in range(nodules):
        image, mask = patch(n, i)
        write_volume(root / f"image-{i}{suffix}", image)
        write_volume(root / f"mask-{i}{suffix}", mask)
        rows.append(
            {
                "nodule_id": f"nodule-{i}",
                "patient_id": f"patient-{i}",
                "image": f"image-{i}{suffix}",
                "mask": f"mask-{i}{suffix}",
                "link_cost": i,
                "texture": [5.0, 4.5, 4.25, 2.25, 2.0, 1.0][i % 6],
                "malignancy": None if i == 1 else 3.5,
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(root / "nodules.csv", index=False)
    return table


def module(root: Path, **settings: Any) -> LIDCDataModule:
    return LIDCDataModule(root, **{"roi": Roi(16), "fractions": ALL_TEST, **settings})


def dataset(root: Path, **settings: Any) -> NoduleDataset:
    data = module(root, **settings)
    data.setup()
    return data.datasets["test"]


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".nrrd"])
def test_item(tmp_path: Path, n: int, suffix: str) -> None:
    write_set(tmp_path, n=n, suffix=suffix)
    data = dataset(tmp_path)
    item = data[1]
    image, mask = patch(n, 1)
    inner = (slice(5, 21),) * n  # voxel 8 of the ROI is voxel 13, the ball's centre
    np.testing.assert_array_equal(item["image"][0].numpy(), image.array[inner])
    np.testing.assert_array_equal(item["mask"][0].numpy(), mask.array[inner])
    assert item["image"].dtype == item["mask"].dtype == torch.float32
    assert str(item["name"]) == "nodule-1"
    assert item["subtype"] == 0
    measure = int(mask.array.sum())
    expected = (6 * measure / np.pi) ** (1 / 3) if n == 3 else (4 * measure / np.pi) ** 0.5
    assert float(item["attributes"]["diameter_mm"]) == pytest.approx(expected)
    assert float(item["attributes"]["texture"]) == 4.5
    assert item["attributes"]["malignancy"].isnan()
    assert set(item["attributes"]) == {"diameter_mm", "texture", "malignancy"}
    np.testing.assert_allclose(item["origin_mm"], np.array((-10.0, 20.5, 31.0)[:n]) + 5)
    assert item["spacing_mm"].tolist() == [1.0] * n
    assert data.subtypes == [0, 0, 1, 1, 2, 2]


def test_patch_and_whole_volume_give_the_same(tmp_path: Path) -> None:
    table = write_set(tmp_path, 1)
    image, mask = patch()
    grids = {}
    for name, cut, fill in (("image", image, -900), ("mask", mask, 0)):
        whole = np.full((61, 70, 80), fill, cut.array.dtype)
        whole[17:41, 20:44, 31:55] = cut.array
        origin = np.asarray(cut.origin_mm) - (31, 20, 17)
        grids[name] = replace(cut, array=whole, origin_mm=tuple(origin.tolist()))
        write_volume(tmp_path / f"whole-{name}.nii.gz", grids[name])
    second = table.assign(nodule_id="whole", image="whole-image.nii.gz", mask="whole-mask.nii.gz")
    pd.concat([table, second]).to_csv(tmp_path / "nodules.csv", index=False)
    for spacing in (1.0, 0.8):
        first, other = (dataset(tmp_path, roi=Roi(16, spacing))[i] for i in range(2))
        torch.testing.assert_close(first["image"], other["image"], rtol=0, atol=0)
        torch.testing.assert_close(first["mask"], other["mask"], rtol=0, atol=0)
        torch.testing.assert_close(first["origin_mm"], other["origin_mm"], rtol=0, atol=1e-4)
        assert first["attributes"]["diameter_mm"] == other["attributes"]["diameter_mm"]


def test_the_roi_may_reach_over_the_border(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    item = dataset(tmp_path, roi=Roi((40, 16, 16)))[0]
    assert item["image"].shape == (1, 40, 16, 16)
    assert (item["image"][0, :7] == -1000).all()
    assert (item["image"][0, 7:31] > -1000).all()


def test_own_column_names(tmp_path: Path) -> None:
    table = write_set(tmp_path)
    table["texture"] = ["Solid", "x", "", "", "", ""]
    table["subtype"] = "ignored"
    table["kind"] = ["solid", "part-solid", "ground-glass", None, "solid", "solid"]
    table = table.rename(columns={"nodule_id": "id", "texture": "note"})
    table.to_csv(tmp_path / "mine.csv", index=False)
    data = dataset(tmp_path, csv="mine.csv", columns={"nodule_id": "id", "subtype": "kind"})
    assert data.subtypes == [0, 1, 2, -1, 0, 0]
    assert str(data[0]["name"]) == "nodule-0"


def test_select_counts_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path)
    with caplog.at_level("INFO"):
        assert len(dataset(tmp_path, select="link_cost < 3")) == 3
    assert "'link_cost < 3' leaves out 3 of 6 rows" in caplog.text


def test_predict_table(tmp_path: Path) -> None:
    table = write_set(tmp_path)
    table.iloc[2:4].to_csv(tmp_path / "wanted.csv", index=False)
    data = module(tmp_path, predict_csv="wanted.csv", batch_size=2)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["name"] == ["nodule-2", "nodule-3"]
    assert batch["index"].tolist() == [0, 1]
    data = module(tmp_path)
    data.setup("predict")
    assert len(data.datasets["predict"]) == 6


def test_splits_are_by_patient(tmp_path: Path) -> None:
    table = write_set(tmp_path, 30)
    table["patient_id"] = [f"patient-{i // 3}" for i in range(30)]
    table.to_csv(tmp_path / "nodules.csv", index=False)
    data = module(tmp_path, fractions=(0.5, 0.25, 0.25), split_seed=2)
    data.setup()
    parts = [set(data.datasets[s].table["patient_id"]) for s in ("train", "val", "test")]  # type: ignore[attr-defined]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


def test_the_split_has_a_seed_of_its_own(tmp_path: Path) -> None:
    write_set(tmp_path, 30)
    shares = {"fractions": (0.5, 0.25, 0.25), "batch_size": 2, "cache_dir": None}

    def names(**seeds: int) -> tuple[list[str], list[str]]:
        data = module(tmp_path, **shares, **seeds)
        data.setup()
        order = [name for batch in data.train_dataloader() for name in batch["name"]]
        return data.datasets["train"].table["nodule_id"].tolist(), order

    first, drawn = names()
    assert names(seed=0, split_seed=0) == (first, drawn)
    same, other_order = names(seed=1)
    assert same == first
    assert other_order != drawn
    assert names(split_seed=1)[0] != first


def test_fingerprint_follows_the_data(tmp_path: Path) -> None:
    table = write_set(tmp_path)
    first = module(tmp_path).fingerprint
    assert module(tmp_path, batch_size=3, num_workers=1).fingerprint == first
    others = [
        module(tmp_path, roi=Roi(15)).fingerprint,
        module(tmp_path, roi=Roi(16, 0.9)).fingerprint,
        module(tmp_path, select="link_cost < 3").fingerprint,
        module(tmp_path, solid_min=4.0).fingerprint,
        module(tmp_path, fractions=(0.0, 1.0, 0.0)).fingerprint,
    ]
    table.loc[0, "malignancy"] = 5
    table.to_csv(tmp_path / "nodules.csv", index=False)
    others.append(module(tmp_path).fingerprint)
    image, _ = patch(3, 99)
    write_volume(tmp_path / "image-0.mha", image)
    others.append(module(tmp_path).fingerprint)
    assert len({first, *others}) == 8


@pytest.mark.parametrize(
    ("texture", "subtype"),
    [(1, 2), (2.0, 2), (2.01, 1), (4.49, 1), (4.5, 0), (5, 0), (np.nan, -1)],
)
def test_subtype_of(texture: float, subtype: int) -> None:
    assert subtype_of(texture) == subtype


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="mask"), r"lacks the column\(s\) mask \(found: nodule_id, pat"),
        (lambda t: t.drop(columns="texture"), r"lacks the column\(s\) subtype or texture"),
        (lambda t: t.assign(nodule_id="a"), "nodule_id a occurs more than once"),
        (lambda t: t.assign(nodule_id=[f"a/{i}" for i in range(6)]), "'a/0' cannot be a file name"),
        (lambda t: t.assign(texture=["high", *[5] * 5]), "texture of nodule nodule-0 is 'high'"),
        (
            lambda t: t.assign(texture=7),
            "texture of nodule nodule-0 is 7: expected a number from 1",
        ),
        (lambda t: t.assign(subtype="nonsolid"), "subtype of nodule nodule-0 is 'nonsolid'"),
        (lambda t: t.assign(patient_id=["p", *[None] * 5]), "patient_id is empty in line.s. 3, 4"),
        (lambda t: t[:0], "has no rows"),
    ],
)
def test_faulty_tables(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    change(write_set(tmp_path)).to_csv(tmp_path / "nodules.csv", index=False)
    with pytest.raises(ValueError, match=said):
        dataset(tmp_path)


def test_identifiers_are_text_without_blanks(tmp_path: Path) -> None:
    """Padded cells, as spreadsheets leave them, are no patients of their own."""
    table = write_set(tmp_path)
    table["nodule_id"] = [f"00{i}" for i in range(6)]
    table["patient_id"] = ["0001", " 0001", "0001\u00a0", "Ju\u0308", "J\u00fc\t", "\ufeff0001"]
    table.to_csv(tmp_path / "nodules.csv", index=False)
    read = read_table(tmp_path / "nodules.csv", None, "patient_id != 'J\u00fc'")
    assert read["patient_id"].tolist() == ["0001"] * 4
    assert read["nodule_id"].tolist() == ["000", "001", "002", "005"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("patient_id", ["P1", "p1"], "patient_id 'P1' and 'p1' read the same"),
        ("patient_id", ["1", "01"], "patient_id '01' and '1' read the same"),
        ("patient_id", ["P1", "\u3000"], r"patient_id is empty in line\(s\) 3"),
        ("nodule_id", ["N1", "n1"], "nodule_id n1 occurs more than once"),
    ],
)
def test_identifiers_that_might_be_one_are_refused(
    column: str, values: list[str], message: str, tmp_path: Path
) -> None:
    table = write_set(tmp_path, 2)
    table[column] = values
    table.to_csv(tmp_path / "nodules.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "nodules.csv", None, None)


@pytest.mark.parametrize("soft", [False, True])
def test_masks_of_floats_are_read(soft: bool, tmp_path: Path) -> None:
    """A soft edge is inside from one half on; a label may be any number."""
    write_set(tmp_path, 1)
    expected = module(tmp_path)
    expected.setup("test")
    image, mask = patch(3, 0)
    z, y, x = np.indices(image.array.shape) - 13
    share = np.clip(4.5 - np.sqrt(z**2 + y**2 + x**2), 0, 1).astype(np.float32)
    assert ((share >= 0.5) == mask.array).all()
    array = share if soft else mask.array * np.float32(14.245)
    write_volume(tmp_path / "mask-0.mha", replace(mask, array=array))
    given = module(tmp_path)
    given.setup("test")
    one, other = (data.datasets["test"][0] for data in (expected, given))
    assert one["attributes"] == other["attributes"]
    assert torch.equal(one["mask"], other["mask"])


def test_faulty_settings(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.csv does not exist"):
        dataset(tmp_path, csv="other.csv")
    with pytest.raises(ValueError, match="select 'cost < 3' is no query"):
        dataset(tmp_path, select="cost < 3")
    with pytest.raises(ValueError, match="has no rows after select"):
        dataset(tmp_path, select="link_cost > 99")
    with pytest.raises(ValueError, match="columns names 'textur'"):
        dataset(tmp_path, columns={"textur": "texture"})
    with pytest.raises(ValueError, match=r"lacks the column\(s\) tex "):
        dataset(tmp_path, columns={"texture": "tex"})
    with pytest.raises(ValueError, match="val split got none of 6 patients"):
        module(tmp_path, fractions=(0.999998, 1e-6, 1e-6)).setup()
    with pytest.raises(ValueError, match="ROI's size is 0"):
        module(tmp_path, roi=Roi(0))
    with pytest.raises(ValueError, match="the first must be the lower"):
        module(tmp_path, ground_glass_max=5.0)
    with pytest.raises(ValueError, match=r"has 3 dimensions, but the ROI has 2"):
        dataset(tmp_path, roi=Roi((8, 8)))


def shifted(volume: Volume) -> Volume:
    return replace(volume, origin_mm=(0.0, 0.0, 0.0))


def test_faulty_headers_are_told_together(tmp_path: Path) -> None:
    write_set(tmp_path, 15)
    (tmp_path / "image-0.mha").unlink()
    (tmp_path / "mask-1.mha").write_bytes(b"nothing")
    write_volume(tmp_path / "mask-2.mha", shifted(patch()[1]))
    content = (tmp_path / "image-3.mha").read_bytes()
    zero = content.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1")
    (tmp_path / "image-3.mha").write_bytes(zero)
    with pytest.raises(ValueError, match="nodule-0") as error:
        dataset(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "Nodule nodule-0" in lines[0]
    assert "image-0.mha does not exist" in lines[0]
    assert "mask-1.mha cannot be read" in lines[1]
    assert "mask-2.mha lies on another grid than image-2.mha" in lines[2]
    assert "image-3.mha has spacing (0.0, 1.0, 1.0)" in lines[3]
    for i in range(4, 15):
        (tmp_path / f"mask-{i}.mha").unlink()
    with pytest.raises(ValueError, match="and 5 more like these"):
        dataset(tmp_path)


def test_faulty_values_are_told_together(tmp_path: Path) -> None:
    write_set(tmp_path, 6)
    image, mask = patch()
    labels = np.where(np.indices(mask.array.shape)[0] > 13, 2 * mask.array, mask.array)
    write_volume(tmp_path / "mask-0.mha", replace(mask, array=mask.array * 0))
    write_volume(tmp_path / "mask-1.mha", replace(mask, array=labels))
    write_volume(tmp_path / "image-2.mha", replace(image, array=(image.array + 1000) / 1100))
    two = np.zeros_like(mask.array)
    two[[0, -1], [0, -1], [0, -1]] = 1
    write_volume(tmp_path / "mask-3.mha", replace(mask, array=two))
    content = (tmp_path / "image-4.mha").read_bytes()
    (tmp_path / "image-4.mha").write_bytes(content[:-300])
    data = dataset(tmp_path)
    said = [
        "Nodule nodule-0: .*mask-0.mha is empty",
        "Nodule nodule-1: .*mask-1.mha has several labels",
        r"Nodule nodule-2: .*image-2.mha has values from 0\.\S+ to .*expected Hounsfield units",
        "Nodule nodule-3: .*mask-3.mha has no voxel in the ROI",
        "Nodule nodule-4: .*image-4.mha is damaged or cut short",
    ]
    for nodule, pattern in enumerate(said):
        with pytest.raises(ValueError, match=pattern):
            data[nodule]


HU = np.random.default_rng(0).normal(-600, 300, (8, 8, 8)).clip(-1024, 1000)


@pytest.mark.parametrize(
    "values", [HU, HU.round().astype(np.int16), np.where(HU < -900, -3024, HU), HU.clip(-200, 3071)]
)
def test_hu_are_accepted(values: np.ndarray) -> None:
    assert check_hu(values) is None


@pytest.mark.parametrize(
    "values",
    [
        (HU + 1024) / 2024,
        (HU - HU.mean()) / HU.std(),
        HU / 1024,
        ((HU + 1024) / 8).astype(np.uint8),
        HU + 1024,
        np.where(HU < -900, -2000, HU + 1024),
        np.full((4, 4), -3024),
        np.where(HU < -900, np.nan, HU),
    ],
)
def test_other_units_are_refused(values: np.ndarray) -> None:
    assert check_hu(values) is not None


def test_items_do_not_depend_on_workers(tmp_path: Path) -> None:
    write_set(tmp_path)
    batches = []
    for workers in (0, 1):
        data = module(
            tmp_path,
            fractions=(1.0, 0.0, 0.0),
            augmented_copies=2,
            num_workers=workers,
            batch_size=6,
        )
        data.setup()
        assert data.val_dataloader() == []
        batches.append(next(iter(data.train_dataloader())))
    assert batches[0]["name"] == batches[1]["name"]
    for key in ("image", "mask", "origin_mm"):
        torch.testing.assert_close(batches[0][key], batches[1][key], rtol=0, atol=0)


@pytest.fixture
def real() -> Path:
    if "NODULE_DATA" not in os.environ:
        pytest.skip("NODULE_DATA is not set: no real data to test on")
    return Path(os.environ["NODULE_DATA"]) / "lidc_patches"


def test_real_patches(real: Path) -> None:
    table = read_table(real / "nodules.csv", None, "link_cost < 3")
    assert len(table) == 802
    settings = {"roi": Roi(32), "augmented_copies": 2, "fractions": (0.7, 0.1, 0.2)}
    data = LIDCDataModule(real, select="link_cost < 3", **settings)
    data.setup("fit")
    parts = [data.datasets[split] for split in ("train", "val", "test")]
    counts = [sum(part.subtypes.count(code) for part in parts) for code in range(3)]
    assert counts == [607, 139, 56]
    assert all(item["mask"].any() for item in parts[1])
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 1, 32, 32, 32)
    assert (batch["mask"].sum((1, 2, 3, 4)) > 0).all()


def test_nodules_of_a_split_are_asked_for_anew(store: Path) -> None:
    settings = {"roi": Roi(12), "cache_dir": None, "augmented_copies": 2, "predict_split": "train"}
    data = LIDCDataModule(store, **settings)
    data.setup()
    assert data.datasets["predict"] is data.datasets["train"]
    every = LIDCDataModule(store, **settings, predict_every_subtype=True)
    every.setup()
    asked = every.datasets["predict"]
    assert len(asked) == 3 * len(data.datasets["train"])
    assert [asked.subtypes.count(code) for code in range(3)] == [len(asked) // 6] * 3
    names = [asked[k]["name"] for k in range(len(asked))]
    assert len({*names}) == len(names)
    first = data.datasets["train"][0]
    same = next(k for k, name in enumerate(names) if name.startswith(f"{first['name']}-"))
    np.testing.assert_array_equal(asked[same]["image"], first["image"])
    assert set(asked[same]["attributes"]) == {"diameter_mm"}
