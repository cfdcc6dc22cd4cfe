"""Cached latents: everything a training step reads, in memory-mapped arrays."""

import hashlib
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules.batch import NoduleBatch
from datamodules.io.whole_files import is_another_process
from datamodules.loading import load_batches
from datamodules.progress import Progress

if TYPE_CHECKING:
    from datamodules.dataset import NoduleDataset

LATENTS = ("latent_mean", "latent_logvar", "context")
"""What `encode` returns; stored as float16."""

TEXTS = ("name", "patient_id")
TEXT_BYTES = 255
"""Room for each of the texts: no file system takes a longer file name."""

ABANDONED_S = 24 * 3600
"""After so long without a write, what another machine builds is taken for abandoned."""

CHECKSUMS = "crc32"
"""Of each item's row in all other arrays, with their names, types and shapes."""

_ATTRIBUTE = "attributes."


class LatentCache(Dataset[NoduleBatch]):
    """A folder with one array `(N, ...)` per key of `NoduleBatch`; items are read from disk.

    Items are equal to those of the dataset that the cache was built from (latents apart, which
    are rounded to float16).
    """

    def __init__(self, directory: str | Path, hit: bool = True) -> None:
        """Open a complete cache.

        Args:
            directory: as `build` left it.
            hit: whether it was there before this run.

        Raises:
            ValueError: If a file is damaged or missing.
        """
        self.directory = Path(directory)
        self.hit = hit
        files = sorted(self.directory.glob("*.npy"))
        try:
            self.arrays: dict[str, NDArray[Any]] = {
                path.stem: np.load(path, mmap_mode="r") for path in files
            }
        except Exception as error:  # a damaged header raises whatever its bytes happen to say
            raise self._damaged() from error
        self.checksums = self.arrays.pop(CHECKSUMS, None)
        arrays = [*self.arrays.values(), self.checksums]
        if "index" not in self.arrays or len({-1 if a is None else len(a) for a in arrays}) > 1:
            raise self._damaged()

    def __reduce__(self) -> tuple[type["LatentCache"], tuple[Path, bool]]:
        """Let a worker process open the files itself: a pickled memory map is a whole copy."""
        return LatentCache, (self.directory, self.hit)

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.directory.iterdir())

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.arrays["index"])

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one item, with its latents.

        Raises:
            ValueError: If it is not what was written.
        """
        place = range(len(self))[index]
        rows = {key: array[place : place + 1] for key, array in self.arrays.items()}
        if self.checksums is None or _checksum(rows, 0) != self.checksums[place]:
            raise self._damaged()
        item: dict[str, Any] = {"attributes": {}}
        for key, array in self.arrays.items():
            if key in TEXTS:
                item[key] = bytes(array[index]).decode()
                continue
            # float16, int16 and uint8 are ways to store what the contract has as float32
            small = key in ("image", "underlay", "mask", *LATENTS)
            value = torch.from_numpy(np.array(array[index], np.float32 if small else array.dtype))
            if key.startswith(_ATTRIBUTE):
                item["attributes"][key.removeprefix(_ATTRIBUTE)] = value
            else:
                item[key] = value
        return cast(NoduleBatch, item)

    def _damaged(self) -> ValueError:
        return ValueError(
            f"The cached latents in {self.directory} are damaged: remove that folder, and run the "
            "same command again, which makes them anew"
        )

    @classmethod
    def build(
        cls,
        dataset: "NoduleDataset",
        encode: Callable[[NoduleBatch], dict[str, Tensor]],
        directory: Path,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        barrier: Callable[[], None],
        num_workers: int = 0,
    ) -> "LatentCache":
        """Open the cache at `directory`, and make it first if it is not there.

        Process `rank` encodes the items `i` with `i % world_size == rank` into files under a
        temporary name next to `directory`; the last step of all is to rename them. Neither an
        interruption nor a full disk leaves an incomplete `directory`.

        Args:
            dataset: what to encode, not empty.
            encode: a batch to its `LATENTS`, `(B, C, *latent)`, or to nothing: what is kept is then
                the nodules as they are read.
            directory: where the cache lies; its name is the key.
            batch_size: items encoded at once.
            rank: this process.
            world_size: number of processes; all must call this.
            barrier: waits for all processes.
            num_workers: processes that read the dataset.

        Returns:
            The cache.
        """
        job = _job(world_size)
        own = f"{directory.name}.building-{job}-{_machine()}-{os.getpid()}"
        temporary = directory.with_name(own)
        mine = range(rank, len(dataset), world_size)
        try:
            if rank == 0:
                _remove_abandoned(directory, job)
                if not directory.is_dir():
                    temporary.mkdir(parents=True)
                    first = next(iter(DataLoader(Subset(dataset, [0]), 1)))
                    _allocate(temporary, len(dataset), _arrays(first, encode(first), dataset))
            barrier()
            # process 0 alone looks for `directory`, as another run may finish it meanwhile
            begun = [*directory.parent.glob(f"{directory.name}.building-{job}-*")]
            if not begun:
                return cls(directory)
            (temporary,) = begun
            loader = load_batches(Subset(dataset, mine), batch_size, num_workers)
            with ExitStack() as stack:
                files = {
                    path.stem: stack.enter_context(closing(_Rows(path)))
                    for path in temporary.glob("*.npy")
                }
                bar = stack.enter_context(
                    Progress(total=len(mine), desc="latents", unit="item", disable=rank > 0)
                )
                places = iter(mine)
                for batch in loader:
                    now = list(islice(places, len(batch["index"])))
                    for key, rows in _arrays(batch, encode(batch), dataset).items():
                        files[key].write(now, rows)
                    bar.update(len(now))
            barrier()
            if rank == 0:
                try:
                    os.replace(temporary, directory)
                except OSError:
                    # another run with the same key may have been faster: its files are the same
                    if not directory.is_dir():
                        raise
        finally:
            if rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        barrier()
        return cls(directory, hit=False)


class _Rows:
    """Rows of an `.npy` file, written at their places.

    Plain writes, not a memory map: on a full disk they raise where a map kills the process, and
    on a network file system they do not overwrite the neighbours that another node has written.
    """

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r")
        self.dtype, self.offset = array.dtype, array.offset
        self.nbytes = int(np.prod(array.shape[1:], dtype=int)) * array.itemsize
        self.file = path.open("r+b", buffering=0)

    def write(self, places: Sequence[int], rows: NDArray[Any]) -> None:
        for place, row in zip(places, rows, strict=True):
            data = memoryview(np.ascontiguousarray(row, self.dtype).tobytes())
            self.file.seek(self.offset + place * self.nbytes)
            while data:
                data = data[self.file.write(data) :]

    def close(self) -> None:
        os.fsync(self.file.fileno())
        self.file.close()


def _allocate(directory: Path, length: int, arrays: dict[str, NDArray[Any]]) -> None:
    for key, array in arrays.items():
        shape = (length, *array.shape[1:])
        np.lib.format.open_memmap(
            directory / f"{key}.npy", mode="w+", dtype=array.dtype, shape=shape
        )


def _arrays(
    batch: NoduleBatch, latents: dict[str, Tensor], dataset: "NoduleDataset"
) -> dict[str, NDArray[Any]]:
    """Flatten a batch into arrays `(B, ...)` of the types they are stored in."""
    flat: dict[str, Any] = {**batch, **latents}
    texts = {key: [text.encode() for text in flat.pop(key)] for key in TEXTS}
    attributes = flat.pop("attributes")
    flat |= {f"{_ATTRIBUTE}{key}": value for key, value in attributes.items()}
    types: dict[str, Any] = {
        **dict.fromkeys(("image", "underlay"), dataset.nodules.image_dtype),
        "mask": np.uint8,
        **dict.fromkeys(LATENTS, np.float16),
    }
    arrays = {}
    for key, value in flat.items():
        array = value.detach().cpu().numpy()
        arrays[key] = array.astype(types.get(key, array.dtype))
    arrays |= {key: np.array(text, f"S{TEXT_BYTES}") for key, text in texts.items()}
    checksums = [_checksum(arrays, place) for place in range(len(arrays["index"]))]
    return arrays | {CHECKSUMS: np.array(checksums, np.uint32)}


def _checksum(arrays: dict[str, NDArray[Any]], place: int) -> int:
    """CRC-32 of one row of all arrays."""
    value = 0
    for key in sorted(arrays):
        array = arrays[key]
        value = zlib.crc32(f"{key} {array.dtype.str} {array.shape[1:]}".encode(), value)
        value = zlib.crc32(array[place : place + 1].tobytes(), value)
    return value


def _job(world_size: int) -> str:
    """Name this run for its temporary folder, the same on all its processes.

    Runs that share a cache, such as the arms of an ablation, may build at the same time.
    """
    keys = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    launch = "-".join(os.environ.get(key, "") for key in keys)
    own = f"{launch}-{os.getpid()}" if world_size == 1 else launch
    return hashlib.sha256(own.encode()).hexdigest()[:8]


def _machine() -> str:
    """Stands for this machine, as numbers of processes mean something on their own alone."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_abandoned(directory: Path, job: str) -> None:
    """Remove what killed runs have begun to build for `directory`.

    These are earlier tries of this job, what processes of this machine began that live no more, and
    what nobody on other machines has written to for a day.
    """
    for path in directory.parent.glob(f"{directory.name}.building-*-*-*"):
        _, of_job, machine, number = path.name.removeprefix(directory.name).split("-")
        if of_job != job and machine == _machine() and is_another_process(int(number)):
            continue
        if of_job != job and machine != _machine():
            written = max(file.stat().st_mtime for file in (path, *path.iterdir()))
            if time.time() - written < ABANDONED_S:
                continue
        shutil.rmtree(path, ignore_errors=True)
