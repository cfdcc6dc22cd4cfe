import numpy as np
import pytest

from noduleforge.prepare.consensus import Marking, agreement_mask, group_markings


def box(start: tuple[int, int, int], size: int, reader: str = "") -> Marking:
    return Marking(np.ones((size,) * 3, bool), start, reader, {}, "")


@pytest.mark.parametrize(
    ("starts", "readers", "expected"),
    [
        ([(0, 0, 0), (1, 1, 1), (9, 9, 9)], "abc", [[0, 1], [2]]),
        # a chain of near outlines is one nodule
        ([(0, 0, 0), (0, 0, 3), (0, 0, 6)], "abc", [[0, 1, 2]]),
        # nobody outlines a nodule twice: the second reader's is with the one it overlaps more
        ([(0, 0, 0), (0, 0, 2), (0, 0, 4)], "aba", [[0, 1], [2]]),
        ([(0, 0, 1), (0, 0, 3), (0, 0, 4)], "aba", [[0], [1, 2]]),
        # unknown readers: no more than four
        ([(0, 0, 0)] * 5, ["", "", "", "", ""], [[0, 1, 2, 3], [4]]),
        ([], "", []),
    ],
)
def test_outlines_of_one_nodule_come_together(
    starts: list[tuple[int, int, int]], readers: str, expected: list[list[int]]
) -> None:
    markings = [box(start, 3, reader) for start, reader in zip(starts, readers, strict=True)]
    assert group_markings(markings, (1, 1, 1), 1.0) == expected


def test_distance_is_in_millimetres() -> None:
    markings = [box((0, 0, 0), 2, "a"), box((3, 0, 0), 2, "b")]  # two slice steps apart
    assert group_markings(markings, (2.5, 1, 1), 4.9) == [[0], [1]]
    assert group_markings(markings, (2.5, 1, 1), 5.1) == [[0, 1]]


def test_agreement_counts_every_reader() -> None:
    rng = np.random.default_rng(0)
    scan = np.zeros((4, 20, 20, 20), bool)
    markings = []
    for reader in range(4):
        start = tuple(rng.integers(2, 6, 3).tolist())
        mask = rng.random((7, 6, 5)) < 0.7
        scan[(reader, *map(slice, start, np.add(start, mask.shape)))] = mask
        markings.append(Marking(mask, start, str(reader), {}, ""))
    for agreement in (0.25, 0.5, 0.75, 1.0):
        mask, start = agreement_mask(markings, agreement)
        whole = np.zeros(scan.shape[1:], bool)
        whole[tuple(map(slice, start, np.add(start, mask.shape)))] = mask
        np.testing.assert_array_equal(whole, scan.mean(0) >= agreement)
