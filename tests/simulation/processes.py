"""Real `coatcheck` processes for the kill tests: started, killed, stopped in their tracks, and started again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from coatcheck.drill.ports import free_port

PROGRAM: Final = Path(sys.executable).with_name("coatcheck")
_START_S: Final = 30.0


class Process:
    """A `coatcheck` process that can be started again; its output goes to one file."""

    def __init__(self, name: str, arguments: Sequence[str], settings: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._arguments = [str(PROGRAM), *arguments]
        self._environ = environ(settings)
        self._running: subprocess.Popen[bytes] | None = None

    async def start(self, ready: str) -> str:
        """Start it and wait for a line with the word `ready`; returns that line."""
        seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(  # noqa: S603, ASYNC220 - our own program; starting takes no time
                self._arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environ
            )
        deadline = monotonic() + _START_S
        while monotonic() < deadline:
            text = self.log.read_bytes()[seen:].decode("utf-8", "replace")
            for line in text.splitlines():
                if ready in line:
                    return line
            assert self._running.poll() is None, f"{self.name} ended at its start: {text[-2000:]}"
            await asyncio.sleep(0.03)
        raise AssertionError(f"{self.name} is not ready after {_START_S} s: {text[-2000:]}")

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._running is not None
        self._running.send_signal(number)

    async def ended(self, timeout_s: float = 40.0) -> int:
        """Wait for its end; returns the exit status."""
        assert self._running is not None
        return await asyncio.to_thread(self._running.wait, timeout_s)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait(10)


class GatewayProcess(Process):
    """`coatcheck serve` on a port of its own, the same after each restart."""

    def __init__(self, name: str, settings: Mapping[str, str], directory: Path) -> None:
        port = free_port()
        super().__init__(name, ["serve", "--port", str(port)], settings, directory)
        self.url = f"http://127.0.0.1:{port}"

    async def serve(self) -> None:
        """Start it and wait until it listens."""
        assert json.loads(await self.start('"event": "ready"'))["url"] == self.url


def environ(settings: Mapping[str, str]) -> dict[str, str]:
    """Make an environment without any setting of the user's own."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COATCHECK_") and name != "DATABASE_URL"
    }
    return inherited | {"COATCHECK_CONFIG": os.devnull} | dict(settings)


async def run_command(arguments: Sequence[str], settings: Mapping[str, str]) -> str:
    """Run one `coatcheck` command to its end; it must end well. Returns what it printed."""
    running = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ(settings),
    )
    printed, errors = await running.communicate()
    assert running.returncode == 0, (printed + errors).decode()
    return printed.decode()


class DatabaseLine:
    """A line to PostgreSQL that can be cut: what is open breaks and who comes is refused, as if it were gone."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._port = free_port()
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.url = f"postgresql://{parts.username}@127.0.0.1:{self._port}{parts.path}?sslmode=disable"

    async def mend(self) -> None:
        """Let connections through."""
        self._listening = await asyncio.start_server(self._carry, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """Break everything and refuse whoever comes."""
        assert self._listening is not None
        self._listening.close()
        for writer in list(self._open):
            writer.transport.abort()
        self._open.clear()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._socket)
        self._open |= {writer, far_writer}
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer), return_exceptions=True)
        self._open -= {writer, far_writer}


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # cut
    finally:
        target.close()


@asynccontextmanager
async def database_line(url: str) -> AsyncIterator[DatabaseLine]:
    """Open a line; it is cut at the end."""
    line = DatabaseLine(url)
    await line.mend()
    try:
        yield line
    finally:
        await line.cut()


def checkout_body(name: str, orders: Sequence[Mapping[str, str]], token: str) -> dict[str, Any]:
    """Write the body of POST /v1/payments."""
    return {
        "buyer": {"reference": f"buyer-{name}"},
        "checkout_id": name,
        "payment_method": {"token": token},
        "payment_orders": list(orders),
    }
