"""Real intensity histograms to draw from when a nodule is asked for by its subtype alone."""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batch import SUBTYPES
from lightning_modules.core.randomness import generator


class HistogramBank(nn.Module):
    """Histograms of the training nodules and their subtypes; kept in the checkpoint.

    Args:
        bins: number of bins of each histogram.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.histograms = torch.zeros(0, bins)
        self.subtypes = torch.zeros(0, dtype=torch.int64)

    def fill(self, histograms: Tensor, subtypes: Tensor) -> None:
        """Replace the contents.

        Args:
            histograms: `(N, bins)`, each sums to one.
            subtypes: `(N,)` codes of the subtypes.
        """
        self.histograms = histograms.detach().float().cpu()
        self.subtypes = subtypes.detach().cpu()

    def draw(self, subtypes: Tensor, index: Tensor, seed: int) -> Tensor:
        """One real histogram of each subtype, `(B, bins)`.

        The draw depends on `seed` and `index` alone, not on the batch that a request is in.

        Args:
            subtypes: `(B,)` codes of the subtypes wanted.
            index: `(B,)` numbers of the requests.
            seed: the sampling seed.

        Raises:
            ValueError: If the bank holds no nodule of a subtype.
        """
        rows = []
        for code, number in zip(subtypes.tolist(), index.tolist(), strict=True):
            candidates = torch.nonzero(self.subtypes == code).flatten()
            if len(candidates) == 0:
                name = SUBTYPES[code] if 0 <= code < len(SUBTYPES) else "unknown"
                message = (
                    f"The histogram bank holds no {name} nodule among {len(self.subtypes)}: "
                    "give the request its own histogram, or train on data that has some."
                )
                raise ValueError(message)
            # the word is part of the key: another would draw other nodules from the same seed
            stream = generator("library", seed, number)
            choice = torch.randint(len(candidates), (1,), generator=stream)
            rows.append(self.histograms[candidates[choice]])
        return torch.cat(rows).to(subtypes.device)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The contents, whose size is not known before training."""
        return {"histograms": self.histograms, "subtypes": self.subtypes}

    def set_extra_state(self, state: Any) -> None:
        """Restore the contents from a checkpoint."""
        self.histograms, self.subtypes = state["histograms"], state["subtypes"]
