"""Every CT config takes a shrunken step, and one leads to the next."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
import yaml
from overlays import CONFIGS, shipped
from scipy import ndimage
from small_configs import is_stage2, shrunken

from datamodules.batch import Roi
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from lightning_modules.cli import main

pytestmark = pytest.mark.slow  # every test here trains

OTHER = ("cxr", "insert", "downstream", "logger")


@pytest.mark.parametrize(
    "name", [name for name in shipped() if not any(other in name for other in OTHER)]
)
def test_config_takes_a_shrunken_step(name: str, tmp_path: Path, store: Path) -> None:
    """Fit, resume, test and predict with everything that the config chooses but its size."""
    root = tmp_path / "run"
    stage2 = is_stage2(name)
    config = [*shrunken(name, tmp_path, store), "--trainer.default_root_dir", str(root)]
    main(["fit", *config])
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= {p.name for p in root.iterdir()}
    main(["fit", *config, "--trainer.max_steps", "2"])
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    main(["test", *config])
    assert (root / "test.csv").is_file()
    # the second command went on with the first one's log
    assert (
        pd.read_csv(root / "metrics.csv")["train/" + ("diffusion" if stage2 else "l1")].count() == 2
    )
    if stage2:
        main(["predict", *config])
        check_synthesis(root)


def test_nodules_are_inserted_into_a_study(tmp_path: Path, store: Path) -> None:
    config = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *config, "--trainer.default_root_dir", str(tmp_path / "run")])
    array = np.random.default_rng(0).integers(-950, -700, (40, 48, 48)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", Volume(array, (1.0, 0.8, 0.8), (0.0,) * 3, np.eye(3)))
    rows = ["study,z,y,x,diameter_mm,subtype", "a.nii.gz,20,24,24,6,ground-glass"]
    (tmp_path / "requests.csv").write_text("\n".join(rows))
    small = {
        "data": {"init_args": {"requests": str(tmp_path / "requests.csv")}},
        "trainer": {"default_root_dir": str(tmp_path / "inserted"), "accelerator": "cpu"},
        "ckpt_path": str(tmp_path / "run/checkpoints/last.ckpt"),
    }
    (tmp_path / "insert.yaml").write_text(yaml.safe_dump(small))
    overlays = [str(CONFIGS / "ct/insert.yaml"), str(tmp_path / "insert.yaml")]
    main(["predict", *config, *[word for path in overlays for word in ("--config", path)]])
    table = pd.read_csv(tmp_path / "inserted/nodules.csv")
    assert table["status"].tolist() == ["inserted"]
    written = read_volume(tmp_path / "inserted" / table["image"][0]).array
    assert 0 < (written != array).mean() < 0.05


def test_a_checkpoint_changes_no_setting_of_another_arm(tmp_path: Path, store: Path) -> None:
    full = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *full, "--trainer.default_root_dir", str(tmp_path / "full")])
    overlay = ["--config", str(CONFIGS / "ablations/ct/conditioning_only.yaml")]
    arm = [*full, *overlay, "--trainer.default_root_dir", str(tmp_path / "arm")]
    checkpoint = str(tmp_path / "full/checkpoints/last.ckpt")
    main(["fit", *arm, "--trainer.max_steps", "2", "--ckpt_path", checkpoint])
    logged = {run: set(pd.read_csv(tmp_path / run / "metrics.csv")) for run in ("full", "arm")}
    assert logged["full"] - logged["arm"] == {"train/histogram"}


def check_synthesis(root: Path) -> None:
    """The volumes are the sources outside the margin, lie where they lie, and are a data set."""
    figures = pd.read_csv(root / "generation.csv")
    assert set(figures["metric"]) == {"histogram", "diversity"}
    assert (root / "synthetic.png").stat().st_size > 10_000
    table = pd.read_csv(root / "synthetic/nodules.csv", index_col="nodule_id")
    assert table["synthetic"].all()
    config = yaml.safe_load((root / "config.yaml").read_text())
    settings = config["data"]["init_args"] | {"roi": Roi(**config["model"]["init_args"]["roi"])}
    source = LIDCDataModule(**settings)
    source.setup("predict")
    assert len(table) == len(source.datasets["predict"])
    for item in source.datasets["predict"]:
        row = table.loc[f"synthetic-{item['name']}"]
        assert row["patient_id"] == item["patient_id"]
        image = read_volume(root / "synthetic" / row["image"])
        mask = read_volume(root / "synthetic" / row["mask"])
        header = sitk.ReadImage(root / "synthetic" / row["image"])
        assert "synthetic" in header.GetMetaData("descrip")
        assert image.array.dtype == np.int16
        assert image.grid.matches(mask.grid)
        np.testing.assert_allclose(image.origin_mm, item["origin_mm"], atol=1e-3)
        np.testing.assert_allclose(image.spacing_mm, item["spacing_mm"], atol=1e-5)
        np.testing.assert_array_equal(mask.array, item["mask"][0])
        margin = ndimage.binary_dilation(mask.array, np.ones((7, 7, 7)))
        np.testing.assert_array_equal(image.array[~margin], item["image"][0].numpy()[~margin])
    data = LIDCDataModule(root / "synthetic", roi=Roi(16), fractions=(0, 0, 1), cache_dir=None)
    data.setup("test")
    assert len(data.datasets["test"]) == len(table)
