"""A cache gives what the dataset gives, or does not exist."""

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d
from torch.utils.data import default_collate

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch
from datamodules.collections import NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.io.volumes import Volume
from datamodules.latents import LatentCache


class Noise(NoduleSet):
    image_dtype: type[np.number[Any]] = np.int16

    def __init__(self, subtypes: Sequence[int], roi_size: Sequence[int]) -> None:
        super().__init__(pd.DataFrame({"patient_id": ["P"] * len(subtypes)}), subtypes, roi_size)

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        values = np.random.default_rng(nodule).integers(-3024, 3072, tuple(size))
        image = values.astype(np.float32)
        return Patch(
            Volume(image, (1.0, 0.7, 0.7), (0.1, 0.2, nodule / 3), np.eye(3)),
            (values > 0).astype(np.uint8),
            {"diameter_mm": nodule / 3, "texture": np.nan},
            f"nodule-{nodule}",
            f"P{nodule}",
            self.subtypes[nodule],
        )

    def facts(self) -> Iterable[str]:
        return ["noise"]


class Fractions(Noise):
    image_dtype = np.float32

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        patch = super().read(nodule, size)
        image = replace(patch.image, array=patch.image.array / np.float32(7))
        return replace(patch, image=image)


def noise(
    subtypes: Sequence[int],
    augmented_copies: int = 1,
    seed: int = 0,
    kind: type[Noise] = Noise,
) -> NoduleDataset:
    return NoduleDataset(kind(subtypes, (8, 8, 8)), augmented_copies, seed)


class NoiseModule(NoduleDataModule):
    def build(self) -> dict[str, NoduleDataset]:
        train = noise([0, 1, 2], self.augmented_copies, self.seed)
        return {"train": train, **{name: noise([0, 1]) for name in ("val", "test", "predict")}}


def nothing() -> None:
    """Wait for nobody."""


def encode(batch: NoduleBatch) -> dict[str, Tensor]:
    mean = avg_pool3d(batch["image"], 2) / 1000
    return {
        "latent_mean": mean.repeat(1, 4, 1, 1, 1),
        "latent_logvar": mean - 6,
        "context": avg_pool3d(batch["image"] * (1 - batch["mask"]), 2) / 1000,
    }


def build(
    data: NoduleDataset, directory: Path, encode: Any = encode, **settings: Any
) -> LatentCache:
    alone = {"batch_size": 2, "rank": 0, "world_size": 1, "barrier": nothing}
    return LatentCache.build(data, encode, directory, **{**alone, **settings})


def assert_equal(cache: LatentCache, data: NoduleDataset) -> None:
    assert len(cache) == len(data)
    for i in range(len(data)):
        item, expected = cache[i], data[i]
        latents = encode(default_collate([expected]))
        for key in ("latent_mean", "latent_logvar", "context"):
            found = item.pop(key)  # type: ignore[misc]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, latents[key][0], rtol=1e-3, atol=1e-4)
        assert item.keys() == expected.keys()
        assert item["name"] == expected["name"]
        assert item["attributes"].keys() == expected["attributes"].keys()
        pairs = [(item["attributes"][k], v) for k, v in expected["attributes"].items()]
        pairs += [(item[k], v) for k, v in expected.items() if isinstance(v, Tensor)]  # type: ignore[literal-required]
        for found, value in pairs:
            assert found.dtype == value.dtype
            torch.testing.assert_close(found, value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [Noise, Fractions])
def test_items_are_those_of_the_dataset(tmp_path: Path, kind: type[Noise]) -> None:
    data = noise([0, 1, 2, 0, 1], augmented_copies=2, kind=kind)
    cache = build(data, tmp_path / "deep" / "key")
    assert not cache.hit
    assert_equal(cache, data)
    stored = {key: cache.arrays[key].dtype for key in ("image", "mask", "latent_mean")}
    assert stored == {"image": kind.image_dtype, "mask": np.uint8, "latent_mean": np.float16}
    assert_equal(pickle.loads(pickle.dumps(cache)), data)
    assert len(pickle.dumps(cache)) < 1000
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["key"]


def test_a_hit_encodes_nothing(tmp_path: Path) -> None:
    data = noise([0, 1])
    build(data, tmp_path / "key")

    def never(batch: NoduleBatch) -> dict[str, Tensor]:
        raise AssertionError

    cache = build(data, tmp_path / "key", never)
    assert cache.hit
    assert_equal(cache, data)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, error: Any) -> None:
    data, calls = noise([0, 1, 2, 0]), []

    def interrupted(batch: NoduleBatch) -> dict[str, Tensor]:
        calls.append(batch)
        if len(calls) == 3:
            raise error
        return encode(batch)

    with pytest.raises((KeyboardInterrupt, OSError)):
        build(data, tmp_path / "key", interrupted)
    assert not list(tmp_path.iterdir())
    assert_equal(build(data, tmp_path / "key"), data)


def test_leftovers_of_a_killed_build_do_no_harm(tmp_path: Path) -> None:
    data = noise([0, 1])
    leftover = tmp_path / "key.building-0"
    leftover.mkdir()
    assert_equal(build(data, tmp_path / "key"), data)
    assert leftover.is_dir()


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    data = noise([0, 1])
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    here = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    names = {
        "dead": f"key.building-01234567-{here}-{killed.pid}",
        "alive": f"key.building-01234567-{here}-{os.getppid()}",
        "elsewhere": "key.building-01234567-89abcdef-1",
        "elsewhere long ago": "key.building-01234567-89abcdef-2",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.npy").touch()
    old = tmp_path / names["elsewhere long ago"]
    for path in (old / "image.npy", old):
        os.utime(path, (0, 0))
    assert_equal(build(data, tmp_path / "key"), data)
    assert {*os.listdir(tmp_path)} == {"key", names["alive"], names["elsewhere"]}


@pytest.mark.parametrize("length", [1, 5, 6])
def test_two_processes(tmp_path: Path, length: int) -> None:
    data = noise([0] * length)
    barrier = threading.Barrier(2, timeout=30)
    caches: dict[int, LatentCache] = {}
    seen: dict[int, list[int]] = {0: [], 1: []}

    def run(rank: int) -> None:
        def counted(batch: NoduleBatch) -> dict[str, Tensor]:
            seen[rank] += batch["index"].tolist()
            return encode(batch)

        caches[rank] = build(
            data, tmp_path / "key", counted, rank=rank, world_size=2, barrier=barrier.wait
        )

    for hit in (False, True):
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for rank in range(2):
            assert caches[rank].hit is hit
            assert_equal(caches[rank], data)
    assert seen[0][1:] == list(range(0, length, 2))  # the first item once more, for the shapes
    assert seen[1] == list(range(1, length, 2))
    assert os.listdir(tmp_path) == ["key"]


def test_two_runs_at_once(tmp_path: Path) -> None:
    """The arms of an ablation share a cache: the slower one finds the faster one's."""
    data = noise([0, 1])

    def overtaken(batch: NoduleBatch) -> dict[str, Tensor]:
        if not (tmp_path / "key").exists():
            build(data, tmp_path / "other").directory.rename(tmp_path / "key")
        return encode(batch)

    assert_equal(build(data, tmp_path / "key", overtaken), data)
    assert os.listdir(tmp_path) == ["key"]


def test_module_reads_from_the_cache(tmp_path: Path) -> None:
    module = NoiseModule(batch_size=2, augmented_copies=2, cache_dir=tmp_path, balance=False)
    module.setup("fit")
    before = list(module.val_dataloader())
    report = module.cache_latents(encode, "codec", 0, 1, nothing)
    assert {k: report[k] for k in ("hits", "misses", "entries")} == {
        "hits": 0,
        "misses": 8,
        "entries": 8,
    }
    size = sum(p.stat().st_size for p in tmp_path.rglob("*.npy"))
    assert report["bytes"] == size
    (after,) = module.val_dataloader()
    assert "latent_mean" not in before[0]
    assert after["latent_mean"].shape == (2, 4, 4, 4, 4)
    torch.testing.assert_close(after["image"], before[0]["image"], rtol=0, atol=0)
    assert after["name"] == before[0]["name"]
    assert "context" in next(iter(module.train_dataloader()))
    assert "context" not in next(iter(module.test_dataloader()))

    for seed, augmented_copies, hits in ((0, 2, 8), (1, 2, 2), (0, 3, 2)):
        other = NoiseModule(seed=seed, augmented_copies=augmented_copies, cache_dir=tmp_path)
        other.setup("fit")
        assert other.cache_latents(encode, "codec", 0, 1, nothing)["hits"] == hits
    assert module.cache_latents(encode, "other codec", 0, 1, nothing)["hits"] == 0


def test_no_cache_dir() -> None:
    module = NoiseModule(cache_dir=None)
    module.setup("fit")
    with pytest.raises(ValueError, match="cache_dir is null"):
        module.cache_latents(encode, "codec", 0, 1, nothing)


def test_a_changed_item_is_refused(tmp_path: Path) -> None:
    data = noise([0, 1, 2])
    cache = build(data, tmp_path / "key")
    for path in sorted(cache.directory.glob("*.npy")):
        whole = path.read_bytes()
        for place in (
            9,
            60,
            len(whole) - 1,
        ):  # header, and the last item
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="key are damaged: remove that folder"):
                [LatentCache(cache.directory)[number] for number in (0, 1, -1)]
        path.write_bytes(whole)
    assert_equal(LatentCache(cache.directory), data)
    for path in (cache.directory / "index.npy", cache.directory / "crc32.npy"):
        path.unlink()
        with pytest.raises(ValueError, match="key are damaged"):
            LatentCache(cache.directory)
