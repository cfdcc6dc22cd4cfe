"""Commands as the documentation prints them, to be run on files of a test."""

import re
import shlex

from overlays import ROOT


def printed(start: str, document: str = "docs/studies.md", **places: object) -> list[str]:
    """Words of the first printed command that begins so, without `noduleforge`.

    Args:
        start: such as `prepare luna16`.
        document: where it is printed.
        places: what stands for the words of the document, such as LUNA16, or `out` for the word
            after `--out`.
    """
    text = (ROOT / document).read_text().replace("\\\n", " ")
    command = re.search(rf"^noduleforge ({start}\b.*)$", text, re.MULTILINE)
    assert command, f"{document} prints no {start}"
    words = [str(places.get(word, word)) for word in shlex.split(command[1])]
    if "out" in places:
        words[words.index("--out") + 1] = str(places["out"])
    return words
