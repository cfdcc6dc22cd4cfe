"""Sizes without values are those of real tensors; configs are laid over each other as ever."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from overlays import CONFIGS
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batch import Roi
from lightning_modules.core.saved_tensors import saved_bytes
from noduleforge.cli import main
from noduleforge.size import ON_CPU, build, make_batch, measure, with_bases

TINY = {
    "model": {
        "init_args": {
            "roi": {"size": 16, "spacing_mm": 1.0},
            "transformer": {"width": 24, "depth": 2, "heads": 2},
        }
    },
    "trainer": {"precision": "32-true"},
}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_takes_what_a_real_one_takes(precision: str) -> None:
    said = [*with_bases([CONFIGS / "cxr/transformer.yaml"]), TINY]
    said.append({"trainer": {"precision": precision}})
    found = measure(said, [5])
    torch.manual_seed(0)
    model = build(said)
    model.codec.scale_factor.fill_(1)
    model.codec.shift.fill_(0)
    batch = make_batch(model, Roi(16), 5)
    kept: list[Any] = []

    def step() -> Any:
        with torch.autocast("cpu") if precision != "32-true" else nullcontext():
            kept.append(model.training_step(batch, 0))

    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        activations = saved_bytes(step, [*model.parameters(), *model.buffers()])
        kept[0].backward()
    (ours,) = found.steps
    assert (ours.flop, ours.activations) == (counter.get_total_flops(), activations)
    weights = [*model.parameters()]
    assert found.weights == 4 * sum(p.numel() for p in weights)
    assert found.parameters["denoiser"] == sum(p.numel() for p in model.denoiser.parameters())
    trained = sum(p.numel() for p in weights if p.grad is not None)
    assert (found.trained, found.training) == (trained, 12 * trained)


def test_the_command_knows_paper_as_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["size", str(CONFIGS / "cxr/transformer_xl2.yaml"), "--batch_sizes", "[1]"])
    lines = capsys.readouterr().out.splitlines()
    assert "denoiser 674.89 M" in lines[1]
    batch, flop, *_ = lines[-1].split("|")
    # DiT's paper counts 118.64 multiplications and additions of a forward pass as one each
    assert (int(batch), float(flop)) == (1, pytest.approx(3 * 2 * 118.64e9, rel=0.02))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part", "parameters"),
    [
        ("ct/maisi.yaml", "codec", 20_944_897),
        ("cxr/stable_diffusion.yaml", "codec", 83_653_863),
        ("cxr/zip.yaml", "denoiser", None),
        ("downstream/cxr_detection.yaml", "network", None),
        ("downstream/ct_classification.yaml", "network", None),
        ("downstream/ct_segmentation.yaml", "network", None),
        ("cxr/labels.yaml", "denoiser", None),
    ],
)
def test_every_kind_of_model_has_a_size(name: str, part: str, parameters: int | None) -> None:
    found = measure(with_bases([CONFIGS / name]), [1])
    assert found.parameters[part] == (parameters or found.parameters[part])
    assert all(step.flop > 0 and step.activations > 0 for step in found.steps)


def test_configs_come_after_what_they_are_laid_over(tmp_path: Path) -> None:
    large = CONFIGS / "cxr/diffusion_large.yaml"
    names = ("cxr/diffusion.yaml", "cxr/diffusion_large.yaml", "cxr/adapter.yaml")
    expected = [yaml.safe_load((CONFIGS / name).read_text()) for name in names]
    assert with_bases([large, CONFIGS / names[2]]) == expected
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml is not a file"):
        with_bases([tmp_path / "absent.yaml"])
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="has no sections"):
        with_bases([tmp_path / "a.yaml"])


def test_what_has_no_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["downstream/ct_copy_paste.yaml"], "CopyPaste has no parameters"),
        (["cxr/transformer.yaml", "--batch_sizes", "[0]"], "give numbers of 1 or more"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["size", str(CONFIGS / words[0]), *words[1:]])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
