"""What several tests share: one thread each, and small random batches."""

import csv
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import SUBTYPES, NoduleBatch
from datamodules.io.volumes import Volume, write_volume


@pytest.fixture(autouse=True, scope="session")
def site_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and processes that they start, have a secret of their own."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("site") / "secret"
        patch.setenv("NODULEFORGE_SECRET", str(path))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run side by side and on tiny tensors: more threads only cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same numbers whatever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_process_group_is_left() -> Iterator[None]:
    """A run with `strategy: ddp` leaves its group and its port, which later runs would take up."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def make_batch() -> Callable[..., NoduleBatch]:
    """A function that makes random batches, `side` voxels along each axis."""

    def make(spatial_dims: int, size: int = 3, side: int = 8, seed: int = 0) -> NoduleBatch:
        stream = torch.Generator().manual_seed(seed)
        shape = (size, 1, *(side,) * spatial_dims)
        mask = torch.zeros(shape)
        mask[(..., *(slice(2, side - 1),) * spatial_dims)] = 1
        identity = torch.eye(spatial_dims, dtype=torch.float64)
        return {
            "image": 1400 * torch.rand(shape, generator=stream) - 1000,
            "mask": mask * (torch.rand(shape, generator=stream) > 0.2),
            "subtype": torch.arange(size) % len(SUBTYPES),
            "attributes": {
                "diameter_mm": 3 + 27 * torch.rand(size, generator=stream),
                "malignancy": torch.randint(1, 6, (size,), generator=stream).float(),
            },
            "spacing_mm": 0.5 + torch.rand((size, spatial_dims), generator=stream),
            "origin_mm": torch.zeros(size, spatial_dims, dtype=torch.float64),
            "direction": identity.expand(size, -1, -1).clone(),
            "name": [f"nodule-{i}" for i in range(size)],
            "patient_id": [f"patient-{i}" for i in range(size)],
            "index": torch.arange(size),
        }

    return make


SUBTYPE_HU = {"solid": 20.0, "part-solid": -350.0, "ground-glass": -600.0}


def _write_store(root: Path, spatial_dims: int, side: int = 20, patients: int = 15) -> Path:
    """Write balls of each subtype in noise, two a patient, in the form of LIDCDataModule."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * spatial_dims, indexing="ij"))
    rows = []
    for number in range(2 * patients):
        subtype = list(SUBTYPE_HU)[number % 3]
        center = side / 2 + rng.uniform(-1, 1, (spatial_dims, *[1] * spatial_dims))
        mask = np.sqrt(((grid - center) ** 2).sum(0)) < rng.uniform(2.5, 4.5)
        image = rng.normal(-850, 30, mask.shape)
        image[mask] = rng.normal(SUBTYPE_HU[subtype], 30, int(mask.sum()))
        spacing, origin = (1.0,) * spatial_dims, (-20.0, 10.0, 5.0)[:spatial_dims]
        for kind, array in (("image", image.astype(np.int16)), ("mask", mask.astype(np.uint8))):
            volume = Volume(array, spacing, origin, np.eye(spatial_dims))
            write_volume(root / f"{kind}s/n{number}.mha", volume)
        rows.append(
            {
                "nodule_id": f"n{number}",
                "patient_id": f"P{number // 2}",
                "image": f"images/n{number}.mha",
                "mask": f"masks/n{number}.mha",
                "subtype": subtype,
                "subtlety": 1 + number % 5,
                "calcification": 3 if number % 2 else 6,
                "margin": 5,
                "spiculation": 5 if number % 3 else 1,
                "lobulation": 1,
            }
        )
    with (root / "nodules.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Path]:
    """The function that writes a store into a folder."""
    return _write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of volumes."""
    return _write_store(tmp_path / "store", 3)


@pytest.fixture
def radiographs(tmp_path: Path) -> Path:
    """20 radiographs without a nodule, of as many patients, in ChestX-ray14's form."""
    root = tmp_path / "radiographs"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1024, :1024] / 1024
    height = ((y - 0.45) / 0.28) ** 4
    lungs = sum(np.exp(-(((x - c) / 0.13) ** 4) - height) for c in (0.28, 0.72))
    rows = []
    for number in range(20):
        name = f"{number:08}_000.png"
        pixels = 200 - 120 * lungs + rng.normal(0, 8, lungs.shape)
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / name)
        rows.append(f"{name},No Finding,0,{number},50,F,PA,2048,2048,0.17,0.17")
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    return root
