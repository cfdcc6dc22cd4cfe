"""Synthetic nodules of CT from their generator to a classifier and a segmenter."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from overlays import CONFIGS, arguments
from small_configs import SHRUNKEN, shrunken

from datamodules.batch import SUBTYPES
from datamodules.patients import patient_key
from lightning_modules.cli import main
from noduleforge.cli import main as noduleforge

pytestmark = pytest.mark.slow  # every test here trains


def test_synthetic_nodules_join_the_training_of_a_classifier(tmp_path: Path, store: Path) -> None:
    """Synthesized from training patients, used in every arm, refused in another split."""
    config = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *config, "--trainer.default_root_dir", str(tmp_path / "run")])
    made = tmp_path / "made"
    begin = ["--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt")]
    synthesize = ["--config", str(CONFIGS / "downstream/ct_synthetic.yaml"), *begin]
    synthesize += ["--trainer.default_root_dir", str(made), "--data.init_args.batch_size", "8"]
    main(["predict", *config, *synthesize, "--data.init_args.predict_every_subtype", "true"])
    table = pd.read_csv(made / "synthetic/nodules.csv")
    patients = set(pd.read_csv(store / "nodules.csv")["patient_id"])
    trained = json.loads((made / "synthetic/generator.json").read_text())["training_patients"]
    known = {patient_key(patient): patient for patient in patients}
    assert {known[key] for key in trained} == set(table["patient_id"])
    assert len(table) == 3 * 4 * 2 * len(trained)
    assert set(table["subtype"]) == set(SUBTYPES)

    small = {
        "trainer": SHRUNKEN["trainer"],
        "data": {
            "init_args": {
                "batch_size": 4,
                "cache_dir": str(tmp_path / "cache"),
                "real": {"init_args": {"root": str(store), "select": None}},
            }
        },
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    of_arm = ["--data.init_args.synthetic.init_args.root", str(made / "synthetic")]
    for arm in ("synthetic_1", "equal_subtypes", "weighted_synthetic", "weighted"):
        words = arguments(f"downstream/augmentation/{arm}.yaml")
        words += ["--config", str(tmp_path / "small.yaml"), *(of_arm if arm != "weighted" else [])]
        words += ["--trainer.default_root_dir", str(tmp_path / f"arms/{arm}-0")]
        main(["fit", *words])
        main(["test", *words])
    runs = [str(path) for path in (tmp_path / "arms").iterdir()]
    compared = ["compare", *runs, "--reference", "weighted", "--out", str(tmp_path / "comparison")]
    noduleforge(compared)
    assert "auroc/minority" in (tmp_path / "comparison/comparison.md").read_text()

    synthetic = ["--config", str(CONFIGS / "downstream/augmentation/synthetic_1.yaml")]
    words = [*arguments("downstream/ct_segmentation.yaml"), *synthetic]
    words += ["--config", str(tmp_path / "small.yaml"), *of_arm]
    words += ["--trainer.default_root_dir", str(tmp_path / "segmented-0")]
    main(["fit", *words])
    main(["test", *words])
    assert pd.read_csv(tmp_path / "segmented-0/segmentation.csv")["dice"].between(0, 1).all()

    words = arguments("downstream/augmentation/synthetic_1.yaml")
    words += ["--config", str(tmp_path / "small.yaml"), *of_arm]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--data.init_args.split_seed", "1"])
