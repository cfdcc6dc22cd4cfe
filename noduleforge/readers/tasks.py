"""What readers are asked, and which answers are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from datamodules.batch import SUBTYPES
from datamodules.ratings import CHARACTERISTICS

Task = Literal["real", "attributes", "order", "pairs"]
TASKS: tuple[Task, ...] = get_args(Task)
"""Tasks in the order of a sitting: is it real, what does it show, which is stronger, which is real.
"""

ATTRIBUTES = ("subtype", *CHARACTERISTICS)
"""What `attributes` may ask."""

STEPS = 5
"""Steps of confidence and of subtlety."""


class Question(NamedTuple):
    """A choice of one.

    Attributes:
        name: of the answer.
        text: that readers see.
        options: values of the answer, and what readers see of each; their number is their key.
    """

    name: str
    text: str
    options: tuple[tuple[str, str], ...]


def _steps(first: str, last: str) -> tuple[tuple[str, str], ...]:
    ends = {1: f"1 {first}", STEPS: f"{STEPS} {last}"}
    return tuple((str(k), ends.get(k, str(k))) for k in range(1, STEPS + 1))


YES_NO = (("1", "yes"), ("0", "no"))

CONFIDENCE = Question("confidence", "How sure are you?", _steps("a guess", "certain"))

OF_ATTRIBUTE = {
    "subtype": Question(
        "subtype", "Which kind of nodule is it?", tuple((name, name) for name in SUBTYPES)
    ),
    "subtlety": Question("subtlety", "How obvious is it?", _steps("hardly seen", "obvious")),
    "calcified": Question("calcified", "Is it calcified?", YES_NO),
    "irregular": Question("irregular", "Is its border irregular?", YES_NO),
    "inhomogeneous": Question("inhomogeneous", "Is it inhomogeneous?", YES_NO),
}

INTRODUCTIONS: Mapping[Task, str] = {
    "real": "Is the nodule in the middle of the picture real, or was it made by a computer?",
    "attributes": "What does the nodule in the middle of the picture look like?",
    "order": "The same nodule in several strengths: choose the weakest first, the strongest last.",
    "pairs": "One of the two nodules is real, the other was made by a computer: which is the real "
    "one?",
}


def questions(task: Task, attributes: Sequence[str]) -> list[Question]:
    """The questions of a task; none where pictures are put into an order.

    Args:
        task: the task.
        attributes: what `attributes` asks.
    """
    if task == "real":
        kinds = (("real", "real"), ("synthetic", "made by a computer"))
        return [Question("kind", "What is it?", kinds), CONFIDENCE]
    if task == "pairs":
        sides = (("0", "the first"), ("1", "the second"))
        return [Question("choice", "Which is the real one?", sides), CONFIDENCE]
    return [OF_ATTRIBUTE[name] for name in attributes] if task == "attributes" else []


def check_answer(
    answer: object, task: Task, attributes: Sequence[str], pictures: int
) -> dict[str, Any]:
    """Take an answer if it is one that the page can give.

    Args:
        answer: what was sent.
        task: that it is to.
        attributes: what `attributes` asks.
        pictures: how many the case has.

    Returns:
        The answer: an option of each question by its name, or `order`, the pictures' numbers from
        the weakest to the strongest.

    Raises:
        ValueError: If it is another one.
    """
    if not isinstance(answer, dict):
        message = "the answer is no object: give one value for each question"
        raise ValueError(message)
    if task == "order":
        order = answer.get("order")
        if (
            {*answer} == {"order"}
            and isinstance(order, list)
            and all(type(one) is int for one in order)
            and sorted(order) == list(range(pictures))
        ):
            return {"order": order}
        message = f"order is {order!r}: give the numbers 0 to {pictures - 1}, each once"
        raise ValueError(message)
    asked = {question.name: question for question in questions(task, attributes)}
    if {*answer} != {*asked}:
        message = f"answered is {sorted(map(str, answer))}, expected {sorted(asked)}"
        raise ValueError(message)
    for name, value in answer.items():
        options = [option for option, _ in asked[name].options]
        if not isinstance(value, str) or value not in options:
            message = f"{name} is {value!r}, expected one of {', '.join(options)}"
            raise ValueError(message)
    return answer
