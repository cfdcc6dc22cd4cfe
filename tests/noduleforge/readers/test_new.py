"""What a study is made of, how alike both kinds are, and that storage does not tell them apart."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reader_studies import small_study, synthetic_of

from datamodules.batch import Roi
from datamodules.io.volumes import read_volume
from noduleforge.cli import main
from noduleforge.readers.artefacts import audit, storage_features
from noduleforge.readers.new import new_study
from noduleforge.readers.pairing import all_pairs, draw_pairs
from noduleforge.readers.sources import read_source
from noduleforge.readers.study import encode, image_file, read_study


@pytest.fixture
def study_command(store: Path, tmp_path: Path) -> list[str]:
    synthetic = synthetic_of(store, tmp_path / "synthetic")
    words = ["readers", "new", "--real", str(store), "--synthetic", str(synthetic)]
    return [*words, "--out", str(tmp_path / "study"), "--cases", "4", "--practice", "1"]


def test_the_command(
    study_command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*study_command, "--tasks", "[real, attributes, pairs]"])
    told = capsys.readouterr().out
    assert "4 of 4 pairs lie in the same place" in told
    assert "By storage alone a decision tree" in told
    assert "2 readers with 4 real and 4 synthetic nodules" in told
    study = read_study(tmp_path / "study")
    assert study.settings.shape == (16, 16, 16)  # the patches of 20 without their margin
    assert study.settings.attributes == ("subtype",)
    counted = study.cases[study.cases["practice"] == 0]
    assert counted.groupby("task")["case"].count().to_dict() == {
        "attributes": 8,
        "pairs": 4,
        "real": 8,
    }
    of_real = counted[counted["task"] == "real"]
    assert of_real["kind"].value_counts().to_dict() == {"real": 4, "synthetic": 4}
    # both kinds have the same subtypes and sizes, of as many patients as possible
    by_kind = of_real.sort_values("subtype").groupby("kind")["subtype"].agg(list)
    assert by_kind["real"] == by_kind["synthetic"]
    assert of_real["patients"].nunique() == 4
    names = " ".join(study.cases["images"]).split()
    assert len(names) == len({*names}) == len(list((tmp_path / "study/images").iterdir()))
    for path in (tmp_path / "study", tmp_path / "study/cases.csv"):
        assert path.stat().st_mode & 0o077 == 0
    balance = pd.read_csv(tmp_path / "study/balance.csv").set_index("subtype")
    assert balance.loc["all", "real"] == balance.loc["all", "synthetic"] == 4


def test_pictures_are_what_the_data_sets_hold(store: Path, tmp_path: Path) -> None:
    study = small_study(store, tmp_path / "study")
    table = pd.read_csv(store / "nodules.csv", dtype=str).set_index("nodule_id")
    row = study.cases[(study.cases["kind"] == "real")].iloc[0]
    picture = study.read_image(str(row["images"]))
    whole = read_volume(store / table.loc[row["nodules"], "image"]).array.clip(-1000, 400)
    inside = read_volume(store / table.loc[row["nodules"], "mask"]).array
    corner = [int(np.floor(np.mean(axis) + 0.5)) - 8 for axis in np.nonzero(inside)]
    box = tuple(slice(first, first + 16) for first in corner)
    assert np.array_equal(picture, whole[box])
    # files have names by chance, no header, and one length
    files = [image_file(study.root, name) for name in " ".join(study.cases["images"]).split()]
    assert {file.stat().st_size for file in files} == {2 * 16**3}
    assert all(len(file.stem) == 32 and int(file.stem, 16) for file in files)


def test_a_seed_draws_the_same_cases(store: Path, tmp_path: Path) -> None:
    first, again, other = (
        small_study(store, tmp_path / name, seed=seed)
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    columns = ["task", "kind", "nodules", "practice"]
    assert first.cases[columns].equals(again.cases[columns])
    assert not first.cases[columns].equals(other.cases[columns])
    assert first.order(1) == again.order(1)
    # names of pictures are chance's alone
    assert not {*first.cases["images"]} & {*again.cases["images"]}


def test_orders_differ_and_twins_are_apart(store: Path, tmp_path: Path) -> None:
    study = small_study(store, tmp_path / "study", cases=6)
    one, two = study.order(1), study.order(2)
    assert sorted(one) == sorted(two) == list(range(len(study.cases)))
    assert one != two
    tasks = study.cases["task"].iloc[one].tolist()
    assert tasks == sorted(tasks, key=["real", "pairs"].index)
    practice = study.cases["practice"].to_numpy()
    assert practice[one[0]] == 1
    counted = [k for k in one if study.cases["task"][k] == "real" and not practice[k]]
    twins = study.cases["twin"].iloc[counted].tolist()
    assert sorted(twins[:6]) == sorted(twins[6:])


def test_pairs_are_alike(store: Path, tmp_path: Path) -> None:
    """Without common places pairs share subtype and, within a factor, size."""
    synthetic = synthetic_of(store, tmp_path / "synthetic")
    table = pd.read_csv(synthetic / "nodules.csv", dtype=str)
    table["patient_id"] = "Q" + table["patient_id"]
    table.sample(frac=1, random_state=0).to_csv(synthetic / "nodules.csv", index=False)
    real, other = (read_source(root, Roi(15), "") for root in (store, synthetic))
    pairs = all_pairs(real.table, other.table)
    assert not pairs["same_place"].any()
    assert pairs["real"].is_unique
    assert pairs["synthetic"].is_unique
    left, right = real.table.iloc[pairs["real"]], other.table.iloc[pairs["synthetic"]]
    assert left["subtype"].tolist() == right["subtype"].tolist()
    ratio = left["diameter_mm"].to_numpy() / right["diameter_mm"].to_numpy()
    assert np.abs(np.log2(ratio)).max() < 0.3
    drawn = draw_pairs(pairs, real.table, 9, np.random.default_rng(0))
    assert real.table.iloc[drawn["real"]]["subtype"].value_counts().tolist() == [3, 3, 3]


def test_storage_does_not_tell(store: Path, tmp_path: Path) -> None:
    synthetic = synthetic_of(store, tmp_path / "synthetic")

    def features(root: Path) -> list[list[float]]:
        source = read_source(root, Roi(16), "")
        arrays = [source.read(row).image.array for row in source.table["row"]]
        return [storage_features(encode(a, (-1000.0, 400.0)), a.shape) for a in arrays]

    real, fair = features(store), features(synthetic)
    labels, twins = np.repeat([False, True], len(real)), np.tile(np.arange(len(real)), 2)
    assert len({row[0] for row in (*real, *fair)}) == 1  # bytes of a file
    assert not audit(np.array([*real, *fair]), labels, twins).told_apart
    coarse = features(synthetic_of(store, tmp_path / "coarse", even=True))
    found = audit(np.array([*real, *coarse]), labels, twins)
    assert found.told_apart
    assert found.auc > 0.95


def test_artefacts_are_told(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = synthetic_of(store, tmp_path / "coarse", even=True)
    new_study(store, coarse, tmp_path / "study", tasks=("pairs",), cases=12, practice=0)
    assert "tells real from synthetic ones" in capsys.readouterr().err


def test_series_are_put_into_order(store: Path, tmp_path: Path) -> None:
    series = [synthetic_of(store, tmp_path / f"strength{k}", seed=k) for k in range(3)]
    study = small_study(store, tmp_path / "study", tasks=("order",), series=series, cases=2)
    assert study.cases["images"].map(lambda names: len(names.split())).tolist() == [3, 3, 3]
    shown = [study.shown(case, reader) for case in range(3) for reader in range(4)]
    assert any(names != study.images(k // 4) for k, names in enumerate(shown))
    with pytest.raises(ValueError, match="the same in two of the series"):
        small_study(store, tmp_path / "other", tasks=("order",), series=[*series, series[0]])
    assert not (tmp_path / "other").exists()


def test_radiographs(tmp_path: Path, write_store) -> None:  # noqa: ANN001
    store = write_store(tmp_path / "flat", 2)
    study = small_study(store, tmp_path / "study")
    assert study.settings.modality == "radiograph"
    assert study.settings.shape == (16, 16)
    low, high = study.settings.window
    every = np.stack([study.read_image(n) for n in " ".join(study.cases["images"]).split()])
    assert low <= every.min()
    assert every.max() <= high


def test_refusals(
    study_command: list[str], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(told: str, *more: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            main([*study_command, *more])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "study").exists()

    refused("fewer than the 41", "--cases", "40")
    refused("cases is 1", "--cases", "1")
    refused("series has 0", "--tasks", "[order]")
    refused("window is", "--window", "[400, -1000]")
    refused("of both real and synthetic", "--attributes", "[texture]")
    refused("does not exist", "--real", str(tmp_path / "nowhere"))
    refused("are the same in both data sets", "--synthetic", str(store))
    refused("within its image", "--roi.size", "40")
    shutil.copytree(store, tmp_path / "study")
    with pytest.raises(SystemExit):
        main(study_command)
    assert "exists already" in capsys.readouterr().err
