"""The site's secret: made once, for its owner alone, and keys that say nothing without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.digest import sha256
from datamodules.patients import check_generator, patient_key
from datamodules.pseudonyms import patient_pseudonym
from datamodules.site_secret import read_secret, secret_file, site


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a secret is to be."""
    path = tmp_path / "deep/secret"
    monkeypatch.setenv("NODULEFORGE_SECRET", str(path))
    return path


def test_it_is_made_once_and_its_owners_alone(secret: Path) -> None:
    key = patient_key("0012345")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]
    read_secret.cache_clear()
    assert patient_key("0012345") == key
    assert key.startswith(f"{site()}-")
    assert secret.read_text().strip() not in key


def test_another_secret_makes_other_keys(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {patient_key("1"), patient_pseudonym("a.mha"), site()}
    monkeypatch.setenv("NODULEFORGE_SECRET", str(secret.with_name("other")))
    assert not ours & {patient_key("1"), patient_pseudonym("a.mha"), site()}
    assert not any(sha256("patient", "1")[:16] in key for key in ours)


def test_processes_that_make_it_at_once_have_the_same(secret: Path) -> None:
    code = "from datamodules.patients import patient_key; print(patient_key('1'))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(8)
    ]
    assert {one.communicate()[0].decode().strip() for one in started} == {patient_key("1")}
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODULEFORGE_SECRET")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert secret_file() == Path.home() / ".config/noduleforge/secret"


def test_what_is_wrong_with_it_is_said(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.parent.mkdir()
    secret.write_text("ab" * 32)
    secret.chmod(0o640)
    with pytest.raises(ValueError, match=r"can be read by others \(mode 640\): chmod 600 it"):
        patient_key("1")
    secret.chmod(0o600)
    secret.write_text("ab")
    with pytest.raises(ValueError, match="holds no secret of 64 hex digits: put back the site's"):
        patient_key("1")
    monkeypatch.setenv("NODULEFORGE_SECRET", str(secret / "below"))
    with pytest.raises(OSError, match="set NODULEFORGE_SECRET to the path of a file that can"):
        patient_key("1")


def test_a_generator_of_another_site_is_not_taken_for_one_that_saw_nobody(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = tmp_path / "generator.json"
    generator.write_text(f'{{"training_patients": ["{patient_key("1")}"]}}')
    check_generator(generator, {"test": ["2"]})
    with pytest.raises(ValueError, match=r"trained on 1 patient\(s\) of the test split"):
        check_generator(generator, {"test": ["1"]})
    monkeypatch.setenv("NODULEFORGE_SECRET", str(secret.with_name("other")))
    with pytest.raises(ValueError, match="by keys of another secret"):
        check_generator(generator, {"test": ["1"]})
