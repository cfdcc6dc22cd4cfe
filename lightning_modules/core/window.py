"""Which physical intensities a model sees."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class IntensityWindow:
    """Physical intensities that are mapped to [-1, 1].

    Attributes:
        low: intensity that becomes -1; what is below is clipped.
        high: intensity that becomes 1; what is above is clipped.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse an empty window."""
        if not self.low < self.high:
            message = f"The intensity window is [{self.low}, {self.high}], expected low < high."
            raise ValueError(message)

    @property
    def ends(self) -> tuple[float, float]:
        """Both intensities."""
        return self.low, self.high

    def normalize(self, image: Tensor) -> Tensor:
        """From physical units to [-1, 1]."""
        scaled = 2 * (image - self.low) / (self.high - self.low) - 1
        return scaled.clamp(-1, 1)

    def denormalize(self, image: Tensor) -> Tensor:
        """From [-1, 1] to physical units, clipped to the window."""
        return (image.clamp(-1, 1) + 1) / 2 * (self.high - self.low) + self.low
