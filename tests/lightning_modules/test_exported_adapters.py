"""Adapters that travel: folders that plain peft reads, and one card for all."""

import shutil
from pathlib import Path

import pytest
import torch
from adapted import CONFIG as ADAPTER
from adapted import grow
from huggingface_hub import ModelCard
from peft import PeftModel

from lightning_modules.core.adapters import add_adapter, load_adapter, save_adapter
from lightning_modules.core.synthesizer import Synthesizer
from noduleforge.cli import main


def test_adapters_travel_as_peft_reads_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "adapted", tmp_path / "both"
    synthesizer = Synthesizer.load(base)
    for seed, name in enumerate(("calcified", "irregular")):
        add_adapter(synthesizer.network, name, ADAPTER)
        grow(synthesizer.network, name, seed)
        save_adapter(synthesizer.network, name, run / "adapters" / name, ["key"])
    (run / "checkpoints").mkdir()
    shutil.copy(base, run / "checkpoints/last.ckpt")
    main(["export", str(run), "--out", str(out)])
    assert {p.name for p in out.iterdir()} == {"calcified", "irregular", "README.md", "LICENSE"}
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft"

    ours, theirs = (Synthesizer.load(base).network for _ in range(2))
    load_adapter(ours, "irregular", out / "irregular")
    plain = PeftModel.from_pretrained(theirs.unet, str(out / "irregular"))
    inputs = torch.randn(1, ours.unet.base_model.model.conv_in.conv.in_channels, 8, 8)
    tokens = torch.zeros(1, 1, ours.config.token_dim)
    embedding = torch.zeros(1, ours.config.embedding_dim)
    question = (inputs, torch.tensor([5]), tokens, embedding)
    with torch.no_grad():
        assert torch.equal(plain(*question), ours.unet(*question))

    with pytest.raises(FileNotFoundError, match=r"both holds no config\.json: give a checkpoint"):
        Synthesizer.load(out)
    damaged = run / "adapters/calcified/adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = ["export", str(run), "--out", str(tmp_path / "again")]
    with pytest.raises(SystemExit) as ended:
        main(again)
    assert ended.value.code == 2
    assert "differs from its checksum" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
