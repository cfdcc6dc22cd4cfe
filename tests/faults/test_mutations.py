"""Bytes of every kind of input changed by chance: refused in one sentence, or still right.

Where a file carries a checksum a change must be refused, or change nothing of the result.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty import Case, Inputs, Verdict, judge
from faulty_edits import content, nothing
from faulty_inputs import INPUTS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """A file whose bytes are changed.

    Attributes:
        inputs: whose it is.
        name: the file.
        examples: how many changes are tried.
        sealed: whether it carries a checksum.
        result: the file of the run that must then be as of the right input.
        told_in: as of `Case`.
        options: more words of the command line.
    """

    inputs: str
    name: str
    examples: int
    sealed: bool = False
    result: str = ""
    told_in: str = ""
    options: str = ""


TARGETS = (
    Target("volumes", "table.csv", 25, result="nodules.csv", told_in="report.csv"),
    Target("volumes", "ct1.mha", 40, True, "nodules.csv", "report.csv"),
    Target("volumes", "ct0.nii.gz", 40, True, "nodules.csv", "report.csv"),
    Target("volumes", "ct2.nrrd", 40, True, "nodules.csv", "report.csv"),
    Target("volumes", "mask1.mha", 20, True, "nodules.csv", "report.csv"),
    Target("lidc", "dicom/1-003-0.dcm", 40, told_in="report.csv"),
    Target("lidc", "xml/069.xml", 40, told_in="report.csv"),
    Target("jsrt", "CLNDAT_EN.txt", 15),
    Target("radiographs", "radiographs.csv", 25),
    Target("runs", "full-1/nodules.csv", 15),
    Target("insert", "requests.csv", 12),
    Target("insert", "run/checkpoints/last.ckpt", 12, True, "nodules.csv"),
    Target("autoencoder", "small.yaml", 15),
    Target("adapters", "adapters/calcified/adapter_config.json", 8, True, "nodules.csv"),
    Target("adapters", "adapters/calcified/adapter_model.safetensors", 8, True, "nodules.csv"),
    Target("adapters", "adapters/calcified/patients.json", 6, True, "nodules.csv"),
)

Mutation = tuple[str, float, bytes]

MUTATIONS = st.tuples(
    st.sampled_from(["replace", "insert", "remove", "cut", "double"]),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=4),
)


def mutated(whole: bytes, how: str, place: float, more: bytes) -> bytes:
    """Change bytes at a share of a file's length."""
    at = int(place * len(whole))
    if how == "cut":
        return whole[:at]
    if how == "double":
        return whole[:at] + whole[at : at + 64] * 2 + whole[at + 64 :]
    rest = whole[at:] if how == "insert" else whole[at + len(more) :]
    return whole[:at] + (b"" if how == "remove" else more) + rest


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            target,
            id=target.name,
            marks=() if target.name == "ct1.mha" else pytest.mark.faults,
        )
        for target in TARGETS
    ],
)
def test_changed_bytes_are_refused_or_right(
    target: Target, inputs: Inputs, tmp_path: Path, count: Callable[..., None]
) -> None:
    def attempt(spoil: Callable[[Path], None]) -> tuple[Verdict, str, bytes]:
        folder = tmp_path / "try"
        shutil.rmtree(folder, ignore_errors=True)
        inputs.copy(target.inputs, folder)
        case = Case("", target.inputs, spoil, (), target.options, target.told_in)
        verdict, shown = judge(case, folder)
        path = folder / "out" / target.result
        return verdict, shown, path.read_bytes() if path.is_file() else b""

    _, _, right = attempt(nothing)
    found: list[Verdict] = []

    @settings(
        max_examples=target.examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(MUTATIONS)
    def change(mutation: Mutation) -> None:
        before = (
            inputs.folder / INPUTS[target.inputs].make.__name__ / "in" / target.name
        ).read_bytes()
        if mutated(before, *mutation) == before:
            return
        verdict, shown, result = attempt(content(target.name, lambda w: mutated(w, *mutation)))
        if verdict == Verdict.SILENT and "nothing was done" not in shown:
            # it is an input still, and of a sealed file the same one
            verdict = Verdict.RIGHT if not target.sealed or result == right else verdict
        found.append(verdict)
        assert verdict in (Verdict.CLEAR, Verdict.RIGHT, Verdict.VAGUE), (
            f"{mutation}\n{verdict}\n{shown}"
        )

    try:
        change()
    finally:
        for verdict in found:
            count(verdict)
    assert found.count(Verdict.VAGUE) <= len(found) // 4, found
