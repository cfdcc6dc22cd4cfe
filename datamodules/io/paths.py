"""Files by what they are: names without endings, one path for one file, paths between folders."""

import os
from pathlib import Path

ENDINGS = (
    *(".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".img"),
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff"),
)
"""What the names of images end in. A dot alone ends no name: UIDs have many."""


def name_of(path: Path) -> str:
    """The whole name of a file or folder, but an image's ending; of `1.2.3.mha` it is `1.2.3`."""
    if path.name in ("", ".."):
        path = path.resolve()
    lower = path.name.lower()
    ending = next((ending for ending in ENDINGS if lower.endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]


def real_path(path: Path) -> str:
    """The one path of a file or folder, however its path is written and whatever links are in it.

    Paths that differ here are of different files. What does not exist has one, too.
    """
    return os.path.realpath(path)


def path_from(folder: Path, file: Path) -> str:
    """A file's path as seen from a folder, which holds where both lie behind symbolic links.

    `..` leads to where the link's target lies, not the link: both are followed first. The file's
    own name is kept, also where it is a link.
    """
    whole = Path(os.path.normpath(file.absolute())) if file.name == ".." else file.absolute()
    return os.path.relpath(whole.parent.resolve() / whole.name, folder.resolve())
