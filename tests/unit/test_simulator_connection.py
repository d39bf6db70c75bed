"""HTTP on the simulated PSP's connections, without sockets."""

import asyncio

import pytest

from coatcheck.simulator.app import App
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.connection import MAX_BODY, MAX_HEADERS, Connection

HEAD = b"Host: x\r\nAuthorization: Bearer sk_sim_test_shop\r\n"


class Wire(asyncio.Transport):
    """The other end of a connection: keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


@pytest.fixture
def app() -> App:
    return App(Bank(clock=lambda: 0.0, key_window_s=60), Chaos(Dial()), cache_errors=True, slow_s=0.05)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def connection(app: App, wire: Wire) -> Connection:
    made = Connection(app, set())
    made.connection_made(wire)
    return made


def charge(key: str, token: str = "tok_approve", extra: bytes = b"") -> bytes:
    body = f'{{"amount":1,"currency":"EUR","token":"{token}","reference":"{key}"}}'.encode()
    head = b"POST /v1/charges HTTP/1.1\r\n%bIdempotency-Key: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (HEAD, key.encode(), len(body), extra) + body


def statuses(wire: Wire) -> list[int]:
    return [int(part[:3]) for part in wire.written.split(b"HTTP/1.1 ")[1:]]


def test_one_request_in_any_number_of_pieces(connection: Connection, wire: Wire) -> None:
    for byte in charge("op_1"):
        connection.data_received(bytes([byte]))
    assert statuses(wire) == [201]
    head, _, body = wire.written.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
    assert b"content-type: application/json" in head
    assert not wire.is_closed


def test_a_chunked_body_is_read(connection: Connection, wire: Wire, app: App) -> None:
    body = charge("op_1").partition(b"\r\n\r\n")[2]
    head = b"POST /v1/charges HTTP/1.1\r\n" + HEAD + b"Idempotency-Key: op_1\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.data_received(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (statuses(wire), app.bank.charge_count) == ([201], 1)


def test_two_requests_on_one_connection_keep_their_headers_apart(connection: Connection, wire: Wire) -> None:
    connection.data_received(charge("op_1"))
    connection.data_received(b"POST /v1/charges HTTP/1.1\r\n" + HEAD + b"Content-Length: 0\r\n\r\n")
    assert statuses(wire) == [201, 400]
    assert b"idempotency_key_missing" in wire.written


async def test_replies_keep_their_order_while_one_is_held_back(connection: Connection, wire: Wire) -> None:
    connection.data_received(charge("op_1", "tok_slow") + charge("op_2") + b"GET /nowhere HTTP/1.1\r\n\r\n")
    assert (wire.written, wire.is_paused) == (b"", True)
    await asyncio.sleep(0.1)
    assert statuses(wire) == [201, 201, 404]
    assert wire.written.index(b'"op_1"') < wire.written.index(b'"op_2"')
    assert not wire.is_paused


async def test_a_caller_who_left_does_not_undo_the_charge(connection: Connection, wire: Wire, app: App) -> None:
    connection.data_received(charge("op_1", "tok_slow"))
    connection.connection_lost(None)
    await asyncio.sleep(0.1)
    assert (wire.written, app.bank.charge_count) == (b"", 1)


def test_a_drop_closes_without_a_byte(connection: Connection, wire: Wire, app: App) -> None:
    connection.data_received(charge("op_1", "tok_drop"))
    assert (wire.written, wire.is_closed, app.bank.charge_count) == (b"", True, 1)


def test_connection_close_is_obeyed(connection: Connection, wire: Wire) -> None:
    connection.data_received(charge("op_1", extra=b"Connection: close\r\n"))
    assert statuses(wire) == [201]
    assert b"connection: close\r\n" in wire.written
    assert wire.is_closed


def test_a_cautious_client_is_told_to_go_on(connection: Connection, wire: Wire) -> None:
    whole = charge("op_1", extra=b"Expect: 100-continue\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    connection.data_received(head + b"\r\n\r\n")
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(body)
    assert statuses(wire) == [100, 201]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * MAX_HEADERS + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * MAX_HEADERS + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST /v1/charges HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"a" * (MAX_BODY + 1), 413),
    ],
)
def test_what_cannot_be_read_is_turned_away_and_closed(
    connection: Connection, wire: Wire, raw: bytes, status: int
) -> None:
    connection.data_received(raw)
    assert statuses(wire)[-1] == status
    assert wire.is_closed


def test_a_head_request_gets_no_body(connection: Connection, wire: Wire) -> None:
    connection.data_received(b"HEAD /health HTTP/1.1\r\n\r\n")
    assert statuses(wire) == [405]
    assert wire.written.endswith(b"\r\n\r\n")


async def test_F12_finishing_waits_for_the_reply_that_is_held_back(connection: Connection, wire: Wire) -> None:
    connection.data_received(charge("op_1", "tok_slow"))
    connection.finish()
    assert not wire.is_closed
    await asyncio.sleep(0.1)
    assert (statuses(wire), wire.is_closed) == ([201], True)


def test_finishing_closes_an_idle_connection(connection: Connection, wire: Wire) -> None:
    connection.finish()
    assert wire.is_closed
