"""A file that comes as the body of a request: written to a temporary file as it arrives, never whole in memory."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path
from typing import IO, Any

from litestar.types import Receive

from coatcheck.errors import CoatcheckError, ErrorCode

_WRITTEN_AT_ONCE = 1 << 20
_LONGEST_NAME = 200


@asynccontextmanager
async def uploaded(receive: Receive, *, limit_bytes: int, deadline_s: int) -> AsyncIterator[Path]:
    """Give the path of a temporary file with the body in it. Raises CoatcheckError, as read_body does (hazard C17).

    The file has no name in any folder, so a process that is killed leaves nothing of it behind.
    """
    with tempfile.TemporaryFile() as file:
        try:
            async with asyncio.timeout(deadline_s):
                await _write(receive, file, limit_bytes)
        except TimeoutError:
            raise CoatcheckError(ErrorCode.BODY_TOO_SLOW, f"Send the whole file within {deadline_s} seconds.") from None
        yield Path(f"/proc/self/fd/{file.fileno()}")


async def _write(receive: Receive, file: IO[bytes], limit_bytes: int) -> None:
    waiting, size, more = bytearray(), 0, True
    while more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise CoatcheckError(ErrorCode.MALFORMED_BODY, "The connection closed before the file was complete.")
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise CoatcheckError(ErrorCode.BODY_TOO_LARGE, f"Send at most {limit_bytes} bytes in one file.")
        waiting += part
        more = message.get("more_body", False)
        if len(waiting) >= _WRITTEN_AT_ONCE or not more:
            await asyncio.to_thread(file.write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(file.flush)


def file_name_of(disposition: bytes | None) -> str | None:
    """Read the name in a Content-Disposition header (RFC 6266), without its folders; None when it has none."""
    if disposition is None:
        return None
    header = Message()
    header["content-disposition"] = disposition.decode("latin-1")
    return plain_name(header.get_filename())


def plain_name(name: str | None) -> str | None:
    """Keep of a name what people can read: no folders and no control characters, and not too much of it."""
    if name is None:
        return None
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_LONGEST_NAME].strip() or None
