"""What is wrong with a region is said before a model sees it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.collections import Patch
from datamodules.io.volumes import Volume
from datamodules.items import nodule_item


def make(n: int, **changed: Any) -> Patch:
    """A region of `n` dimensions, with a field of its image, or the mask, changed."""
    geometry: dict[str, Any] = {
        "array": np.arange(6**n, dtype=np.float32).reshape((6,) * n),
        "spacing_mm": (0.5, 0.7, 0.8)[-n:],
        "origin_mm": (1.0, 2.0, 3.0)[:n],
        "direction": np.eye(n),
    }
    mask = np.zeros((6,) * n, np.uint8)
    mask[(slice(2, 4),) * n] = 1
    mask = changed.pop("mask", mask)
    image = Volume(**{**geometry, **changed})
    return Patch(image, mask, {"diameter_mm": 5.0, "texture": np.nan}, "n1", "P1", 2)


@pytest.mark.parametrize("n", [2, 3])
def test_an_item_says_what_the_region_says(n: int) -> None:
    patch = make(n)
    item: Any = nodule_item(patch, 7)
    np.testing.assert_array_equal(item["image"][0], patch.image.array)
    np.testing.assert_array_equal(item["mask"][0], patch.mask)
    kinds = {key: item[key].dtype for key in ("image", "mask", "spacing_mm", "origin_mm", "index")}
    assert kinds == {
        **dict.fromkeys(("image", "mask", "spacing_mm"), torch.float32),
        **{"origin_mm": torch.float64, "index": torch.int64},
    }
    np.testing.assert_allclose(item["spacing_mm"], patch.image.spacing_mm)
    assert item["origin_mm"].tolist() == list(patch.image.origin_mm)
    assert torch.equal(item["direction"], torch.eye(n, dtype=torch.float64))
    assert (item["name"], item["patient_id"], int(item["subtype"]), int(item["index"])) == (
        *("n1", "P1", 2, 7),
    )
    assert float(item["attributes"]["diameter_mm"]) == 5
    assert item["attributes"]["texture"].isnan()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda n: {"mask": np.ones((8,) * n, np.uint8)}, r"a mask of \(8, .* an image of \(6, "),
        (lambda n: {"mask": np.full((6,) * n, 2, np.uint8)}, "mask values from 2 to 2: expected 1"),
        (lambda n: {"array": np.full((6,) * n, np.nan)}, r"has \d+ voxel\(s\) that are not finite"),
        (lambda n: {"array": np.full((6,) * n, -np.inf)}, "replace NaN and infinity"),
        (lambda n: {"spacing_mm": (1.0,) * (n + 1)}, "and the spacing .*expected a number above"),
        (lambda n: {"spacing_mm": (0.0,) * n}, "expected a number above 0 for each"),
        (lambda n: {"spacing_mm": (np.inf,) * n}, "expected finite numbers, correct the header"),
        (lambda n: {"origin_mm": (np.nan,) * n}, "expected finite numbers, correct the header"),
    ],
)
def test_faulty_regions_are_refused(n: int, changed: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"region of nodule 'n1' of patient 'P1'.*{told}"):
        make(n, **changed(n))


def test_a_changed_region_is_checked_again() -> None:
    patch = make(2)
    with pytest.raises(ValueError, match="cut both on one grid"):
        replace(patch, mask=patch.mask[1:])
