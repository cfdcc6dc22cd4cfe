"""From files to `NoduleBatch`."""

from datamodules.base import NoduleDataModule, NoduleDataset, SubtypeSampler
from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Synthesis
from datamodules.latents import LatentCache
from datamodules.lidc import LIDCDataModule, LIDCDataset

__all__ = [
    "SUBTYPES",
    "UNKNOWN_SUBTYPE",
    "LIDCDataModule",
    "LIDCDataset",
    "LatentCache",
    "NoduleBatch",
    "NoduleDataModule",
    "NoduleDataset",
    "SubtypeSampler",
    "Synthesis",
]
