"""Every command does what it should with right inputs: what cases go by is no other fault."""

from collections.abc import Callable

from faulty import Case, cases
from faulty_inputs import INPUTS


@cases(
    [
        Case(name, name, lambda root: None)
        for name in INPUTS
        if name not in ("sample", "projections")
    ]
)
def test_right_inputs_are_right(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)
