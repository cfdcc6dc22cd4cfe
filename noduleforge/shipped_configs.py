"""The configs that come with noduleforge."""

from pathlib import Path


def configs_folder() -> Path:
    """Where they are: in the package once it is installed, beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "configs"
    return installed if installed.is_dir() else here.parent / "configs"
