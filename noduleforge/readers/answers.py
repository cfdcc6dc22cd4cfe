"""What readers have answered, in one SQLite file; an answer that was taken is on disk."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ANSWERS = "answers.sqlite"

MACHINE = 0
"""The number of the network that answers like a reader; people's begin at 1."""

TABLES = """
CREATE TABLE IF NOT EXISTS readers (
    reader INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS answers (
    reader INTEGER NOT NULL,
    case_number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    answer TEXT NOT NULL,
    reading_ms INTEGER NOT NULL,
    answered_at TEXT NOT NULL,
    PRIMARY KEY (reader, case_number)
);
"""


INSERT = "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)"


class Answer(NamedTuple):
    """One answer.

    Attributes:
        reader: who gave it.
        case: the case's number.
        position: in the reader's order, from 0 on.
        answer: as `tasks.check_answer` takes it.
        reading_ms: that the case was looked at, without pauses.
    """

    reader: int
    case: int
    position: int
    answer: dict[str, Any]
    reading_ms: int


def _row(given: Answer) -> tuple[int, int, int, str, int, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    answer = json.dumps(given.answer)
    return given.reader, given.case, given.position, answer, given.reading_ms, now


class Answers:
    """The answers of a study."""

    def __init__(self, root: Path) -> None:
        """Open the file, which is made for its owner alone.

        Args:
            root: folder of the study.
        """
        self.path = root / ANSWERS
        self.path.touch(0o600)
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(TABLES)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
            with connection:
                yield connection
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            message = f"{self.path} cannot be used ({error}): is the disk full, is it damaged?"
            raise OSError(message) from error
        finally:
            connection.close()

    def tokens(self, readers: int) -> dict[int, str]:
        """The secret word of each reader, made when it is first asked for."""
        with self._connected() as connection:
            for reader in range(1, readers + 1):
                connection.execute(
                    "INSERT OR IGNORE INTO readers VALUES (?, ?)",
                    (reader, secrets.token_urlsafe(18)),
                )
            return dict(connection.execute("SELECT reader, token FROM readers ORDER BY reader"))

    def number(self, reader: int) -> int:
        """How many cases a reader has answered."""
        with self._connected() as connection:
            count = "SELECT COUNT(*) FROM answers WHERE reader = ?"
            found: int = connection.execute(count, (reader,)).fetchone()[0]
            return found

    def add(self, given: Answer) -> bool:
        """Store an answer.

        Returns:
            Whether it is the first to this case; another one changes nothing.
        """
        try:
            with self._connected() as connection:
                connection.execute(INSERT, _row(given))
        except sqlite3.IntegrityError:
            return False
        return True

    def replace(self, reader: int, given: list[Answer]) -> None:
        """Store all answers of a reader at once, in place of earlier ones."""
        with self._connected() as connection:
            connection.execute("DELETE FROM answers WHERE reader = ?", (reader,))
            connection.executemany(INSERT, map(_row, given))

    def all(self) -> list[Answer]:
        """Every answer, by reader and in the order in which they were given."""
        columns = "reader, case_number, position, answer, reading_ms"
        with self._connected() as connection:
            rows = connection.execute(
                f"SELECT {columns} FROM answers ORDER BY reader, position"
            ).fetchall()
        return [Answer(r, c, p, json.loads(answer), ms) for r, c, p, answer, ms in rows]
