"""The HTTP server: uvicorn with signals of ours, whose answers leave in one piece."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Longer than balancers and clients keep an idle connection (60 s, 15 s): whoever sends on one that the other side has
# just closed gets no answer, and does not know what became of the request.
_KEEP_ALIVE_S: Final = 75
_HEAD: Final = b"HTTP/1.1 "


def make_server(app: ASGIApp, *, grace_s: int) -> "Server":
    """Make the server of an application; what is in flight when it is stopped has `grace_s` to end."""
    return Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=2048,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
        )
    )


class Server(uvicorn.Server):
    """A server whose signals are ours: SIGTERM ends in exit status 0, after the work in flight."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs the server."""
        yield


class Protocol(HttpToolsProtocol):
    """Speaks HTTP on one connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(InOnePiece(transport, self.loop))


class InOnePiece(asyncio.Transport):
    """A connection on which the head of an answer leaves with the first of its body, by one system call instead of two.

    uvicorn writes them one after the other, and uvloop sends at once. A head waits at most for the loop's next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = loop.call_soon
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, after a head that waits."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data[: len(_HEAD)] == _HEAD:
            self._head = bytes(data)
            self._call_soon(self._let_go)
        else:
            self._transport.write(data)

    def _let_go(self) -> None:
        if self._head and not self._transport.is_closing():
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Send what waits, and close."""
        self._let_go()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take nothing for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Say what is known about the connection."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol speak from here on."""
        self._transport.set_protocol(protocol)
