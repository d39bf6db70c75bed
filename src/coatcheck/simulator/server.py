"""Running the simulated PSP as a process of its own."""

import asyncio
import gc
import signal
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from coatcheck.simulator.app import App
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.connection import Connection
from coatcheck.simulator.journal import Journal

BACKLOG = 4096  # a reconnecting gateway opens hundreds of connections at once
DAY_S = 86_400
_LAST_REPLIES_S = 5  # how long SIGTERM waits for replies that are being held back
_GC_THRESHOLD = 100_000  # what is kept for ever is not worth walking through again and again


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the simulated PSP runs. Port 0 takes a free one. `books` is the journal file, if the books are to be kept.

    `key_window_s`: how long an idempotency key is remembered. `slow_s`: how long tok_slow takes.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_window_s: float = DAY_S
    cache_errors: bool = True
    slow_s: float = 3
    books: Path | None = None
    dial: Dial = msgspec.field(default_factory=Dial)


def run(settings: SimulatorSettings) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the address when ready."""
    gc.set_threshold(_GC_THRESHOLD, 50, 100)
    uvloop.run(_serve(settings))


def _open_bank(settings: SimulatorSettings) -> tuple[Bank, Journal | None]:
    bank = Bank(clock=time.time, key_window_s=settings.key_window_s, series=f"{int(time.time()):x}")
    if settings.books is None:
        return bank, None
    journal = Journal(settings.books)
    for entry in journal.entries():
        bank.apply(entry)
    bank.record = journal.append
    return bank, journal


async def _serve(settings: SimulatorSettings) -> None:
    bank, journal = _open_bank(settings)
    app = App(bank, Chaos(settings.dial), cache_errors=settings.cache_errors, slow_s=settings.slow_s)
    connections: set[Connection] = set()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(
        lambda: Connection(app, connections), settings.host, settings.port, backlog=BACKLOG
    )
    host, port = server.sockets[0].getsockname()[:2]
    sys.stdout.write(f"simulator ready on http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()
    await stop.wait()
    # A second SIGTERM changes nothing, also in the moment when the loop has let go of its handlers.
    loop.remove_signal_handler(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.close()
    await _finish(connections)
    if journal is not None:
        journal.close()


async def _finish(connections: set[Connection]) -> None:
    """Close idle connections at once and the others after their reply."""
    for connection in tuple(connections):
        connection.finish()
    for _ in range(_LAST_REPLIES_S * 100):
        if not connections:
            return
        await asyncio.sleep(0.01)
