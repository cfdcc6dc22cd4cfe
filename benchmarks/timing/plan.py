"""Which measurements there are for a machine, and at which sizes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from timing.beside import peer_synthesis, peer_training, whole_volume
from timing.clock import Row, facts
from timing.insertion import insertion
from timing.models import LARGE, SMALL, TINY
from timing.networks import network
from timing.overheads import adapters, overheads
from timing.synthesis import synthesis
from timing.training import training


@dataclass(frozen=True)
class Measurement:
    """One thing to measure, in a process of its own.

    Attributes:
        kind: the table that its rows go to.
        function: takes a `Machine` and the arguments; gives rows.
        arguments: of the function.
        share: of the time, next to the others'.
        least: seconds below which it is not begun.
    """

    kind: str
    function: Callable[..., Iterable[Row]]
    arguments: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    least: float = 5.0


CONTIGUOUS = {"unet": {"checkpointing": False, "channels_last": False}}
LAST = {"unet": {"checkpointing": False, "channels_last": True}}
CHECKPOINTED = {"unet": {"checkpointing": True, "channels_last": True}}

SMALL_TRAINING = {"4.8 M, contiguous": CONTIGUOUS, "4.8 M, channels-last": LAST}
LARGE_TRAINING = {
    "201 M, channels-last, checkpointing": CHECKPOINTED,
    "201 M, channels-last": LAST,
    "201 M, contiguous": CONTIGUOUS,
}


MACHINE = Measurement("machine", facts, share=0.2, least=1)


def _compiled(mode: str) -> dict[str, Any]:
    return {"unet": {"compile": mode}, "what": f"compiled, {mode}, to eager"}


def gpu() -> list[Measurement]:
    """What a card of 80 GB takes in 240 s; the most important first."""
    small = {"configs": SMALL, "batch": 32}
    large = {"configs": LARGE, "batch": 4}
    plain = {"configs": LARGE, "changes": LAST}
    scan = (300, 512, 512)
    return [
        MACHINE,
        *[
            Measurement("training", training, {**small, "changes": changes, "what": what}, 1, 12)
            for what, changes in SMALL_TRAINING.items()
        ],
        *[
            Measurement("training", training, {**large, "changes": changes, "what": what}, 1.5, 15)
            for what, changes in LARGE_TRAINING.items()
        ],
        Measurement("synthesis", synthesis, {"configs": SMALL, "changes": LAST,
            "batches": (1, 8, 32, 128, 512), "what": "4.8 M, 32^3 voxels"}),
        Measurement("synthesis", synthesis, {**plain, "batches": (1, 8, 32),
            "what": "201 M, 96^3 voxels"}),
        Measurement("peers, training", peer_training, {**large, "changes": LAST,
            "images": (256, 2)}),
        Measurement("peers, synthesis", peer_synthesis, plain),
        Measurement("peers, whole volume", whole_volume, {**plain, "sides": (256, 256, 128)}, 1.5),
        Measurement("insertion", insertion, {**plain, "shape": scan, "peer": (304, 512, 512)}),
        Measurement("parts", overheads, {"batch": 32, "changes": LAST}, 0.5),
        Measurement("parts", adapters, {"batch": 32, "changes": LAST}, 0.5),
        *[
            Measurement("network", network, {**small, "changes": LAST, **_compiled(mode)}, 2, 20)
            for mode in ("default", "reduce-overhead")
        ],
        Measurement("network", network, {**large, "changes": LAST, **_compiled("default")}, 3, 20),
    ]  # fmt: skip


def cpu() -> list[Measurement]:
    """What two cores take in some minutes: the small network, a smaller volume for the peer."""
    small = {"configs": SMALL, "changes": CONTIGUOUS}
    step = {**small, "batch": 8}
    return [
        MACHINE,
        *[
            Measurement("training", training, {**step, "changes": changes, "what": what}, 1.5, 20)
            for what, changes in SMALL_TRAINING.items()
        ],
        Measurement("synthesis", synthesis, {**small, "batches": (1, 4, 16),
            "what": "4.8 M, 32^3 voxels"}, 1.5),
        Measurement("peers, training", peer_training, {**step, "images": (256, 2)}, 1.5),
        Measurement("peers, synthesis", peer_synthesis, small, 1.5),
        Measurement("peers, whole volume", whole_volume, {**small, "sides": (256, 256, 128)}, 2),
        Measurement("insertion", insertion, {**small, "shape": (300, 512, 512),
            "peer": (64, 128, 128)}),
        Measurement("parts", overheads, {"batch": 8, "changes": CONTIGUOUS}),
        Measurement("parts", adapters, {"batch": 8, "changes": CONTIGUOUS}),
        Measurement("network", network, {**step, "unet": {"channels_last": True},
            "what": "channels-last, to contiguous"}, 0.7),
        Measurement("network", network, {**step, **_compiled("default")}, 3, 60),
    ]  # fmt: skip


def tiny() -> list[Measurement]:
    """The same at sizes for a test; nothing is compiled."""
    small = {"configs": SMALL, "changes": TINY}
    step = {**small, "batch": 2}
    return [
        MACHINE,
        Measurement("training", training, {**step, "what": "tiny"}, 3),
        Measurement("synthesis", synthesis, {**small, "batches": (1, 2), "what": "tiny"}),
        Measurement("peers, training", peer_training, {**step, "images": (32, 2)}),
        Measurement("peers, synthesis", peer_synthesis, small, 2),
        Measurement("peers, whole volume", whole_volume, {**small, "sides": (16, 16, 32)}),
        Measurement("insertion", insertion, {**small, "shape": (32, 64, 64),
            "peer": (16, 32, 32)}),
        Measurement("parts", overheads, {"batch": 2, "changes": TINY}),
        Measurement("network", network, {**step, "unet": {"channels_last": True},
            "what": "channels-last, to contiguous"}),
        Measurement("network", network, {**step, **_compiled("default")}, 1, 1000),
    ]  # fmt: skip


PLANS: dict[str, Callable[[], list[Measurement]]] = {"gpu": gpu, "cpu": cpu, "tiny": tiny}
