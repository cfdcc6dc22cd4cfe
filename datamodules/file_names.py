"""Names that become part of a path: which ones may, and what stands for the others."""

import re
import unicodedata
from hashlib import sha256

MOST_CHARACTERS = 200
"""In a name: what is put before and after it still fits into the 255 bytes of file systems."""

SHORT = 64
"""Characters up to which `safe_file_name` keeps a name."""

PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]*[A-Za-z0-9_-])?")
"""Neither a separator, nor a hidden file, nor an end that Windows drops."""

DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever the ending."""

DIGITS = 16
"""Hexadecimal digits that keep the names of different texts apart."""

DIGEST = re.compile(rf"(?:.*-)?[0-9a-f]{{{DIGITS}}}", re.IGNORECASE)
"""What `safe_file_name` makes: a text that looks like it could be mistaken for it."""


def is_file_name(text: str) -> bool:
    """Tell whether a text may become part of a path: the one rule for it."""
    plain = PLAIN.fullmatch(text) is not None and DEVICE.fullmatch(text) is None
    return plain and len(text) <= MOST_CHARACTERS


def check_file_name(text: str, what: str) -> str:
    """Return a text that may become part of a path, as it is.

    Args:
        text: the name that somebody gave.
        what: names it in the message, such as `name`.

    Raises:
        ValueError: If it could lead out of its folder, or is no name on some file system.
    """
    if not is_file_name(text):
        shown = text if len(text) <= SHORT else f"{text[:SHORT]}..."
        message = (
            f"{what} is {shown!r}, which names files: give 1 to {MOST_CHARACTERS} letters and "
            "digits of ASCII, with _ - . and blanks in between"
        )
        raise ValueError(message)
    return text


def safe_file_name(text: str) -> str:
    """A name for any text that fits every file system, and that no other text gets.

    Texts that are names and have no small letter, as identifiers of patients and UIDs mostly are,
    stay as they are. All others get a readable beginning and a digest, so that names also differ
    where file systems do not tell large from small letters.
    """
    plain = is_file_name(text) and text == text.upper() and " " not in text
    if plain and len(text) <= SHORT and not DIGEST.fullmatch(text):
        return text
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")[: SHORT - DIGITS - 1]
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    return f"{readable}-{digest}" if readable else digest
