"""Tables of requests."""

from pathlib import Path

import pytest

from datamodules.insertion.modules import InsertionDataModule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\na,1\n", r"lacks the column\(s\) study"),
        ("study,name\na,n\na,n\n", "requests of the same name"),
        (None, "does not exist"),
    ],
)
def test_wrong_tables_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text:
        (tmp_path / "requests.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        InsertionDataModule(tmp_path / "requests.csv").setup("predict")
