"""Groups of nodules that figures are reported for, by subtype and size."""

from datamodules.batch import SUBTYPES

LARGE_MM = 8.0
"""Solid nodules over this diameter are followed up most closely (Fleischner Society 2017)."""

LARGE = "over_8mm"
"""Nodules over `LARGE_MM`; without a space, which TensorBoard and command lines do not like."""

GROUPS = (*SUBTYPES, LARGE, "all")
"""Every group, in the order of reports."""
