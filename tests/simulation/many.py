"""Many seeds on every core: `make simulate N=1000000`, or one again: `make simulate N=20000 SEED=7`.

Prints a line for each seed and one for all. Exit status 1 when the judge found something.
"""

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import asyncpg
import structlog
import uvloop
from tests.memory import directory_in_memory
from tests.simulation.judge import Fault
from tests.simulation.play import play

from coatcheck.store.database import Store, _open
from coatcheck.store.embedded import EmbeddedServer, _start

CHECKOUTS: Final = 20_000  # of one seed
WAVES: Final = 24
_TWICE: Final = (Fault.CHARGED_TWICE, Fault.DONE_TWICE, Fault.PAGED_TWICE)
_LOST: Final = (Fault.LOST, Fault.FAILED_WHILE_CHARGED, Fault.NOT_FINAL)
_OVER: Final = (Fault.ASKED_TOO_MUCH, Fault.REFUNDED_OTHERWISE)
_BOOKS: Final = (Fault.LEDGER, Fault.WALLET)


class Played(NamedTuple):
    """What came of one seed."""

    seed: int
    checkouts: int
    faults: dict[Fault, int]
    orders: dict[str, int]
    told: str


@contextlib.contextmanager
def _server() -> Iterator[EmbeddedServer]:
    place = directory_in_memory()
    with tempfile.TemporaryDirectory(prefix="coatcheck-simulate-", dir=place, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        running = _start(Path(directory))
        yield running
        running.server.cleanup()


@asynccontextmanager
async def _database(server: EmbeddedServer) -> AsyncIterator[tuple[Store, asyncpg.Connection]]:
    name = f"simulation_{uuid4().hex}"
    maintenance = await asyncpg.connect(server.url("postgres"))
    await maintenance.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
    owner = await asyncpg.connect(server.url(name))
    async with _open(server.url(name), pool_size=10) as store:
        await owner.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        await store.pool.expire_connections()
        yield store, owner
    await owner.close()
    await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await maintenance.close()


async def _play(server: EmbeddedServer, seed: int, checkouts: int) -> Played:
    """Every fourth seed is played against a PSP that forgets its errors."""
    async with _database(server) as (store, owner):
        with contextlib.redirect_stdout(io.StringIO()) as told:
            _, verdict = await play(
                store, owner, seed=seed, checkouts=checkouts, waves=WAVES, remembers_errors=seed % 4 != 3, limit_s=None
            )
    return Played(
        seed, checkouts, dict(verdict.faults), dict(verdict.orders), told.getvalue() if verdict.faults else ""
    )


def _work(jobs: "multiprocessing.Queue[tuple[int, int] | None]", results: "multiprocessing.Queue[Played]") -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with _server() as server:
        while (job := jobs.get()) is not None:
            try:
                played = uvloop.run(_play(server, *job))
            except Exception as error:  # noqa: BLE001 - a seed that cannot be played to its end has failed
                played = Played(*job, {Fault.STRANGE: 1}, {}, f"{type(error).__name__}: {error}\n")
            results.put(played)


def _seeds(payments: int, first: int) -> list[tuple[int, int]]:
    sizes = [CHECKOUTS] * (payments // CHECKOUTS) + ([payments % CHECKOUTS] if payments % CHECKOUTS else [])
    return [(first + number, size) for number, size in enumerate(sizes)]


def simulate(payments: int, first_seed: int) -> int:
    """Play until so many payments are done. Returns the exit status."""
    jobs = _seeds(payments, first_seed)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[tuple[int, int] | None] = context.Queue()
    results: multiprocessing.Queue[Played] = context.Queue()
    workers = [context.Process(target=_work, args=(queue, results)) for _ in range(min(len(jobs), os.cpu_count() or 1))]
    for job in (*jobs, *[None for _ in workers]):
        queue.put(job)
    for worker in workers:
        worker.start()
    faults: Counter[Fault] = Counter()
    done = 0
    for number in range(1, len(jobs) + 1):
        played = results.get()
        done += played.checkouts
        faults.update(played.faults)
        print(f"{number} of {len(jobs)}: {_said_of(played)}", flush=True)  # noqa: T201
    for worker in workers:
        worker.join()
    print(_summary(done, len(jobs), faults))  # noqa: T201
    return 1 if faults else 0


def _said_of(played: Played) -> str:
    orders = " ".join(f"{kind}={count}" for kind, count in sorted(played.orders.items()))
    head = f"seed {played.seed}, {played.checkouts} payments: {orders}"
    if not played.faults:
        return f"{head} ok"
    return f"{head} FAILED\n{played.told}play it again: make simulate N={played.checkouts} SEED={played.seed}"


def _summary(payments: int, seeds: int, faults: Counter[Fault]) -> str:
    counts = {"charged_twice": _TWICE, "lost": _LOST, "over_refunded": _OVER, "ledger_difference": _BOOKS}
    said = " ".join(f"{name}={sum(faults[fault] for fault in kinds)}" for name, kinds in counts.items())
    return f"SIMULATED payments={payments} seeds={seeds} {said} ok={str(not faults).lower()}"


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("payments", type=int)
    parser.add_argument("--seed", type=int, default=None, help="The first seed. [default: a new one]")
    given = parser.parse_args()
    return simulate(given.payments, secrets.randbelow(10**9) if given.seed is None else given.seed)


if __name__ == "__main__":
    sys.exit(main())
