"""The parser of a command's options."""

import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

from datamodules.failures import one_line


class OneLineParser(ArgumentParser):
    """Answers a mistake with one line that names it, and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell the mistake, and where the options are explained."""
        sys.stderr.write(f"noduleforge: error: {one_line(message)} (see {self.prog} --help)\n")
        raise SystemExit(2) from ex
