"""Connections are not asked for in a storm while PostgreSQL turns everybody away."""

import asyncio
from typing import Any, cast

import asyncpg
import pytest

from coatcheck.store import database
from coatcheck.store.connector import Connector, ServerAwayError


class Server:
    """A server that answers what it is told to, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.refusals = 10**6
        self.now = 0.0
        self.error: Exception | None = asyncpg.CannotConnectNowError("the database system is starting up")

    async def connect(self, *_: Any, **__: Any) -> asyncpg.Connection:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None and self.asked <= self.refusals:
            raise self.error
        return cast("asyncpg.Connection", object())

    def connector(self) -> Connector:
        return Connector(self.connect, lambda: self.now)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.CannotConnectNowError("the database system is in recovery mode"),
        ConnectionRefusedError(111, "Connection refused"),
        FileNotFoundError(2, "No such file or directory"),
    ],
)
async def test_a_server_that_lets_nobody_in_is_asked_once_for_all(error: Exception) -> None:
    server = Server()
    server.error = error
    connector = server.connector()
    with pytest.raises(type(error)):
        await connector.connect()
    for _ in range(100):
        with pytest.raises(ServerAwayError, match="a moment ago"):
            await connector.connect()
    assert server.asked == 1
    server.now = 0.21
    answers = await asyncio.gather(*[connector.connect() for _ in range(100)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(error)] + 99 * [ServerAwayError]
    assert server.asked == 2


async def test_a_server_that_is_back_is_open_to_all_at_once() -> None:
    server = Server()
    connector = server.connector()
    with pytest.raises(asyncpg.CannotConnectNowError):
        await connector.connect()
    server.now, server.error = 0.21, None
    await connector.connect()
    await asyncio.gather(*[connector.connect() for _ in range(9)])
    assert server.asked == 11


async def test_one_connection_that_breaks_says_nothing_of_the_others() -> None:
    server = Server()
    server.error = ConnectionResetError("connection lost")
    connector = server.connector()
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await connector.connect()
    assert server.asked == 2


async def test_a_start_waits_for_a_server_that_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(asyncpg, "connect", server.connect)
    monkeypatch.setattr(database, "_LOOKS_AGAIN_AFTER_S", 0.01)
    server.refusals = 2
    await database._connect("postgresql://h/db")
    assert server.asked == 3


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (asyncpg.CannotConnectNowError("the database system is starting up"), "let nobody in for 0.05 s"),
        (ConnectionRefusedError(111, "Connection refused"), "check DATABASE_URL"),
    ],
)
async def test_a_start_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    server = Server()
    server.error = error
    monkeypatch.setattr(asyncpg, "connect", server.connect)
    monkeypatch.setattr(database, "_LOOKS_AGAIN_AFTER_S", 0.01)
    monkeypatch.setattr(database, "_COMES_WITHIN_S", 0.05)
    with pytest.raises(database.StoreError, match=says):
        await database._connect("postgresql://h/db")
