"""The stacks in a DICOM series: slices that were taken and reconstructed together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from datamodules.io.slices import MARKS, Slice

SAME_MM = 1e-2
"""Slices nearer to each other than this lie at the same place."""

NAMED = 10
"""So many stacks are named."""


def tell_apart(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Part slices into stacks, the largest first.

    Stacks differ in orientation, spacing, matrix, frame of reference or kernel. Acquisitions are
    stacks of their own where they overlap; those that follow each other, as a scanner makes them
    that takes a few slices at a time, are one stack. Where two slices still lie at one place, what
    `MARKS` names tells them apart.

    Args:
        slices: with position, orientation and spacing.
    """
    stacks = _groups(slices, lambda one: (geometry(one), one.frame_of_reference, one.kernel))
    stacks = [part for stack in stacks for part in _by_acquisition(stack)]
    stacks = [part for stack in stacks for part in _by_marks(stack)]
    return sorted(stacks, key=len, reverse=True)


def geometry(one: Slice) -> Hashable:
    """What slices of one stack have in common: matrix, orientation and spacing."""
    return (one.shape, *np.round((*one.orientation, *one.spacing_mm), 3).tolist())


def height_mm(one: Slice) -> float:
    """Position along the normal."""
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    return float(normal @ one.position_mm)


def name_stacks(stacks: Sequence[Sequence[Slice]]) -> str:
    """Say of each stack how many slices it has, in what it differs from the others, and a file."""
    facts = [_facts(stack) for stack in stacks]
    differ = [name for name in facts[0] if len({one[name] for one in facts}) > 1]
    told = []
    for stack, fact in zip(stacks[:NAMED], facts, strict=False):
        what = " and ".join(f"{name} {fact[name] or 'unknown'}" for name in differ)
        with_what = f" with {what}" if what else ""
        told.append(f"{len(stack)} slice(s){with_what} ({stack[0].path.name})")
    more = f" and {len(stacks) - NAMED} more" if len(stacks) > NAMED else ""
    return ", ".join(told) + more


def _facts(stack: Sequence[Slice]) -> dict[str, str]:
    first = stack[0]
    acquisitions = dict.fromkeys(one.acquisition for one in stack)
    return {
        "acquisition": ", ".join(acquisitions),
        "kernel": first.kernel,
        "matrix": f"{first.shape[0]} x {first.shape[1]}",
        "spacing": " x ".join(f"{at:g}" for at in first.spacing_mm),
        "orientation": " ".join(f"{at:g}" for at in first.orientation),
        "frame of reference": first.frame_of_reference,
        **dict(zip(MARKS.values(), first.marks, strict=True)),
    }


def _groups(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    groups: dict[Hashable, list[Slice]] = {}
    for one in slices:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _by_acquisition(stack: Sequence[Slice]) -> list[list[Slice]]:
    """Part acquisitions if one begins before another ends."""
    parts = _groups(stack, lambda one: one.acquisition)
    ranges = sorted(
        (min(heights), max(heights)) for part in parts for heights in [[*map(height_mm, part)]]
    )
    follow = all(low > high + SAME_MM for (_, high), (low, _) in itertools.pairwise(ranges))
    return [list(stack)] if follow else parts


def _by_marks(stack: list[Slice]) -> list[list[Slice]]:
    """Part slices at the same place by the first mark in which any differ."""
    heights = sorted(map(height_mm, stack))
    if (np.diff(heights) > SAME_MM).all():
        return [stack]
    for values in zip(*(one.marks for one in stack), strict=True):
        if len(set(values)) > 1:
            mark_of = dict(zip(stack, values, strict=True))
            parts = _groups(stack, mark_of.__getitem__)
            return [smaller for part in parts for smaller in _by_marks(part)]
    return [stack]
