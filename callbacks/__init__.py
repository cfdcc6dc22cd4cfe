"""What happens beside training; the names that configs use."""

from callbacks.histogram import HistogramMetrics
from callbacks.pictures import NodulePicture
from callbacks.writer import NiftiWriter

__all__ = ["HistogramMetrics", "NiftiWriter", "NodulePicture"]
