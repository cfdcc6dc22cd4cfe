"""Checkpoints, adapters and generators that are damaged, cut short, of others, or no such thing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faulty import Case, cases
from faulty_edits import Spoil, both, content, cut, flip, folder, move, nothing, remove, text

LAST, RUN = "run/checkpoints/last.ckpt", "in/run/checkpoints/last.ckpt"
STAGE_1 = "stage1/checkpoints/last.ckpt"
BASE = "base/checkpoints/last.ckpt"


def saved(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Write a checkpoint anew with other content."""

    def spoil(root: Path) -> None:
        checkpoint = torch.load(root / name, weights_only=True)
        torch.save(change(checkpoint) or checkpoint, root / name)

    return spoil


DAMAGE: list[tuple[str, Callable[[str], Spoil]]] = [
    ("missing", remove),
    ("a folder", folder),
    ("empty", lambda name: content(name, lambda whole: b"")),
    ("cut in half", cut),
    ("cut by a byte", lambda name: content(name, lambda whole: whole[:-1])),
    ("a text", lambda name: text(name, "weights\n" * 100)),
    ("zeros", lambda name: content(name, lambda whole: bytes(len(whole)))),
    ("a flipped bit at a fifth", lambda name: flip(name, 0.2)),
    ("a flipped bit in the middle", lambda name: flip(name, 0.5)),
    ("a flipped bit near the end", lambda name: flip(name, 0.9)),
    (
        "random bytes in the middle",
        lambda name: content(
            name, lambda w: w[: len(w) // 2] + b"\x5a" * 4000 + w[len(w) // 2 + 4000 :]
        ),
    ),
    ("no checkpoint", lambda name: saved(name, lambda checkpoint: {"weights": 1})),
]
CHECKPOINTS = [
    Case(f"{what}: {name}", inputs, spoil(file), ("last.ckpt",))
    for inputs, file, what in (
        ("resume", LAST, "a run's own checkpoint"),
        ("test", LAST, "a checkpoint to be tested"),
        ("diffusion", STAGE_1, "stage 1"),
        ("insert", LAST, "a model"),
        ("adapters", BASE, "a base"),
    )
    for name, spoil in DAMAGE
    if inputs in ("resume", "diffusion") or name in ("missing", "a flipped bit in the middle")
]


def obeyed(checkpoint: dict[str, Any]) -> None:
    """Hyper-parameters that another's config would be overridden by."""
    checkpoint["hyper_parameters"] = {"learning_rate": 55.0, "_class_path": "victim.Model"}


def as_configured(out: Path) -> None:
    """The config's learning rate is the one that was used."""
    checkpoint = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] < 1


OF_OTHERS = [
    Case("hyper-parameters in a checkpoint", "resume", saved(LAST, obeyed), right=as_configured),
    Case(
        "the one before the last",
        "resume",
        flip(LAST),
        ("previous-last.ckpt", "move it"),
    ),
    Case(
        "stage 2 as stage 1 of another window",
        "diffusion",
        nothing,
        ("window",),
        "--model.init_args.head.init_args.window [-900,300]",
    ),
    Case(
        "stage 1 of other channels",
        "diffusion",
        nothing,
        ("codec", "last.ckpt"),
        "--model.init_args.codec.channels [8,16]",
    ),
    Case(
        "a model of another network",
        "insert",
        nothing,
        (),
        "--model.init_args.unet.channels [8,24]",
    ),
    Case(
        "a model of another ROI", "insert", nothing, ("roi",), "--model.init_args.roi.spacing_mm 2"
    ),
    Case(
        "stage 1 in place of a model",
        "diffusion",
        nothing,
        ("checkpoint",),
        f"--model.init_args.init_from in/{STAGE_1} --model.init_args.autoencoder null",
    ),
]


@cases(CHECKPOINTS)
def test_damaged_checkpoints_are_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


@cases(OF_OTHERS)
def test_checkpoints_that_do_not_fit_are_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


FOLDER = "adapters/calcified"
CONFIG, WEIGHTS = f"{FOLDER}/adapter_config.json", f"{FOLDER}/adapter_model.safetensors"
PATIENTS = f"{FOLDER}/patients.json"


def config(**changed: Any) -> Spoil:
    """Change an adapter's settings."""

    def spoil(root: Path) -> None:
        path = root / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return spoil


ADAPTERS = [
    Case(f"an adapter: {name}", "adapters", spoil, ("adapters/calcified",))
    for name, spoil in (
        ("no folder", remove(FOLDER)),
        ("an empty folder", folder(FOLDER)),
        ("no settings", remove(CONFIG)),
        ("settings cut in half", cut(CONFIG)),
        ("empty settings", text(CONFIG, "")),
        ("settings that are a list", text(CONFIG, "[]")),
        ("settings that are no text", content(CONFIG, lambda w: b"\xff\xfe\x00" + w)),
        ("layers as a regular expression", config(target_modules="(a+)+$")),
        ("another rank", config(r=7)),
        ("a rank of words", config(r="many")),
        ("another kind", config(peft_type="IA3")),
        ("an unknown kind", config(peft_type="NONE")),
        ("layers that are not there", config(target_modules=["nowhere"])),
        ("no weights", remove(WEIGHTS)),
        ("empty weights", text(WEIGHTS, "")),
        ("weights cut in half", cut(WEIGHTS)),
        ("a flipped bit in weights", flip(WEIGHTS)),
        ("a flipped bit in their header", flip(WEIGHTS, 0.01)),
        ("weights that are a text", text(WEIGHTS, "weights" * 100)),
        ("patients that are a list of nobody", text(PATIENTS, "[]")),
        ("patients cut in half", cut(PATIENTS)),
        ("patients that are no text", content(PATIENTS, lambda w: b"\xff\xfe")),
        ("a flipped bit in patients", flip(PATIENTS, 0.6, 1)),
        (
            "another adapter's weights",
            both(remove(FOLDER), move(BASE, WEIGHTS), text(CONFIG, "{}")),
        ),
    )
]


@cases(ADAPTERS)
def test_faulty_adapters_are_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


GENERATOR = "synthetic/generator.json"
GENERATORS = [
    Case(f"a generator: {name}", "classifier", spoil, ("generator.json",))
    for name, spoil in (
        ("missing", remove(GENERATOR)),
        ("empty", text(GENERATOR, "")),
        ("cut in half", cut(GENERATOR)),
        ("a list", text(GENERATOR, "[]")),
        ("nobody", text(GENERATOR, "{}")),
        ("unknown patients", text(GENERATOR, '{"training_patients": ["unknown"]}')),
        ("keys of another site", text(GENERATOR, '{"training_patients": ["ab12-00"]}')),
        ("patients as a number", text(GENERATOR, '{"training_patients": 5}')),
        ("a changed letter", content(GENERATOR, lambda w: w.replace(b"some.ckpt", b"same.ckpt"))),
    )
]


@cases(GENERATORS)
def test_what_does_not_say_whom_it_has_seen_is_named(
    case: Case, attempt: Callable[[Case], None]
) -> None:
    attempt(case)
