"""What happens beside training; the names that configs use."""

from callbacks.classification import CharacteristicFidelity, ClassificationMetrics
from callbacks.detection import DetectionMetrics
from callbacks.diversity import LPIPSDiversity, StructuralDiversity
from callbacks.fid import FeatureDistances
from callbacks.generation import GenerationMetrics
from callbacks.histogram import HistogramFidelity
from callbacks.insertion import StudyWriter
from callbacks.pictures import AdapterPicture, NodulePicture
from callbacks.segmentation import SegmentationMetrics
from callbacks.writer import NiftiWriter
from lightning_modules.core.features import (
    ClassifierFeatures,
    InceptionFeatures,
    MedicalNetFeatures,
    RadImageNetFeatures,
    RandomFeatures,
    TimmFeatures,
    TimmStatistics,
)

__all__ = [
    "AdapterPicture",
    "CharacteristicFidelity",
    "ClassificationMetrics",
    "ClassifierFeatures",
    "DetectionMetrics",
    "FeatureDistances",
    "GenerationMetrics",
    "HistogramFidelity",
    "InceptionFeatures",
    "LPIPSDiversity",
    "MedicalNetFeatures",
    "NiftiWriter",
    "NodulePicture",
    "RadImageNetFeatures",
    "RandomFeatures",
    "SegmentationMetrics",
    "StructuralDiversity",
    "StudyWriter",
    "TimmFeatures",
    "TimmStatistics",
]
