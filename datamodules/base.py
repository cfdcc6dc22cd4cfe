"""What all data modules share: datasets of nodules, augmentation, splits, sampling, loaders."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import torchio
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Roi
from datamodules.digest import sha256
from datamodules.io.volumes import binarize
from datamodules.latents import LatentCache
from datamodules.patients import patient_key

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MOST_ERRORS = 10
"""How many of many errors are put in words."""

AUGMENTATION = {"rotation_deg": 10.0, "scale": 0.05, "translation_voxels": 2.0, "margin": 0.35}
"""Ranges (plus or minus) of the augmentation, and the share of the ROI that is cut in addition
on every side so that what turns into the ROI is image, not padding."""


class NoduleDataset(Dataset[NoduleBatch], ABC):
    """Nodules in a fixed order, each in `augmented_copies` augmented versions.

    Item `i` is version `i % augmented_copies` of nodule `i // augmented_copies`, as `NoduleBatch`
    has it without the batch axis, and a pure function of `i`: the same in every process, epoch and
    order. Version 0 is the nodule as it is; the name of version `v` ends in `-v{v}`.

    Attributes:
        table: one nodule a row, with `patient_id`.
        image_dtype: a type that holds every image of the dataset exactly; images of an integer
            type are rounded after interpolation.
    """

    table: pd.DataFrame
    image_dtype: type[np.number[Any]] = np.float32

    upright: ClassVar[bool] = False
    """Whether augmentation flips left and right alone, as where the whole body is seen."""

    def __init__(
        self,
        subtypes: Sequence[int],
        roi_size: Sequence[int],
        augmented_copies: int = 1,
        seed: int = 0,
    ) -> None:
        """Describe the nodules.

        Args:
            subtypes: of each nodule, the position in `SUBTYPES` or `UNKNOWN_SUBTYPE`.
            roi_size: voxels of the ROI along z, y, x (y, x in 2D).
            augmented_copies: deterministic versions of each nodule, 1 or more.
            seed: of the augmentation.

        Raises:
            ValueError: If `augmented_copies` is below 1.
        """
        if augmented_copies < 1:
            message = f"augmented_copies is {augmented_copies}: give 1 for no augmentation, or more"
            raise ValueError(message)
        self.subtypes = list(subtypes)
        self.roi_size = tuple(roi_size)
        self.augmented_copies = augmented_copies
        self.seed = seed
        # what was read last for augmentation: augmented_copies of a nodule follow on each other
        self._wide: tuple[int, NoduleBatch] | None = None

    @abstractmethod
    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """Read one nodule, without augmentation.

        Args:
            nodule: its position, 0 to `len(subtypes) - 1`.
            size: voxels to cut; voxel `size // 2` lies at the nodule's centre.

        Returns:
            An item of `NoduleBatch`; its `index` is overwritten.
        """

    @abstractmethod
    def facts(self) -> Iterable[str]:
        """List all that the items depend on: rows, names and sizes of files, settings."""

    @property
    def patients(self) -> set[str]:
        """Everybody of whom the items show something."""
        return {*self.table["patient_id"]}

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that the items depend on."""
        settings = [self.roi_size, self.augmented_copies, str(self.image_dtype)]
        if self.augmented_copies > 1:
            settings += [self.seed, AUGMENTATION, *(["upright"] if self.upright else [])]
        return sha256(json.dumps(settings), *self.facts())

    def __len__(self) -> int:
        """Return the number of items, nodules times augmented_copies."""
        return len(self.subtypes) * self.augmented_copies

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one item."""
        if not 0 <= index < len(self):
            message = f"Item {index} is asked for, but the dataset has {len(self)}"
            raise IndexError(message)
        nodule, version = divmod(index, self.augmented_copies)
        if version == 0:
            item = self.read(nodule, self.roi_size)
        else:
            margin = [int(np.ceil(AUGMENTATION["margin"] * n)) for n in self.roi_size]
            size = [n + 2 * m for n, m in zip(self.roi_size, margin, strict=True)]
            generator = np.random.default_rng((self.seed, nodule, version))
            if self._wide is None or self._wide[0] != nodule:
                self._wide = nodule, self.read(nodule, size)
            item = _crop(augment(self._wide[1], generator, self.upright), margin)
            item["name"] = f"{item['name']}-v{version}"  # type: ignore[typeddict-item]  # one name
            if np.issubdtype(self.image_dtype, np.integer):
                item["image"] = item["image"].round()
        item["index"] = torch.tensor(index)
        return item


def augment(
    item: NoduleBatch, generator: np.random.Generator, upright: bool = False
) -> NoduleBatch:
    """Flip, turn, scale and shift a nodule by chance, image and mask alike.

    The diameter follows the scale; geometry (`origin_mm`, `direction`) is that of the grid, which
    stays. Ranges: `AUGMENTATION`.

    Args:
        item: one nodule, without batch axis.
        generator: where chance comes from.
        upright: flip left and right alone.

    Returns:
        The same keys, with `image`, `mask` and `attributes["diameter_mm"]` changed.
    """
    shape = item["image"].shape
    n = len(shape) - 1
    spacing = item["spacing_mm"].double().tolist()
    scale = 1 + generator.uniform(-1, 1) * AUGMENTATION["scale"]
    angles = generator.uniform(-1, 1, 3) * AUGMENTATION["rotation_deg"]
    shift = generator.uniform(-1, 1, n) * AUGMENTATION["translation_voxels"] * spacing
    flips = [axis for axis in range(n) if generator.random() < 0.5]
    flips = [axis for axis in flips if axis == n - 1 or not upright]
    flat = n == 2  # torchio sees a radiograph as one slice and turns it in its plane
    affine = torchio.Affine(
        scales=(scale, scale, 1.0 if flat else scale),
        degrees=tuple(angles.tolist()),
        translation=(*shift.tolist(), *[0.0] * (3 - n)),
        default_pad_value="minimum",
        image_interpolation="linear",
        label_interpolation="linear",
    )
    matrix = np.diag([*spacing, *[1.0] * (4 - n)])
    view = (1, *shape[1:], 1) if flat else shape
    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=item["image"].reshape(view), affine=matrix),
        mask=torchio.LabelMap(tensor=item["mask"].reshape(view), affine=matrix),
    )
    with torch.random.fork_rng(devices=[]):  # torchio draws from the global generator
        subject = affine(subject)
        subject = torchio.Flip(axes=tuple(flips))(subject) if flips else subject
    mask = binarize(subject["mask"].data.float().numpy()).astype(np.float32)
    result = item.copy()
    result["image"] = subject["image"].data.float().reshape(shape).contiguous()
    result["mask"] = torch.from_numpy(mask).reshape(shape)
    result["attributes"] = dict(item["attributes"])
    if "diameter_mm" in result["attributes"]:
        result["attributes"]["diameter_mm"] = item["attributes"]["diameter_mm"] * scale
    return result


def _crop(item: NoduleBatch, margin: Sequence[int]) -> NoduleBatch:
    """Take `margin` voxels off every side."""
    shape = item["image"].shape[1:]
    inner = (slice(None), *[slice(m, n - m) for m, n in zip(margin, shape, strict=True)])
    item["image"] = item["image"][inner].contiguous()
    item["mask"] = item["mask"][inner].contiguous()
    offset = torch.tensor(margin, dtype=torch.float64) * item["spacing_mm"].double()
    item["origin_mm"] = item["origin_mm"] + item["direction"] @ offset.flip(0)
    return item


def check_fractions(fractions: Sequence[float]) -> None:
    """Check the shares of training, validation and test.

    Raises:
        ValueError: If they are not three numbers from 0 to 1 that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        message = (
            f"fractions is {list(fractions)}: give the shares of train, val and test, "
            "three numbers of at least 0 that sum to 1"
        )
        raise ValueError(message)


def hold_nothing_out(source: Any) -> None:
    """Put all patients of a data module into its training split, such as synthetic nodules'."""
    source.fractions = (1.0, 0.0, 0.0)


def split_of(patient_id: str, seed: int, fractions: Sequence[float]) -> Split:
    """Say which split a patient belongs to, in every process and on every machine the same.

    Each patient's place depends on nobody else: adding patients moves none. The shares hold in
    expectation.

    Args:
        patient_id: the patient.
        seed: another seed gives another split.
        fractions: shares of train, val and test; they sum to 1.
    """
    number = int(sha256(str(seed), patient_id)[:13], 16) / 16**13  # 52 bits: exact in a float
    if number < fractions[0]:
        return "train"
    return "val" if number < fractions[0] + fractions[1] else "test"


def check_no_patient_crosses(patients: Mapping[str, Iterable[str]]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: of each split, the patients of its nodules.

    Raises:
        ValueError: If a patient is in more than one.
    """
    seen: dict[str, str] = {}
    for split, members in patients.items():
        for patient in sorted(set(members)):
            if patient in seen:
                message = (
                    f"Patient {patient!r} is in both {seen[patient]} and {split}: "
                    "all nodules of a patient must be in one split"
                )
                raise ValueError(message)
            seen[patient] = split


def split_by_patient(
    table: pd.DataFrame, seed: int, fractions: Sequence[float]
) -> dict[Split, pd.DataFrame]:
    """Divide a table by its `patient_id`.

    Args:
        table: rows of nodules.
        seed: another seed gives another split.
        fractions: shares of train, val and test; they sum to 1.

    Raises:
        ValueError: If a split that should have a share of the patients got none.
    """
    of_row = [split_of(patient, seed, fractions) for patient in table["patient_id"]]
    parts = {split: table[[name == split for name in of_row]] for split in SPLITS}
    check_no_patient_crosses({split: part["patient_id"] for split, part in parts.items()})
    for (split, part), share in zip(parts.items(), fractions, strict=True):
        if part.empty and share > 0:
            message = (
                f"The {split} split got none of {table['patient_id'].nunique()} patients at a "
                f"share of {share}: give another seed, other fractions or more patients"
            )
            raise ValueError(message)
    return parts


def select_rows(table: pd.DataFrame, query: str | None, source: str) -> pd.DataFrame:
    """Keep the rows of a pandas query, and say how many it leaves out.

    Args:
        table: one nodule a row.
        query: what to keep; None keeps everything.
        source: where the table is from, for messages.

    Raises:
        ValueError: If the query cannot be understood or leaves no row.
    """
    if query is None:
        return table
    try:
        kept = table.query(query)
    except Exception as error:  # pandas lets through whatever the expression raises
        columns = ", ".join(map(str, table.columns))
        message = f"select {query!r} is no query on {source} ({error}; columns: {columns})"
        raise ValueError(message) from error
    rank_zero_info(f"{source}: {query!r} leaves out {len(table) - len(kept)} of {len(table)} rows")
    if kept.empty:
        message = f"{source} has no rows after select {query!r}: widen the query"
        raise ValueError(message)
    return kept


def raise_together(errors: Sequence[str]) -> None:
    """Raise a ValueError that lists all errors, the first 10 in words; nothing if there is none."""
    if errors:
        rest = len(errors) - MOST_ERRORS
        more = [f"... and {rest} more like these"] if rest > 0 else []
        message = "\n".join([*errors[:MOST_ERRORS], *more])
        raise ValueError(message)


class SubtypeSampler(DistributedSampler[int]):
    """Draws nodules for training; the order is a pure function of seed and epoch.

    An epoch has as many draws as there are nodules, each in a version drawn by chance, so that
    `augmented_copies` changes the variety of an epoch and not its length. Balanced, every draw
    first draws a subtype, each as likely as the others, then a nodule of it, with replacement;
    otherwise every nodule is drawn once. On several processes each takes every n-th draw, and
    all the same number. It is a `DistributedSampler` so that Lightning leaves it in place.

    Attributes:
        given: an epoch, and how many of its items this process has had already: training that
            resumes in the middle of it goes on behind them.
    """

    given: tuple[int, int] = (-1, 0)

    def __init__(
        self,
        subtypes: Sequence[int],
        augmented_copies: int,
        balance: bool,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        """Describe what to draw from.

        Args:
            subtypes: of each nodule; unknown ones are a subtype of their own.
            augmented_copies: items per nodule.
            balance: draw every subtype equally often.
            seed: of the order.
            num_replicas: number of processes.
            rank: this process.
        """
        codes = torch.tensor(list(subtypes), dtype=torch.int64)
        super().__init__(TensorDataset(codes), num_replicas, rank, shuffle=True, seed=seed)
        self.augmented_copies = augmented_copies
        self.groups = (
            [np.flatnonzero(codes.numpy() == code) for code in np.unique(codes.numpy())]
            if balance
            else [np.arange(len(codes))]
        )
        self.balance = balance

    def __iter__(self) -> Iterator[int]:
        """Yield this process's items of the epoch set by `set_epoch`."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.balance:
            group = generator.integers(len(self.groups), size=self.total_size)
            place = generator.integers(np.array([len(members) for members in self.groups])[group])
            drawn = zip(group, place, strict=True)
            nodules = np.array([self.groups[g][p] for g, p in drawn])
        else:
            order = generator.permutation(self.groups[0])
            nodules = np.resize(order, self.total_size)
        augmented_copies = generator.integers(self.augmented_copies, size=self.total_size)
        items = nodules * self.augmented_copies + augmented_copies
        ours = items[self.rank :: self.num_replicas].tolist()
        epoch, had = self.given
        return iter(ours[had:] if self.epoch == epoch else ours)


def _go_on(sampler: SubtypeSampler, trainer: Trainer, batches: int, batch_size: int) -> None:
    """Place a sampler where training resumes.

    Lightning counts on from the batch where it was stopped, but neither skips the data nor, before
    worker processes have begun to read, tells the sampler which epoch it is.
    """
    loop: Any = trainer.fit_loop
    epoch: int = loop.epoch_progress.current.processed
    had: int = loop.epoch_loop.batch_progress.current.processed
    sampler.set_epoch(epoch)
    if not loop.is_resuming:
        return
    if had < batches:
        sampler.given = (epoch, had * batch_size)
    elif loop.epoch_progress.current.started != epoch:  # saved after the epoch's last batch
        sampler.set_epoch(epoch + 1)


class NoduleDataModule(LightningDataModule, ABC):
    """Loaders over patient-grouped splits of nodules, cached as latents if asked for."""

    def __init__(
        self,
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        balance: bool = True,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
    ) -> None:
        """Set what all data modules share.

        Args:
            roi: how regions are cut; null for the model's.
            batch_size: nodules per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the splits, the order and the augmentation.
            balance: draw every subtype equally often in training.
            augmented_copies: deterministic versions of each training nodule, the first not
                augmented.
            cache_dir: folder for cached latents; null for none. Old entries are never deleted.
        """
        super().__init__()
        self.own_roi = roi
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.balance = balance
        self.augmented_copies = augmented_copies
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.datasets: dict[str, NoduleDataset] = {}
        self._cached: dict[str, LatentCache] = {}

    @property
    def roi(self) -> Roi:
        """How regions are cut: as given, or as the model that is trained or used wants it.

        Raises:
            ValueError: If neither says it, or both do and differ.
        """
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        wanted: Roi | None = getattr(model, "roi", None)
        found = wanted or self.own_roi
        if found is None:
            message = "There is no ROI: give data.init_args.roi, or a model that has one"
            raise ValueError(message)
        if self.own_roi not in (None, found):
            message = (
                f"The data's ROI is {self.own_roi}, the model's {wanted}: leave data.init_args.roi "
                "out, the model's is used"
            )
            raise ValueError(message)
        return found

    @abstractmethod
    def build(self) -> dict[str, NoduleDataset]:
        """Build the datasets `train`, `val`, `test` and `predict`; any may have no nodule."""

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets once, and say what is in them."""
        if not self.datasets:
            self.datasets = self.build()
            for split, dataset in self.datasets.items():
                counts = {
                    name: dataset.subtypes.count(code)
                    for code, name in [*enumerate(SUBTYPES), (UNKNOWN_SUBTYPE, "unknown")]
                }
                listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
                rank_zero_info(f"{split}: {len(dataset.subtypes)} nodules ({listed or 'none'})")

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the data: rows, files, ROI and who is in which split."""
        self.setup()
        return sha256(*[f"{split} {data.fingerprint}" for split, data in self.datasets.items()])

    @property
    def training_patients(self) -> set[str]:
        """Keys (`patient_key`) of everybody of whom the training split shows something."""
        return {patient_key(patient) for patient in self.datasets["train"].patients}

    def state_dict(self) -> dict[str, Any]:
        """Put the fingerprint into the checkpoint."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those that the checkpoint was trained on.

        Raises:
            ValueError: If training is resumed on other data or splits.
        """
        if state_dict["fingerprint"] == self.fingerprint:
            return
        message = (
            "The checkpoint was trained on data with fingerprint "
            f"{state_dict['fingerprint'][:12]}, these have {self.fingerprint[:12]}"
        )
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            message += ": resume with the same files, ROI and splits, or start anew with init_from"
            raise ValueError(message)
        rank_zero_warn(f"{message}: its training patients may be among these")

    def cache_latents(
        self,
        encode: Callable[[NoduleBatch], dict[str, Tensor]],
        key: str,
        rank: int,
        world_size: int,
        barrier: Callable[[], None],
    ) -> dict[str, int]:
        """Let the training and validation loaders give cached latents.

        To be called on every process, after `setup` and before the loaders are made.

        Args:
            encode: a batch to its `latent_mean`, `latent_logvar` and `context`,
                `(B, C, *latent)`.
            key: of the codec's weights and the window; the data's fingerprint is added here.
            rank: this process.
            world_size: number of processes.
            barrier: waits for all processes.

        Returns:
            `hits` (items found), `misses` (items encoded now, by all processes), `entries` (their
            sum) and `bytes` (on disk).

        Raises:
            ValueError: If `cache_dir` is not set.
        """
        if self.cache_dir is None:
            message = "cache_dir is null: give a folder, or do not cache latents"
            raise ValueError(message)
        report = {"hits": 0, "misses": 0, "entries": 0, "bytes": 0}
        for split in ("train", "val"):
            dataset = self.datasets[split]
            if not len(dataset):
                continue
            directory = self.cache_dir / sha256(key, dataset.fingerprint, split)
            cache = LatentCache.build(
                dataset,
                encode,
                directory,
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                barrier=barrier,
                num_workers=self.num_workers,
            )
            self._cached[split] = cache
            report["hits" if cache.hit else "misses"] += len(cache)
            report["entries"] += len(cache)
            report["bytes"] += cache.nbytes
        return report

    def statistics_batches(self) -> DataLoader[NoduleBatch]:
        """Return each training nodule once, as it is, in the same order on every process."""
        dataset = self.datasets["train"]
        plain = range(0, len(dataset), dataset.augmented_copies)
        return DataLoader(
            Subset(self._cached.get("train", dataset), plain), batch_size=self.batch_size
        )

    def real_batches(self) -> DataLoader[NoduleBatch]:
        """The same, of real nodules alone: how frequent anything is among patients."""
        return self.statistics_batches()

    @property
    def draw_weights(self) -> Tensor:
        """How often each training nodule is drawn, `(nodules,)`, next to the others."""
        codes = self.datasets["train"].subtypes
        _, group, counts = np.unique(codes, return_inverse=True, return_counts=True)
        return torch.tensor(1 / counts[group] if self.balance else np.ones(len(codes)))

    @property
    def training_batches(self) -> int:
        """Number of batches of an epoch, on each process.

        Raises:
            ValueError: If there are fewer training nodules than a batch of every process needs.
        """
        world = self.trainer.world_size if self.trainer else 1
        nodules = len(self.datasets["train"].subtypes)
        batches = -(-nodules // world) // self.batch_size
        if batches == 0:
            message = (
                f"The training split has {nodules} nodule(s) for {world} process(es), too few for "
                f"a batch of {self.batch_size} on each: lower batch_size or give more data"
            )
            raise ValueError(message)
        return batches

    def train_dataloader(self) -> DataLoader[NoduleBatch]:
        """Return full batches in the order of `SubtypeSampler`; see `training_batches`."""
        batches = self.training_batches
        dataset = self.datasets["train"]
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler = SubtypeSampler(
            dataset.subtypes, dataset.augmented_copies, self.balance, self.seed, world, rank
        )
        if trainer:
            _go_on(sampler, trainer, batches, self.batch_size)
        return self._loader("train", sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all validation nodules in their order; an empty list if there are none."""
        return self._loader("val") if len(self.datasets["val"]) else []

    def test_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all test nodules in their order; an empty list if there are none."""
        return self._loader("test") if len(self.datasets["test"]) else []

    def predict_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all nodules to be synthesized in their order; an empty list if none."""
        return self._loader("predict") if len(self.datasets["predict"]) else []

    def _loader(self, split: str, **settings: Any) -> DataLoader[NoduleBatch]:
        return DataLoader(
            self._cached.get(split, self.datasets[split]),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **settings,
        )
