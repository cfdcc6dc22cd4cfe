"""Nearest training nodules, against brute force, and what is said of copies."""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules import LIDCDataModule
from datamodules.studies import Volume, read_volume, write_volume
from noduleforge.cli import main
from noduleforge.memorization import Nodules, VoxelDistances, all_flips, nearest

FRACTIONS = (0.6, 0.0, 0.4)


def nodules(rank: int, number: int, size: int, seed: int) -> Nodules:
    """Random images with random masks around the middle."""
    rng = np.random.default_rng(seed)
    images = rng.normal(-500, 300, (number, *(size,) * rank))
    grid = np.indices((size,) * rank) - size // 2
    masks = (np.abs(grid).max(0) <= 2) & (rng.random(images.shape) < 0.7)
    names = [f"n{k}" for k in range(number)]
    return Nodules(torch.tensor(images), torch.tensor(masks).double(), names, names)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("size", [11, 12])
def test_distances_are_those_of_every_flip_and_shift(rank: int, size: int) -> None:
    training, query = nodules(rank, 3, size, 0), nodules(rank, 1, size, 1)
    table = VoxelDistances(training, 1).to(query.images[0], query.masks[0]).numpy()
    assert table.shape == (3, 2**rank, *(3,) * rank)
    mask, image = query.masks[0].numpy() > 0, query.images[0].numpy()
    middle = size // 2
    for number, (flip, axes) in product(range(3), enumerate(all_flips(rank))):
        for shift in product((-1, 0, 1), repeat=rank):
            total = []
            for place in np.argwhere(mask):
                # where the voxel comes to lie when the query is flipped about its middle
                at = [2 * middle - p if k in axes else p for k, p in enumerate(place)]
                there = tuple(np.add(at, shift))
                total.append((image[tuple(place)] - training.images[number].numpy()[there]) ** 2)
            expected = np.sqrt(np.mean(total))
            found = table[(number, flip, *(s + 1 for s in shift))]
            assert found == pytest.approx(expected, rel=1e-4)


def test_a_flipped_and_shifted_copy_is_found() -> None:
    training = nodules(3, 4, 14, 0)
    copy = training.images[2].roll((1, 0, -1), (0, 1, 2)).flip(1).roll(1, 1)  # about voxel 7
    mask = nodules(3, 1, 14, 3).masks[0]
    best = nearest(VoxelDistances(training, 2).to(copy, mask), 2)
    assert best.number == 2
    assert best.distance < 1
    assert best.flips == (1,)
    assert best.shift == (-1, 0, 1)


@pytest.fixture
def data(store: Path, tmp_path: Path) -> Path:
    """A store, and synthetic nodules: five copies and five of noise."""
    real = LIDCDataModule(store, roi_size=14, cache_dir=None, fractions=FRACTIONS)
    real.setup()
    rng = np.random.default_rng(0)
    root = tmp_path / "synthetic"
    rows = []
    for number, row in enumerate(real.datasets["train"].table.to_dict("records")[:10]):
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


def command(store: Path, synthetic: Path, out: Path, roi: int = 14) -> list[str]:
    words = ["memorization", "--real", "LIDCDataModule", "--real.root", str(store)]
    words += ["--real.roi_size", "14", "--real.fractions", str([*FRACTIONS])]
    words += ["--synthetic", "LIDCDataModule", "--synthetic.root", str(synthetic)]
    return [*words, "--synthetic.roi_size", str(roi), "--out", str(out)]


def test_copies_are_told_from_other_nodules(store: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    random = ["--features", "RandomFeatures", "--features.spatial_dims", "3"]
    main([*command(store, data, out), *random])
    table = pd.read_csv(out / "distances.csv").set_index("name")
    made = table[table["kind"] == "synthetic"]
    copies = [f"synthetic-{k}" for k in range(5)]
    assert (made.loc[copies, "voxels"] < 1).all()
    assert made.loc[copies, "voxels_same_patient"].all()
    assert (made.drop(copies)["voxels"] > 50).all()
    assert (made.loc[copies, "voxels_other_patients"] > 10).all()
    assert not table[table["kind"] == "held-out"]["voxels_same_patient"].any()
    summary = pd.read_csv(out / "summary.csv").set_index(["space", "training nodules"])
    assert summary.loc[("voxels", "all"), "nearer than any"] == 0.5
    assert summary.loc[("voxels", "of other patients"), "nearer than any"] < 0.5
    assert made.loc[copies, "features"].max() < made.drop(copies)["features"].min()
    assert set(summary.index.get_level_values(0)) == {"voxels", "features"}
    for name in ("distances", "closest_pairs"):
        assert (out / f"{name}.png").stat().st_size > 5_000


def test_faults_are_named(
    store: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (command(store, data, tmp_path, 12), "give both the same roi_size"),
        ([*command(store, data, tmp_path), "--shift_voxels", "-1"], "give at least 0 and 1"),
        ([*command(store, data, tmp_path), "--shift_voxels", "9"], "lower shift_voxels"),
        (command(store, tmp_path / "none", tmp_path), "does not exist"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert message in capsys.readouterr().err
