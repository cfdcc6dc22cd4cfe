"""From files to `NoduleBatch`."""

from datamodules.augmented import AugmentedDataModule
from datamodules.base import NoduleDataModule, NoduleDataset, SubtypeSampler
from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Synthesis
from datamodules.chestxray14 import ChestXray14DataModule
from datamodules.detection import DetectionDataModule
from datamodules.folder import FolderDataModule
from datamodules.insertion import FilmInsertionDataModule, InsertionDataModule
from datamodules.jsrt import JSRTDataModule
from datamodules.latents import LatentCache
from datamodules.lidc import LIDCDataModule, LIDCDataset
from datamodules.mixed import MixedDataModule
from datamodules.radiographs import RadiographDataModule, RadiographDataset
from datamodules.superimposed import SuperimposedDataModule

__all__ = [
    "SUBTYPES",
    "UNKNOWN_SUBTYPE",
    "AugmentedDataModule",
    "ChestXray14DataModule",
    "DetectionDataModule",
    "FilmInsertionDataModule",
    "FolderDataModule",
    "InsertionDataModule",
    "JSRTDataModule",
    "LIDCDataModule",
    "LIDCDataset",
    "LatentCache",
    "MixedDataModule",
    "NoduleBatch",
    "NoduleDataModule",
    "NoduleDataset",
    "RadiographDataModule",
    "RadiographDataset",
    "SubtypeSampler",
    "SuperimposedDataModule",
    "Synthesis",
]
