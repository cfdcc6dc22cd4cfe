"""What is saved when, and how training stops."""

import multiprocessing
import os
import signal
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import checkpointing
from callbacks.checkpointing import Checkpoints


class Line(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return ((self.weight - batch) ** 2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing is measured."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)


class Does(Callback):
    """Does something at some step, in a hook that is named."""

    def __init__(self, hook: str, step: int, what: Callable[[], None]) -> None:
        def at_step(trainer: Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                what()

        setattr(self, hook, at_step)


def send(number: int, times: int = 1) -> Callable[[], None]:
    """A function that sends this process a signal."""
    return lambda: [os.kill(os.getpid(), number) for _ in range(times)] and None


def fit(root: Path, *others: Callback, steps: int = 7, saved: Any = None, **settings: Any) -> Line:
    """Train on 20 equal items, an epoch of 5 batches, or go on from the last checkpoint."""
    last = root / "last.ckpt"
    checkpoints = Checkpoints(
        **(saved or {"every_n_train_steps": 5}),
        dirpath=root, save_last=True, save_top_k=0, enable_version_counter=False,
    )  # fmt: skip
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[*others, checkpoints], logger=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    line = Line()
    items = torch.ones(20, 1)
    trainer.fit(
        line, DataLoader(items, 4), DataLoader(items, 4), ckpt_path=last if last.is_file() else None
    )
    return line


def saved_step(root: Path) -> int:
    step: int = torch.load(root / "last.ckpt", weights_only=True)["global_step"]
    return step


def test_the_last_step_is_saved(tmp_path: Path) -> None:
    """Lightning leaves out those after the last multiple of every_n_train_steps."""
    fit(tmp_path / "steps")
    assert saved_step(tmp_path / "steps") == 7
    fit(tmp_path / "epochs", saved={"every_n_train_steps": 3}, steps=-1, max_epochs=2)
    assert saved_step(tmp_path / "epochs") == 10
    stop = Does("on_train_batch_end", 3, lambda: None)
    stop.on_train_batch_end = lambda t, *_: setattr(t, "should_stop", t.global_step == 3)  # type: ignore[attr-defined]
    fit(tmp_path / "stopped", stop)
    assert saved_step(tmp_path / "stopped") == 3


class Saves(Callback):
    """Remembers the steps at which a checkpoint was written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(("accumulated", "expected"), [(1, [3, 6, 9, 10]), (2, [2, 4, 5])])
def test_time_saves_too(
    accumulated: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch takes a minute, and a checkpoint 2.5: between optimizer steps there is none."""
    clock = [0.0]

    def tick() -> None:
        clock[0] += 60

    class Minutes(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            tick()

    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: clock[0])
    saves = Saves()
    settings = {"every_minutes": 2.5, "every_n_train_steps": 1000}
    fit(
        tmp_path, Minutes(), saves, steps=10 // accumulated, saved=settings,
        accumulate_grad_batches=accumulated,
    )  # fmt: skip
    assert saves.steps == expected


def test_an_interval_has_to_be_above_0() -> None:
    with pytest.raises(ValueError, match="every_minutes is 0: give more than 0"):
        Checkpoints(every_minutes=0)
    assert Checkpoints(every_n_train_steps=9).interval == "9 steps or 5 minutes"
    assert Checkpoints(every_minutes=float("inf"), every_n_train_steps=9).interval == "9 steps"


def test_other_intervals_count_when_a_run_goes_on(tmp_path: Path) -> None:
    fit(tmp_path, steps=5)
    saves = Saves()
    with warnings.catch_warnings(record=True) as given:
        fit(tmp_path, saves, steps=12, saved={"every_n_train_steps": 3})
    assert saves.steps == [6, 9, 12]
    assert not [one for one in given if "callbacks" in str(one.message)]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SIGTERMException), (signal.SIGINT, SystemExit)]
)
@pytest.mark.parametrize("step", [2, 5])
def test_a_signal_saves_the_step_that_is_being_taken(
    number: int,
    raised: type[BaseException],
    step: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the middle of an epoch and at its end; it goes on as if it had not been stopped."""
    before = signal.getsignal(number)
    straight = fit(tmp_path / "straight")
    ask = Does("on_before_backward", step - 1, send(number))
    with pytest.raises(raised), caplog.at_level("INFO"):
        fit(tmp_path / "run", ask)
    assert saved_step(tmp_path / "run") == step
    assert f"Stopped at step {step}; step {step} is saved: run the same command" in caplog.text
    assert signal.getsignal(number) == before
    assert torch.equal(fit(tmp_path / "run").weight, straight.weight)


def test_control_c_again_stops_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ask = Does("on_before_backward", 6, send(signal.SIGINT, 2))
    with pytest.raises(SystemExit), caplog.at_level("INFO"):
        fit(tmp_path, ask)
    assert saved_step(tmp_path) == 5
    assert "Control-C again stops at once" in capfd.readouterr().err
    assert "Stopped at step 6; step 5 is saved: run the same command again" in caplog.text


def test_a_validation_is_not_waited_for(tmp_path: Path) -> None:
    class Counts(Callback):
        batches = 0

        def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
            self.batches += not trainer.sanity_checking

    counts = Counts()
    ask = Does("on_validation_batch_end", 5, send(signal.SIGTERM))
    with pytest.raises(SIGTERMException):
        fit(tmp_path, ask, counts, steps=20)
    assert counts.batches == 1
    assert saved_step(tmp_path) == 5


@pytest.mark.parametrize(
    ("hook", "step", "told"),
    [
        ("setup", 0, "before the first step: run the same command again."),
        ("on_fit_start", 0, "before the first step: run the same command again."),
        ("on_before_backward", 1, "at step 1 before anything was saved: run the same command"),
    ],
)
def test_control_c_without_a_checkpoint(
    hook: str, step: int, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit), caplog.at_level("INFO"):
        fit(tmp_path, Does(hook, step, interrupt))
    assert f"Stopped {told}" in caplog.text


def _fit_as(rank: int, port: int, root: Path) -> NoReturn:
    """Be one of two processes, of which the first alone is asked to stop."""

    class Ask(Callback):
        def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == checkpointing.AGREED_EVERY_STEPS - 3 and rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in places.items()})
    try:
        fit(root, Ask(), steps=40, strategy="ddp", devices=2)
    except SIGTERMException:
        os._exit(128 + signal.SIGTERM)
    os._exit(0)


def test_the_first_process_decides_for_all(tmp_path: Path) -> None:
    """Both processes stop after the same step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fit_as, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for one in both:
        one.start()
    for one in both:
        one.join(timeout=120)
    assert [one.exitcode for one in both] == [128 + signal.SIGTERM] * 2
    assert saved_step(tmp_path) == checkpointing.AGREED_EVERY_STEPS
