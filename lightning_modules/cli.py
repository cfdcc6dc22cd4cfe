"""The `lightning` command: stock LightningCLI over this project's modules."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

import callbacks  # noqa: F401 (short names in YAML)
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401


class OneLineParser(LightningArgumentParser):
    """Answers a mistake with one line that names it, and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Leave out the lines that only describe types and echo the value."""
        noise = (
            "Does not validate",
            "Subtypes:",
            "Errors:",
            "Given value",
            "- Expected a <class 'N",
        )
        lines = (line.strip() for line in message.splitlines())
        told = " ".join(line.removeprefix("- ") for line in lines if not line.startswith(noise))
        sys.stderr.write(f"error: {told} (see lightning fit --help)\n")
        raise SystemExit(2) from ex


class NoduleForgeCLI(LightningCLI):
    """Everything that a run writes goes to its own `trainer.default_root_dir`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give checkpoints a group of their own, so that overlays can change one value."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
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

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to CSV and TensorBoard in the run's folder unless other loggers are configured."""
        settings = self.config[self.subcommand].trainer
        if settings.logger is None:
            root = settings.default_root_dir or "runs/unnamed"
            keep_metrics(Path(root))
            kwargs["logger"] = [
                CSVLogger(root, name="", version=""),
                TensorBoardLogger(root, name="tensorboard", version=""),
            ]
        return super().instantiate_trainer(**kwargs)


@rank_zero_only
def keep_metrics(root: Path) -> None:
    """Rename the CSV log of an earlier command in this run, which CSVLogger would delete."""
    earlier = root / "metrics.csv"
    if earlier.is_file():
        number = sum(1 for _ in root.glob("metrics-*.csv")) + 1
        earlier.rename(root / f"metrics-{number}.csv")


def main(args: ArgsType = None) -> None:
    """Run the command; `args` stands for the command line in tests."""
    # kernels that are exact where they can be, as fast ones as the GPU has
    torch.set_float32_matmul_precision("high")
    NoduleForgeCLI(args=args, parser_class=OneLineParser, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
