"""Every shipped config parses; the command answers mistakes well."""

import re
from pathlib import Path

import pytest
import yaml
from overlays import BENCHMARKS, CONFIGS, MARK, arguments, options, over, shipped

from lightning_modules.cli import NoduleForgeCLI, main

ALL = sorted([*CONFIGS.rglob("*.yaml"), *BENCHMARKS.glob("*.yaml")])


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_overlay_says_what_it_is_laid_over(path: Path) -> None:
    """A full config has a seed and stands alone; everything else is an overlay."""
    lines = path.read_text().splitlines()
    full = "seed_everything" in yaml.safe_load(path.read_text())
    assert full != lines[0].startswith(MARK)
    assert lines[0 if full else 1].startswith("# ")
    named = over(path)
    assert full != bool(named)
    for number, name in enumerate(named):
        # whatever that one lies over stands before it
        assert {*over(CONFIGS / name)} <= {*named[:number]}


@pytest.mark.parametrize("name", shipped("trainer"))
def test_a_trainer_states_hardware_alone(name: str) -> None:
    assert {*yaml.safe_load((CONFIGS / name).read_text())} == {"trainer"}


HARDWARE = {"accelerator", "devices", "num_nodes", "strategy", "plugins"}


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("trainer/")])
def test_hardware_is_stated_by_trainers_alone(name: str) -> None:
    stated = yaml.safe_load((CONFIGS / name).read_text()).get("trainer", {})
    assert not HARDWARE & {*stated}


def test_generators_and_detectors_of_radiographs_agree_on_the_split() -> None:
    """A detector refuses synthetic nodules whose generator has seen a held-out patient."""
    full = [name for name in shipped() if "cxr" in name and not over(CONFIGS / name)]
    assert {"cxr/diffusion.yaml", "downstream/cxr_detection.yaml"} <= {*full}
    settings = [yaml.safe_load((CONFIGS / name).read_text())["data"]["init_args"] for name in full]
    assert {of_config["split_seed"] for of_config in settings} == {4}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.name)
def test_overlay_of_a_benchmark_parses(path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *options(path), "--print_config"])
    assert ended.value.code == 0


@pytest.mark.parametrize("name", shipped())
def test_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments(name), "--print_config"])
    assert ended.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["model"]["class_path"].startswith("lightning_modules.")
    assert resolved["trainer"]["default_root_dir"].startswith("runs/")
    of_folders = ("quickstart/cxr_picture.yaml", "cxr/fidelity.yaml", "cxr/mergings.yaml")
    begins = {
        f"{kind}/insert.yaml": f"runs/{kind}/diffusion/checkpoints/last.ckpt"
        for kind in ("ct", "cxr")
    }
    begins["downstream/ct_synthetic.yaml"] = begins["ct/insert.yaml"]
    begins |= dict.fromkeys((*of_folders, "downstream/ct_copy_paste.yaml"))
    assert resolved["ckpt_path"] == begins.get(name, "last")


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (["--model.init_args.learning_ratee", "3"], "learning_ratee"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
        (["--data.init_args.batch_size", "many"], "batch_size"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    mistake: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments("ct/diffusion.yaml"), *mistake])
    assert ended.value.code == 2
    answer = capsys.readouterr().err.strip()
    assert len(answer.splitlines()) == 1
    assert named in answer


def test_what_a_user_can_mend_is_one_line_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(CONFIGS / "ct/diffusion.yaml"), "--trainer.accelerator", "cpu"]
    config += ["--data.init_args.root", str(tmp_path), "--trainer.default_root_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *config])
    assert ended.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "nodules.csv" in last


def test_what_a_class_refuses_is_one_line_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """jsonargparse wraps such errors in its own, which lists types and all values."""
    for mistake, sentence in (
        (["--model.init_args.encoder", "resnet_99"], "timm has no network 'resnet_99'"),
        (["--data.init_args.per_real", "-1"], "per_real is -1.0"),
    ):
        words = [*arguments("downstream/cxr_detection.yaml"), *mistake]
        with pytest.raises(SystemExit) as ended:
            main(["fit", *words, "--trainer.default_root_dir", str(tmp_path)])
        assert ended.value.code == 2
        told = capfd.readouterr().err.strip().splitlines()
        assert told[-1].startswith(f"error: {sentence}")
        assert not any("Traceback" in line for line in told)


def test_nodes_and_tasks_that_do_not_match_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One device too: Lightning would train twice into one folder."""
    step = {"STEP_ID": 0, "STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "STEP_TASKS_PER_NODE": 2}
    job = {"JOB_ID": 1, "JOB_NAME": "x", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NODEID": 0}
    for name, value in {**job, **step, "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    config = ["--config", str(CONFIGS / "ct/diffusion.yaml"), "--trainer.accelerator", "cpu"]
    config += ["--trainer.default_root_dir", str(tmp_path), "--trainer.devices"]
    for devices in ("1", "3"):
        with pytest.raises(SystemExit) as ended:
            main(["fit", *config, devices])
        assert ended.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        expected = r"error: srun has started 2 task\(s\) .* trainer.devices is " + devices
        assert re.match(expected, told)


def seeds(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """The seed of each part that a command would make."""
    found: dict[str, int | None] = {}

    def stop(cli: NoduleForgeCLI) -> None:
        config = cli.config["fit"]
        found.update({part: config[part].init_args.get("seed") for part in SEEDED})
        raise SystemExit(0)

    monkeypatch.setattr(NoduleForgeCLI, "instantiate_classes", stop)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 0
    return found


SEEDED = ("model", "data")


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("ct/diffusion.yaml", set()),
        ("ct/insert.yaml", {"data"}),
        ("cxr/composition.yaml", set()),
        ("downstream/ct_classification.yaml", {"model"}),
        ("downstream/ct_segmentation.yaml", {"model"}),
        ("downstream/ct_copy_paste.yaml", set()),
        ("downstream/cxr_detection.yaml", {"model"}),
    ],
)
def test_seed_everything_is_the_seed_of_whatever_has_one(
    name: str, without: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {part: None if part in without else 7 for part in SEEDED}
    assert seeds([*arguments(name), "--seed_everything", "7"], monkeypatch) == expected


@pytest.mark.parametrize("part", SEEDED)
def test_another_seed_is_refused(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments("ct/diffusion.yaml"), f"--{part}.init_args.seed", "3"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 2
    answer = capsys.readouterr().err.strip()
    assert len(answer.splitlines()) == 1
    assert "is 3, expected that of seed_everything (0)" in answer


def test_a_seed_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments("ct/diffusion.yaml"), "--seed_everything", "true"])
    assert ended.value.code == 2
    assert "seed_everything is True, expected a number" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_strategies_parse(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments("ct/diffusion.yaml"), "--trainer.strategy", strategy, "--print_config"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"] == strategy


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("fit", "validate", "test", "predict"))
