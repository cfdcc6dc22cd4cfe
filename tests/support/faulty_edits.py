"""Faults to put into right inputs: each function returns what changes the folder `in`."""

import gzip
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import SimpleITK as sitk

Spoil = Callable[[Path], None]


def nothing(root: Path) -> None:
    """Leave the input right, where the fault is in the command line."""


def both(*spoils: Spoil) -> Spoil:
    """One change after the other."""

    def spoil(root: Path) -> None:
        for one in spoils:
            one(root)

    return spoil


def content(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Change a file's bytes."""

    def spoil(root: Path) -> None:
        path = root / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def text(name: str, whole: str) -> Spoil:
    """Put a text in a file's place."""
    return lambda root: _write(root / name, whole.encode())


def _write(path: Path, whole: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole)


def words(name: str, old: str, new: str) -> Spoil:
    """Replace words in a file, all of them."""

    def change(whole: bytes) -> bytes:
        assert old.encode() in whole, f"{name} lacks {old!r}"
        return whole.replace(old.encode(), new.encode())

    return content(name, change)


def remove(name: str) -> Spoil:
    """Remove a file or folder."""

    def spoil(root: Path) -> None:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return spoil


def folder(name: str) -> Spoil:
    """Put an empty folder in a file's place."""
    return both(remove(name), lambda root: (root / name).mkdir())


def move(name: str, to: str) -> Spoil:
    """Rename a file or folder."""

    def spoil(root: Path) -> None:
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / name, root / to)

    return spoil


def cut(name: str, share: float = 0.5) -> Spoil:
    """Keep the beginning of a file."""
    return content(name, lambda whole: whole[: int(share * len(whole))])


def flip(name: str, place: float = 0.5, bits: int = 0x10) -> Spoil:
    """Flip a bit at a share of a file's length."""

    def change(whole: bytes) -> bytes:
        at = min(int(place * len(whole)), len(whole) - 1)
        return whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]

    return content(name, change)


def cell(name: str, column: str, value: object, row: int = 0) -> Spoil:
    """Put a value into a cell of a table; the column is added where there is none."""

    def spoil(root: Path) -> None:
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        if column not in table:
            table[column] = ""
        table.loc[row, column] = str(value)
        table.to_csv(root / name, index=False)

    return spoil


def rows(name: str, *more: Mapping[str, object]) -> Spoil:
    """Add rows to a table, like its first but for some cells."""

    def spoil(root: Path) -> None:
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        added = [table.iloc[0].to_dict() | {k: str(v) for k, v in cells.items()} for cells in more]
        pd.concat([table, pd.DataFrame(added)]).to_csv(root / name, index=False)

    return spoil


def without(name: str, column: str) -> Spoil:
    """Remove a column of a table."""

    def spoil(root: Path) -> None:
        pd.read_csv(root / name, dtype=str).drop(columns=column).to_csv(root / name, index=False)

    return spoil


def image(name: str, change: Callable[[np.ndarray], np.ndarray], **grid: Any) -> Spoil:
    """Write an image anew, as other programs do: without a checksum of ours.

    Args:
        name: the file.
        change: of its voxels.
        grid: `Spacing`, `Origin` or `Direction`, as SimpleITK has them.
    """

    def spoil(root: Path) -> None:
        source = sitk.ReadImage(root / name)
        made = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(source)))
        if made.GetDimension() == source.GetDimension():
            made.CopyInformation(source) if made.GetSize() == source.GetSize() else None
        for what, value in grid.items():
            getattr(made, f"Set{what}")(value)
        sitk.WriteImage(made, root / name, useCompression=True)

    return spoil


def dicom(name: str, **elements: Any) -> Spoil:
    """Set elements of the first DICOM file of a folder; None removes one."""

    def spoil(root: Path) -> None:
        path = sorted((root / name).glob("*.dcm"))[0]
        with pydicom.config.disable_value_validation():
            data = pydicom.dcmread(path)
            for keyword, value in elements.items():
                if value is None:
                    del data[keyword]
                else:
                    data[keyword] = pydicom.DataElement(
                        pydicom.datadict.tag_for_keyword(keyword),
                        pydicom.datadict.dictionary_VR(keyword),
                        value,
                    )
            data.save_as(path)

    return spoil


def packed(whole: bytes) -> bytes:
    """Compressed with gzip."""
    return gzip.compress(whole)
