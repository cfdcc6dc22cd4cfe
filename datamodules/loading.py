"""How batches are loaded."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from datamodules.batch import NoduleBatch
from datamodules.processes import LOADERS


def load_batches(
    items: Dataset[NoduleBatch], batch_size: int, num_workers: int, **settings: Any
) -> DataLoader[NoduleBatch]:
    """Batches of a data set, loaded by processes that leave signals to the run.

    Args:
        items: of the data set.
        batch_size: number of items in a batch.
        num_workers: number of processes; with 0 the run loads its batches itself.
        settings: others of `DataLoader`.
    """
    return DataLoader(
        items,
        batch_size=batch_size,  # by name, as Lightning makes loaders anew from their arguments
        num_workers=num_workers,
        multiprocessing_context=LOADERS if num_workers else None,
        **settings,
    )
