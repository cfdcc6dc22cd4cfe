"""The configs that come with noduleforge."""

import shutil
from pathlib import Path

from datamodules.io.whole_files import new_folder


def configs_folder() -> Path:
    """Where they are: in the package once it is installed, beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "configs"
    return installed if installed.is_dir() else here.parent / "configs"


def configs(copy: Path) -> None:
    """Copy the configs that come with noduleforge, to be used and edited.

    Called `configs`, the folder is where the documents' commands look.

    Args:
        copy: folder to write, which must not exist.

    Raises:
        FileExistsError: If there is something at `copy`.
    """
    with new_folder(copy) as folder:
        shutil.copytree(configs_folder(), folder, dirs_exist_ok=True)
    print(f"{sum(1 for _ in copy.rglob('*.yaml'))} configs: {copy}")
