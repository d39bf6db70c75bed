"""One HTTP/1.1 connection to the simulated PSP: parsing by httptools, answers in order, drops on purpose."""

import asyncio
from collections import deque
from http import HTTPStatus
from typing import cast

import httptools

from coatcheck.simulator.app import App, Reply

MAX_BODY = 64 * 1024
MAX_EVIDENCE = 16 * 1024 * 1024
MAX_HEADERS = 16 * 1024

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}
_Request = tuple[bytes, bytes, dict[bytes, bytes], bytes, bool]


class Connection(asyncio.Protocol):
    """Reads requests, asks the App, writes replies; while a reply is held back, later requests of it wait."""

    def __init__(self, app: App, connections: set["Connection"]) -> None:
        self._app = app
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[_Request] = deque()
        self._is_held = False
        self._is_closing = False
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._header_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class only behaves like one
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the caller went away, whatever the reason
        """Forget the connection; what was charged stays charged."""
        self._connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Parse what came and answer every complete request in it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._turn_away(400, "malformed_http", "This is not a request that can be read.")

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Start a request."""
        self._begin()

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        self._target += url
        self._count_header_bytes(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers[name.lower()] = value
        self._count_header_bytes(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Let a cautious client send its body."""
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        most = MAX_EVIDENCE if self._target.endswith(b"/evidence") else MAX_BODY
        if len(self._body) + len(body) > most:
            self._turn_away(413, "body_too_large", f"A body has at most {most} bytes.")
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer, or wait for the reply before this one."""
        if self._is_closing:
            return
        request = (
            self._parser.get_method(),
            self._target,
            self._headers,
            self._body,
            self._parser.should_keep_alive(),
        )
        if self._is_held:
            self._waiting.append(request)
        else:
            self._answer(request)

    # answering

    def _answer(self, request: _Request) -> None:
        method, target, headers, body, keep_alive = request
        reply = self._app.handle(method, target, headers, body)
        if reply.delay_s > 0 and self._transport is not None:
            self._is_held = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(reply.delay_s, self._release, reply, method, keep_alive)
        else:
            self._write(reply, method, keep_alive=keep_alive)

    def _release(self, reply: Reply, method: bytes, keep_alive: bool) -> None:  # noqa: FBT001 - call_later is positional
        """Write a reply that was held back, then answer what has queued up behind it."""
        self._is_held = False
        self._write(reply, method, keep_alive=keep_alive)
        while self._waiting and not self._is_held and not self._is_closing:
            self._answer(self._waiting.popleft())
        if self._transport is not None and not self._is_held and not self._is_closing:
            self._transport.resume_reading()

    def _write(self, reply: Reply, method: bytes, *, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if reply.is_dropped:
            self._is_closing = True
            transport.close()
            return
        keeps = keep_alive and not self._is_closing
        transport.write(
            b"%b%bcontent-length: %d\r\n%b\r\n%b"
            % (
                _STATUS_LINES[reply.status],
                reply.headers,
                len(reply.body),
                b"" if keeps else b"connection: close\r\n",
                b"" if method == b"HEAD" else reply.body,
            )
        )
        if not keeps:
            self._is_closing = True
            transport.close()

    def _count_header_bytes(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > MAX_HEADERS:
            self._turn_away(431, "headers_too_large", f"Target and headers have at most {MAX_HEADERS} bytes.")

    def _turn_away(self, status: int, code: str, message: str) -> None:
        """Refuse a request that cannot be read to its end, and close."""
        if self._is_closing:
            return
        self._is_closing = True
        body = b'{"code":"%b","message":"%b"}' % (code.encode(), message.encode())
        self._write(Reply(status, body), b"", keep_alive=False)

    def finish(self) -> None:
        """Close now if idle, else after the reply that is being held back."""
        self._is_closing = True
        if not self._is_held and self._transport is not None:
            self._transport.close()
