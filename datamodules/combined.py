"""Several collections of nodules at once, one batch of each in every step."""

from collections.abc import Mapping
from typing import Any

from datamodules.base import NoduleDataModule
from datamodules.collections.base import NoduleCollection
from datamodules.dataset import NoduleDataset
from datamodules.splits import SPLITS, check_fractions, check_no_patient_crosses


def side_by_side(parts: Mapping[str, Mapping[str, NoduleDataset]]) -> dict[str, NoduleDataset]:
    """The training datasets of several parts, of each of which every step gets a batch.

    Args:
        parts: by their names, the datasets of each, by split.

    Returns:
        What `NoduleDataModule.parts` is to be.

    Raises:
        ValueError: If there is no part, or a patient is in different splits of two.
    """
    if not parts:
        message = "There is no part to train on: give one part or more"
        raise ValueError(message)
    patients: dict[str, set[str]] = {
        split: {who for part in parts.values() for who in part[split].table["patient_id"]}
        for split in SPLITS
    }
    check_no_patient_crosses(patients)
    return {name: part["train"] for name, part in parts.items()}


class CombinedDataModule(NoduleDataModule):
    """Batches of several collections, side by side in training; see `NoduleDataModule`.

    Validation, test and prediction use the first collection's nodules alone.
    """

    def __init__(
        self,
        collections: dict[str, NoduleCollection],
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        split_seed: int = 0,
        **settings: Any,
    ) -> None:
        """Name the parts.

        Args:
            collections: the nodules of each part, by the parts' names.
            fractions: shares of the patients for train, val and test.
            split_seed: another seed gives another split.
            settings: see `NoduleDataModule`.

        Raises:
            ValueError: If `fractions` are no shares.
        """
        super().__init__(**settings)
        check_fractions(fractions)
        self.collections = collections
        self.fractions, self.split_seed = fractions, split_seed

    def build(self) -> dict[str, NoduleDataset]:
        """Divide the nodules of each part by patient.

        Raises:
            FileNotFoundError: If a table is missing.
            ValueError: If there is no part, one is faulty, or a patient is in different splits of
                two.
        """
        parts = {
            name: self.training_and_held_out(
                collection.splits(self.roi, self.fractions, self.split_seed)
            )
            for name, collection in self.collections.items()
        }
        self.parts = side_by_side(parts)
        first = next(iter(parts.values()))
        return {**first, "predict": first["test"]}
