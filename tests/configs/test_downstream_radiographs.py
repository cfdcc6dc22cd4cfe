"""Radiographs with synthetic nodules, and collections of real ones, to a detector."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from overlays import CONFIGS, arguments
from small_configs import SHRUNKEN, SMALL_RADIOGRAPHS, SMALL_UNET, shrink, write_jsrt

from lightning_modules.cli import main
from noduleforge.cli import main as noduleforge

pytestmark = pytest.mark.slow  # every test here trains


def test_synthetic_radiographs_join_the_training_of_a_detector(
    tmp_path: Path,
    store: Path,
    radiographs: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Inserted into radiographs of training patients, used in the arms, refused in another
    split."""
    split = {"fractions": [0.5, 0.2, 0.3], "split_seed": 4}
    background_radiographs = {
        "class_path": "ChestXray14Collection",
        "init_args": {"root": str(radiographs)},
    }
    nodules = {
        "root": str(store),
        "select": None,
        "background_radiographs": background_radiographs,
        "radiographs_per_nodule": 1,
    }
    codec = tmp_path / "runs/autoencoder"
    trained = shrink(codec, {"root": str(radiographs), "points_per_radiograph": 1, **split})
    main(["fit", *arguments("cxr/autoencoder.yaml"), *trained])
    begin = {"init_from": None, "autoencoder": str(codec / "checkpoints/last.ckpt")}
    base = shrink(tmp_path / "runs/base", {**nodules, **split}, **begin)
    main(["fit", *arguments("cxr/diffusion.yaml"), *base])

    words = [
        "place-radiographs",
        "--background_radiographs",
        "ChestXray14Collection",
        "--background_radiographs.root",
        str(radiographs),
    ]
    words += ["--split", "train", "--split_seed", "4", "--fractions", "[0.5, 0.2, 0.3]"]
    words += ["--diameter_mm", "[4, 10]", "--copies", "3", "--shapes", str(store)]
    noduleforge([*words, "--out", str(tmp_path / "requests")])
    requests = {"requests": str(tmp_path / "requests/requests.csv")}
    small = {
        "model": {"init_args": {**SMALL_RADIOGRAPHS, "unet": SMALL_UNET}},
        "data": {"init_args": requests},
        "trainer": {"default_root_dir": str(tmp_path / "inserted"), "accelerator": "cpu"},
        "ckpt_path": str(tmp_path / "runs/base/checkpoints/last.ckpt"),
    }
    (tmp_path / "insert.yaml").write_text(yaml.safe_dump(small))
    main(["predict", *arguments("cxr/insert.yaml"), "--config", str(tmp_path / "insert.yaml")])
    inserted = pd.read_csv(tmp_path / "inserted/nodules.csv")
    assert (inserted["status"] == "inserted").all()
    assert inserted["image"].is_unique  # copies of a radiograph are radiographs of their own

    def collection(class_path: str, **settings: Any) -> dict[str, Any]:
        return {"class_path": class_path, "init_args": settings}

    data: dict[str, Any] = {"radiograph_size": 64, "radiograph_spacing_mm": 6.4, "batch_size": 4}
    data |= {"augmented_copies": 1, "cache_dir": str(tmp_path / "cache")}
    data |= split
    put = collection("SuperimposedCollection", **nodules, min_diameter_mm=0)
    data["sources"] = {
        "nodules": {"collection": put},
        "normal": {"collection": background_radiographs, "content": "normal"},
    }
    given = {"made": collection("FolderCollection", root=str(tmp_path / "inserted"))}
    with_nodule = {}
    for arm in ("none", "copy_paste", "synthetic_half", "synthetic_only"):
        name = f"downstream/augmentation/cxr_{arm}.yaml"
        words = arguments("downstream/cxr_detection.yaml" if arm == "none" else name)
        overlay = {"data": {"init_args": dict(data)}, "trainer": SHRUNKEN["trainer"]}
        if arm.startswith("synthetic"):
            overlay["data"]["init_args"]["synthetic"] = given
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(overlay))
        words += ["--config", str(tmp_path / "small.yaml")]
        if arm == "synthetic_only":
            words += ["--data.init_args.per_real", "1"]
        words += ["--trainer.default_root_dir", str(tmp_path / f"arms/{arm}-0")]
        main(["fit", *words])
        if arm in ("none", "synthetic_only"):
            main(["test", *words])
        counted = re.findall(r"train \d+ images, (\d+) with", caplog.text)
        with_nodule[arm] = int(counted[-1])
    real = with_nodule["none"]
    assert with_nodule == {
        **{"none": real, "copy_paste": 2 * real},
        **{"synthetic_half": real + round(real / 2), "synthetic_only": real},
    }
    runs = [str(tmp_path / f"arms/{arm}-0") for arm in ("none", "synthetic_only")]
    none, synthetic = (pd.read_csv(f"{run}/detection.csv") for run in runs)
    assert none["name"].equals(synthetic["name"])
    noduleforge(["compare", *runs, "--reference", "none", "--out", str(tmp_path / "comparison")])
    assert "froc_1" in (tmp_path / "comparison/comparison.md").read_text()

    # with another split the generator has seen patients that are held out
    words += ["--trainer.default_root_dir", str(tmp_path / "refused")]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--data.init_args.split_seed", "0"])
    assert "in train of made: give it one patient_id" in capfd.readouterr().err


@pytest.mark.parametrize("collection", ["jsrt", "chestxray14"])
def test_a_detector_is_tested_on_a_collection_of_radiographs(
    collection: str, tmp_path: Path, store: Path, radiographs: Path
) -> None:
    """Overlays say where nodules and radiographs come from; nodules of JSRT never join training."""
    boxed = [f"{number:08}_000.png" for number in range(10)]
    entries = radiographs / "Data_Entry_2017_v2020.csv"
    text = entries.read_text()
    for name in boxed:
        text = text.replace(f"{name},No Finding", f"{name},Nodule")
    entries.write_text(text)
    lines = [f"{name},Nodule,300,400,80,70" for name in boxed]
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    (radiographs / "BBox_List_2017.csv").write_text("\n".join([header, *lines]) + "\n")
    write_jsrt(tmp_path / "jsrt")
    config = arguments(f"downstream/cxr_detection_{collection}.yaml")
    overlay = yaml.safe_load((CONFIGS / f"downstream/cxr_detection_{collection}.yaml").read_text())
    sources = overlay["data"]["init_args"]["sources"]
    for source in sources.values():
        of_class = source["collection"]["class_path"]
        settings = source["collection"].setdefault("init_args", {})
        settings["root"] = str(tmp_path / "jsrt" if "JSRT" in of_class else radiographs)
        if "Superimposed" in of_class:
            background_radiographs = {
                "class_path": "ChestXray14Collection",
                "init_args": {"root": str(radiographs)},
            }
            settings |= {
                "root": str(store),
                "select": None,
                "min_diameter_mm": 0,
                "background_radiographs": background_radiographs,
            }
    data = {
        "sources": sources,
        "radiograph_size": 64,
        "radiograph_spacing_mm": 6.4,
        "batch_size": 2,
        "fractions": overlay["data"]["init_args"].get("fractions", [0.5, 0.2, 0.3]),
    }
    data |= {"augmented_copies": 1, "cache_dir": None}
    trainer = SHRUNKEN["trainer"] | {"default_root_dir": str(tmp_path / "run")}
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump({"data": {"init_args": data}, "trainer": trainer})
    )
    words = [*config, "--config", str(tmp_path / "small.yaml")]
    main(["fit", *words])
    main(["test", *words])
    tested = pd.read_csv(tmp_path / "run/detection.csv")
    assert set(tested["label"]) == {0, 1}
    if collection == "jsrt":
        assert sorted(tested["name"].str.extract(r"(JPC\w+)")[0]) == [
            *("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002")
        ]
        subtlety = tested.set_index("name")["subtlety"]
        assert sorted(subtlety.dropna()) == [1, 2]
