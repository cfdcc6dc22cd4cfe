"""Nodules of CT in radiographs: physics, labels, splits."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.batch import Roi
from datamodules.collections import (
    RadiographCollection,
    SuperimposedCollection,
)
from datamodules.collections.superimposed import CONTRAST, project, superimpose, turn
from datamodules.io.volumes import Volume, write_volume
from datamodules.radiographs import SuperimposedDataModule
from datamodules.ratings import characteristics
from datamodules.splits import split_by_patient


def ball(hu: float = 0.0, radius: float = 6.0, side: int = 25) -> tuple[Volume, Volume]:
    """A ball in lung, and its mask, at 1 mm."""
    z, y, x = np.indices((side,) * 3) - side // 2
    inside = z**2 + y**2 + x**2 <= radius**2
    geometry: tuple[Any, ...] = ((1.0,) * 3, (0.0,) * 3, np.eye(3))
    image = np.where(inside, hu, -850).astype(np.int16)
    return Volume(image, *geometry), Volume(inside.astype(np.uint8), *geometry)


def radiograph(side: int = 120, spacing_mm: float = 0.5) -> Volume:
    """Grey that rises from left to right, from 0 to 200."""
    grey = np.broadcast_to(np.linspace(0, 200, side), (side, side))
    return Volume(np.rint(grey).astype(np.uint8), (spacing_mm,) * 2, (0.0, 0.0), np.eye(2))


def test_a_balls_shadow_is_its_chord_in_water() -> None:
    water, outline = project(*ball(hu=150))
    axis = np.arange(-12, 13)
    distance = np.hypot(*np.meshgrid(axis, axis))
    chord = 2 * np.sqrt(np.clip(36 - distance**2, 0, None))
    # the mask counts whole voxels: a chord is right to one of them
    np.testing.assert_allclose(water, chord * (150 + 850) / 1000, atol=1.01)
    np.testing.assert_array_equal(outline, distance <= 6)
    assert water[~outline].max() == 0


def test_attenuation_adds_up_and_the_upper_end_comes_first() -> None:
    image, mask = ball(hu=-850)
    image.array[20, 3, 7] = 150  # above: z rises towards the head
    mask.array[20, 3, 7] = 1
    water, outline = project(image, mask)
    assert water[4, 7] == pytest.approx(1.0)
    assert outline[4, 7]
    assert water.sum() == pytest.approx(1.0)


def test_a_nodule_that_is_turned_keeps_its_mass_and_is_another_view() -> None:
    z, y, x = np.indices((20, 50, 40)) * np.array([2.0, 1.0, 1.0])[:, None, None, None]
    inside = ((z - 18) / 12) ** 2 + ((y - 26) / 5) ** 2 + ((x - 17) / 5) ** 2 <= 1
    geometry: tuple[Any, ...] = ((2.0, 1.0, 1.0), (0.0,) * 3, np.eye(3))
    image = Volume(np.where(inside, 150, -850).astype(np.int16), *geometry)
    mask = Volume(inside.astype(np.uint8), *geometry)
    mass = project(image, mask)[0].sum() * 2  # pixels of 2 x 1 mm
    areas = []
    for seed in range(8):
        turned = turn(image, mask, np.random.default_rng(seed))
        assert turned[0].spacing_mm == turned[1].spacing_mm == (1.0,) * 3
        water, outline = project(*turned)
        # partial volume at the rim is outside a binary mask, or counts less inside
        assert water.sum() == pytest.approx(mass, rel=0.12)
        areas.append(outline.sum())
        middle = [axis.mean() for axis in np.nonzero(turned[1].array)]
        np.testing.assert_allclose(middle, np.array(turned[1].array.shape) // 2, atol=0.3)
        assert np.median(turned[0].array[turned[1].array == 0]) == -850
    # from its end the spindle is a disk of 5 mm, from its side an ellipse of 12 and 5 mm
    assert min(areas) < 0.75 * max(areas)
    assert min(areas) > 60
    assert max(areas) < 1.1 * np.pi * 12 * 5


@pytest.mark.parametrize("subtlety", [1, 3, 5])
def test_contrast_is_set_by_subtlety_and_size_is_kept(subtlety: float) -> None:
    host = radiograph()
    image, mask = ball(hu=0)
    result, inside = superimpose(host, image, mask, (60.0, 50.0), subtlety)
    assert result.array.dtype == np.uint8
    added = result.array.astype(float) - host.array
    low, high = np.percentile(host.array, (1, 99))
    # 13 voxels are crossed in the middle, by a ball of the volume of 925 voxels
    middle = 13 / (6 * mask.array.sum() / np.pi) ** (1 / 3)
    expected = CONTRAST[int(subtlety)] * (high - low) * middle
    assert added[60, 50] == pytest.approx(expected, abs=1)
    np.testing.assert_array_equal(added[np.hypot(*np.ogrid[-60:60, -50:70]) > 15], 0)
    # a radius of 6.25 mm (voxels are whole) is 12.5 pixels of 0.5 mm
    assert inside.sum() == pytest.approx(np.pi * 12.5**2, rel=0.08)
    np.testing.assert_allclose([axis.mean() for axis in np.nonzero(inside)], (60, 50), atol=0.2)


def test_calcification_is_brighter_and_ground_glass_darker() -> None:
    peaks = [
        superimpose(radiograph(), *ball(hu), (60.0, 50.0), 3)[0].array[60, 50] - 84.0
        for hu in (-600, 0, 700)
    ]
    assert peaks[0] < 0.4 * peaks[1]
    assert peaks[2] > 1.5 * peaks[1]


def test_bright_radiographs_do_not_overflow() -> None:
    host = radiograph()
    host.array[:] = 250
    host.array[:, :30] = 0
    result, inside = superimpose(host, *ball(), (60.0, 60.0), 5)
    assert result.array[inside].min() == 255 or result.array[inside].max() == 255
    assert (result.array.astype(int) >= host.array).all()


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ({"calcification": 3}, {"calcified": 1.0}),
        ({"calcification": 5.25}, {"calcified": np.nan}),
        ({"calcification": 6}, {"calcified": 0.0}),
        ({"margin": 5, "spiculation": 1, "lobulation": 2}, {"irregular": 0.0}),
        ({"margin": 5, "spiculation": 4, "lobulation": 2}, {"irregular": 1.0}),
        ({"margin": 1.5, "spiculation": 1, "lobulation": 1}, {"irregular": 1.0}),
        ({"margin": 3, "spiculation": 3, "lobulation": 3}, {"irregular": np.nan}),
        ({"margin": 5, "spiculation": 1}, {"irregular": np.nan}),
        ({"margin": 3, "lobulation": 5}, {"irregular": 1.0}),
        ({"texture": 5}, {"inhomogeneous": 0.0}),
        ({"texture": 4}, {"inhomogeneous": 1.0}),
        ({"texture": 4.5}, {"inhomogeneous": np.nan}),
        ({"subtlety": 2.5}, {"subtlety": 2.5}),
        ({}, dict.fromkeys(("subtlety", "calcified", "irregular", "inhomogeneous"), np.nan)),
    ],
)
def test_labels_follow_the_ratings(ratings: dict[str, float], expected: dict[str, float]) -> None:
    got = characteristics(ratings)
    for name, value in expected.items():
        np.testing.assert_equal(got[name], value)


class Hosts(RadiographCollection):
    """Radiographs as files with a header, one for each patient."""

    def __init__(self, root: Path, radiographs: int = 24) -> None:
        super().__init__(root)
        self.paths = [root / f"radiograph{number}.mha" for number in range(radiographs)]
        for path in self.paths:
            write_volume(path, radiograph())

    def nodules(self) -> pd.DataFrame:
        return pd.DataFrame()  # backgrounds have none

    def normal_radiographs(self) -> pd.DataFrame:
        names = [path.stem for path in self.paths]
        table = {"name": names, "patient_id": names, "path": self.paths}
        return pd.DataFrame(table).assign(spacing_mm=None)


def write_nodules(root: Path, number: int = 24) -> Path:
    rows = []
    for i in range(number):
        image, mask = ball(hu=0)
        write_volume(root / f"image{i}.mha", image)
        write_volume(root / f"mask{i}.mha", mask)
        rows.append(
            {
                "nodule_id": f"n{i}",
                "patient_id": f"P{i // 2}",
                "image": f"image{i}.mha",
                "mask": f"mask{i}.mha",
                "texture": 5,
                "extra": i,
                "subtlety": 1 + i % 5,
                "calcification": 6 if i % 2 else 3,
            }
        )
    pd.DataFrame(rows).to_csv(root / "nodules.csv", index=False)
    return root


def module(root: Path, **settings: Any) -> SuperimposedDataModule:
    given = {"roi": Roi(32), "fractions": (0.5, 0.2, 0.3), "cache_dir": None, "split_seed": 1}
    data = SuperimposedDataModule(write_nodules(root), Hosts(root), **{**given, **settings})
    data.setup()
    return data


def test_nodules_and_radiographs_are_split_by_patient(tmp_path: Path) -> None:
    data = module(tmp_path, radiographs_per_nodule=3)
    radiographs: list[set[Path]] = []
    patients: list[set[str]] = []
    for split in ("train", "val", "test"):
        table: pd.DataFrame = data.datasets[split].table
        radiographs.append(set(table["path"]))
        patients.append(set(table["patient_id"]))
        assert table["name"].is_unique
        assert (table.groupby("nodule_id").size() == 3).all()
    for sets in (radiographs, patients):
        assert not sets[0] & sets[1]
        assert not (sets[0] | sets[1]) & sets[2]


def test_training_nodules_may_come_in_more_radiographs(tmp_path: Path) -> None:
    one = module(tmp_path, radiographs_per_nodule=1)
    two = module(tmp_path, radiographs_per_nodule=1, training_radiographs_per_nodule=2)
    for split in ("val", "test"):
        assert two.datasets[split].fingerprint == one.datasets[split].fingerprint
    less: pd.DataFrame = one.datasets["train"].table
    more: pd.DataFrame = two.datasets["train"].table
    assert (more.groupby("nodule_id").size() == 2).all()
    kept = more[more["name"].isin(less["name"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, less)
    with pytest.raises(ValueError, match="training_radiographs_per_nodule 0"):
        module(tmp_path, training_radiographs_per_nodule=0)


def test_small_nodules_may_be_left_out(tmp_path: Path) -> None:
    root = write_nodules(tmp_path)  # balls of 12 mm
    write_volume(root / "mask0.mha", ball(radius=3.0)[1])
    data = SuperimposedCollection(root, Hosts(root), min_diameter_mm=10)
    assert {*data.nodules()["nodule_id"]} == {f"n{i}" for i in range(1, 24)}
    with pytest.raises(ValueError, match="no nodule of 15 mm or more: lower min_diameter_mm"):
        SuperimposedCollection(root, Hosts(root), min_diameter_mm=15).nodules()


def test_an_item_is_centred_labelled_and_the_same_each_time(tmp_path: Path) -> None:
    data = module(tmp_path, roi=Roi(32, 0.5)).datasets["train"]
    for number in (0, 1, len(data) - 1):
        item, again = data[number], data[number]
        assert item["image"].equal(again["image"])
        middle = np.argwhere(item["mask"][0].numpy()).mean(0)
        np.testing.assert_allclose(middle, [16, 16], atol=0.7)
        i = int(item["name"].split("-")[0][1:])
        assert float(item["attributes"]["subtlety"]) == 1 + i % 5
        assert float(item["attributes"]["calcified"]) == (0 if i % 2 else 1)
        assert float(item["attributes"]["diameter_mm"]) == pytest.approx(12.5, rel=0.05)
    first, second = data[0], data[1]  # one nodule in two radiographs or places
    assert not first["image"].equal(second["image"])


def test_nodules_are_chosen_by_characteristic_and_by_column(tmp_path: Path) -> None:
    data = module(tmp_path, only={"calcified": 1}, fractions=(0, 0, 1)).datasets["test"]
    assert len(data) == 12 * 4
    assert all(float(data[i]["attributes"]["calcified"]) == 1 for i in range(0, 48, 5))
    chosen = module(tmp_path, select="extra < 2", only={"calcified": 1}, fractions=(0, 0, 1))
    assert {item["name"] for item in chosen.datasets["test"]} == {f"n0-{k}" for k in range(4)}
    with pytest.raises(ValueError, match=r"no nodule with \{'irregular': 1\}"):
        module(tmp_path, only={"irregular": 1}, fractions=(0, 0, 1))
    with pytest.raises(ValueError, match="only names 'calcification'"):
        module(tmp_path, only={"calcification": 1})


def test_the_fingerprint_names_what_the_items_depend_on(tmp_path: Path) -> None:
    prints = {
        module(tmp_path, **settings).datasets["train"].fingerprint
        for settings in ({}, {"roi": Roi(64)}, {"roi": Roi(32, 0.5)}, {"split_seed": 2})
    }
    assert len(prints) == 4
    (tmp_path / "lungs").mkdir()
    with_lungs = module(tmp_path, lungs=tmp_path / "lungs").datasets["train"]
    before = with_lungs.fingerprint
    (tmp_path / "lungs/radiograph0.png").write_bytes(b"mask")
    assert with_lungs.fingerprint != before


def test_drawn_subtlety_belongs_to_nodule_and_radiograph(tmp_path: Path) -> None:
    data = module(tmp_path, subtlety="drawn", radiographs_per_nodule=10).datasets["train"]
    table: pd.DataFrame = data.table
    shares = table["subtlety"].value_counts(normalize=True)
    assert sorted(shares.index) == [1, 2, 3, 4, 5]
    assert shares.min() > 0.1
    assert table.groupby("nodule_id")["subtlety"].nunique().min() > 1
    obvious = module(tmp_path, subtlety="drawn", radiographs_per_nodule=10, only={"subtlety": 5})
    chosen: pd.DataFrame = obvious.datasets["train"].table
    assert set(chosen["name"]) == set(table.loc[table["subtlety"] == 5, "name"])


def test_drawn_directions_give_a_nodule_many_views(tmp_path: Path) -> None:
    front, drawn = (
        module(tmp_path, direction=direction).datasets["train"] for direction in ("front", "drawn")
    )
    assert front.fingerprint != drawn.fingerprint
    assert [*front.table["name"]] == [*drawn.table["name"]]
    image, again, before = drawn[0]["image"], drawn[0]["image"], front[0]["image"]
    assert image.equal(again)
    assert not image.equal(before)


def test_requests_are_the_test_nodules_in_radiographs_without_them(tmp_path: Path) -> None:
    data = module(tmp_path)
    wanted, real = data.datasets["predict"], data.datasets["test"]
    assert len(wanted) == len(real) > 0
    for request, item in zip(wanted, real, strict=True):
        assert torch.equal(request["mask"], item["mask"])
        assert torch.equal(request["attributes"]["subtlety"], item["attributes"]["subtlety"])
        inside = item["mask"] > 0
        assert (request["image"] <= item["image"] + 1e-3).all()
        assert request["image"][inside].mean() < item["image"][inside].mean()
        # the nodule changes nothing beyond the pixels that the resampling mixes
        assert torch.equal(request["image"][0, 0], item["image"][0, 0])


def test_the_hosts_split_is_kept(tmp_path: Path) -> None:
    class Official(Hosts):
        def split(self, table: pd.DataFrame, fractions: Any, split_seed: int) -> Any:
            tested = table["name"].isin(["radiograph0", "radiograph1", "radiograph2"])
            rest = split_by_patient(table[~tested], split_seed, (0.7, 0.3, 0.0))
            return {**rest, "test": table[tested]}

    settings: dict[str, Any] = {"roi": Roi(32), "fractions": (0.5, 0.2, 0.3), "split_seed": 1}
    data = SuperimposedDataModule(write_nodules(tmp_path), Official(tmp_path), **settings)
    data.setup()
    for split in ("train", "val", "test"):
        table: pd.DataFrame = data.datasets[split].table
        official = {
            path.stem in ("radiograph0", "radiograph1", "radiograph2") for path in table["path"]
        }
        assert official == {split == "test"}


def test_parts_are_trained_side_by_side(tmp_path: Path) -> None:
    wanted = {"calcified": {"calcified": 1.0}, "plain": {"calcified": 0.0}}
    data = module(tmp_path, parts=wanted, batch_size=4)
    alone = {name: module(tmp_path, only=having, batch_size=4) for name, having in wanted.items()}
    for name, part in data.parts.items():
        assert part.fingerprint == alone[name].datasets["train"].fingerprint
    loaders = [alone[name].train_dataloader() for name in wanted]
    for (batch, _, _), *expected in zip(data.train_dataloader(), *loaders, strict=True):
        assert [batch[name]["name"] for name in wanted] == [one["name"] for one in expected]
    for split in ("val", "test", "predict"):
        first = alone["calcified"].datasets[split]
        assert data.datasets[split].fingerprint == first.fingerprint
    seen = [one.training_patients for one in alone.values()]
    assert data.training_patients == seen[0] | seen[1]
    both = module(tmp_path, parts=wanted, only={"subtlety": 3}, fractions=(1, 0, 0))
    for part in both.parts.values():
        assert set(part.table["subtlety"]) == {3}
    with pytest.raises(ValueError, match="only names 'round'"):
        module(tmp_path, parts={"a": {"round": 1}})


def test_the_radiographs_own_lungs_are_used(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.lungs = tmp_path / "lungs"
    assert SuperimposedCollection(tmp_path, hosts).lungs == tmp_path / "lungs"
    own = SuperimposedCollection(tmp_path, hosts, lungs=tmp_path / "others")
    assert own.lungs == tmp_path / "others"


def test_points_without_a_nodule_leave_the_radiograph_alone(tmp_path: Path) -> None:
    data = module(tmp_path, content="normal", fractions=(0, 0, 1)).datasets["test"]
    assert len(data) == 24 * 4
    item = data[3]
    assert not item["mask"].any()
    assert item["attributes"]["calcified"].isnan()


def test_a_nodule_without_subtlety_is_refused(tmp_path: Path) -> None:
    write_nodules(tmp_path)
    table = pd.read_csv(tmp_path / "nodules.csv").astype({"subtlety": float})
    table.loc[3, "subtlety"] = np.nan
    table.to_csv(tmp_path / "nodules.csv", index=False)
    data = SuperimposedDataModule(tmp_path, Hosts(tmp_path), roi=Roi(32), fractions=(0, 0, 1))
    with pytest.raises(ValueError, match="nodule n3 has no subtlety"):
        data.setup()
