"""The `noduleforge` command: what is done before and after training.

`noduleforge prepare sample --out data/sample` calls `prepare_sample(out=Path("data/sample"))`:
a subcommand is a function, its options are the function's arguments.
"""

import json
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from jsonargparse import auto_cli

from noduleforge.compare import compare
from noduleforge.inspect import inspect
from noduleforge.memorization import memorization
from noduleforge.place import place
from noduleforge.place_radiographs import place_radiographs
from noduleforge.prepare.lidc import prepare_lidc
from noduleforge.prepare.projections import prepare_projections
from noduleforge.prepare.radiographs import prepare_chestxray14, prepare_jsrt
from noduleforge.prepare.sample import prepare_sample
from noduleforge.prepare.volumes import prepare_volumes

COMMANDS: dict[str, Any] = {
    "prepare": {
        "_help": "Make data sets that the datamodules read.",
        "sample": prepare_sample,
        "lidc": prepare_lidc,
        "volumes": prepare_volumes,
        "jsrt": prepare_jsrt,
        "chestxray14": prepare_chestxray14,
        "projections": prepare_projections,
    },
    "inspect": inspect,
    "place": place,
    "place-radiographs": place_radiographs,
    "compare": compare,
    "memorization": memorization,
}

LISTS = {"compare": "runs", "place": "studies"}
"""Commands that take a list of folders, and how their argument is called."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend ends with status 2 and one line on stderr.

    Args:
        args: Command line without the program's name; `sys.argv` where it is None.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in LISTS:  # RUN ... is easier to type than a list
        given = list(takewhile(lambda word: not word.startswith("-"), words[1:]))
        options = words[1 + len(given) :]
        listed = [f"--{LISTS[words[0]]}={json.dumps(given)}"] if given else []
        words = [words[0], *listed, *options]
    if words[:1] == ["inspect"] and words[1:] and not words[1].startswith("-"):
        words.insert(1, "--root")
    try:
        auto_cli(
            COMMANDS,
            args=words,
            as_positional=False,
            prog="noduleforge",
        )
    except (OSError, ValueError) as error:
        print(f"noduleforge: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
