"""How far something is: a bar on a terminal, and elsewhere a line each half minute."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LINE_EVERY_S = 30.0
"""Seconds between two lines in a log; what takes less has none."""


class Progress(tqdm):  # type: ignore[type-arg]  # generic for type checkers alone
    """tqdm's bar, which becomes lines where it is not drawn on a terminal, such as a job's log.

    Args:
        args: of tqdm; `unit` is one of what is counted, such as `step`.
        remark: called for each line or drawing; says what else is to be read there.
        kwargs: of tqdm.
    """

    def __init__(self, *args: Any, remark: Callable[[], str] = str, **kwargs: Any) -> None:
        self.remark, self.has_line = remark, False
        self.terminal = bool(getattr(kwargs.get("file") or sys.stderr, "isatty", bool)())
        if not self.terminal:
            # no line at the start, and then one when an item ends after so many seconds
            times = dict.fromkeys(("mininterval", "maxinterval", "delay"), LINE_EVERY_S)
            kwargs |= {**times, "miniters": 1}
        super().__init__(*args, **kwargs)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm draws of."""
        return {**super().format_dict, "postfix": self.remark() or None}

    def line(self) -> str:
        """Such as `training: 120 of 700 steps, loss 0.012, 3.26 steps/s, 02:58 left`."""
        known = self.format_dict
        done, total, unit = known["n"], known["total"], str(known["unit"])
        units = f"{unit[:-1]}ies" if unit.endswith("y") else unit + "es" * unit.endswith("ch")
        units += "" if units.endswith("s") else "s"
        parts = [f"{done} of {total} {units}" if total else f"{done} {units}"]
        parts += [known["postfix"]] if known["postfix"] else []
        rate = known["rate"] or (done - known["initial"]) / max(known["elapsed"], 1e-9)
        if rate:
            parts.append(f"{rate:.3g} {units}/s" if rate >= 1 else f"{1 / rate:.3g} s a {unit}")
        if total and rate and done < total:
            parts.append(f"{self.format_interval((total - done) / rate)} left")
        elif total and done >= total:
            parts.append(f"{self.format_interval(known['elapsed'])} in all")
        return f"{str(known['prefix']).removesuffix(': ')}: {', '.join(parts)}"

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write a line."""
        if self.terminal:
            super().display(msg, pos)
            return
        self.has_line = True
        self.fp.write(f"{self.line()}\n")
        self.fp.flush()

    def close(self) -> None:
        """Remove the bar, or write the last line if there was one before."""
        if self.terminal or self.disable:
            super().close()
            return
        if self.has_line and self.n > self.last_print_n:
            self.display()
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]  # which the types leave out


@contextmanager
def beside_bars(*loggers: str) -> Iterator[None]:
    """Let these loggers and the root write above bars instead of into them, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with logging_redirect_tqdm([logging.getLogger(name) for name in ("root", *loggers)]):
        yield
