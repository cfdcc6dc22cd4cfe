"""The `lightning` command: stock LightningCLI over this project's modules."""

import logging
import signal
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import lightning
import torch
import yaml
from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import callbacks
import datamodules.modules  # what configs name
import lightning_modules
import noduleforge
from callbacks.checkpointing import Checkpoints
from callbacks.finite_losses import FiniteLosses
from callbacks.guards import Guards
from callbacks.overview import Overview
from callbacks.processes import EndsTogether
from callbacks.progress import RunProgress
from datamodules.failures import one_line, refusal, told_in_one_sentence
from datamodules.io.whole_files import remove_leftovers
from datamodules.progress import beside_bars
from lightning_modules.checkpoints import WholeCheckpointIO
from lightning_modules.csv_logger import ResumableCSVLogger
from lightning_modules.event_logger import EventLogger
from lightning_modules.loggers_of_others import name_runs, remember_runs
from lightning_modules.precision import fast_precision
from lightning_modules.quiet import hide_noise
from lightning_modules.run_lock import run_locked
from lightning_modules.slurm import check_run_folder, slurm_environment, told_once

PACKAGES = [
    Path(str(package.__file__)).parent
    for package in (callbacks, datamodules, lightning_modules, noduleforge, lightning)
]
"""Whose errors are sentences: this project's, and those of Lightning, such as on devices."""


class OneLineParser(LightningArgumentParser):
    """Answers a mistake with one line that names it, and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what this project refuses as it says it; leave out lines on types and values."""
        if ex is not None:
            message = refusal(ex, PACKAGES) or message
        sys.stderr.write(f"error: {one_line(message)} (see lightning fit --help)\n")
        raise SystemExit(2) from ex


def one_seed(seed: bool | int | None, part: Namespace) -> int:
    """The seed of a model or data module: that of `seed_everything`.

    Args:
        seed: of `seed_everything`.
        part: what the config says of the model or of the data. Its own seed, where the class has
            one, is 0 unless somebody gave it.

    Raises:
        ValueError: If `seed` is no number, or `part` has another one.
    """
    if seed is None or isinstance(seed, bool):
        message = f"seed_everything is {seed}, expected a number, so that the run can be repeated."
        raise ValueError(message)
    if (own := part.get("init_args", {}).get("seed", 0)) not in (0, seed):
        message = (
            f"init_args.seed of {part.class_path} is {own}, expected that of seed_everything "
            f"({seed}), which it follows: give --seed_everything {own} alone."
        )
        raise ValueError(message)
    return seed


def check_configs(args: ArgsType) -> None:
    """Name a config that is no YAML of sections, which messages on its lines do not.

    Args:
        args: words of the command line.

    Raises:
        ValueError: If it is none, or no text.
    """
    words = args if isinstance(args, list) else []
    for option, name in pairwise(words):
        if option not in ("--config", "-c") or not Path(name).is_file():
            continue
        try:
            sections: object = yaml.safe_load(Path(name).read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            message = f"The config {name} is no YAML in UTF-8 ({error}): correct it."
            raise ValueError(message) from error
        if not isinstance(sections, dict):
            message = f"The config {name} has no sections such as model and data: write them."
            raise ValueError(message)


class NoduleForgeCLI(LightningCLI):
    """Everything that a run writes goes to its own `trainer.default_root_dir`.

    Attributes:
        until_end: what is given back when the command ends, however it ends.
    """

    until_end: ExitStack

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One seed for all; a group for checkpoints, so that overlays can change one value."""
        # where a class has no seed, its link does nothing
        for part in ("model", "data"):
            target = f"{part}.init_args.seed"
            parser.link_arguments(("seed_everything", part), target, compute_fn=one_seed)
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "checkpoint.save_top_k": 0,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments(
            "trainer.default_root_dir",
            "checkpoint.dirpath",
            compute_fn=lambda root: f"{root or 'runs/unnamed'}/checkpoints",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and hide the checkpoint's path meanwhile.

        LightningCLI would read hyper-parameters of that file over the config, and import what they
        name: it looks for the path after this and before `before_instantiate_classes`.
        """
        check_configs(sys.argv[1:] if args is None else args)
        super().parse_arguments(parser, args)
        settings = self.config[self.config.subcommand]
        self.resumed_from, settings.ckpt_path = settings.ckpt_path, None

    def before_instantiate_classes(self) -> None:
        """Put the checkpoint's path back; let no prediction be kept that callbacks have written."""
        settings = self.config[self.subcommand]
        settings.ckpt_path = self.resumed_from
        name_runs(
            settings.trainer.logger, Path(settings.trainer.default_root_dir or "runs/unnamed")
        )
        if self.subcommand == "predict":
            settings.return_predictions = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log into the run's folder, and to the loggers that are given; write checkpoints whole.

        Raises:
            ValueError: If there is no device to run on, or the command runs in the folder already.
        """
        settings = self.config[self.subcommand].trainer
        if str(settings.devices) == "0":
            message = "trainer.devices is 0, expected 1 or more: give their number, or auto."
            raise ValueError(message)
        root = Path(settings.default_root_dir or "runs/unnamed")
        with told_once("SLURM_LOCALID"):
            check_run_folder(root)
        if not getattr(rank_zero_only, "rank", 0):  # before all writing: the others wait for it
            others_write = self.until_end.enter_context(run_locked(root, str(self.subcommand)))
            if not others_write:
                remove_leftovers(root)
        given = self.config_init[self.subcommand].trainer.callbacks or []
        has_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if settings.enable_progress_bar is not False and not has_bar:
            self.trainer_defaults["callbacks"].append(RunProgress())
        if not isinstance(settings.logger, bool):
            # what other commands measure does not mix with training
            table = "metrics.csv" if self.subcommand == "fit" else f"{self.subcommand}.csv"
            others = self.config_init[self.subcommand].trainer.logger or [
                EventLogger(root, name="tensorboard", version="")
            ]
            others = others if isinstance(others, list) else [others]
            # the first says where config.yaml is written
            kwargs["logger"] = [ResumableCSVLogger(root / table), *others]
        if settings.precision is not None:
            kwargs["precision"] = fast_precision(str(settings.precision), str(settings.accelerator))
        kwargs["plugins"] = [*(settings.plugins or []), WholeCheckpointIO()]
        with told_once("SLURM_PROCID"):
            environment = slurm_environment()
            if environment is not None:
                kwargs["plugins"].append(environment)
            trainer = super().instantiate_trainer(**kwargs)
            if environment is not None:  # with one device Lightning does not look
                environment.validate_settings(trainer.num_devices, trainer.num_nodes)
        if not getattr(rank_zero_only, "rank", 0):
            remember_runs(trainer.loggers, root)
        return trainer


def main(args: ArgsType = None) -> None:
    """Run the command; `args` stands for the command line in tests.

    What a user can mend ends with status 2 and one line on stderr, without a traceback.
    """
    # what collections say of what they read, once for all processes
    logging.basicConfig(format="%(message)s")
    hide_noise()
    level = logging.ERROR if getattr(rank_zero_only, "rank", 0) else logging.INFO
    logging.getLogger(datamodules.__name__).setLevel(level)
    # kernels that are exact where they can be, as fast ones as the GPU has
    torch.set_float32_matmul_precision("high")
    try:
        with (
            beside_bars("lightning.pytorch"),
            told_in_one_sentence("error", PACKAGES, (MisconfigurationException,)),
            ExitStack() as NoduleForgeCLI.until_end,
        ):
            NoduleForgeCLI(
                args=args,
                parser_class=OneLineParser,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                trainer_defaults={
                    "callbacks": [Overview(), Guards(), FiniteLosses(), EndsTogether()],
                    "enable_model_summary": False,  # the overview has what matters
                },
            )
    except SIGTERMException as stopped:  # would end with status 0, as if it had finished
        raise SystemExit(128 + signal.SIGTERM) from stopped


if __name__ == "__main__":
    main()
