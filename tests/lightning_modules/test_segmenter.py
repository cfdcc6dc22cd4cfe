"""The segmenter learns to outline, by the config's own means."""

from pathlib import Path

import pandas as pd
from lightning import Trainer

from callbacks import SegmentationMetrics
from datamodules.batch import Roi
from datamodules.collections import LIDCCollection
from datamodules.real_and_synthetic import RealAndSyntheticDataModule
from lightning_modules import NoduleSegmenter


def test_it_outlines_nodules_that_are_brighter_than_lung(store: Path, tmp_path: Path) -> None:
    settings = {"roi": Roi(16), "augmented_copies": 2, "cache_dir": tmp_path / "cache"}
    data = RealAndSyntheticDataModule(LIDCCollection(store), **settings)
    trainer = Trainer(
        default_root_dir=tmp_path / "run", accelerator="cpu", max_steps=240, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, callbacks=[SegmentationMetrics()],
    )  # fmt: skip
    model = NoduleSegmenter(Roi(16), width=8, learning_rate=1e-2, warmup_steps=5)
    trainer.test(model, data, verbose=False)
    before = pd.read_csv(tmp_path / "run/dice.csv").set_index("group").loc["all", "dice"]
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    table = pd.read_csv(tmp_path / "run/dice.csv").set_index("group")
    assert before < 0.5
    assert table.loc["all", "dice"] > 0.8
    assert len(pd.read_csv(tmp_path / "run/segmentation.csv")) == table.loc["all", "nodules"]
    assert (tmp_path / "run/outlines.png").stat().st_size > 5_000
