"""The secret of a site, with which patients and studies get their keys and pseudonyms.

It is made when it is first needed, and kept in a file that its owner alone can read. Whoever has it
can find out which of the patients he knows a key stands for; whoever has not, cannot, however short
their numbers are. Without it keys of before cannot be compared with patients any more.
"""

import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

VARIABLE = "NODULEFORGE_SECRET"
"""Environment variable with the path of the file; all processes and machines of a site need one."""

DIGITS = 64
"""Hex digits of a secret."""


def keyed(*parts: str) -> str:
    """The hex HMAC-SHA-256 of texts under the site's secret, as `digest.sha256` puts them together.

    Raises:
        OSError: If the secret can be neither read nor made.
        ValueError: If its file holds something else, or others can read it.
    """
    told = b"".join(part.encode() + b"\0" for part in parts)
    return hmac.new(read_secret(secret_file()), told, hashlib.sha256).hexdigest()


def site() -> str:
    """Stands for the site's secret, of which it says nothing: 8 hex digits."""
    return keyed("site")[:8]


def secret_file() -> Path:
    """Where the secret is kept: `NODULEFORGE_SECRET`, or `noduleforge/secret` in user settings."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    settings = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(settings).expanduser() / "noduleforge/secret"


@lru_cache
def read_secret(path: Path) -> bytes:
    """Read the secret, and make it first if there is none.

    Processes may do so at the same time: all get that of the first.

    Args:
        path: its file.

    Raises:
        OSError: If the file can be neither read nor made.
        ValueError: If it holds something else, or others can read it.
    """
    try:
        if not path.is_file():
            _make(path)
        text, mode = path.read_text("ascii", "replace").strip(), path.stat().st_mode & 0o777
    except OSError as error:
        message = (
            f"The site's secret can be neither read nor made in {path} ({error.strerror}): set "
            f"{VARIABLE} to the path of a file that can, the same one on all machines."
        )
        raise OSError(message) from error
    if mode & 0o077:
        message = f"The site's secret {path} can be read by others (mode {mode:o}): chmod 600 it."
        raise ValueError(message)
    if len(text) != DIGITS or set(text) - set("0123456789abcdef"):
        message = (
            f"{path} holds no secret of {DIGITS} hex digits: put back the site's, or set "
            f"{VARIABLE} to the path of its file."
        )
        raise ValueError(message)
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Write a new secret, unless another process is faster; never a part of one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(DIGITS // 2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            return
    finally:
        own.unlink(missing_ok=True)
