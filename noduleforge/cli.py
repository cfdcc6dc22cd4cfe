"""The `noduleforge` command: what is done before and after training.

`noduleforge prepare sample --out data/sample` calls `prepare_sample(out=Path("data/sample"))`:
a subcommand is a function, its options are the function's arguments.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import auto_cli

from noduleforge.prepare.projections import prepare_projections
from noduleforge.prepare.sample import prepare_sample

COMMANDS: dict[str, Any] = {
    "prepare": {
        "_help": "Make data sets that the datamodules read.",
        "sample": prepare_sample,
        "projections": prepare_projections,
    },
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend ends with status 2 and one line on stderr.

    Args:
        args: Command line without the program's name; `sys.argv` where it is None.
    """
    try:
        auto_cli(
            COMMANDS,
            args=None if args is None else list(args),
            as_positional=False,
            prog="noduleforge",
        )
    except (OSError, ValueError) as error:
        print(f"noduleforge: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
