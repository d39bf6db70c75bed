"""Running the simulated PSP as a process of its own."""

import asyncio
import gc
import signal
import sys
import time
from collections import deque
from pathlib import Path

import msgspec
import uvloop

from coatcheck.simulator.app import App
from coatcheck.simulator.bank import AUTHORIZATION_LIFE_S, SESSION_LIFE_S, Bank
from coatcheck.simulator.bodies import is_address
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.connection import Connection
from coatcheck.simulator.journal import Journal
from coatcheck.simulator.records import Happening, in_todays_words
from coatcheck.simulator.webhooks import DEFAULT_SECRET, Courier

__all__ = ["DAY_S", "SimulatorSettings", "is_address", "run"]

BACKLOG = 4096  # a reconnecting gateway opens hundreds of connections at once
DAY_S = 86_400
_LAST_REPLIES_S = 5  # how long SIGTERM waits for replies that are being held back
_TOLD_AGAIN = 1_000  # how many of the last changes are told again after a restart
_LOOK_AT_THE_CLOCK_S = 0.1  # so that what runs out is told without anybody asking
_GC_THRESHOLD = 100_000  # what is kept for ever is not worth walking through again and again


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the simulated PSP runs. Port 0 takes a free one. `books` is the journal file, if the books are to be kept.

    `key_window_s`: how long an idempotency key is remembered. `slow_s`: how long tok_slow takes. Without a
    `webhook_url` no events are sent.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_window_s: float = DAY_S
    cache_errors: bool = True
    slow_s: float = 3
    books: Path | None = None
    authorization_life_s: float = AUTHORIZATION_LIFE_S
    session_life_s: float = SESSION_LIFE_S
    webhook_url: str | None = None
    webhook_secret: str = DEFAULT_SECRET
    dial: Dial = msgspec.field(default_factory=Dial)


def run(settings: SimulatorSettings) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the address when ready."""
    gc.set_threshold(_GC_THRESHOLD, 50, 100)
    uvloop.run(_serve(settings))


def _open_bank(settings: SimulatorSettings) -> tuple[Bank, Journal | None, list[Happening]]:
    """Open the books, with what the last changes in them told."""
    bank = Bank(
        clock=time.time,
        key_window_s=settings.key_window_s,
        series=f"{int(time.time()):x}",
        authorization_life_s=settings.authorization_life_s,
        session_life_s=settings.session_life_s,
    )
    if settings.books is None:
        return bank, None, []
    journal = Journal(settings.books)
    last: deque[list[Happening]] = deque(maxlen=_TOLD_AGAIN)
    for entry in journal.entries():
        told: list[Happening] = []
        if settings.webhook_url is not None:
            bank.tell = told.append
        bank.apply(in_todays_words(entry))
        if told:
            last.append(told)
    bank.tell = None
    bank.record = journal.append
    return bank, journal, [happening for told in last for happening in told]


async def _serve(settings: SimulatorSettings) -> None:
    bank, journal, told = _open_bank(settings)
    chaos = Chaos(settings.dial)
    courier = Courier(bank, chaos)
    app = App(bank, chaos, cache_errors=settings.cache_errors, slow_s=settings.slow_s, courier=courier)
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
    courier.send_to(settings.webhook_url, settings.webhook_secret)
    for happening in told:
        courier.tell(happening)
    watch = loop.create_task(_watch_the_clock(bank))
    await stop.wait()
    watch.cancel()
    # A second SIGTERM changes nothing, also in the moment when the loop has let go of its handlers.
    loop.remove_signal_handler(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.close()
    await _finish(connections)
    await courier.close()
    if journal is not None:
        journal.close()


async def _watch_the_clock(bank: Bank) -> None:
    """Let run out what runs out, while somebody is told of it; else the next look is soon enough."""
    while True:
        await asyncio.sleep(_LOOK_AT_THE_CLOCK_S)
        if bank.tell is not None:
            bank.now()


async def _finish(connections: set[Connection]) -> None:
    """Close idle connections at once and the others after their reply."""
    for connection in tuple(connections):
        connection.finish()
    for _ in range(_LAST_REPLIES_S * 100):
        if not connections:
            return
        await asyncio.sleep(0.01)
