"""Training of nodule synthesis; the names that configs use."""

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.classifier import NoduleClassifier
from lightning_modules.composition import CXRComposition, CXRZip
from lightning_modules.copy_paste import CopyPaste
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import (
    AttributeConditioner,
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.merging import Composite, KLoRA, Switch, Weighted
from lightning_modules.core.pretrained_codecs import DiffusersCodec, MaisiCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.regularizer import HistogramRegularizer
from lightning_modules.ct import CTDiffusion
from lightning_modules.cxr import CXRAdapter, CXRDiffusion, CXRLabels
from lightning_modules.detector import NoduleDetector
from lightning_modules.heads.ct import CTHead
from lightning_modules.heads.cxr import CXRHead
from lightning_modules.segmenter import NoduleSegmenter

__all__ = [
    "AttributeConditioner",
    "Autoencoder",
    "BackgroundConditioner",
    "CTDiffusion",
    "CTHead",
    "CXRAdapter",
    "CXRComposition",
    "CXRDiffusion",
    "CXRHead",
    "CXRLabels",
    "CXRZip",
    "Composite",
    "CopyPaste",
    "DiffusersCodec",
    "DiffusionProcess",
    "HistogramConditioner",
    "HistogramRegularizer",
    "KLoRA",
    "LatentCodec",
    "MaisiCodec",
    "MaskConditioner",
    "NoduleClassifier",
    "NoduleDetector",
    "NoduleSegmenter",
    "SubtypeConditioner",
    "Switch",
    "Weighted",
]
