"""The `noduleforge` command: what is done before and after training.

`noduleforge prepare sample --out data/sample` calls `prepare_sample(out=Path("data/sample"))`:
a command is a function, its options are the function's arguments. A command's module is imported
only when the command is called, so that the others cost nothing.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from datamodules.failures import told_in_one_sentence
from datamodules.io.whole_files import remove_leftovers


class Command(NamedTuple):
    """A function that can be called from the command line.

    Attributes:
        module: where it is.
        function: its name.
        help: what it does, in one line; `--help` of the command itself is its docstring.
    """

    module: str
    function: str
    help: str

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.function)
        return function


class Group(NamedTuple):
    """Commands with a first word in common.

    Attributes:
        commands: by their second word.
        help: what they do, in one line.
    """

    commands: Mapping[str, Command]
    help: str


PREPARE = {
    "sample": Command(
        "noduleforge.prepare.sample", "prepare_sample", "The sample: CT patches with nodules."
    ),
    "lidc": Command("noduleforge.prepare.lidc", "prepare_lidc", "LIDC-IDRI as TCIA ships it."),
    "luna16": Command(
        "noduleforge.prepare.luna16", "prepare_luna16", "LUNA16 with LIDC's outlines and ratings."
    ),
    "luna25": Command(
        "noduleforge.prepare.points", "prepare_luna25", "LUNA25: nodules by their centre."
    ),
    "points": Command(
        "noduleforge.prepare.points", "prepare_points", "CT volumes and a table of centres."
    ),
    "volumes": Command(
        "noduleforge.prepare.volumes", "prepare_volumes", "CT volumes with masks of nodules."
    ),
    "nnunet": Command(
        "noduleforge.prepare.nnunet", "prepare_nnunet", "A data set in nnU-Net's layout."
    ),
    "healthy": Command(
        "noduleforge.prepare.healthy",
        "prepare_healthy",
        "Healthy lung beside a data set's nodules.",
    ),
    "jsrt": Command("noduleforge.prepare.radiographs", "prepare_jsrt", "JSRT's radiographs."),
    "chestxray14": Command(
        "noduleforge.prepare.radiographs", "prepare_chestxray14", "Images of ChestX-ray14."
    ),
    "chestxdet": Command(
        "noduleforge.prepare.chestxdet", "prepare_chestxdet", "ChestX-Det's films in ChestX-ray14."
    ),
    "projections": Command(
        "noduleforge.prepare.projections", "prepare_projections", "Radiographs of the sample CT."
    ),
}

READERS = {
    "new": Command("noduleforge.readers.new", "new_study", "A study of real and synthetic ones."),
    "serve": Command("noduleforge.readers.serve", "serve", "A study in the readers' browsers."),
    "report": Command("noduleforge.readers.report", "report", "What the answers say."),
    "machine": Command("noduleforge.readers.machine", "machine", "A classifier as a reader."),
}

COMMANDS: Mapping[str, Command | Group] = {
    "prepare": Group(PREPARE, "Make data sets that the data modules read."),
    "convert": Command("noduleforge.convert", "convert", "A set for nnU-Net and MONAI."),
    "inspect": Command("noduleforge.inspect", "inspect", "Look at a data set of CT nodules."),
    "place": Command("noduleforge.place", "place", "Draw requests for nodules in CT."),
    "place-radiographs": Command(
        "noduleforge.place_radiographs", "place_radiographs", "Draw requests on radiographs."
    ),
    "compare": Command("noduleforge.compare", "compare", "Compare the runs of several arms."),
    "realism": Command("noduleforge.realism", "realism", "Tell synthetic nodules from real ones."),
    "memorization": Command(
        "noduleforge.memorization", "memorization", "Look for copies of training nodules."
    ),
    "export": Command("noduleforge.export.export", "export", "Make a run a model that travels."),
    "configs": Command("noduleforge.shipped_configs", "configs", "Copy the shipped configs."),
    "size": Command("noduleforge.size", "size", "How large a model is, and what a step takes."),
    "doctor": Command("noduleforge.doctor", "doctor", "Say what works here, and what will not."),
    "readers": Group(READERS, "Let readers judge nodules in the browser."),
}

LISTS = {"compare": "runs", "place": "studies", "size": "configs"}
"""Commands that take a list of folders or files, and how their argument is called."""

FOLDERS = {
    "inspect": "root",
    "export": "run",
    "readers serve": "study",
    "readers report": "study",
    "readers machine": "study",
}
"""Commands that take a folder without its option, and how their argument is called."""


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
    command, options = find(words)
    if command is None:
        overview().parse_args(words)  # says what there is, and ends
        return
    name = " ".join(words[: len(words) - len(options)])
    if name in FOLDERS and options and not options[0].startswith("-"):
        options.insert(0, f"--{FOLDERS[name]}")
    with told_in_one_sentence("noduleforge: error", [], (OSError, ValueError)):
        run(command.load(), options, f"noduleforge {name}")


def run(function: Callable[..., Any], options: list[str], name: str) -> None:
    """Call a command's function with its options.

    Args:
        function: of the command.
        options: words after the command's name.
        name: of the command, as it is typed.
    """
    from jsonargparse import auto_cli, auto_parser

    from noduleforge.parser import OneLineParser

    logging.basicConfig(format="%(message)s")
    logging.getLogger("datamodules").setLevel(logging.INFO)  # such as how many rows are left out
    settings: dict[str, Any] = {"as_positional": False, "parser_class": OneLineParser, "prog": name}
    parser = auto_parser(function, **settings)
    if out := parser.parse_args(options).get("out"):
        remove_leftovers(Path(out))
    auto_cli(function, args=options, **settings)


def find(words: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command that the first words name, if any, and the words after them."""
    found = COMMANDS.get(words[0]) if words else None
    if isinstance(found, Group):
        return found.commands.get(words[1]) if words[1:] else None, list(words[2:])
    return found, list(words[1:])


class Overview(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        """Tell the mistake, and where the commands are explained."""
        self.exit(2, f"noduleforge: error: {message} (see {self.prog} --help)\n")


def overview() -> argparse.ArgumentParser:
    """A parser that knows the commands' names alone."""
    parser = Overview("noduleforge", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, known in COMMANDS.items():
        own = commands.add_parser(name, help=known.help, description=known.help)
        if isinstance(known, Group):
            members = own.add_subparsers(title="commands", required=True, metavar="COMMAND")
            for member, command in known.commands.items():
                members.add_parser(member, help=command.help)
    return parser


if __name__ == "__main__":
    main()
