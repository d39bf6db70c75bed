"""What the fault proxies must know of the protocols that pass through: where a request and an answer end. Pure.

PostgreSQL: messages with a type and a length, statements by name, ReadyForQuery. HTTP/1.1: where a request ends.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

_LENGTH: Final = 4
_STARTUP_CODES: Final = {80877102, 80877103, 80877104}  # cancel, TLS, GSS: asked before a session begins
_WRITES: Final = re.compile(
    rb"^\s*(insert|update|delete|commit|end)\b|\b(from|select)\s+(?!unnest\b)[a-z_]+\s*\(\s*\$1", re.IGNORECASE
)
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)
_END_OF_HEADERS: Final = b"\r\n\r\n"


class Message(NamedTuple):
    """One message of the PostgreSQL protocol; the first ones of a session have no type."""

    kind: bytes
    body: bytes


class Framer:
    """Cuts one direction of a PostgreSQL session into messages, however the bytes arrive."""

    def __init__(self, *, begins_untyped: bool) -> None:
        self._left = b""
        self._is_untyped = begins_untyped

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes; returns the messages that they complete. Raises ValueError for what cannot be a message."""
        self._left += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        head = 0 if self._is_untyped else 1
        if len(self._left) < head + _LENGTH:
            return None
        length = int.from_bytes(self._left[head : head + _LENGTH], "big")
        if length < _LENGTH:
            raise ValueError(f"a message of {length} bytes")
        end = head + length
        if len(self._left) < end:
            return None
        message = Message(self._left[:head], self._left[head + _LENGTH : end])
        self._left = self._left[end:]
        if self._is_untyped and int.from_bytes(message.body[:4], "big") not in _STARTUP_CODES:
            self._is_untyped = False
        return message


@dataclass(frozen=True, slots=True)
class Request:
    """What a client has asked the database for, up to the point where it waits for the answer."""

    text: bytes
    is_write: bool


class Requests:
    """Follows what the client of one session asks: prepared statements by name, and when a request is complete."""

    def __init__(self) -> None:
        self._framer = Framer(begins_untyped=True)
        self._statements: dict[bytes, bytes] = {}
        self._text = b""
        self._is_executing = False

    def feed(self, data: bytes) -> Request | None:
        """Take bytes from the client; returns the last request that they complete."""
        completed = None
        for message in self._framer.feed(data):
            completed = self._hear(message) or completed
        return completed

    def _hear(self, message: Message) -> Request | None:
        match message.kind:
            case b"P":
                name, text, *_ = message.body.split(b"\0", 2)
                self._statements[name] = text
            case b"B":
                _, name, *_ = message.body.split(b"\0", 2)
                self._text = self._statements.get(name, b"")
            case b"E":
                self._is_executing = True
            case b"S" if self._is_executing:
                self._is_executing = False
                return _request_of(self._text)
            case b"Q":
                return _request_of(message.body.rstrip(b"\0"))
        return None


def _request_of(text: bytes) -> Request:
    return Request(text, _WRITES.search(text) is not None)


class Answers:
    """Follows what the database answers: whether a command was completed, and whether its transaction is over."""

    def __init__(self) -> None:
        self._framer = Framer(begins_untyped=False)
        self.is_over = False
        self.is_committed = False
        self._has_completed = False

    def begin(self) -> None:
        """Look out for the answer to a new request."""
        self.is_over = self.is_committed = self._has_completed = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the database. After ReadyForQuery outside a transaction a completed command is committed."""
        for message in self._framer.feed(data):
            if message.kind == b"C":
                self._has_completed = True
            elif message.kind == b"E":
                self._has_completed = False
            elif message.kind == b"Z":
                self.is_over = True
                self.is_committed = self._has_completed and message.body == b"I"


def request_size(data: bytes) -> int | None:
    """Say how many bytes the HTTP request has that begins here; None while its headers are not whole."""
    end = data.find(_END_OF_HEADERS)
    if end < 0:
        return None
    found = _CONTENT_LENGTH.search(data, 0, end + len(_END_OF_HEADERS))
    return end + len(_END_OF_HEADERS) + (int(found[1]) if found is not None else 0)
