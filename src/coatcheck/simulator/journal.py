"""The books on disk: one JSON line per change, appended before it takes effect and read back at start."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from coatcheck.simulator.records import Entry


class JournalError(Exception):
    """The journal cannot be read; the text says where."""


class Journal:
    """An append-only file. A torn last line, as a killed process leaves it, is cut off; any other damage is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encode = msgspec.json.Encoder().encode
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def entries(self) -> Iterator[Entry]:
        """Read all changes, oldest first."""
        decode = msgspec.json.Decoder(Entry).decode
        sound = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise JournalError(f"{self._path}, line {number}: {error}") from error
                sound += len(line)
        os.ftruncate(self._file, sound)

    def append(self, entry: Entry) -> None:
        """Write one change."""
        os.write(self._file, self._encode(entry) + b"\n")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
