"""Nearest training nodules, against brute force, and what is said of copies."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.batch import Roi
from datamodules.collections import LIDCCollection
from datamodules.collections.radiographs import RadiographRegions
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.patients import patient_key
from datamodules.splits import split_of
from noduleforge.cli import main
from noduleforge.evaluation.memorization import summarize
from noduleforge.memorization import side_by_side
from noduleforge.nearest import VoxelDistances, aligned, all_flips, exact, nearest
from noduleforge.nodules import Nodules, read_nodules, region

FRACTIONS = (0.6, 0.0, 0.4)
HALVES = ["train", "test"]


def nodules(rank: int, number: int, size: int, seed: int) -> Nodules:
    """Random images with random masks around the middle."""
    rng = np.random.default_rng(seed)
    images = rng.normal(-500, 300, (number, *(size,) * rank))
    grid = np.indices((size,) * rank) - size // 2
    masks = (np.abs(grid).max(0) <= 2) & (rng.random(images.shape) < 0.7)
    names = [f"n{k}" for k in range(number)]
    return Nodules(torch.tensor(images), torch.tensor(masks).double(), names, names)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_distances_are_those_of_every_flip_and_shift(rank: int, shift: int) -> None:
    size = 9
    training, query = nodules(rank, 3, size + 2 * shift, 0), nodules(rank, 1, size, 1)
    image, mask = query.images[0].numpy(), query.masks[0].numpy() > 0
    table = VoxelDistances(training.images, shift).to(query.images[0], query.masks[0]).numpy()
    assert table.shape == (3, 2**rank, *(2 * shift + 1,) * rank)
    shifts = list(product(range(-shift, shift + 1), repeat=rank))
    for number, (flip, axes) in product(range(3), enumerate(all_flips(rank))):
        for step in shifts:
            total = []
            for place in np.argwhere(mask):
                # where the voxel comes to lie when the query is flipped about its middle
                at = [size - 1 - p if k in axes else p for k, p in enumerate(place)]
                there = tuple(np.add(at, step) + shift)
                total.append((image[tuple(place)] - training.images[number].numpy()[there]) ** 2)
            found = table[(number, flip, *np.add(step, shift))]
            assert found == pytest.approx(np.sqrt(np.mean(total)), rel=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_flipped_query_is_as_near(rank: int) -> None:
    training, query = nodules(rank, 3, 13, 0), nodules(rank, 1, 9, 1)
    distances = VoxelDistances(training.images, 2)
    image, mask = query.images[0], query.masks[0]
    least = distances.to(image, mask).flatten(1).amin(1)
    for axes in all_flips(rank):
        flipped = distances.to(image.flip(axes), mask.flip(axes)).flatten(1).amin(1)
        torch.testing.assert_close(flipped, least, rtol=1e-4, atol=0)


@pytest.mark.parametrize("reach", [1, 4])
def test_a_flipped_and_shifted_copy_is_found_and_drawn(reach: int) -> None:
    training = nodules(3, 4, 13, 0)
    copy = training.images[2][3:12, 2:11, 1:10].flip(1)  # 9 voxels, shifted by 1, 0 and -1
    mask = torch.zeros(9, 9, 9)
    mask[(slice(4 - reach, 5 + reach),) * 3] = 1  # up to the edge of the ROI
    best = nearest(VoxelDistances(training.images, 2).to(copy, mask), 2)
    assert (best.number, best.flips, best.shift) == (2, (1,), (1, 0, -1))
    torch.testing.assert_close(aligned(training.images[2], best, copy.shape), copy)
    query = Nodules(copy[None], mask[None], ["copy"], ["p"])
    assert exact(best, query, 0, training).distance == 0
    noisy = Nodules(copy[None] + 3 * mask - 50 * (1 - mask), mask[None], ["noisy"], ["p"])
    assert exact(best, noisy, 0, training).distance == pytest.approx(3)
    above, below = side_by_side([(0, best)], query, training).axes
    assert (above.images[0].get_array() == below.images[0].get_array()).all()
    assert above.get_title().startswith("synthetic")


def table_of(synthetic: np.ndarray, held_out: np.ndarray) -> pd.DataFrame:
    """Distances in voxels, four nodules a patient."""
    kinds = ["synthetic"] * len(synthetic) + ["held-out"] * len(held_out)
    values = np.concatenate([synthetic, held_out])
    who = [f"{kind}-{k // 4}" for k, kind in enumerate(kinds)]
    columns = {"voxels": values, "voxels_other_patients": values, "voxels_same_patient": 0}
    return pd.DataFrame({"kind": kinds, "patient_id": who, **columns})


def test_as_few_as_expected_are_near_if_both_are_alike() -> None:
    rng = np.random.default_rng(0)
    same = rng.gamma(9, 10, 400)
    alike = summarize(table_of(same, same)).iloc[0]
    assert alike["nearer"] == pytest.approx(0.05, abs=0.003)
    assert alike["nearer than any"] == 0
    drawn = [
        summarize(table_of(rng.gamma(9, 10, 400), rng.gamma(9, 10, 400))).iloc[0] for _ in range(20)
    ]
    assert np.mean([row["low"] <= 0.05 <= row["high"] for row in drawn]) >= 0.8
    copies = np.where(np.arange(400) < 100, 0, same)
    memorized = summarize(table_of(copies, same)).iloc[0]
    assert memorized["nearer than any"] == 0.25
    assert 0.1 < memorized["low of any"] < 0.25 < memorized["high of any"] < 0.4
    assert memorized["low"] > 0.1


@pytest.fixture
def data(store: Path, tmp_path: Path) -> Path:
    """A store, and synthetic nodules: five copies and five of noise."""
    real = LIDCCollection(store).splits(Roi(14), FRACTIONS, 0)
    rng = np.random.default_rng(0)
    root = tmp_path / "synthetic"
    rows = []
    for number, row in enumerate(real["train"].table.to_dict("records")[:10]):
        for kind in ("image", "mask"):
            (root / row[kind]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(store / row[kind], root / row[kind])
        image = read_volume(root / row["image"])
        if number < 5:
            array = image.array[::-1]  # a mirror image
        else:
            array = np.clip(image.array + rng.normal(0, 400, image.array.shape), -1000, 400)
        grid = (image.spacing_mm, image.origin_mm, image.direction)
        write_volume(root / row["image"], Volume(array.astype(np.int16), *grid))
        mask = read_volume(root / row["mask"]).array
        if number < 5:
            write_volume(root / row["mask"], Volume(mask[::-1], *grid))
        kept = {name: row[name] for name in ("patient_id", "image", "mask", "subtype")}
        rows.append({"nodule_id": f"synthetic-{number}", **kept})
    pd.DataFrame(rows).to_csv(root / "nodules.csv", index=False)
    return root


def command(store: Path, synthetic: Path, out: Path) -> list[str]:
    words = ["memorization", "--real", "LIDCCollection", "--real.root", str(store)]
    words += ["--synthetic", "LIDCCollection", "--synthetic.root", str(synthetic)]
    words += ["--roi.size", "14", "--fractions", str([*FRACTIONS])]
    return [*words, "--out", str(out)]


def test_copies_are_told_from_other_nodules(store: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    random = ["--features", "RandomFeatures", "--features.spatial_dims", "3"]
    main([*command(store, data, out), *random])
    table = pd.read_csv(out / "distances.csv").set_index("name")
    made = table[table["kind"] == "synthetic"]
    copies = [f"synthetic-{k}" for k in range(5)]
    assert (made.loc[copies, "voxels"] == 0).all()
    assert made.loc[copies, "voxels_same_patient"].all()
    assert (made.drop(copies)["voxels"] > 50).all()
    assert (made.loc[copies, "voxels_other_patients"] > 10).all()
    assert not table[table["kind"] == "held-out"]["voxels_same_patient"].any()
    summary = pd.read_csv(out / "summary.csv").set_index(["space", "training nodules"])
    assert summary.loc[("voxels", "all"), "nearer than any"] == 0.5
    assert summary.loc[("voxels", "of other patients"), "nearer than any"] < 0.5
    # a copy has the features of what it is a copy of, though the ROI has an even size
    assert (made.loc[copies, "features"] < 1e-5).mean() >= 0.8
    assert made.loc[copies, "features"].max() < made.drop(copies)["features"].min()
    assert set(summary.index.get_level_values(0)) == {"voxels", "features"}
    for name in ("distances", "closest_pairs"):
        assert (out / f"{name}.png").stat().st_size > 5_000


def test_held_out_nodules_that_the_generator_has_seen_are_refused(
    store: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would not say how near new nodules are."""
    splits = LIDCCollection(store).splits(Roi(14), FRACTIONS, 0)
    known = {split: sorted(part.patients) for split, part in splits.items()}
    seen = {"training_patients": [patient_key(known["train"][0])]}
    (data / "generator.json").write_text(json.dumps(seen))
    main(command(store, data, tmp_path / "apart"))
    seen["training_patients"].append(patient_key(known["test"][0]))
    (data / "generator.json").write_text(json.dumps(seen))
    with pytest.raises(SystemExit):
        main(command(store, data, tmp_path / "out"))
    assert "trained on 1 patient(s) of the test split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_faults_are_named(
    store: Path,
    data: Path,
    tmp_path: Path,
    write_store: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flat = write_store(tmp_path / "flat", 2)
    crowd = tmp_path / "crowd"
    shutil.copytree(store, crowd)
    table = pd.read_csv(crowd / "nodules.csv")
    table.assign(patient_id=["P0"] * 15 + ["P1"] * 15).to_csv(crowd / "nodules.csv", index=False)
    seed = next(k for k in range(99) if [split_of(p, k, FRACTIONS) for p in ("P0", "P1")] == HALVES)
    features = ["--features", "RandomFeatures", "--features.spatial_dims", "3"]
    right = command(store, data, tmp_path / "out")
    for words, message in (
        (command(store, flat, tmp_path / "out"), "have 2 dimensions, the real ones 3"),
        ([*right, "--shift_voxels", "-1"], "give at least 0 and 1"),
        ([*right, "--pairs", "0"], "give at least 0 and 1"),
        ([*right, *features, "--window", "[400,400]"], "the lower one first"),
        ([*right, "--fractions", "[1,0,0]"], "There is no held-out nodule"),
        (command(store, tmp_path / "none", tmp_path / "out"), "does not exist"),
        ([*command(crowd, crowd, tmp_path / "out"), "--split_seed", str(seed)], "are of P0, as is"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


class Radiographs(RadiographRegions):
    """Two radiographs without a nodule, each of one value."""

    def __init__(self) -> None:
        table = pd.DataFrame({"name": ["a", "b"], "patient_id": ["P", "Q"], "half_x": np.nan})
        super().__init__(table, [], Roi(8))

    def radiograph(self, row: dict[str, Any]) -> Volume:
        return Volume(np.full((40, 40), ord(row["name"])), (1.0, 1.0), (0.0, 0.0), np.eye(2))


def test_patches_without_a_nodule_are_refused() -> None:
    with pytest.raises(ValueError, match="held-out nodule a has an empty mask"):
        read_nodules(Radiographs(), "held-out")


@pytest.mark.parametrize("side", [8, 9])
def test_all_nodules_are_read_around_the_same_voxel(store: Path, side: int) -> None:
    nodules = LIDCCollection(store).splits(Roi(side), (1.0, 0.0, 0.0), 0)["train"]
    small, large = read_nodules(nodules, "synthetic"), read_nodules(nodules, "synthetic", margin=2)
    assert sorted(small.names) == sorted(f"n{k}" for k in range(30))
    assert small.images.shape[1:] == (9, 9, 9)
    inner = slice(2, -2)
    torch.testing.assert_close(large.images[:, inner, inner, inner], small.images)
    plain = torch.from_numpy(nodules.read(0, nodules.roi_size).image.array)
    torch.testing.assert_close(region(small.images[0], 0, (side,) * 3), plain)


def test_radiographs_work_alike(write_store: Callable[..., Path], tmp_path: Path) -> None:
    flat = write_store(tmp_path / "flat", 2)
    words = [*command(flat, flat, tmp_path / "out"), "--features", "RandomFeatures"]
    main(words)
    table = pd.read_csv(tmp_path / "out/distances.csv")
    made = table[(table["kind"] == "synthetic")].set_index("name")
    training = LIDCCollection(flat).splits(Roi(14), FRACTIONS, 0)["train"]
    known = list(training.table["nodule_id"])
    assert (made.loc[known, "voxels"] == 0).all()
    assert (made.loc[known, "features"] < 1e-5).all()
    assert (made.loc[known, "voxels_nearest"] == known).all()
    assert (made.drop(known)["voxels"] > 1).all()
