"""From files to `NoduleBatch`."""

from datamodules.base import NoduleDataModule, NoduleDataset, SubtypeSampler
from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Synthesis
from datamodules.chestxray14 import ChestXray14DataModule
from datamodules.combined import CombinedDataModule
from datamodules.detection import DetectionDataModule
from datamodules.folder import FolderDataModule
from datamodules.insertion.modules import InsertionDataModule, RadiographInsertionDataModule
from datamodules.jsrt import JSRTDataModule
from datamodules.latents import LatentCache
from datamodules.lidc import LIDCDataModule, LIDCDataset
from datamodules.radiographs import RadiographDataModule, RadiographDataset
from datamodules.real_and_synthetic import RealAndSyntheticDataModule
from datamodules.superimposed import SuperimposedDataModule

__all__ = [
    "SUBTYPES",
    "UNKNOWN_SUBTYPE",
    "ChestXray14DataModule",
    "CombinedDataModule",
    "DetectionDataModule",
    "FolderDataModule",
    "InsertionDataModule",
    "JSRTDataModule",
    "LIDCDataModule",
    "LIDCDataset",
    "LatentCache",
    "NoduleBatch",
    "NoduleDataModule",
    "NoduleDataset",
    "RadiographDataModule",
    "RadiographDataset",
    "RadiographInsertionDataModule",
    "RealAndSyntheticDataModule",
    "SubtypeSampler",
    "SuperimposedDataModule",
    "Synthesis",
]
