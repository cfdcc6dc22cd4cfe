"""What the server gives to whom, and which answers it takes."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader_studies import served, small_study

from noduleforge.cli import main
from noduleforge.readers.answers import Answers
from noduleforge.readers.study import Study, read_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., Path]) -> Path:
    """A study that nobody has read."""
    root = tmp_path_factory.mktemp("made")
    store = write_store(root / "store", 3, patients=6)
    return small_study(store, root / "study", cases=3).root


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Study:
    return read_study(Path(shutil.copytree(made, tmp_path / "study")))


@pytest.fixture
def site(study: Study) -> Iterator[tuple[str, list[str]]]:
    with served(study) as address:
        yield address


def ask(url: str, sent: object = None, host: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    body = None if sent is None else sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    request = urllib.request.Request(url, body, {"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def state_of(reader: str) -> dict[str, Any]:
    return json.loads(ask(f"{reader}state")[2])


def answer_to(state: dict[str, Any]) -> dict[str, Any]:
    given = {question["name"]: question["options"][0][0] for question in state["case"]["questions"]}
    return {"position": state["position"], "answer": given, "reading_ms": 1500}


def test_a_whole_sitting_and_what_it_tells(study: Study, site: tuple[str, list[str]]) -> None:
    address, tokens = site
    reader = f"{address}/{tokens[0]}/"
    seen = [ask(reader), ask(f"{reader}state"), ask(f"{address}/assets/sitting.js")]
    while (state := state_of(reader))["case"]:
        for name in state["case"]["images"] + state["following"]:
            status, headers, picture = ask(f"{reader}images/{name}")
            assert status == 200
            assert len(picture) == 2 * 16**3
            assert headers["content-type"] == "application/octet-stream"
            assert not {"etag", "last-modified", "content-disposition"} & {*headers}
        seen.append(ask(f"{reader}answers", answer_to(state)))
        assert seen[-1][0] == 200
    told = b"\n".join(body for _, _, body in seen).decode()
    secret = {*study.cases["nodules"], *study.cases["patients"]}
    names = {part for text in secret for part in text.split()} | {"part-solid", "ground-glass"}
    assert not [name for name in names if f'"{name}"' in told or f" {name} " in told]
    assert "twin" not in told
    for _, headers, _ in seen:
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
    given = Answers(study.root).all()
    assert [one.case for one in given] == study.order(1)
    assert {one.reading_ms for one in given} == {1500}


def test_pictures_are_stored_as_the_table_has_them(
    study: Study, site: tuple[str, list[str]]
) -> None:
    """The reader chooses by sight; the answer says which picture it was."""
    address, tokens = site
    reader = f"{address}/{tokens[0]}/"
    while (state := state_of(reader))["case"]:
        sent = answer_to(state)
        if state["case"]["task"] == "pairs":  # the real one, wherever it is
            case = study.order(1)[state["position"]]
            real = study.images(case)[0]
            sent["answer"]["choice"] = str(state["case"]["images"].index(real))
        ask(f"{reader}answers", sent)
    pairs = [one for one in Answers(study.root).all() if "choice" in one.answer]
    assert len(pairs) == 4
    assert {one.answer["choice"] for one in pairs} == {"0"}


def test_forged_answers_change_nothing(study: Study, site: tuple[str, list[str]]) -> None:
    address, tokens = site
    reader = f"{address}/{tokens[0]}/"
    good = answer_to(state_of(reader))
    wrong: list[object] = [
        b"no JSON",
        b"[" * 4000,
        b"x" * 5000,
        [],
        {},
        {**good, "more": 1},
        {**good, "reading_ms": -1},
        {**good, "reading_ms": "1"},
        {**good, "reading_ms": True},
        {**good, "reading_ms": 10**12},
        {**good, "answer": {}},
        {**good, "answer": None},
        {**good, "answer": {**good["answer"], "kind": "maybe"}},
        {**good, "answer": {**good["answer"], "confidence": 5}},
        {**good, "answer": {**good["answer"], "confidence": "6"}},
        {**good, "answer": {"order": [0]}},
    ]
    for sent in wrong:
        assert ask(f"{reader}answers", sent)[0] in (413, 422), sent
    for position in (-1, 1, 99, "0", None, True):
        assert ask(f"{reader}answers", {**good, "position": position})[0] == 409
    assert not Answers(study.root).all()
    assert ask(f"{reader}answers", good)[0] == 200
    # once more, as a button that is pressed twice would: the first answer stays
    other = {**good, "answer": {**good["answer"], "kind": "synthetic"}}
    assert ask(f"{reader}answers", other)[0] == 409
    stored = Answers(study.root).all()
    assert [one.answer for one in stored] == [good["answer"]]
    assert not Answers(study.root).add(stored[0]._replace(answer={}))


def test_only_what_is_near_is_given_out(study: Study, site: tuple[str, list[str]]) -> None:
    address, tokens = site
    reader, order = f"{address}/{tokens[0]}/", study.order(1)
    assert ask(f"{reader}images/{study.images(order[0])[0]}")[0] == 200
    assert ask(f"{reader}images/{study.images(order[1])[0]}")[0] == 200
    assert ask(f"{reader}images/{study.images(order[2])[0]}")[0] == 404
    ask(f"{reader}answers", answer_to(state_of(reader)))
    assert ask(f"{reader}images/{study.images(order[0])[0]}")[0] == 404  # no way back
    for path in ("cases.csv", "images/..%2fcases.csv", "images/../cases.csv", "answers.sqlite"):
        assert ask(f"{reader}{path}")[0] in (404, 405)
    for path in ("/", "/state", "/cases.csv", "/assets/../server.py", "/assets/%2e%2e/server.py"):
        assert ask(f"{address}{path}")[0] == 404


def test_who_has_no_token_is_nobody(site: tuple[str, list[str]]) -> None:
    address, tokens = site
    for token in ("wrong", tokens[0][:-1], tokens[0] + "x", "%00", tokens[0].swapcase()):
        assert ask(f"{address}/{token}/")[0] == 404
        assert ask(f"{address}/{token}/state")[0] == 404
        assert ask(f"{address}/{token}/answers", {})[0] == 404
    assert ask(f"{address}/{tokens[0]}/", host="evil.example")[0] == 400


def test_two_readers_do_not_meet(study: Study, site: tuple[str, list[str]]) -> None:
    address, tokens = site
    one, two = (f"{address}/{token}/" for token in tokens)
    ask(f"{one}answers", answer_to(state_of(one)))
    assert state_of(one)["position"] == 1
    assert state_of(two)["position"] == 0
    ask(f"{two}answers", answer_to(state_of(two)))
    assert [(a.reader, a.position) for a in Answers(study.root).all()] == [(1, 0), (2, 0)]


def test_a_sitting_goes_on_after_the_server_ended(study: Study) -> None:
    with served(study) as (address, tokens):
        ask(f"{address}/{tokens[0]}/answers", answer_to(state_of(f"{address}/{tokens[0]}/")))
    with served(read_study(study.root), readers=3) as (address, again):
        assert again[:2] == tokens
        assert len({*again}) == 3
        assert state_of(f"{address}/{tokens[0]}/")["position"] == 1


def test_a_killed_command_keeps_every_answer(study: Study) -> None:
    words = ["-m", "noduleforge.cli", "readers", "serve", str(study.root), "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        reader = command.stdout.readline().removeprefix("reader 1: ").strip()
        assert command.stdout.readline().startswith("reader 2: http://127.0.0.1:")
        for _ in range(100):  # it listens before it answers
            with contextlib.suppress(OSError):
                state = state_of(reader)
                break
            time.sleep(0.1)
        assert ask(f"{reader}answers", answer_to(state))[0] == 200
        command.kill()
    assert [one.position for one in Answers(study.root).all()] == [0]


def test_answers_are_for_their_owner(study: Study) -> None:
    answers = Answers(study.root)
    assert answers.path.stat().st_mode & 0o077 == 0
    answers.path.write_bytes(np.random.default_rng(0).bytes(8192))
    with pytest.raises(OSError, match="cannot be used"):
        answers.all()


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ("readers is 0", ["--readers", "0"]),
        ("every interface", ["--host", "0.0.0.0"]),
        ("cannot be used", ["--host", "192.0.2.1"]),
        ("port is 70000", ["--port", "70000"]),
        ("does not exist", ["--study", "nowhere"]),
    ],
)
def test_refusals(
    told: str, more: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["readers", "serve", str(study.root), *more])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_nothing_but_what_is_shipped_is_loaded() -> None:
    import noduleforge.readers as package

    folder = Path(package.__file__).parent
    for path in [*folder.glob("assets/*"), *folder.glob("pages/*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", ""), path
        assert "<script>" not in text
        assert "style=" not in text
