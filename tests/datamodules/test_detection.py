"""Whole radiographs: which rows are one image, what is in it, and that nothing is in two splits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.collections import (
    FolderCollection,
    RadiographCollection,
    SuperimposedCollection,
)
from datamodules.collections.origins import origins, read_source_ids
from datamodules.detection import DetectionDataModule, RadiographSource
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.patients import patient_key
from datamodules.pseudonyms import origin_of, origin_pseudonym
from datamodules.splits import Split

SHAPE, SPACING_MM = (60, 40), 2.0


class Listed(RadiographCollection):
    """Radiographs of random pixels, one for each row; rows say their split."""

    attributes = ("subtlety",)

    def __init__(self, root: Path, rows: list[dict[str, Any]]) -> None:
        super().__init__(root)
        for row in rows:
            row["path"] = root / f"{row['file']}.mha"
            row.setdefault("name", row["file"])
            row.setdefault("split", "train")
            pixels = np.random.default_rng(0).integers(50, 200, SHAPE).astype(np.int16)
            write_volume(row["path"], Volume(pixels, (SPACING_MM,) * 2, (0.0, 0.0), np.eye(2)))
        self.table = pd.DataFrame(rows).assign(spacing_mm=None)

    def nodules(self) -> pd.DataFrame:
        return self.table

    def normal_radiographs(self) -> pd.DataFrame:
        return self.table

    def split(
        self, table: pd.DataFrame, fractions: Any, split_seed: int
    ) -> dict[Split, pd.DataFrame]:
        splits: tuple[Split, ...] = ("train", "val", "test")
        return {split: table[table["split"] == split] for split in splits}


def nodule(file: str, y: float = 20, x: float = 15, **more: Any) -> dict[str, Any]:
    row = {"file": file, "patient_id": file, "y": y, "x": x, "half_y": 3.0, "half_x": 2.0}
    return {**row, "subtlety": 3.0, **more}


def normal(file: str, **more: Any) -> dict[str, Any]:
    return {"file": file, "patient_id": file, **more}


def without(*arguments: Any) -> RadiographSource:
    """Listed radiographs without a nodule."""
    return RadiographSource(Listed(*arguments), "normal")


def module(
    sources: dict[str, RadiographCollection | RadiographSource], **settings: Any
) -> DetectionDataModule:
    given_sources = {
        name: source if isinstance(source, RadiographSource) else RadiographSource(source)
        for name, source in sources.items()
    }
    given = {
        "radiograph_size": 64,
        "radiograph_spacing_mm": SPACING_MM,
        "cache_dir": None,
        **settings,
    }
    data = DetectionDataModule(given_sources, **given)
    data.setup()
    return data


def test_rows_of_one_radiograph_are_one_image_with_all_its_nodules(tmp_path: Path) -> None:
    rows = [
        nodule("a", name="a-0", subtlety=2.0),
        nodule("b", name="b-0", subtlety=np.nan),
        nodule("a", 40, 30, name="a-1", subtlety=4.0),
    ]
    data = module({"boxes": Listed(tmp_path, rows)}).datasets["train"]
    assert [item["name"] for item in data] == ["boxes-a-0", "boxes-b-0"]
    item = data[0]
    # the radiograph's middle pixel (29.5, 19.5) lies at pixel (32, 32)
    y, x = np.mgrid[:64, :64]
    expected = np.zeros((64, 64), bool)
    for row, column in ((20, 15), (40, 30)):
        expected |= ((y - 2.5 - row) / 3) ** 2 + ((x - 12.5 - column) / 2) ** 2 <= 1
    mask = item["mask"][0].numpy() > 0
    union = (mask | expected).sum()
    assert (mask & expected).sum() / union > 0.5  # half a pixel's shift, in nodules of 6 x 4
    assert mask[22, 27]
    assert mask[42, 42]
    assert float(item["attributes"]["nodule"]) == 1
    assert float(item["attributes"]["subtlety"]) == 4
    assert np.isnan(float(data[1]["attributes"]["subtlety"]))


def test_a_radiograph_is_resampled_about_its_middle_and_dark_beyond(tmp_path: Path) -> None:
    large = nodule("a", 29.5, 19.5, half_y=10.0, half_x=6.0)
    data = module({"n": Listed(tmp_path, [large])}, radiograph_spacing_mm=1.0)
    item = data.datasets["train"][0]
    image, mask = item["image"][0].numpy(), item["mask"][0].numpy() > 0
    assert image.shape == (64, 64)
    np.testing.assert_allclose([axis.mean() for axis in np.nonzero(mask)], [32, 32], atol=0.5)
    assert mask.sum() == pytest.approx(np.pi * 20 * 12, rel=0.1)  # half axes of 20 and 12 mm
    wide = module({"n": Listed(tmp_path, [nodule("a")])}, radiograph_spacing_mm=4.0).datasets[
        "train"
    ][0]
    assert set(np.unique(wide["image"][0, :10])) == {float(wide["image"].min())}  # no radiograph


def test_radiographs_of_all_ranges_of_grey_look_alike(tmp_path: Path) -> None:
    data = module({"n": Listed(tmp_path, [nodule("a"), nodule("b")])}).datasets["train"]
    radiograph = read_volume(tmp_path / "b.mha")
    deep = Volume(
        radiograph.array * 16 + 99,
        radiograph.spacing_mm,
        radiograph.origin_mm,
        radiograph.direction,
    )
    write_volume(tmp_path / "b.mha", deep)
    torch.testing.assert_close(data[0]["image"], data[1]["image"], atol=0.01, rtol=0)
    assert float(data[0]["image"][0, 4:60, 14:50].mean()) == pytest.approx(127, abs=5)


def test_points_in_a_radiograph_without_a_nodule_are_one_image(tmp_path: Path) -> None:
    radiographs = without(tmp_path, [normal("a"), normal("b")])
    data = module({"healthy": radiographs}).datasets["train"]
    assert len(data) == 2
    for item in data:
        assert item["name"].startswith("healthy-")
        assert not item["mask"].any()
        assert float(item["attributes"]["nodule"]) == 0
        assert np.isnan(float(item["attributes"]["subtlety"]))


def test_masks_of_a_folder_are_joined_too(tmp_path: Path) -> None:
    geometry: tuple[Any, ...] = ((SPACING_MM,) * 2, (0.0, 0.0), np.eye(2))
    write_volume(tmp_path / "radiograph.mha", Volume(np.ones(SHAPE, np.int16), *geometry))
    rows = []
    for number in range(2):
        mask = np.zeros(SHAPE, np.uint8)
        mask[10 + 20 * number : 14 + 20 * number, 8:12] = 1
        write_volume(tmp_path / f"mask{number}.mha", Volume(mask, *geometry))
        rows.append(
            {"nodule_id": f"n{number}", "patient_id": "P", "image": "radiograph.mha"}
            | {"mask": f"mask{number}.mha", "subtype": "solid"}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "nodules.csv", index=False)
    folder = RadiographSource(FolderCollection(tmp_path), fractions=(1, 0, 0))
    data = module({"folder": folder}, radiograph_size=128, radiograph_spacing_mm=1.0).datasets[
        "train"
    ]
    assert len(data) == 1
    mask = data[0]["mask"][0].numpy()
    y, x = np.nonzero(mask)
    # rows 10 to 13 and 30 to 33 of 60, columns 8 to 11 of 40; of 2 mm, about the middle
    np.testing.assert_allclose([y.min(), y.max(), x.min(), x.max()], [25, 71, 41, 47], atol=1)


def superimposed(root: Path, store: Path, radiographs: list[str]) -> RadiographSource:
    rows = [normal(f"{number}_000", patient_id=str(int(number))) for number in radiographs]
    settings: dict[str, Any] = {"subtlety": "drawn", "radiographs_per_nodule": 2}
    collection = SuperimposedCollection(store, Listed(root, rows), **settings)
    return RadiographSource(collection, fractions=(1, 0, 0))


def test_each_nodule_put_into_a_radiograph_is_an_image_of_its_own(
    tmp_path: Path, store: Path
) -> None:
    data = module({"put": superimposed(tmp_path, store, ["00000007"])}).datasets["train"]
    assert len(data) == 30 * 2
    first, second = data[0], data[1]
    assert first["name"] != second["name"]
    assert first["patient_id"] == second["patient_id"] == "7"
    assert not first["image"].equal(second["image"])
    assert first["mask"].any()
    assert float(first["attributes"]["subtlety"]) in (1, 2, 3, 4, 5)
    assert data.patients == {"7", *(f"P{number}" for number in range(15))}


def test_training_draws_both_kinds_of_images_equally_often(tmp_path: Path) -> None:
    sources = {
        "few": Listed(tmp_path, [nodule(f"n{i}") for i in range(2)]),
        "many": without(tmp_path, [normal(f"h{i}") for i in range(38)]),
    }
    data = module(sources, radiograph_size=8, radiograph_spacing_mm=10.0, batch_size=10)
    labels = [batch["attributes"]["nodule"] for batch in data.train_dataloader() for _ in [0]]
    assert 0.25 < np.concatenate(labels).mean() < 0.75
    plain = module(
        sources, radiograph_size=8, radiograph_spacing_mm=10.0, batch_size=40, balance=False
    )
    batch = next(iter(plain.train_dataloader()))
    assert batch["attributes"]["nodule"].sum() == 2


def test_versions_are_augmented(tmp_path: Path) -> None:
    data = module({"n": Listed(tmp_path, [nodule("a")])}, augmented_copies=3).datasets["train"]
    assert len(data) == 3
    assert data[1]["image"].shape == data[0]["image"].shape
    assert not data[1]["image"].equal(data[0]["image"])


@pytest.mark.parametrize(
    ("file", "patient", "expected"),
    [
        ("JPCLN001", "x", "patient 'JPCLN001' of JSRT"),
        ("00000012_003", "12", "patient '12' of ChestX-ray14"),
        ("00000012_003-synthetic", "12", "patient '12' of ChestX-ray14"),
        ("radiograph", "12", "patient '12'"),
        ("1.2.840.113", "12", "patient '12'"),
    ],
)
def test_file_names_of_collections_say_the_patient(file: str, patient: str, expected: str) -> None:
    row = {"path": Path("folder") / f"{file}.png", "patient_id": patient}
    assert origins(row, {}) == {expected}
    both = row | {"patient_id": "LIDC-IDRI-0001", "radiograph_patient_id": patient}
    assert origins(both, {}) == {expected, "patient 'LIDC-IDRI-0001'"}


def test_a_radiograph_of_another_collection_is_known_by_its_source(tmp_path: Path) -> None:
    """NODE21 has JSRT's radiographs under its own names."""
    jsrt = Listed(tmp_path, [nodule("JPCLN001", split="test")])
    node21 = Listed(tmp_path, [nodule("n0007")])
    table = tmp_path / "originals.csv"
    module({"jsrt": jsrt, "node21": node21})
    pd.DataFrame({"image": ["n0007.mha"], "source_id": ["jpcln001.IMG"]}).to_csv(table, index=False)
    told = r"patient 'JPCLN001' of JSRT is in test of jsrt and in train of node21: give it"
    with pytest.raises(ValueError, match=told):
        module({"jsrt": jsrt, "node21": node21}, source_ids=table)
    # with a synthetic nodule in it, it is still that patient's
    made = Listed(tmp_path, [nodule("synthetic-n0007-1a2b3c")])
    with pytest.raises(ValueError, match="'JPCLN001' of JSRT is in test of jsrt and in train of"):
        module({"jsrt": jsrt, "made": made}, source_ids=table)
    # also where its name is a pseudonym, of the name it had then or of that it has now
    for name in ("JPCLN001", "N0007"):
        pseudonym = origin_pseudonym(origin_of(name))
        made = Listed(tmp_path, [nodule(f"synthetic-study-{pseudonym}-1a2b3c")])
        with pytest.raises(ValueError, match="is in test of jsrt and in train of made"):
            module({"jsrt": jsrt, "made": made}, source_ids=table)
    made = Listed(tmp_path, [nodule("synthetic-study-0123456789-1a2b3c", patient_id="another")])
    module({"jsrt": jsrt, "made": made}, source_ids=table)
    # names are whole, also where dots are in them, and blanks are no part of them
    uids = {"image": ["1.2.3.1", " n0007.mha"], "source_id": ["1.2.3.2", "jpcln001.IMG\u00a0"]}
    pd.DataFrame(uids).to_csv(table, index=False)
    assert read_source_ids(table) == {"1.2.3.1": "1.2.3.2", "N0007": "JPCLN001"}
    # a radiograph of a collection that says no patient is compared itself
    other = Listed(tmp_path, [nodule("n0008", split="val")])
    names = {"image": ["n0007.mha", "n0008.mha"], "source_id": ["CXR9_IM-1.png"] * 2}
    pd.DataFrame(names).to_csv(table, index=False)
    with pytest.raises(
        ValueError, match="The radiograph 'CXR9_IM-1' is in train of a and in val of b"
    ):
        module({"a": node21, "b": other}, source_ids=table)


def test_no_patient_is_in_two_splits_of_two_sources(tmp_path: Path, store: Path) -> None:
    chest = without(tmp_path, [normal("00000001_005", split="test")])
    apart = Listed(tmp_path, [nodule("radiograph", patient_id="1")])
    module({"chest": chest, "apart": apart})  # another collection's patient 1
    with pytest.raises(ValueError, match=r"'1' of ChestX-ray14 is in train of put and in test of"):
        module({"put": superimposed(tmp_path, store, ["00000001"]), "chest": chest})
    projected = without(tmp_path, [normal("drr", patient_id="P3", split="val")])
    with pytest.raises(ValueError, match="The patient 'P3' is in train of put and in val of drr"):
        module({"put": superimposed(tmp_path, store, ["00000002"]), "drr": projected})


def test_the_fingerprint_names_what_the_items_depend_on(tmp_path: Path) -> None:
    def print_of(rows: list[dict[str, Any]], **settings: Any) -> str:
        return module({"n": Listed(tmp_path, rows)}, **settings).fingerprint

    changed: list[dict[str, Any]] = [{}, {"radiograph_size": 32}, {"radiograph_spacing_mm": 1.0}]
    prints = [print_of([nodule("a")], **settings) for settings in changed]
    prints.append(print_of([nodule("a", 25)]))
    assert len(set(prints)) == 4
    assert print_of([nodule("a")]) == prints[0]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    source = {"n": Listed(tmp_path, [nodule("a", 2, 2)])}
    with pytest.raises(ValueError, match=r"No nodule of n-a is within 16 pixels of 2\.0 mm"):
        module(source, radiograph_size=16).datasets["train"][0]
    with pytest.raises(ValueError, match="There are 0 sources, radiograph_size is 64"):
        module({})
    with pytest.raises(FileNotFoundError, match=r"absent\.csv does not exist"):
        module(source, source_ids=tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("image,name\n")
    with pytest.raises(ValueError, match=r"lacks the column\(s\) source_id"):
        module(source, source_ids=tmp_path / "other.csv")


def synthetic_radiograph(root: Path, name: str, patient: str, seen: list[str]) -> FolderCollection:
    """A radiograph with an inserted nodule, as `StudyWriter` leaves it."""
    inside = np.zeros(SHAPE, np.uint8)
    inside[20:26, 10:16] = 1
    for kind, array in (("studies", inside * 50), ("masks", inside)):
        grid = ((SPACING_MM,) * 2, (0.0, 0.0), np.eye(2))
        write_volume(root / f"{kind}/synthetic-{name}.mha", Volume(array, *grid))
    row = {"nodule_id": "synthetic-n", "patient_id": patient, "subtype": ""}
    row |= {kind: f"{folder}/synthetic-{name}.mha" for kind, folder in
            (("image", "studies"), ("mask", "masks"))}  # fmt: skip
    pd.DataFrame([row]).to_csv(root / "nodules.csv", index=False)
    (root / "generator.json").write_text(json.dumps({"training_patients": seen}))
    return FolderCollection(root)


def test_synthetic_radiographs_are_for_training_alone(tmp_path: Path) -> None:
    real = Listed(tmp_path, [nodule("00000001_000", patient_id="1"),
                             nodule("00000002_000", patient_id="2", split="test")])  # fmt: skip
    made = synthetic_radiograph(tmp_path / "made", "00000001_000-abc", "1", [patient_key("1")])
    data = module({"real": real}, synthetic={"made": made})
    assert data.datasets["train"].table["name"].tolist() == [
        "real-00000001_000",
        "made-synthetic-n",
    ]
    assert [len(data.datasets[split]) for split in ("val", "test")] == [0, 1]
    # 36 pixels, of a grid that lies half a pixel aside
    assert 30 <= data.datasets["train"][1]["mask"].sum() <= 49
    # the generator has seen the test patient or does not say; the radiograph itself is of that
    # patient
    for seen, message in (([patient_key("2")], "of the test split, such as '2'"),
                          (["unknown"], "do not say on whom")):  # fmt: skip
        other = synthetic_radiograph(tmp_path / "seen", "00000001_000-abc", "1", seen)
        with pytest.raises(ValueError, match=message):
            module({"real": real}, synthetic={"made": other})
    leak = synthetic_radiograph(tmp_path / "leak", "00000002_000-abc", "2", [])
    with pytest.raises(
        ValueError, match="patient '2' of ChestX-ray14 is in test of real and in train"
    ):
        module({"real": real}, synthetic={"made": leak})
    with pytest.raises(ValueError, match=r"\['real'\] are among sources and synthetic"):
        module({"real": real}, synthetic={"real": made})


def test_as_many_synthetic_radiographs_as_are_wanted(tmp_path: Path) -> None:
    real = {
        "ill": Listed(tmp_path, [nodule(f"n{k}") for k in range(4)]),
        "well": without(tmp_path, [normal("h")]),
    }
    made = {
        f"made{k}": synthetic_radiograph(tmp_path / f"{k}", f"s{k}", f"n{k}", []) for k in range(4)
    }

    def names(**settings: Any) -> list[str]:
        dataset = module(real, synthetic=made, **settings).datasets["train"]
        return dataset.table["name"].tolist()

    kept = [f"ill-n{k}" for k in range(4)]
    half = names(per_real=0.5)
    assert half[:5] == [*kept, "well-h-0"]
    assert len(half) == 7
    assert {*half[5:]} < {f"made{k}-synthetic-n" for k in range(4)}
    assert names(per_real=0.5) == half
    assert {tuple(names(per_real=0.5, seed=seed)[5:]) for seed in range(9)} > {tuple(half[5:])}
    assert names(per_real=0) == [*kept, "well-h-0"]
    assert len(names(without_real=True)) == 5
    assert names(without_real=True)[0] == "well-h-0"
    with pytest.raises(
        ValueError, match="8 radiographs with synthetic nodules are needed, but there"
    ):
        names(per_real=2)
    with pytest.raises(ValueError, match="per_real is -1"):
        names(per_real=-1)
    with pytest.raises(ValueError, match="synthetic radiographs where there are no real ones"):
        module(real, without_real=True)


def test_augmented_radiographs_stay_upright(tmp_path: Path) -> None:
    """A nodule in the radiograph's upper left goes to the right, never to the lower half."""
    rows = [nodule(f"n{k}", 12, 10) for k in range(12)]
    data = module({"n": Listed(tmp_path, rows)}, augmented_copies=4).datasets["train"]
    middles = [item["mask"][0].nonzero().double().mean(0).tolist() for item in data]
    assert max(y for y, _ in middles) < 32
    assert min(x for _, x in middles) < 32 < max(x for _, x in middles)


def test_a_nodule_that_leaves_the_image_is_no_label(tmp_path: Path) -> None:
    """What augmentation turns is wider than the image: this nodule lies in its margin."""
    source = {"n": Listed(tmp_path, [nodule("n", 29.5, 2.0, half_y=1.0, half_x=1.0)])}
    data = module(source, radiograph_size=32, augmented_copies=12).datasets["train"]
    items = [data[version] for version in range(1, 12)]
    assert not all(item["mask"].any() for item in items)
    for item in items:
        assert float(item["attributes"]["nodule"]) == float(item["mask"].any())
