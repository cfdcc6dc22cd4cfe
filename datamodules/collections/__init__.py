"""What there is on disk: nodules and radiographs, how they are read and split; no Lightning."""

from datamodules.collections.base import NoduleCollection, NoduleSet, Patch
from datamodules.collections.chestxray14 import ChestXray14Collection
from datamodules.collections.folder import FolderCollection
from datamodules.collections.jsrt import JSRTCollection
from datamodules.collections.lidc import LIDCCollection
from datamodules.collections.node21 import Node21Collection
from datamodules.collections.radiographs import RadiographCollection
from datamodules.collections.superimposed import SuperimposedCollection

__all__ = [
    "ChestXray14Collection",
    "FolderCollection",
    "JSRTCollection",
    "LIDCCollection",
    "Node21Collection",
    "NoduleCollection",
    "NoduleSet",
    "Patch",
    "RadiographCollection",
    "SuperimposedCollection",
]
