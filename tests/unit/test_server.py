"""How an answer leaves: its head with the first of its body, and never later than the loop's next turn."""

import asyncio
from typing import Any

import pytest

from coatcheck.api.server import InOnePiece

HEAD = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Remembers each write: one system call each."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def connection(wire: Wire) -> InOnePiece:
    return InOnePiece(wire, asyncio.get_running_loop())


async def test_a_head_and_its_body_leave_by_one_write(wire: Wire, connection: InOnePiece) -> None:
    connection.write(HEAD)
    connection.write(b"{}")
    assert wire.writes == [HEAD + b"{}"]
    await asyncio.sleep(0)
    assert wire.writes == [HEAD + b"{}"]


async def test_a_head_whose_body_takes_its_time_does_not_wait_for_it(wire: Wire, connection: InOnePiece) -> None:
    connection.write(HEAD)
    assert wire.writes == []
    await asyncio.sleep(0)
    assert wire.writes == [HEAD]
    connection.write(b"{}")
    assert wire.writes == [HEAD, b"{}"]


async def test_a_body_that_looks_like_a_head_is_not_kept(wire: Wire, connection: InOnePiece) -> None:
    connection.write(HEAD)
    connection.write(b"HTTP/1.1 is what this text is about, ")
    connection.write(b"HTTP/1.1 and nothing else")
    await asyncio.sleep(0)
    assert b"".join(wire.writes) == HEAD + b"HTTP/1.1 is what this text is about, HTTP/1.1 and nothing else"


async def test_closing_sends_what_waits(wire: Wire, connection: InOnePiece) -> None:
    connection.write(HEAD)
    connection.close()
    assert wire.writes == [HEAD]
    assert wire.is_closed


async def test_a_connection_that_is_lost_takes_the_head_with_it(wire: Wire, connection: InOnePiece) -> None:
    connection.write(HEAD)
    wire.close()
    await asyncio.sleep(0)
    assert wire.writes == []
