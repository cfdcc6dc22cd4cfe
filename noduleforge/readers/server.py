"""The web application of a reader study: one page, what is to be read next, pictures, answers.

What leaves it says nothing about which nodules are real: pictures have random names, no header and
one length, and are given out for the case that a reader is at and the one after it alone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noduleforge.readers.answers import Answer, Answers
from noduleforge.readers.study import Study, image_file
from noduleforge.readers.tasks import INTRODUCTIONS, check_answer, questions

HERE = Path(__file__).parent

LONGEST = 4096
"""Bytes of an answer."""

DAY_MS = 24 * 3600 * 1000
"""A case is not read for longer."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Sitting:
    """Where one reader is in the study."""

    def __init__(self, study: Study, answers: Answers, reader: int) -> None:
        """Find the reader's order."""
        self.study, self.answers, self.reader = study, answers, reader
        self.order = study.order(reader)

    def state(self) -> dict[str, Any]:
        """What the page shows now, and the names of the pictures that come after."""
        position = self.answers.number(self.reader)
        now, after = self._case(position), self._case(position + 1)
        return {
            "position": position,
            "total": len(self.order),
            "case": now,
            "following": after["images"] if after else [],
        }

    def _case(self, position: int) -> dict[str, Any] | None:
        if position >= len(self.order):
            return None
        case = self.order[position]
        row = self.study.cases.iloc[case]
        of_task = self.study.cases["task"] == row["task"]
        counted = [k for k in self.order if of_task[k] and not self.study.cases["practice"][k]]
        asked = questions(row["task"], self.study.settings.attributes)
        return {
            "task": row["task"],
            "introduction": INTRODUCTIONS[row["task"]],
            "practice": bool(row["practice"]),
            "number": counted.index(case) + 1 if case in counted else 0,
            "of": len(counted),
            "images": self.study.shown(case, self.reader),
            "questions": [question._asdict() for question in asked],
        }

    def may_see(self, name: str) -> bool:
        """Whether a picture is of the present case or the next one."""
        position = self.answers.number(self.reader)
        near = self.order[position : position + 2]
        return any(name in self.study.images(case) for case in near)

    def take(self, sent: object) -> dict[str, Any]:
        """Store the answer to the present case, with numbers of pictures as `CASES` has them.

        Args:
            sent: `position`, `answer` and `reading_ms`.

        Returns:
            The new state.

        Raises:
            HTTPException: 422 if it is no answer, 409 if it is not to the present case.
        """
        if not isinstance(sent, dict) or {*sent} != {"position", "answer", "reading_ms"}:
            raise HTTPException(422, "expected position, answer and reading_ms")
        position, reading_ms = sent["position"], sent["reading_ms"]
        if type(reading_ms) is not int or not 0 <= reading_ms <= DAY_MS:
            raise HTTPException(422, "reading_ms is no time")
        if type(position) is not int or position != self.answers.number(self.reader):
            raise HTTPException(409, "this case is not the present one")
        if position >= len(self.order):
            raise HTTPException(409, "all cases are answered")
        case = self.order[position]
        images = self.study.images(case)
        task, attributes = self.study.cases["task"].iloc[case], self.study.settings.attributes
        try:
            answer = check_answer(sent["answer"], task, attributes, len(images))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        shown = self.study.shown(case, self.reader)
        if task == "order":
            answer = {"order": [images.index(shown[k]) for k in answer["order"]]}
        elif task == "pairs":
            answer = {**answer, "choice": str(images.index(shown[int(answer["choice"])]))}
        if not self.answers.add(Answer(self.reader, case, position, answer, reading_ms)):
            raise HTTPException(409, "this case is answered already")
        return self.state()


class SafeHeaders:
    """Adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                known = {name for name, _ in added}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in known]
                message["headers"] = [*kept, *added]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise HTTPException(413, "the answer is too long")
    return body


def application(study: Study, answers: Answers, readers: int, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        study: what is read.
        answers: where answers go.
        readers: number of readers.
        hosts: names under which the server may be called, against rebinding of names.
    """
    tokens = answers.tokens(readers)
    sittings = {
        token: Sitting(study, answers, reader)
        for reader, token in tokens.items()
        if 1 <= reader <= readers
    }
    pages = Environment(loader=FileSystemLoader(HERE / "pages"), autoescape=select_autoescape())
    settings = study.settings
    seen: Mapping[str, Any] = {
        "modality": settings.modality,
        "shape": settings.shape,
        "spacing_mm": settings.spacing_mm,
        "window": settings.window,
    }

    def of_reader(
        answer: Callable[[Sitting, Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            sitting = sittings.get(request.path_params["token"])
            if sitting is None:
                raise HTTPException(404)
            return await answer(sitting, request)

        return endpoint

    async def page(sitting: Sitting, request: Request) -> Response:
        template = pages.get_template("sitting.html")
        return HTMLResponse(template.render(title=settings.title, reader=sitting.reader, **seen))

    async def state(sitting: Sitting, request: Request) -> Response:
        return JSONResponse({**sitting.state(), "picture": seen})

    async def image(sitting: Sitting, request: Request) -> Response:
        name = request.path_params["name"]
        if not sitting.may_see(name):
            raise HTTPException(404)
        content = image_file(study.root, name).read_bytes()
        return Response(content, media_type="application/octet-stream")

    async def answer(sitting: Sitting, request: Request) -> Response:
        try:
            sent = json.loads(await _body(request))
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, "expected JSON") from error
        return JSONResponse(sitting.take(sent))

    return Starlette(
        routes=[
            Route("/{token}/", of_reader(page)),
            Route("/{token}/state", of_reader(state)),
            Route("/{token}/images/{name}", of_reader(image)),
            Route("/{token}/answers", of_reader(answer), methods=["POST"]),
            Mount("/assets", StaticFiles(directory=HERE / "assets")),
        ],
        middleware=[
            Middleware(SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        ],
    )
