"""What happens beside training; the names that configs use."""

from callbacks.histogram import HistogramMetrics
from callbacks.pictures import AdapterPicture, NodulePicture
from callbacks.writer import NiftiWriter

__all__ = ["AdapterPicture", "HistogramMetrics", "NiftiWriter", "NodulePicture"]
