"""The data modules and collections that configs name."""

from datamodules.collections import (
    ChestXray14Collection,
    FolderCollection,
    JSRTCollection,
    LIDCCollection,
    Node21Collection,
    SuperimposedCollection,
)
from datamodules.combined import CombinedDataModule
from datamodules.detection import DetectionDataModule, RadiographSource
from datamodules.insertion.modules import InsertionDataModule, RadiographInsertionDataModule
from datamodules.lidc import LIDCDataModule
from datamodules.radiographs import (
    ChestXray14DataModule,
    FolderDataModule,
    JSRTDataModule,
    Node21DataModule,
    SuperimposedDataModule,
)
from datamodules.real_and_synthetic import RealAndSyntheticDataModule

__all__ = [
    "ChestXray14Collection",
    "ChestXray14DataModule",
    "CombinedDataModule",
    "DetectionDataModule",
    "FolderCollection",
    "FolderDataModule",
    "InsertionDataModule",
    "JSRTCollection",
    "JSRTDataModule",
    "LIDCCollection",
    "LIDCDataModule",
    "Node21Collection",
    "Node21DataModule",
    "RadiographInsertionDataModule",
    "RadiographSource",
    "RealAndSyntheticDataModule",
    "SuperimposedCollection",
    "SuperimposedDataModule",
]
