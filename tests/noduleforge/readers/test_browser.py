"""Whole sittings in a real browser, by keyboard and by mouse."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reader_studies import served, small_study, synthetic_of

from noduleforge.readers.answers import Answers
from noduleforge.readers.study import Study

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on which nothing may go wrong, and which asks one host alone."""
    found = browser.new_page(viewport={"width": 1300, "height": 800})
    found.set_default_timeout(60_000)
    troubles: list[str] = []
    hosts: set[str] = set()
    found.on("pageerror", lambda error: troubles.append(str(error)))
    found.on(
        "console",
        lambda message: troubles.append(message.text) if "Security" in message.text else None,
    )
    found.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    yield found
    found.close()
    assert not troubles
    assert hosts == {"127.0.0.1"}


@pytest.fixture
def study(store: Path, tmp_path: Path) -> Study:
    series = [synthetic_of(store, tmp_path / f"strength{k}", seed=k) for k in range(3)]
    tasks = ("real", "attributes", "order", "pairs")
    return small_study(store, tmp_path / "study", tasks=tasks, series=series, cases=2)


def begin(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#start:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_selector("#reading:not([hidden])")


def state(page: Any) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("fetch('state').then((answer) => answer.json())")
    return found


def next_case(page: Any, position: int) -> None:
    page.wait_for_function(
        "(n) => fetch('state').then((a) => a.json()).then((s) => s.position === n)", arg=position
    )
    # until the page shows it, nothing is chosen
    page.wait_for_function(
        "() => document.getElementById('reading').hidden"
        " || !document.querySelector('[aria-pressed=true]')"
    )


def seen(page: Any) -> str:
    """The first picture as it is seen."""
    return str(page.evaluate("() => document.querySelector('canvas').toDataURL()"))


def greys(page: Any) -> tuple[int, bool]:
    """By how much the first picture's pixels differ, and whether all are grey."""
    of_pixels = (
        "() => { const c = document.querySelector('canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let low = 255, high = 0, grey = true;"
        " for (let k = 0; k < d.length; k += 4) {"
        " low = Math.min(low, d[k]); high = Math.max(high, d[k]);"
        " grey &&= d[k] === d[k + 1] && d[k] === d[k + 2]; }"
        " return [high - low, grey]; }"
    )
    spread, grey = page.evaluate(of_pixels)
    return spread, grey


def test_a_sitting_by_keyboard(study: Study, page: Any) -> None:
    with served(study) as (address, tokens):
        begin(page, f"{address}/{tokens[0]}/")
        assert page.inner_text("#progress") == "practice"
        spread, grey = greys(page)
        assert spread > 50
        assert grey
        first = seen(page)
        for keys in ("ArrowDown", "[", ",", "+", "t"):  # each changes what is seen
            page.keyboard.press(keys)
            changed = seen(page)
            assert changed != first, keys
            first = changed
        page.keyboard.press("0")
        page.keyboard.press("ArrowRight")
        assert page.locator("figure.active canvas").count() == 1
        for position in range(len(study.cases)):
            case = state(page)["case"]
            if case["task"] == "order":
                for key in ("2", "3", "1"):
                    page.keyboard.press(key)
            for _ in case["questions"]:
                page.keyboard.press("2")
            page.keyboard.press("Backspace")
            assert page.is_disabled("#answer")
            page.keyboard.press(
                "1"
                if case["task"] == "order"
                else "3"
                if len(case["questions"][-1]["options"]) > 2
                else "1"
            )
            page.keyboard.press("Enter")
            next_case(page, position + 1)
        page.wait_for_selector("#finished:not([hidden])")
    given = Answers(study.root).all()
    assert [one.case for one in given] == study.order(1)
    of_real = [one for one in given if "kind" in one.answer]
    assert {one.answer["kind"] for one in of_real} == {"synthetic"}
    assert {one.answer["confidence"] for one in of_real} == {"3"}
    for one in given:
        if "order" in one.answer:  # pictures 2, 3, 1 as this reader saw them
            shown, stored = study.shown(one.case, 1), study.images(one.case)
            assert [stored[k] for k in one.answer["order"]] == [shown[1], shown[2], shown[0]]


def test_a_sitting_by_mouse_with_a_pause_and_a_closed_window(study: Study, page: Any) -> None:
    with served(study) as (address, tokens):
        begun = time.monotonic()
        begin(page, f"{address}/{tokens[1]}/")
        page.click("#pause")
        assert page.is_hidden("#reading")
        page.wait_for_timeout(1500)
        page.click("#resume")
        box = page.locator("canvas").first.bounding_box()
        before = seen(page)
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 90)
        page.mouse.up()
        assert seen(page) != before
        took_ms = 0.0
        for position in range(len(study.cases)):
            case = state(page)["case"]
            fields = page.locator("#questions fieldset")
            for k in range(fields.count()):
                buttons = fields.nth(k).locator("button")
                for number in range(3 if case["task"] == "order" else 1):
                    buttons.nth(number).click()
            page.click("#answer")
            next_case(page, position + 1)
            took_ms = 1000 * (time.monotonic() - begun) if position == 0 else took_ms
            if position == 2:  # the window is closed and opened again
                page.goto("about:blank")
                page.goto(f"{address}/{tokens[1]}/")
                page.wait_for_selector("#start:not([hidden])")
                assert "Welcome back" in page.inner_text("#welcome")
                page.click("#begin")
                page.wait_for_selector("#reading:not([hidden])")
        page.wait_for_selector("#finished:not([hidden])")
    given = Answers(study.root).all()
    assert [one.case for one in given] == study.order(2)
    assert given[0].reading_ms <= took_ms - 1500  # the pause is not in it
    assert all(one.reading_ms > 0 for one in given)


def test_the_server_ends_between_two_answers(study: Study, page: Any) -> None:
    with served(study) as (address, tokens):
        begin(page, f"{address}/{tokens[0]}/")
        for key in ("1", "1", "Enter"):
            page.keyboard.press(key)
        next_case(page, 1)
    for key in ("2", "4", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#trouble:not(:empty)")
    assert len(Answers(study.root).all()) == 1
    with served(study, port=int(address.rsplit(":", 1)[1])):
        page.keyboard.press("Enter")  # what was chosen is still there
        next_case(page, 2)
        assert Answers(study.root).all()[1].answer == {"kind": "synthetic", "confidence": "4"}
