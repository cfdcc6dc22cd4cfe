"""What happens beside training; the names that configs use."""

from callbacks.classification import CharacteristicFidelity, ClassificationMetrics
from callbacks.histogram import HistogramMetrics
from callbacks.pictures import AdapterPicture, NodulePicture
from callbacks.writer import NiftiWriter

__all__ = [
    "AdapterPicture",
    "CharacteristicFidelity",
    "ClassificationMetrics",
    "HistogramMetrics",
    "NiftiWriter",
    "NodulePicture",
]
