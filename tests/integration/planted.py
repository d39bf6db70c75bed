"""Settlement files with breaks planted in them, and whether reconciliation finds exactly those.

`python -m tests.integration.planted [--lines 200000] [--seed 7]` plants, takes every file twice by two processes at
the same time, issues some batches again, and prints one line. The same seed plants the same breaks. A kind of break is
a row of KINDS.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from tests.integration.outside import CALLER
from tests.memory import directory_in_memory

from coatcheck.clock import SystemClock
from coatcheck.ids import OPERATION, print_id
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.reconciliation.usual import FeeSchedule, Usual
from coatcheck.store.database import _open
from coatcheck.store.embedded import _start

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
HEADER: Final = "batch,line,type,id,charge,reference,occurred_at,currency,gross,fee,net\n"
FILES: Final = 4_000  # of the full size: fifty lines each
SPAN: Final = timedelta(days=60)  # what they tell of
PLANTED_SHARE: Final = 0.01  # of the lines, for each kind
REISSUED: Final = 10  # every so many batches is issued again
BROKEN_TOTALS: Final = 2  # every so many files does not agree with itself
SCHEDULE: Final = FeeSchedule(currency="EUR", rate_ppm=14_000, fixed_minor=25)
TOLERANCE_MINOR: Final = 1
DELAY: Final = timedelta(days=2)
USUAL: Final = Usual(fees={"simulator": [SCHEDULE]}, fee_tolerance_minor=TOLERANCE_MINOR, delays={"simulator": DELAY})

Key = tuple[str, str]  # a kind, and what it is about


@dataclass(slots=True)
class Movement:
    """One line of a file; amounts in minor units. `about`: what the books know it by."""

    kind: str
    thing: str
    about: str
    at: datetime
    gross: int
    fee: int


@dataclass(slots=True)
class Recorded:
    """An operation of our own, as the books have it before any file comes."""

    operation_id: UUID
    thing: str
    amount: int
    at: datetime
    status: str = "APPROVED"
    currency: str = "EUR"

    @property
    def reference(self) -> str:
        return print_id(OPERATION, self.operation_id)


@dataclass(slots=True)
class Batch:
    """One settlement of the PSP's."""

    name: str
    at: datetime
    movements: list[Movement] = field(default_factory=list)
    is_broken: bool = False

    def text(self) -> str:
        """Write the file as the simulator does."""
        gross, fee = (sum(getattr(each, name) for each in self.movements) for name in ("gross", "fee"))
        rows = [HEADER]
        for number, each in enumerate(self.movements, start=1):
            about = f"{each.kind},{each.thing},{each.thing},{each.about},{each.at:%Y-%m-%dT%H:%M:%SZ}"
            rows.append(f"{self.name},{number},{about},{_sums(each.gross, each.fee)}\n")
        count = len(self.movements) + 1
        rows.append(
            f"{self.name},{count},payout,po_{self.name},,,{self.at:%Y-%m-%dT%H:%M:%SZ},{_sums(fee - gross, 0)}\n"
        )
        rows.append(f"{self.name},{count},end,,,,,{_sums(gross + self.is_broken, fee)}\n")
        return "".join(rows)


def _sums(gross: int, fee: int) -> str:
    return "EUR," + ",".join(
        f"{'-' if each < 0 else ''}{abs(each) // 100}.{abs(each) % 100:02}" for each in (gross, fee, gross - fee)
    )


def usual_fee(gross: int) -> int:
    """What the PSP keeps of a charge by its schedule."""
    return (gross * SCHEDULE.rate_ppm + 500_000) // 1_000_000 + SCHEDULE.fixed_minor


class Field:
    """The books and the files, and every break that is in them. `suspense`: what of it must stand in suspense."""

    def __init__(self, lines: int, seed: int) -> None:
        self.dice = random.Random(seed)
        self.records: list[Recorded] = []
        self.planted: Counter[Key] = Counter()
        self.suspense = 0
        count = max(FILES * lines // 200_000, 20)
        self.batches = [Batch(f"st_{place + 1:06d}", START + SPAN * (place + 1) / count) for place in range(count)]
        self._things = 0
        for _ in range(lines - len(KINDS) * max(int(lines * PLANTED_SHARE), 20)):
            self.honest()
        for kind, plant in KINDS.items():
            for _ in range(max(int(lines * PLANTED_SHARE), 20)):
                plant(self, kind)
        for batch in self.batches[::BROKEN_TOTALS]:
            batch.is_broken = True
            self.planted["control_total", f"{batch.name} gross of the file"] += 1
        for batch in self.batches:
            self.dice.shuffle(batch.movements)

    @property
    def lines(self) -> int:
        return sum(len(batch.movements) for batch in self.batches)

    def thing(self) -> str:
        """Name something at the PSP."""
        self._things += 1
        return f"ch_{self._things:08d}"

    def record(self, **changes: Any) -> tuple[Recorded, Batch]:
        """Write a charge into the books, and say in whose file it belongs."""
        batch = self.dice.choice(self.batches)
        operation_id = UUID(int=self.dice.getrandbits(128), version=4)
        at = batch.at - self.dice.choice([timedelta(seconds=self.dice.randrange(60, 3_600)), DELAY])
        amount = self.dice.randrange(100, 100_000)
        recorded = Recorded(operation_id, self.thing(), amount, at)
        for name, value in changes.items():
            setattr(recorded, name, value)
        self.records.append(recorded)
        return recorded, batch

    def honest(self, **changes: Any) -> tuple[Movement, Batch]:
        """A charge that the books and the file tell alike, with a fee as near to the schedule as a PSP rounds."""
        recorded, batch = self.record(**changes)
        fee = usual_fee(recorded.amount) + self.dice.randint(-TOLERANCE_MINOR, TOLERANCE_MINOR)
        movement = Movement("charge", recorded.thing, recorded.reference, recorded.at, recorded.amount, fee)
        batch.movements.append(movement)
        return movement, batch

    def expect(self, kind: str, about: str, suspense: int) -> None:
        self.planted[kind, about] += 1
        self.suspense += suspense


def missing_here(ground: Field, kind: str) -> None:
    batch = ground.dice.choice(ground.batches)
    thing, amount = ground.thing(), ground.dice.randrange(100, 100_000)
    batch.movements.append(Movement("charge", thing, f"their_{thing}", batch.at, amount, usual_fee(amount)))
    ground.expect(kind, thing, amount)


def missing_at_psp(ground: Field, kind: str) -> None:
    recorded, _ = ground.record()
    recorded.at = START + timedelta(days=ground.dice.randrange(0, 40))
    ground.expect(kind, recorded.thing, 0)


def amount(ground: Field, kind: str) -> None:
    movement, _ = ground.honest()
    difference = ground.dice.choice([-1, 1]) * ground.dice.randrange(1, 90)
    movement.gross += difference
    ground.expect(kind, movement.thing, difference)


def currency(ground: Field, kind: str) -> None:
    movement, _ = ground.honest(currency="USD")
    ground.expect(kind, movement.thing, movement.gross)


def status(ground: Field, kind: str) -> None:
    movement, _ = ground.honest(status=ground.dice.choice(["DECLINED", "UNRESOLVED"]))
    ground.expect(kind, movement.thing, movement.gross)


def duplicate_line(ground: Field, kind: str) -> None:
    movement, batch = ground.honest()
    batch.movements.append(movement)
    ground.expect(kind, movement.thing, movement.gross)


def duplicate_charge(ground: Field, kind: str) -> None:
    """The PSP has charged twice under one reference; the one that it calls as we know it is ours."""
    movement, batch = ground.honest()
    batch.movements.append(
        Movement("charge", ground.thing(), movement.about, movement.at, movement.gross, movement.fee)
    )
    ground.expect(kind, movement.about, movement.gross)


def unexplained(ground: Field, kind: str) -> None:
    batch = ground.dice.choice(ground.batches)
    thing, amount = ground.thing(), ground.dice.randrange(100, 100_000)
    batch.movements.append(Movement("chargeback", thing, "", batch.at, -amount, 0))
    ground.expect(kind, thing, -amount)


def fee(ground: Field, kind: str) -> None:
    """The line agrees, and the PSP has kept more or less than its schedule says."""
    movement, _ = ground.honest()
    difference = ground.dice.choice([-1, 1]) * ground.dice.randrange(TOLERANCE_MINOR + 1, SCHEDULE.fixed_minor)
    movement.fee = usual_fee(movement.gross) + difference
    ground.expect(kind, movement.thing, 0)


def late(ground: Field, kind: str) -> None:
    """The line agrees, and came later after our decision than is usual: by a second, or by days."""
    recorded, batch = ground.record()
    recorded.at = batch.at - DELAY - timedelta(seconds=ground.dice.choice([1, ground.dice.randrange(1, 250_000)]))
    batch.movements.append(
        Movement("charge", recorded.thing, recorded.reference, recorded.at, recorded.amount, usual_fee(recorded.amount))
    )
    ground.expect(kind, recorded.thing, 0)


# Every kind of break there is but `control_total`, which is a file's and not a line's. A new one is a row here.
KINDS: Final[dict[str, Callable[[Field, str], None]]] = {
    "missing_here": missing_here,
    "missing_at_psp": missing_at_psp,
    "amount": amount,
    "currency": currency,
    "status": status,
    "duplicate_line": duplicate_line,
    "duplicate_charge": duplicate_charge,
    "unexplained": unexplained,
    "fee": fee,
    "late": late,
}

_RECORDS: Final = """
INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency, body,
                       is_hosted, status, attempt, first_sent_at, created_at, provider_reference, decided_at)
SELECT g.operation_id, gen_random_uuid(), gen_random_uuid(), $1, 'test', 'charge', 'simulator', g.amount, g.currency,
       'frozen', false, g.status, 1, g.at, g.at, g.thing, g.at
  FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
       AS g (operation_id, amount, currency, status, at, thing)
"""
# What each open break is about: the record at the PSP, or the reference under which it has charged twice.
_FOUND: Final = """
SELECT k.kind, count(*) AS times,
       CASE k.kind WHEN 'control_total' THEN k.batch || ' ' || k.detail
                   WHEN 'missing_at_psp' THEN o.provider_reference
                   WHEN 'duplicate_charge' THEN l.reference
                   ELSE l.provider_reference END AS about
  FROM reconciliation_break AS k
  LEFT JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
  LEFT JOIN operation AS o ON o.operation_id = k.operation_id
 WHERE k.closed_at IS NULL
 GROUP BY 1, 3
"""
_POSTED: Final = """
SELECT a.kind, sum(a.debits_posted_minor - a.credits_posted_minor)::bigint AS minor FROM account AS a GROUP BY a.kind
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it went. `double_postings`: accounts that hold something else than the files say."""

    lines: int
    planted: int
    found: int
    false: int
    double_postings: int

    @property
    def is_right(self) -> bool:
        return self.planted == self.found and not self.false and not self.double_postings

    def __str__(self) -> str:
        return (
            f"PLANTED lines={self.lines} planted={self.planted} found={self.found} false={self.false} "
            f"double_postings={self.double_postings} ok={str(self.is_right).lower()}"
        )


async def play(database_url: str, ground: Field, directory: Path) -> Verdict:
    """Write the books and the files, let two processes take every file, and judge."""
    owner = await asyncpg.connect(database_url)
    try:
        await _write_books(owner, ground)
        final = {batch.name: batch.text() for batch in ground.batches}
        drafts = {batch.name: _earlier(batch) for batch in ground.batches[::REISSUED]}
        first, second = directory / "first", directory / "second"
        _write(first, final | drafts)
        _write(second, {name: final[name] for name in drafts})
        for folder in (first, second):
            await _take_twice(database_url, folder)
        return await _judge(owner, ground)
    finally:
        await owner.close()


async def _write_books(owner: asyncpg.Connection, ground: Field) -> None:
    records = ground.records
    columns = [[getattr(each, name) for each in records] for name in ("operation_id", "amount", "currency")]
    more = [[getattr(each, name) for each in records] for name in ("status", "at", "thing")]
    await owner.execute(_RECORDS, CALLER.shop_id, *columns, *more)
    await owner.execute("ANALYZE operation")


def _earlier(batch: Batch) -> str:
    """An earlier version of a batch: other fees, a line less, a stranger's line more."""
    movements = [
        Movement(each.kind, each.thing, each.about, each.at, each.gross, each.fee + 1) for each in batch.movements
    ]
    stranger = Movement("charge", f"xx_{batch.name}", f"their_{batch.name}", batch.at, 777, usual_fee(777))
    return Batch(batch.name, batch.at, [*movements[1:], stranger]).text()


def _write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text, "utf-8")


async def _take_twice(database_url: str, folder: Path) -> None:
    """Have two processes take every file of a folder at the same time, each from its own end."""
    program = [sys.executable, "-m", "tests.integration.planted", "--take", str(folder), "--database", database_url]
    running = [await asyncio.create_subprocess_exec(*program, *words) for words in ([], ["--backwards"])]
    statuses = [await each.wait() for each in running]
    if any(statuses):
        raise RuntimeError(f"a process that took files ended with {statuses}")


async def take_all(database_url: str, folder: Path, *, backwards: bool) -> None:
    """Take every file of a folder, in the order of their names or against it."""
    paths = sorted(folder.iterdir(), reverse=backwards)  # noqa: ASYNC240 - nobody else runs in this loop
    async with _open(database_url, pool_size=2) as store:
        reconciler = Reconciler(store, SystemClock(), USUAL)
        for path in paths:
            source = Source(
                path=path, name=path.name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by=f"person {backwards}"
            )
            await reconciler.take(source)


async def _judge(owner: asyncpg.Connection, ground: Field) -> Verdict:
    found = Counter({(row["kind"], row["about"]): row["times"] for row in await owner.fetch(_FOUND)})
    right = found & ground.planted
    posted = {row["kind"]: row["minor"] for row in await owner.fetch(_POSTED)}
    movements = [each for batch in ground.batches for each in batch.movements]
    gross, fee = (sum(getattr(each, name) for each in movements) for name in ("gross", "fee"))
    wanted = {
        "psp_payouts_in_transit": gross - fee,
        "platform_psp_fees": fee,
        "suspense": -ground.suspense,
        # The charges themselves were never posted here: only what the files changed stands there.
        "psp_receivable": ground.suspense - gross,
    }
    wrong = [kind for kind, minor in wanted.items() if posted.get(kind, 0) != minor]
    for key in [*(ground.planted - right), *(found - right)][:20]:
        print(f"missed or false: {key}", file=sys.stderr)  # noqa: T201 - a program of its own
    return Verdict(
        lines=ground.lines,
        planted=ground.planted.total(),
        found=right.total(),
        false=(found - right).total(),
        double_postings=len(wrong),
    )


async def _run(lines: int, seed: int) -> Verdict:
    place = directory_in_memory()
    with tempfile.TemporaryDirectory(prefix="coatcheck-planted-", dir=place, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # noqa: ASYNC240 - nobody else runs in this loop
        server = _start(directory / "postgresql")
        try:
            maintenance = await asyncpg.connect(server.url("postgres"))
            database = f"planted_{uuid4().hex}"
            await maintenance.execute(
                f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
            await maintenance.close()
            async with _open(server.url(database), pool_size=1):
                pass
            return await play(server.url(database), Field(lines, seed), directory)
        finally:
            server.server.cleanup()


def _options() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "--lines", {"type": int, "default": 200_000}
    yield "--seed", {"type": int, "default": 7}
    yield "--take", {"type": Path}
    yield "--database", {}
    yield "--backwards", {"action": "store_true"}


def main() -> int:
    """Plant, take, judge, and print the line; or take a folder's files, as one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, about in _options():
        parser.add_argument(name, **about)
    options = parser.parse_args()
    if options.take is not None:
        asyncio.run(take_all(options.database, options.take, backwards=options.backwards))
        return 0
    verdict = asyncio.run(_run(options.lines, options.seed))
    print(verdict)  # noqa: T201 - a program of its own
    return 0 if verdict.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
