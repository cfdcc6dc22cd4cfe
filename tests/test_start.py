"""Starting costs hardly more than the libraries that a command cannot do without."""

import resource
import subprocess
import sys

import pytest

BARE = "import lightning, monai.networks.nets"
LIGHTNING = "from lightning_modules.cli import main; main(['fit', '--help'])"
NODULEFORGE = "from noduleforge.cli import main; main({})"


def cpu_seconds(code: str) -> float:
    """What a new Python takes for some code, user and system time, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_help_comes_soon() -> None:
    """Interleaved, the least of two rounds each."""
    codes = {
        "bare": BARE,
        "fit": LIGHTNING,
        "noduleforge": NODULEFORGE.format(["--help"]),
        "inspect": NODULEFORGE.format(["inspect", "--help"]),
    }
    rounds = [{name: cpu_seconds(code) for name, code in codes.items()} for _ in range(2)]
    least = {name: min(one[name] for one in rounds) for name in codes}
    assert least["fit"] < 1.3 * least["bare"], least
    # the libraries take some 8 s: these are a second and less
    assert least["noduleforge"] < 0.1 * least["bare"], least
    assert least["inspect"] < 0.2 * least["bare"], least
