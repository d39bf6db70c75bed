"""The anchor: every seal in a file outside the database, one line each, and if wanted at an endpoint as well.

The file only grows. What it says is never brought in line with the database: where the two differ, sealing stops.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import msgspec

from coatcheck.config import SettingsError

_CHUNK_BYTES: Final = 1 << 16
_DEADLINE_S: Final = timedelta(seconds=10).total_seconds()

Line = tuple[int, bytes]
"""A seal's number, and the seal as a line."""


class AnchorError(Exception):
    """The database contradicts the anchor; the text says where."""


class _Numbered(msgspec.Struct):
    seal: int


class AnchorFile:
    """The file. Any number of processes may keep it together: each reads its end under a lock before it adds a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """Make the file if there is none. Raises SettingsError when it cannot be written."""
        try:
            with self._locked():
                pass
        except OSError as error:
            raise SettingsError([f"{self._path}: the anchor cannot be written: {error.strerror}"]) from error

    def last_number(self) -> int:
        """Say which seal the file ends with; 0 for none."""
        try:
            with self._path.open("rb") as file:
                return _last_line(file)[0]
        except FileNotFoundError:
            return 0

    def keep(self, lines: Sequence[Line], after: int) -> None:
        """Add the seals that are missing here, durably. `lines` are those of the database from seal `after` on.

        Raises AnchorError when the database has another seal than the file, or has it no more.
        """
        with self._locked() as file:
            number, line = _last_line(file)
            known = dict(lines)
            if known.get(number, line if number > after else b"") != line:
                raise AnchorError(
                    f"seal {number} of the database is not the one that {self._path} has: its history was rewritten, "
                    "or an older state was restored. Verify it; to go on from what is there, keep the file as evidence "
                    "and move it away"
                )
            missing = [line for each, line in sorted(known.items()) if each > number]
            if missing and max(known) - number != len(missing):
                raise AnchorError(f"seals after number {number} are missing in the database: its history was rewritten")
            if missing:
                file.seek(0, os.SEEK_END)
                file.write(b"".join(missing))
                file.flush()
                os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not self._path.exists()
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _end_of_last_line(file)
            if whole < file.seek(0, os.SEEK_END):  # a crash tore the last line; the database still has it
                file.truncate(whole)
            yield file
        if is_new:
            _sync_directory(self._path.parent)


def _end_of_last_line(file: BinaryIO) -> int:
    """Find where the last whole line ends: after the last newline."""
    place = file.seek(0, os.SEEK_END)
    while place > 0:
        start = max(0, place - _CHUNK_BYTES)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        place = start
    return 0


def _last_line(file: BinaryIO) -> Line:
    end = _end_of_last_line(file)
    if end == 0:
        return 0, b""
    start = end - 1
    while start > 0:
        chunk = max(0, start - _CHUNK_BYTES)
        file.seek(chunk)
        found = file.read(start - chunk).rfind(b"\n")
        if found >= 0:
            start = chunk + found + 1
            break
        start = chunk
    file.seek(start)
    line = file.read(end - start)
    try:
        return msgspec.json.decode(line.partition(b" ")[2], type=_Numbered).seal, line
    except msgspec.DecodeError as error:
        raise AnchorError(
            f"the last line of {file.name} is no seal: keep the file as evidence and move it away"
        ) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AnchorEndpoint:
    """Somebody else's endpoint that gets the same lines, in order and at least once.

    `posted` is a file with the number of the last seal that it has taken.
    """

    def __init__(self, url: str, posted: Path) -> None:
        self._url = url
        self._posted = posted

    def last_number(self) -> int:
        """Say which seal the endpoint has taken last; 0 for none."""
        try:
            return int(self._posted.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    async def post(self, lines: Sequence[Line]) -> None:
        """Send these lines in one request; anything but a 2xx raises aiohttp.ClientError, and they are sent again."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)) as session,
            session.post(
                self._url,
                data=b"".join(line for _, line in lines),
                headers={"Content-Type": "text/plain; charset=us-ascii"},
                allow_redirects=False,
            ) as answer,
        ):
            answer.raise_for_status()
            if not answer.ok or answer.status >= 300:  # noqa: PLR2004 - a redirect takes nothing
                raise aiohttp.ClientError(f"the endpoint answered {answer.status}")
        draft = self._posted.with_suffix(".draft")
        draft.write_text(str(lines[-1][0]), "ascii")
        draft.replace(self._posted)
