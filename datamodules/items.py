"""From a region of interest as it was read to an item of `NoduleBatch`."""

import numpy as np
import torch

from datamodules.batch import NoduleBatch
from datamodules.collections.base import Patch


def nodule_item(patch: Patch, index: int) -> NoduleBatch:
    """Make an item of a dataset: `NoduleBatch` without its batch axis.

    Args:
        patch: the nodule's region.
        index: position of the item in its dataset.
    """
    image = patch.image
    item: NoduleBatch = {
        "image": torch.from_numpy(image.array.astype(np.float32))[None],
        "mask": torch.from_numpy(patch.mask.astype(np.float32))[None],
        "subtype": torch.tensor(patch.subtype),
        "attributes": {
            name: torch.tensor(value, dtype=torch.float32)
            for name, value in patch.attributes.items()
        },
        "spacing_mm": torch.tensor(image.spacing_mm, dtype=torch.float32),
        "origin_mm": torch.tensor(image.origin_mm, dtype=torch.float64),
        "direction": torch.from_numpy(image.direction.copy()),
        "name": patch.name,  # type: ignore[typeddict-item]  # one name
        "patient_id": patch.patient_id,  # type: ignore[typeddict-item]
        "index": torch.tensor(index),
    }
    if patch.underlay is not None:
        item["underlay"] = torch.from_numpy(patch.underlay.astype(np.float32))[None]
    return item
