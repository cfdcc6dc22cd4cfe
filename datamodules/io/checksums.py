"""Checksums of what is written here, and of what compresses: a changed byte is no voxel.

An image file that is written here has the CRC-32 of all its bytes in its own header, so that it can
be copied and renamed at will, and other programs read it as ever. It stands there twice: damage of
one of the two is noticed like any other. What wipes out both leaves a file without a checksum.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARK = "crc32=00000000 crc32=00000000"
"""What a header must hold for `seal`."""

HEADER_BYTES = 2**16
"""Where the mark is looked for; our own headers are shorter."""

BLOCK = 2**20

_FOUND = re.compile(rb"crc32=([0-9a-f]{8}) crc32=([0-9a-f]{8})")

_DEFLATED = re.compile(
    rb"^CompressedData\s*=\s*True\b.*?^ElementDataFile\s*=\s*([^\r\n]+?)\s*?\r?\n", re.S | re.M
)
"""The header of a compressed MetaImage, up to its voxels."""


def seal(path: Path) -> None:
    """Put a file's checksum into its header, where `MARK` is.

    Raises:
        ValueError: If the header has no such place.
    """
    with path.open("r+b") as file:
        place = file.read(HEADER_BYTES).find(MARK.encode())
        if place < 0:
            message = f"{path} has no room for a checksum: give a shorter description"
            raise ValueError(message)
        value = f"crc32={_crc(path, place):08x}"
        file.seek(place)
        file.write(f"{value} {value}".encode())


def check_image(path: Path) -> None:
    """Check the bytes of an image file by the checksum that it carries, if it does.

    A file of ours carries one of all its bytes; any MetaImage or NRRD that is compressed, one of
    its voxels, about whose damage ITK prints a line and goes on.

    Args:
        path: an existing file.

    Raises:
        ValueError: If it is damaged.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if b"crc32=" in head:
        found = _FOUND.search(head)
        if not found or found[1] != found[2] or int(found[1], 16) != _crc(path, found.start()):
            raise _damaged(path)
    elif path.suffix.lower() in (".mha", ".mhd"):
        if found := _DEFLATED.search(head):
            local = found[1] == b"LOCAL"
            voxels = path if local else path.parent / found[1].decode(errors="replace")
            if voxels.is_file():  # not a list or pattern of several
                _check_zlib(voxels, found.end() if local else 0)
    elif path.suffix.lower() == ".nrrd" and re.search(rb"(?mi)^encoding: *gz", head):
        start = re.search(rb"\r?\n\r?\n", head)
        if start:
            _check_gzip(path, start.end())


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts with their own checksum, `crc32`.

    Args:
        path: where to.
        facts: what JSON can hold.
    """
    path.write_text(json.dumps({**facts, "crc32": _json_crc(facts)}, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Read facts, and check them where they carry a checksum.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, or holds something else.
    """
    try:
        facts: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON ({error}): copy or make it again"
        raise ValueError(message) from error
    if not isinstance(facts, dict):
        message = f"{path} holds no facts by name, as it did when it was written: make it again"
        raise ValueError(message)
    told = facts.pop("crc32", None)
    if told is not None and told != _json_crc(facts):
        message = (
            f"{path} differs from its checksum: it was damaged or changed; copy or make it again"
        )
        raise ValueError(message)
    return facts


def _json_crc(facts: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


def _crc(path: Path, place: int) -> int:
    """CRC-32 of a file as it is with an empty mark at `place`, within its header."""
    value = 0
    for number, block in enumerate(_blocks(path, 0)):
        if not number:
            block = block[:place] + MARK.encode() + block[place + len(MARK) :]
        value = zlib.crc32(block, value)
    return value


def _blocks(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            yield block


def _check_zlib(path: Path, start: int) -> None:
    unpacker = zlib.decompressobj()
    try:
        for block in _blocks(path, start):
            while block and not unpacker.eof:
                unpacker.decompress(block, BLOCK)
                block = unpacker.unconsumed_tail
    except (OSError, zlib.error) as error:
        raise _damaged(path) from error
    if not unpacker.eof:
        raise _damaged(path)


def _check_gzip(path: Path, start: int) -> None:
    try:
        with path.open("rb") as file:
            file.seek(start)
            with gzip.GzipFile(fileobj=file) as unpacked:
                while unpacked.read(BLOCK):
                    pass
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path} is damaged or cut short: it differs from its checksum; copy or make it again (or, "
        "where another program changed it, replace crc32= by other= in its header)"
    )
