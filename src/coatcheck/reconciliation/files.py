"""A file that somebody brings: whose it is, what format it has, and its bytes piece by piece."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from coatcheck.ids import derive_id
from coatcheck.reconciliation.formats import format_of
from coatcheck.reconciliation.lines import FileRefusedError, Format
from coatcheck.reconciliation.reading import decoded
from coatcheck.states import Mode

BANK: Final = "bank"  # what stands for the provider of a bank's statement
_CHUNK: Final = 1 << 18

Progress = Callable[[int, int], None]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file that lies here, whose it is, and who brings it. `name`: what people call it."""

    path: Path
    name: str
    shop_id: UUID
    mode: Mode
    brought_by: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was recognised, and the digest of its content."""

    source: Source
    form: Format
    digest: bytes

    @property
    def provider(self) -> str:
        """Whose file it is: a PSP's name, or `bank`."""
        return self.form.provider or BANK

    @property
    def file_id(self) -> UUID:
        """The hash of whose it is and what is in it."""
        source = self.source
        return derive_id("settlement_file", source.shop_id.hex, source.mode, self.provider, self.digest.hex())

    @property
    def world(self) -> tuple[UUID, str, str]:
        """Shop, mode and provider, as SQL takes them."""
        return self.source.shop_id, self.source.mode.value, self.provider


def format_at(path: Path) -> Format:
    """Find the format of a file by its beginning. Raises FileRefusedError."""
    with path.open("rb") as file:
        head = file.read(_CHUNK)
    if not head:
        raise FileRefusedError("it is empty: fetch it again")
    return format_of(next(decoded([head])).removeprefix("\ufeff"))


def recognised(source: Source) -> Candidate:
    """Find the format of a file by its content. Raises FileRefusedError."""
    form = format_at(source.path)
    with source.path.open("rb") as file:
        return Candidate(source=source, form=form, digest=hashlib.file_digest(file, "sha256").digest())


def chunks_of(path: Path, progress: Progress) -> Iterator[bytes]:
    """Read a file piece by piece, and say how far that has come."""
    size, read = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            read += len(chunk)
            progress(read, size)
