"""Ten lines on what works here; the faults that they tell."""

from pathlib import Path

import pytest

from noduleforge import doctor
from noduleforge.cli import main


def test_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/ResNet50.pt").touch()
    main(["doctor", "--weights", "own"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    told = {line[2:].split()[0]: line for line in lines}
    assert told["libraries"].startswith("  libraries    all ")
    assert "ResNet50.pt in own" in told["weights"]
    assert "RadImageNetFeatures" not in told["weights"]
    assert told["weights"].startswith("! ")
    assert "InceptionFeatures" in told["weights"]
    assert told["data"].startswith("! ")
    assert "data/lidc, data/chestxray14 missing" in told["data"]


def test_what_is_missing_or_of_another_version_is_named() -> None:
    assert doctor.libraries(["torch>=1", "absent; extra == 'dev'"]).startswith("all 1 in their")
    told = doctor.libraries(["torch>=99", "no-such-package>=2"])
    assert told.startswith("!torch is ")
    assert ", expected >=99; no-such-package>=2 is missing" in told


def test_a_second_command_of_the_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Another:
        class dist:
            name = "lightning-sdk"

    monkeypatch.setattr(doctor, "entry_points", lambda **_: [Another])
    assert "lightning-sdk has a command `lightning` too: uninstall it" in doctor.libraries([])


def test_what_the_sample_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "pylidc" else name)
    assert doctor.sample().startswith("!pylidc missing, so that `noduleforge prepare sample`")


def test_configs_are_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs", "--copy", str(tmp_path / "configs")])
    (tmp_path / "configs/ct/diffusion.yaml").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["configs", "--copy", str(tmp_path / "configs")])
    assert ended.value.code == 2
    assert "configs exists already: give another folder" in capsys.readouterr().err
    assert (tmp_path / "configs/ct/diffusion.yaml").read_text() == "mine"
