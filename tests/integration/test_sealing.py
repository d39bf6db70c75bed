"""Sealing and its verifier against a real PostgreSQL: every committed row is sealed once, and every tampering is found.

The tamperings are made by a superuser, a batch at a time, each batch in a transaction that is verified from inside and
rolled back. TAMPERINGS in the environment makes them more, TAMPERING_SEED others.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner, Result
from tests.integration.outside import SETTINGS, World, approved, checkout, declined
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_replay import differences_of

from coatcheck.audit.sealing import coverage
from coatcheck.audit.sealing.anchor import AnchorEndpoint, AnchorError, AnchorFile
from coatcheck.audit.sealing.keys import sealing_key_of
from coatcheck.audit.sealing.sealer import Sealer, _write
from coatcheck.audit.sealing.verifier import Fault, Finding, Report, verify, verify_database
from coatcheck.audit.sealing.verifier import __main__ as verifier_alone
from coatcheck.audit.sealing.verifier.chain import read_public_keys
from coatcheck.cli import verifying
from coatcheck.cli.failures import UnusableError
from coatcheck.clock import ManualClock
from coatcheck.config import Settings, SettingsError
from coatcheck.ids import time_ordered_ids
from coatcheck.store import Store
from coatcheck.validation import Buyer
from coatcheck.watcher import list_alerts
from coatcheck.wiring import make_sealer, make_watcher

__all__ = ["simulator_url"]

START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
NOBODY = UUID(int=0)
TAMPERINGS = int(os.environ.get("TAMPERINGS", "10000"))
_SEED = int(os.environ.get("TAMPERING_SEED", "20261120"))


@dataclass
class Vault:
    """A sealer on a manual clock, its key and its anchor, and the database it seals."""

    store: Store
    url: str
    directory: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    dice: random.Random = field(default_factory=lambda: random.Random(_SEED))
    endpoint: AnchorEndpoint | None = None

    @property
    def anchor(self) -> Path:
        return self.directory / "anchor"

    @property
    def keys(self) -> frozenset[str]:
        return read_public_keys([self.directory / "seal.pub"])

    def sealer(self) -> Sealer:
        """A gateway's sealer; each call is another gateway of the same machine."""
        return Sealer(
            self.store,
            self.clock,
            key=sealing_key_of(self.directory / "seal.key"),
            anchor=AnchorFile(self.anchor),
            endpoint=self.endpoint,
        )

    async def seal(self) -> int:
        """Seal all that can be sealed now; returns the rows."""
        sealer, rows = self.sealer(), 0
        while True:
            done = await sealer.seal_once()
            rows += done.rows
            if not done.has_more:
                return rows

    async def verify(self) -> Report:
        return await verify_database(self.url, self.anchor, [self.directory / "seal.pub"])

    def some_id(self) -> UUID:
        return UUID(bytes=self.dice.randbytes(16))

    def an_event(self, *, at: datetime | None = None, size: int = 0) -> tuple[object, ...]:
        at = at or self.clock.now()
        body = json.dumps({"amount_minor": self.dice.randrange(10**6), "text": "é" * size}, ensure_ascii=False)
        kind = self.dice.choice(["payment.accepted", "order.succeeded", "order.failed"])
        return (self.some_id(), time_ordered_ids(at, 1)[0], kind, self.some_id(), "test", at, body)

    def a_transfer(self, *, at: datetime | None = None) -> tuple[object, ...]:
        at = at or self.clock.now()
        hold = self.some_id() if self.dice.random() < 0.3 else None
        return (
            *(time_ordered_ids(at, 1)[0], "charge", "posted" if hold is None else "captured", hold),
            *(self.some_id(), self.some_id(), self.dice.randrange(1, 10**6), "EUR", self.some_id(), at),
        )

    async def sealed(self) -> Counter[bytes]:
        """How often each row's key is in a roster."""
        seen: Counter[bytes] = Counter()
        for row in await self.store.pool.fetch("SELECT event_roster, transfer_roster FROM seal"):
            for roster, size in ((row[0], 64), (row[1], 48)):
                seen.update(roster[start : start + size - 32] for start in range(0, len(roster), size))
        return seen


async def insert(
    connection: Any, events: Sequence[tuple[object, ...]] = (), transfers: Sequence[tuple[object, ...]] = ()
) -> None:
    await connection.executemany("INSERT INTO event VALUES ($1, $2, $3, $4, $5, $6, $7)", events)
    await connection.executemany("INSERT INTO transfer VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", transfers)


def key_of(event: Sequence[Any]) -> bytes:
    return bytes(event[0].bytes + event[1].bytes)


def name(event: Sequence[Any]) -> str:
    return f"{event[0]}/{event[1]}"


def told(report: Report) -> set[tuple[Fault, str, str]]:
    return {(finding.fault, finding.place, finding.name) for finding in report.findings}


@pytest.fixture
def vault(store: Store, database_url: str, tmp_path: Path) -> Vault:
    return Vault(store, database_url, tmp_path)


@asynccontextmanager
async def another(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


# What is sealed: every committed row, once.


async def test_what_the_gateway_writes_is_sealed_and_verified(vault: Vault) -> None:
    world = World(vault.store, clock=vault.clock)
    await world.pay(checkout("c1", "o1", "o2"), "k1")
    world.provider.charges = [declined]
    await world.pay(checkout("c2", "o3"), "k2")
    await world.refund("o1", key="r1")
    rows = await world.count("event") + await world.count("transfer")
    assert rows > 8
    assert await vault.seal() == rows
    report = await vault.verify()
    assert (report.rows, report.seals, report.findings, report.unsealed) == (rows, 1, [], 0)
    assert await vault.seal() == 0


async def tables_with(owner: asyncpg.Connection, words: Sequence[str]) -> dict[str, set[str]]:
    """In which tables words stand, as they are or as bytes."""
    tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found: dict[str, set[str]] = {word: set() for word in words}
    for row in tables:
        rows = [each[0] for each in await owner.fetch(f"SELECT t::text FROM {row['tablename']} AS t")]
        for word in words:
            if any(word in each or word.encode().hex() in each for each in rows):
                found[word].add(row["tablename"])
    return found


async def test_I4_a_buyer_is_erased_and_the_books_their_seals_and_their_replay_still_agree(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    world = World(vault.store, clock=vault.clock)
    ada = Buyer("reference-of-ada", email="ada@shop.example", name="Ada Lovelace", country="GB", ip="203.0.113.7")
    world.provider.charges = [approved, approved, declined]
    paid = await world.pay(msgspec.structs.replace(checkout("c1", "o1", "o2"), buyer=ada), "k1")
    await world.pay(msgspec.structs.replace(checkout("c2", "o3"), buyer=ada), "k2")
    await world.refund("o1", 300)
    assert await vault.seal() > 0
    personal = [ada.reference, "ada@shop.example", "Ada Lovelace", "203.0.113.7"]
    assert await tables_with(owner, personal) == {word: {"buyer"} for word in personal}

    assert await owner.execute("DELETE FROM buyer") == "DELETE 1"
    assert await tables_with(owner, personal) == {word: set() for word in personal}
    assert (await vault.verify()).findings == []
    assert await differences_of(vault.store) == []
    assert await world.violations() == {}
    assert [order.refunded_minor for order in (await world.read(paid.payment_id)).orders] == [300, 0]
    assert (await world.refund("o2", key="r2")).verdict == "requested"
    assert await vault.seal() > 0
    assert (await vault.verify()).findings == []


async def test_F9_a_row_that_commits_after_younger_ones_is_sealed_and_nothing_twice(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    slow, young, youngest = vault.an_event(), vault.an_event(), vault.an_event()
    async with another(vault.url) as late:
        transaction = late.transaction()
        await transaction.start()
        await insert(late, [slow])
        await insert(owner, [young])  # a later transaction, committed before
        vault.clock.advance(timedelta(seconds=5))
        assert await vault.seal() == 0  # what is younger than a transaction under way waits for it
        await insert(owner, [youngest])
        await transaction.commit()
    vault.clock.advance(timedelta(seconds=5))
    assert await vault.seal() == 3
    assert await vault.sealed() == {key_of(slow): 1, key_of(young): 1, key_of(youngest): 1}
    assert (await vault.verify()).is_ok


async def test_F9_an_id_from_a_slow_clock_is_sealed_like_any_other(vault: Vault, owner: asyncpg.Connection) -> None:
    await insert(owner, [vault.an_event() for _ in range(3)])
    assert await vault.seal() == 3
    behind = vault.an_event(at=vault.clock.now() - timedelta(minutes=3))
    await insert(owner, [behind])
    assert await vault.seal() == 1
    assert (await vault.verify()).is_ok


async def test_F9_many_writers_and_two_sealers_seal_every_committed_row_once(vault: Vault) -> None:
    """Writers that commit, roll back and write in subtransactions, and pause wherever the event loop likes."""
    committed: list[bytes] = []
    dice = random.Random(7)

    async def write(number: int) -> None:
        async with another(vault.url) as connection:
            for _ in range(12):
                rows = [vault.an_event(size=dice.choice([0, 300, 1500])) for _ in range(dice.randrange(1, 6))]
                transaction = connection.transaction()
                await transaction.start()
                for row in rows:
                    async with connection.transaction():  # a savepoint: its rows carry a number of their own
                        await insert(connection, [row], [vault.a_transfer()])
                if (number + len(rows)) % 4 == 0:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.extend(key_of(row) for row in rows)

    async def seal(sealer: Sealer, writers: "asyncio.Future[Any]") -> None:
        while not writers.done():
            try:
                await sealer.seal_once()
            except (asyncpg.SerializationError, asyncpg.UniqueViolationError):  # the other one was faster
                continue

    writers = asyncio.gather(*(write(number) for number in range(6)))
    await asyncio.gather(writers, seal(vault.sealer(), writers), seal(vault.sealer(), writers))
    await vault.seal()
    sealed = await vault.sealed()
    assert set(sealed.values()) == {1}
    assert {key for key in sealed if len(key) == 32} == set(committed)
    assert sum(len(key) == 16 for key in sealed) == await vault.store.pool.fetchval("SELECT count(*) FROM transfer")
    assert (await vault.verify()).is_ok


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a few pages is a large one."""
    monkeypatch.setattr(coverage, "TAIL_BLOCKS", 2)
    monkeypatch.setattr(coverage, "PIECE_BLOCKS", 3)
    monkeypatch.setattr(coverage, "SWEEP_BLOCKS_PER_S", 1)


@pytest.mark.usefixtures("small_steps")
async def test_F9_a_row_that_fills_a_gap_far_from_the_end_is_found_by_the_sweep(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    await owner.execute("ALTER TABLE event SET (autovacuum_enabled = off)")
    await insert(owner, [vault.an_event(size=700) for _ in range(160)])
    assert await vault.seal() == 160
    await owner.execute("VACUUM event")  # tells where pages have room
    small = [vault.an_event() for _ in range(60)]
    await insert(owner, small)
    blocks = await owner.fetchval("SELECT pg_relation_size('event') / 8192")
    ends = await owner.fetch("SELECT (ctid::text::point)[0]::int AS block FROM event WHERE length(body::text) < 100")
    assert min(row["block"] for row in ends) < blocks - 8, "the rows went to the end: this proves nothing"
    at_first = await vault.seal()
    assert at_first < 60
    rounds = 0
    found = at_first
    while found < 60:
        vault.clock.advance(timedelta(seconds=5))
        found += await vault.seal()
        rounds += 1
        assert rounds <= blocks // 5 + 1, "the sweep should be through by now"
    assert set((await vault.sealed()).values()) == {1}
    assert (await vault.verify()).is_ok


@pytest.mark.usefixtures("small_steps")
async def test_F9_what_waits_for_a_long_transaction_is_sealed_when_it_ends_not_when_the_sweep_comes(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    await insert(owner, [vault.an_event(size=700) for _ in range(10)])
    async with another(vault.url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await insert(slow, [vault.an_event()])
        for _ in range(6):
            await insert(owner, [vault.an_event(size=700) for _ in range(30)])
            vault.clock.advance(timedelta(seconds=5))
            await vault.seal()
        assert sum((await vault.sealed()).values()) == 10
        await transaction.commit()
    vault.clock.advance(timedelta(seconds=5))
    assert await vault.seal() == 181


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("disturbance", ["VACUUM FULL event", "DELETE FROM seal_progress"])
async def test_a_table_whose_blocks_are_numbered_anew_is_counted_anew_and_nothing_is_sealed_twice(
    vault: Vault, owner: asyncpg.Connection, disturbance: str
) -> None:
    await insert(owner, [vault.an_event(size=300) for _ in range(120)], [vault.a_transfer() for _ in range(40)])
    assert await vault.seal() == 160
    await owner.execute(disturbance)
    fresh = vault.an_event()
    await insert(owner, [fresh])
    assert await vault.seal() == 1
    assert set((await vault.sealed()).values()) == {1}
    assert (await vault.verify()).is_ok
    vault.clock.advance(timedelta(minutes=1))
    await insert(owner, [vault.an_event()])
    assert await vault.seal() == 1


async def test_a_transaction_number_that_comes_round_again_seals_nothing_twice(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    """After four billion transactions an old row's number lies between two horizons once more."""
    await insert(owner, [vault.an_event() for _ in range(20)])
    assert await vault.seal() == 20
    vault.clock.advance(timedelta(hours=7))
    await vault.seal()
    state = json.loads(await owner.fetchval("SELECT state FROM seal_progress"))
    for stretch in state["tables"]["event"]["stretches"]:
        stretch[1] = 3  # all that are there look as if they had come since
    await owner.execute("UPDATE seal_progress SET state = $1", json.dumps(state))
    assert await vault.seal() == 0
    assert set((await vault.sealed()).values()) == {1}


async def test_a_large_backlog_becomes_several_seals(
    vault: Vault, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.audit.sealing.sealer._ROWS_MOST", 100)
    monkeypatch.setattr(coverage, "PIECE_BLOCKS", 1)
    await insert(owner, [vault.an_event() for _ in range(400)], [vault.a_transfer() for _ in range(400)])
    assert await vault.seal() == 800
    assert await owner.fetchval("SELECT count(*) FROM seal") >= 3
    assert (await vault.verify()).is_ok


async def test_one_looks_and_the_others_leave_it_to_them(vault: Vault, owner: asyncpg.Connection) -> None:
    await insert(owner, [vault.an_event()])
    first, second = vault.sealer(), vault.sealer()
    assert (await first.seal_once(timedelta(seconds=5))).rows == 1
    await insert(owner, [vault.an_event(size=900) for _ in range(80)])
    vault.clock.advance(timedelta(seconds=2))
    assert (await second.seal_once(timedelta(seconds=5))).rows == 0
    vault.clock.advance(timedelta(seconds=4))
    assert (await second.seal_once(timedelta(seconds=5))).rows == 80


async def test_a_few_rows_wait_a_minute_for_their_seal(vault: Vault, owner: asyncpg.Connection) -> None:
    sealer, every = vault.sealer(), timedelta(seconds=5)
    await sealer.seal_once(every)
    await insert(owner, [vault.an_event()])
    vault.clock.advance(timedelta(seconds=59))
    assert (await sealer.seal_once(every)).rows == 0
    vault.clock.advance(timedelta(seconds=1))
    assert (await sealer.seal_once(every)).rows == 1


async def test_a_clock_that_was_wrong_for_a_moment_neither_stops_sealing_nor_makes_rows_late(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    every = timedelta(seconds=5)
    await insert(owner, [vault.an_event()])
    vault.clock.advance(timedelta(days=2))
    await vault.sealer().seal_once(every)
    vault.clock.advance(-timedelta(days=2))
    await insert(owner, [vault.an_event()])
    assert (await vault.sealer().seal_once(every)).rows == 1
    await insert(owner, [vault.an_event()])
    report = await vault.verify()
    assert (report.findings, report.unsealed) == ([], 1)


async def test_the_loop_seals_until_it_is_stopped(vault: Vault, owner: asyncpg.Connection) -> None:
    stopping = asyncio.Event()
    loop = asyncio.create_task(vault.sealer().seal(timedelta(milliseconds=1), stopping))
    await insert(owner, [vault.an_event()])
    while not await owner.fetchval("SELECT count(*) FROM seal"):
        vault.clock.advance(timedelta(seconds=1))
    stopping.set()
    await loop


# What the application's role may do.


async def test_G19_the_application_reads_seals_and_can_only_add_at_the_end(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    await insert(owner, [vault.an_event()])
    await vault.seal()
    pool = vault.store.pool
    for statement in (
        "INSERT INTO seal SELECT * FROM seal LIMIT 0",
        "UPDATE seal SET signature = signature",
        "DELETE FROM seal",
        "UPDATE seal_progress SET state = state",
        "DELETE FROM seal_progress",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
    write = "SELECT write_seal($1, $2, $3, '', '', '{}', now())"
    for number, previous in ((2, "0" * 64), (3, "0" * 64), (1, "0" * 64)):
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.UniqueViolationError)):
            await pool.execute(write, number, json.dumps({"previous": previous}), bytes(64))
    last = await owner.fetchval("SELECT content FROM seal")
    goes_on = json.dumps({"previous": hashlib.sha256(last.encode()).hexdigest()})
    await pool.execute(write, 2, goes_on, bytes(64))


# The anchor.


async def test_a_crash_between_the_seal_and_its_anchor_is_made_good(vault: Vault, owner: asyncpg.Connection) -> None:
    for _ in range(3):
        await insert(owner, [vault.an_event()])
        await vault.seal()
    lines = vault.anchor.read_bytes().splitlines(keepends=True)
    vault.anchor.write_bytes(lines[0] + lines[1][:70])  # one line was torn, one never written
    assert (await vault.verify()).unanchored == 2
    await vault.seal()
    assert vault.anchor.read_bytes().splitlines(keepends=True) == lines
    assert (await vault.verify()).is_ok


async def test_another_machine_s_anchor_gets_every_seal(
    vault: Vault, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    await insert(owner, [vault.an_event()])
    await vault.seal()
    elsewhere = AnchorFile(tmp_path / "elsewhere" / "anchor")
    key = sealing_key_of(vault.directory / "seal.key")
    await Sealer(vault.store, vault.clock, key=key, anchor=elsewhere).seal_once()
    assert (tmp_path / "elsewhere" / "anchor").read_bytes() == vault.anchor.read_bytes()


@pytest.mark.parametrize(
    "rewriting",
    [
        "DELETE FROM seal WHERE seal_no = 2",
        "UPDATE seal SET content = replace(content, '\"rows\":1', '\"rows\":2') WHERE seal_no = 2",
        "UPDATE seal SET signature = decode(repeat('00', 64), 'hex') WHERE seal_no = 2",
        "DELETE FROM seal",
    ],
)
async def test_G19_nothing_is_sealed_on_top_of_a_rewritten_history(
    vault: Vault, owner: asyncpg.Connection, rewriting: str
) -> None:
    for _ in range(2):
        await insert(owner, [vault.an_event()])
        await vault.seal()
    before = vault.anchor.read_bytes()
    await owner.execute(rewriting)
    await insert(owner, [vault.an_event()])
    with pytest.raises(AnchorError):
        await vault.seal()
    assert vault.anchor.read_bytes() == before
    assert Fault.SEAL in {finding.fault for finding in (await vault.verify()).findings}


async def test_an_endpoint_gets_every_seal_in_order_and_again_after_it_failed(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    taken: list[bytes] = []
    answers = [500, 302]

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if answers:
            return web.Response(status=answers.pop(0), headers={"Location": "/elsewhere"})
        taken.append(body)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/seals", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        vault.endpoint = AnchorEndpoint(f"http://127.0.0.1:{port}/seals", vault.directory / "anchor.posted")
        for _ in range(4):
            await insert(owner, [vault.an_event()])
            await vault.seal()
    finally:
        await runner.cleanup()
    assert b"".join(taken) == vault.anchor.read_bytes()
    await insert(owner, [vault.an_event()])
    assert await vault.seal() == 1  # it is gone: sealing goes on without it


# What a superuser does while sealing goes on.


async def test_G19_a_forged_past_is_sealed_as_late_and_said_to_be_so(vault: Vault, owner: asyncpg.Connection) -> None:
    for _ in range(3):
        await insert(owner, [vault.an_event() for _ in range(5)])
        await vault.seal()
        vault.clock.advance(timedelta(minutes=20))
    await vault.seal()
    forged = vault.an_event(at=START + timedelta(minutes=1))
    await insert(owner, [forged])
    assert await vault.seal() == 1
    assert told(await vault.verify()) == {(Fault.LATE, "event", name(forged))}


async def test_G19_a_row_that_is_changed_while_sealing_goes_on_is_not_sealed_anew(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    victim = vault.an_event()
    await insert(owner, [victim, vault.an_event()])
    await vault.seal()
    vault.clock.advance(timedelta(hours=7))
    await vault.seal()
    await owner.execute("""UPDATE event SET body = '{"amount_minor": 1}' WHERE event_id = $1""", victim[1])
    assert await vault.seal() == 0
    assert told(await vault.verify()) == {(Fault.CHANGED, "event", name(victim))}


async def test_G19_a_young_row_that_is_changed_after_its_seal_is_found_although_it_is_sealed_again(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    victim, other = vault.an_event(), vault.an_event()
    await insert(owner, [victim, other])
    await vault.seal()
    await owner.execute("""UPDATE event SET body = '{"amount_minor": 1}' WHERE event_id = $1""", victim[1])
    await owner.execute("UPDATE event SET mode = mode WHERE event_id = $1", other[1])
    await vault.seal()
    expected = {(Fault.SEALED_TWICE, "event", name(victim)), (Fault.SEALED_TWICE, "event", name(other))}
    assert told(await vault.verify()) == expected


async def test_a_row_that_waits_for_its_seal_is_no_finding_and_an_old_one_without_is(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    await insert(owner, [vault.an_event()])
    await vault.seal()
    vault.clock.advance(timedelta(hours=1))
    await insert(owner, [vault.an_event()])
    await vault.seal()
    forged, young = vault.an_event(at=START + timedelta(minutes=2)), vault.an_event()
    await insert(owner, [forged, young])
    report = await vault.verify()
    assert told(report) == {(Fault.INSERTED, "event", name(forged))}
    assert report.unsealed == 1


async def test_G19_a_row_that_stands_twice_is_found(vault: Vault, owner: asyncpg.Connection) -> None:
    one, other = vault.an_event(), vault.an_event()
    await insert(owner, [one, other])
    await vault.seal()
    vault.clock.advance(timedelta(hours=1))
    await insert(owner, [vault.an_event()])
    await vault.seal()
    await owner.execute("ALTER TABLE event DROP CONSTRAINT event_pkey")
    await insert(owner, [one, one, other])
    report = await vault.verify()
    assert told(report) == {(Fault.INSERTED, "event", name(one)), (Fault.INSERTED, "event", name(other))}


async def test_G19_a_changed_type_or_a_view_in_place_of_the_table_hides_nothing(
    vault: Vault, owner: asyncpg.Connection
) -> None:
    victim = vault.an_event()
    await insert(owner, [victim])
    await vault.seal()
    await owner.execute("ALTER TABLE event ALTER COLUMN kind TYPE varchar(100)")
    assert (await vault.verify()).is_ok  # the same letters
    await owner.execute("ALTER TABLE event ALTER COLUMN body TYPE jsonb")
    assert told(await vault.verify()) == {(Fault.CHANGED, "event", name(victim))}
    await owner.execute("ALTER TABLE event RENAME TO event_as_it_was")
    await owner.execute("CREATE VIEW event AS SELECT * FROM event_as_it_was")
    with pytest.raises(asyncpg.PostgresError):
        await vault.verify()


async def test_G19_a_tail_that_was_rewritten_with_the_stolen_key_is_found_by_the_anchor(
    vault: Vault, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """Who has database and key can make a chain that is sound in itself. It is not the one that the anchor has."""
    for _ in range(4):
        await insert(owner, [vault.an_event() for _ in range(3)], [vault.a_transfer()])
        await vault.seal()
        vault.clock.advance(timedelta(seconds=1))
    (victim,) = await owner.fetch("SELECT subject_id, event_id FROM event ORDER BY event_id DESC LIMIT 1")
    await owner.execute("UPDATE event SET body = '{}' WHERE event_id = $1", victim["event_id"])
    await owner.execute("DELETE FROM seal WHERE seal_no >= 3; DELETE FROM seal_progress")
    forged = AnchorFile(tmp_path / "forged")
    await Sealer(vault.store, vault.clock, key=sealing_key_of(vault.directory / "seal.key"), anchor=forged).seal_once()
    by_itself = await verify_database(vault.url, tmp_path / "forged", [vault.directory / "seal.pub"])
    assert (by_itself.seals, by_itself.findings) == (3, [])
    report = await vault.verify()
    assert {(Fault.SEAL, "seal", "3"), (Fault.SEAL, "seal", "4")} <= told(report)
    with pytest.raises(AnchorError, match="its history was rewritten"):
        await vault.seal()


async def test_a_sealer_that_is_killed_in_the_middle_has_sealed_nothing_and_the_next_seals_all(
    vault: Vault, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(owner, [vault.an_event() for _ in range(3)], [vault.a_transfer()])

    async def die(connection: Any, *told: Any) -> None:
        await _write(connection, *told)
        await owner.execute("SELECT pg_terminate_backend($1)", await connection.fetchval("SELECT pg_backend_pid()"))
        await connection.fetchval("SELECT 1")

    with monkeypatch.context() as patched:
        patched.setattr("coatcheck.audit.sealing.sealer._write", die)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await vault.sealer().seal_once()
    assert await owner.fetchval("SELECT count(*) FROM seal") == 0
    assert await vault.seal() == 4
    assert set((await vault.sealed()).values()) == {1}
    assert (await vault.verify()).is_ok


# In a gateway.


async def test_gateways_seal_by_themselves_and_leave_one_chain(
    vault: Vault, owner: asyncpg.Connection, simulator_url: str
) -> None:
    settings = {"seal_interval_ms": 10, "data_dir": vault.directory, "seal_dir": vault.directory}
    await insert(owner, [vault.an_event(size=900) for _ in range(300)])
    async with (
        run_gateway(vault.store, simulator_url, settings=settings, clock=vault.clock) as one,
        run_gateway(vault.store, simulator_url, settings=settings, clock=vault.clock) as other,
    ):
        for _ in range(3):
            await insert(owner, [vault.an_event(size=900) for _ in range(300)])
            rows = await owner.fetchval("SELECT count(*) FROM event")
            async with asyncio.timeout(30):
                while len(await vault.sealed()) < rows:  # what a transaction under way holds up waits for another look
                    vault.clock.advance(timedelta(minutes=1))
    figures = [running.gateway.metrics.registry.get_sample_value for running in (one, other)]
    sealed = await vault.sealed()
    assert set(sealed.values()) == {1}
    assert sum(figure("coatcheck_sealed_rows_total") or 0 for figure in figures) == len(sealed)
    assert max(figure("coatcheck_sealed_to_seconds") or 0 for figure in figures) > START.timestamp()
    assert sum(figure("coatcheck_sealing_failures_total", {"why": "failed"}) or 0 for figure in figures) == 0
    assert (await vault.verify()).is_ok


async def test_what_is_not_sealed_in_time_is_an_alert_until_it_is(vault: Vault, owner: asyncpg.Connection) -> None:
    world = World(vault.store, clock=vault.clock)
    watcher = make_watcher(world.gateway)
    await vault.sealer().expect()
    vault.clock.advance(timedelta(minutes=5, seconds=59))
    assert await watcher.watch_once() == []
    vault.clock.advance(timedelta(seconds=1))
    (opened,) = await watcher.watch_once()
    assert (opened.is_opened, opened.alert.kind.value) == (True, "sealing_overdue")
    assert "there is no seal yet" in opened.alert.text
    assert [alert.subject for alert in await list_alerts(vault.store)] == ["seals"]
    await insert(owner, [vault.an_event()])
    await vault.seal()
    assert [change.is_opened for change in await watcher.watch_once()] == [False]
    vault.clock.advance(timedelta(hours=1))
    await vault.sealer().expect()  # a gateway starts after a rest, and has not looked yet
    assert await watcher.watch_once() == []
    vault.clock.advance(timedelta(hours=1))
    (opened,) = await watcher.watch_once()
    assert "the last seal is number 1" in opened.alert.text


async def test_a_refusal_is_counted_and_said_once(vault: Vault, owner: asyncpg.Connection) -> None:
    await insert(owner, [vault.an_event()])
    await vault.seal()
    await owner.execute("DELETE FROM seal")
    sealer = vault.sealer()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await sealer._seal_through_trouble(timedelta())
    assert [line["event"] for line in lines] == ["sealing_refused"]
    assert sealer._metrics.sealing_failures["refused"]._value.get() == 3


async def test_a_gateway_that_cannot_keep_its_anchor_does_not_start_and_one_may_seal_nothing(
    store: Store, tmp_path: Path
) -> None:
    def sealer_with(**more: Any) -> Sealer | None:
        return make_sealer(World(store, settings=replace(SETTINGS, data_dir=tmp_path, **more)).gateway)

    assert sealer_with(seal_interval_ms=0) is None
    assert not (tmp_path / "seals").exists()
    assert sealer_with() is not None
    assert sorted(path.name for path in (tmp_path / "seals").iterdir()) == ["anchor", "seal.key", "seal.pub"]
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(SettingsError, match="the anchor cannot be written"):
        sealer_with(seal_anchor_dir=tmp_path / "file" / "deeper")
    assert Settings().seal_interval_ms > 0


# The command.


async def coatcheck(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, verifying.audit, arguments, standalone_mode=False)


async def test_the_command_tells_what_it_found_and_ends_with_status_1(
    vault: Vault, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    options = ("--database-url", vault.url, "--anchor", str(vault.anchor), "--public-key", str(tmp_path / "seal.pub"))
    await vault.seal()
    victim = vault.an_event()
    await insert(owner, [victim], [vault.a_transfer()])
    empty = await coatcheck("verify", *options)
    assert "There are no seals" in empty.output
    await vault.seal()
    sound = await coatcheck("verify", *options)
    assert sound.return_value == 0
    told = r"VERIFY rows=2 seals=1 rows_per_s=\d+ found=0 unsealed=0 unanchored=0 ok=true"
    assert re.fullmatch(told, sound.output.splitlines()[-1])
    await owner.execute("DELETE FROM event WHERE event_id = $1", victim[1])
    rotten = await coatcheck("verify", *options)
    assert rotten.return_value == 1
    assert rotten.output.splitlines()[0] == f"REMOVED      event {name(victim)} is gone; it was sealed in seal 1"
    assert re.search(r"found=1 .* ok=false$", rotten.output)


async def test_the_command_can_set_late_rows_aside(vault: Vault, owner: asyncpg.Connection, tmp_path: Path) -> None:
    options = ("--database-url", vault.url, "--anchor", str(vault.anchor), "--public-key", str(tmp_path / "seal.pub"))
    await vault.seal()
    await insert(owner, [vault.an_event(at=START - timedelta(hours=1))])
    await vault.seal()
    assert (await coatcheck("verify", *options)).return_value == 1
    told = await coatcheck("verify", "--ignore-late", *options)
    assert told.return_value == 0
    assert told.output.startswith("LATE")


@pytest.mark.parametrize("missing", ["anchor", "seal.pub"])
async def test_the_command_says_what_it_misses(vault: Vault, tmp_path: Path, missing: str) -> None:
    await vault.seal()
    (tmp_path / missing).unlink()
    options = ("--database-url", vault.url, "--anchor", str(vault.anchor), "--public-key", str(tmp_path / "seal.pub"))
    told = await coatcheck("verify", *options)
    assert isinstance(told.exception, UnusableError)
    assert missing in str(told.exception)


async def test_the_verifier_runs_alone_without_any_of_the_gateway(
    vault: Vault, owner: asyncpg.Connection, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--database-url", vault.url, "--anchor", str(vault.anchor), "--public-key", str(tmp_path / "seal.pub")]
    await insert(owner, [vault.an_event()], [vault.a_transfer()])
    await vault.seal()
    capsys.readouterr()
    assert await asyncio.to_thread(verifier_alone.run, options) == 0
    assert re.fullmatch(r"VERIFY rows=2 seals=1 .* ok=true\n", capsys.readouterr().out)
    await owner.execute("DELETE FROM transfer")
    assert await asyncio.to_thread(verifier_alone.run, options) == 1
    assert capsys.readouterr().out.startswith("REMOVED      transfer ")
    vault.anchor.unlink()
    assert await asyncio.to_thread(verifier_alone.run, options) == 2
    assert "anchor" in capsys.readouterr().err
    program = "coatcheck.audit.sealing.verifier.__main__"
    code = f"import sys, {program}; print([m for m in sys.modules if m.startswith('coatcheck')])"
    alone = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    modules = (await alone.communicate())[0].decode()
    assert "coatcheck.audit.sealing.verifier.chain" in modules
    assert not re.search(r"'coatcheck\.(?!audit'|audit\.sealing'|audit\.sealing\.verifier)", modules)


# The tamperings.


@dataclass
class Crime:
    """One tampering: how it is done, and what the verifier must say, of which rows or seals."""

    kind: str
    statements: list[tuple[str, tuple[object, ...]]]
    expected: dict[tuple[str, str], set[Fault]]


@dataclass
class History:
    """What a database holds: its rows by table, in a shuffled order, and in which seal each row is."""

    rows: dict[str, list[asyncpg.Record]]
    seal_of: dict[bytes, int]
    seals: int


EVENT_COLUMNS = ("kind", "shop_id", "mode", "at", "body")
TRANSFER_COLUMNS = (
    *("kind", "phase", "hold_id", "debit_account_id", "credit_account_id", "amount_minor", "currency", "subject_id"),
    "at",
)
KEYS = {"event": ("subject_id", "event_id"), "transfer": ("transfer_id",)}
SIZES = {"event": 64, "transfer": 48}
# A superuser is not held up by what the schema forbids.
UNLOCK = """
    ALTER TABLE transfer DROP CONSTRAINT transfer_amount_is_positive_and_exact,
        DROP CONSTRAINT transfer_moves_between_two_accounts, DROP CONSTRAINT transfer_phase_is_known,
        DROP CONSTRAINT transfer_names_the_hold_it_ends, ALTER COLUMN debit_account_id DROP NOT NULL,
        ALTER COLUMN currency DROP NOT NULL, ALTER COLUMN at DROP NOT NULL;
    ALTER TABLE event ALTER COLUMN shop_id DROP NOT NULL, ALTER COLUMN body DROP NOT NULL,
        ALTER COLUMN at DROP NOT NULL;
    ALTER TABLE seal DROP CONSTRAINT seal_signature_is_ed25519, DROP CONSTRAINT seal_counts_from_one,
        ALTER COLUMN content DROP NOT NULL;
"""


def named(table: str, row: Any) -> str:
    return "/".join(str(row[column]) for column in KEYS[table])


def key_bytes(table: str, row: Any) -> bytes:
    return b"".join(row[column].bytes for column in KEYS[table])


def where(table: str, row: Any, first: int = 1) -> tuple[str, tuple[object, ...]]:
    conditions = " AND ".join(f"{column} = ${first + n}" for n, column in enumerate(KEYS[table]))
    return conditions, tuple(row[column] for column in KEYS[table])


class Criminal:
    """Makes up tamperings from a seed; each takes rows that no other has taken."""

    def __init__(self, history: History, dice: random.Random) -> None:
        self.dice = dice
        self.history = history
        # Seals whose rows are left alone: it is the rosters' turn, or they (the last one's) are too young to be missed.
        self.spared = {history.seals}
        self._left = {table: iter(dice.sample(rows, len(rows))) for table, rows in history.rows.items()}

    def a_table(self) -> str:
        return self.dice.choice(["event", "transfer"])

    def a_row(self, table: str) -> asyncpg.Record:
        return next(row for row in self._left[table] if self.history.seal_of[key_bytes(table, row)] not in self.spared)

    def other_value(self, column: str, value: Any) -> object:
        dice = self.dice
        if column in {"shop_id", "debit_account_id", "credit_account_id", "subject_id", "hold_id"}:
            may_be_null = column in {"shop_id", "debit_account_id"} or (column == "hold_id" and value is not None)
            return None if may_be_null and dice.random() < 0.2 else UUID(bytes=dice.randbytes(16))
        if column == "at":
            return dice.choice([value + timedelta(microseconds=dice.choice([-1, 1, 10**6, -(10**9)])), None])
        if column == "amount_minor":
            return dice.choice([value + 1, value * 10, -value, 0])
        if column == "body":
            return dice.choice([value + " ", value.replace("{", "{ ", 1), "{}", value[:-1] + ',"x":1}', None])
        return dice.choice([f"{value}x", value[:-1], value.swapcase(), ""])

    def changed(self) -> Crime:
        table = self.a_table()
        row = self.a_row(table)
        column = self.dice.choice(EVENT_COLUMNS if table == "event" else TRANSFER_COLUMNS)
        condition, key = where(table, row, 2)
        statement = f"UPDATE {table} SET {column} = $1 WHERE {condition}"
        value = self.other_value(column, row[column])
        return Crime("changed", [(statement, (value, *key))], {(table, named(table, row)): {Fault.CHANGED}})

    def removed(self) -> Crime:
        table = self.a_table()
        row = self.a_row(table)
        condition, key = where(table, row)
        return Crime(
            "removed", [(f"DELETE FROM {table} WHERE {condition}", key)], {(table, named(table, row)): {Fault.REMOVED}}
        )

    def inserted(self) -> Crime:
        """A forged row, mostly made of a true one."""
        table = self.a_table()
        row = self.a_row(table)
        forged = dict(row) | {KEYS[table][-1]: UUID(bytes=self.dice.randbytes(16))}
        values = ", ".join(f"${n}" for n in range(1, len(forged) + 1))
        statement = f"INSERT INTO {table} ({', '.join(forged)}) VALUES ({values})"
        expected = {(table, named(table, forged)): {Fault.INSERTED}}
        return Crime("inserted", [(statement, tuple(forged.values()))], expected)

    def renamed(self) -> Crime:
        table = self.a_table()
        row = self.a_row(table)
        column, new = self.dice.choice(KEYS[table]), UUID(bytes=self.dice.randbytes(16))
        condition, key = where(table, row, 2)
        expected = {(table, named(table, dict(row) | {column: new})): {Fault.MOVED}}
        return Crime("renamed", [(f"UPDATE {table} SET {column} = $1 WHERE {condition}", (new, *key))], expected)

    def reordered(self) -> Crime:
        """Two rows change places: each gets the other's ids."""
        table = self.a_table()
        one, other = self.a_row(table), self.a_row(table)
        columns = KEYS[table]
        setting = ", ".join(f"{column} = ${n}" for n, column in enumerate(columns, 1))
        interim = tuple(UUID(bytes=self.dice.randbytes(16)) for _ in columns)
        ids = [tuple(row[column] for column in columns) for row in (one, other)]
        condition = " AND ".join(f"{column} = ${n}" for n, column in enumerate(columns, len(columns) + 1))
        statement = f"UPDATE {table} SET {setting} WHERE {condition}"
        steps = [(statement, (*interim, *ids[0])), (statement, (*ids[0], *ids[1])), (statement, (*ids[1], *interim))]
        return Crime("reordered", steps, {(table, named(table, row)): {Fault.MOVED} for row in (one, other)})

    def exchanged(self) -> Crime:
        """Two rows exchange what one column says: a body, a time, an amount."""
        table = self.a_table()
        column = self.dice.choice(["body", "at"] if table == "event" else ["amount_minor", "at", "subject_id"])
        one = self.a_row(table)
        other = next(row for row in iter(lambda: self.a_row(table), None) if row[column] != one[column])
        steps = []
        for row, donor in ((one, other), (other, one)):
            condition, key = where(table, row, 2)
            steps.append((f"UPDATE {table} SET {column} = $1 WHERE {condition}", (donor[column], *key)))
        faults = {Fault.CHANGED, Fault.MOVED}
        return Crime("exchanged", steps, {(table, named(table, row)): faults for row in (one, other)})

    ROWS = (changed, changed, changed, removed, inserted, renamed, reordered, exchanged)

    def on_a_row(self) -> Crime:
        return self.dice.choice(self.ROWS)(self)

    def a_seal(self) -> int:
        number = self.dice.choice([n for n in range(1, self.history.seals + 1) if n not in self.spared])
        self.spared.add(number)
        return number

    def on_a_seal(self) -> Crime:
        """Something of a seal's own row is rewritten."""
        number = self.a_seal()
        expected = {("seal", str(number)): {Fault.SEAL, Fault.ROSTER}}
        roster, dice = f"{self.a_table()}_roster", self.dice
        flip = f"set_byte({roster}, $2, get_byte({roster}, $2) # 1)"
        kind, setting, values = dice.choice([
            ("content", "content = overlay(content placing $2 from $3)", ("#", dice.randrange(1, 400))),
            ("content", "content = content || $2", (" ",)),
            ("content", "content = NULL", ()),
            ("signature", "signature = set_byte(signature, $2, get_byte(signature, $2) # 1)", (dice.randrange(64),)),
            ("signature", "signature = ''", ()),
            ("roster", f"{roster} = {flip}", (dice.randrange(480),)),
            ("roster", f"{roster} = substr({roster}, 1, length({roster}) - $2)", (dice.choice([1, 16, 48, 64]),)),
            ("roster", f"{roster} = ''", ()),
            ("roster", f"{roster} = {roster} || substr({roster}, 1, 192)", ()),
            ("number", "seal_no = -seal_no", ()),
        ])  # fmt: skip
        if kind == "number":
            expected[("seal", str(-number))] = {Fault.SEAL}
        return Crime(kind, [(f"UPDATE seal SET {setting} WHERE seal_no = $1", (number, *values))], expected)

    def seal_gone(self) -> Crime:
        number = self.a_seal()
        expected = {("seal", str(number)): {Fault.SEAL, Fault.ROSTER}}
        return Crime("seal gone", [("DELETE FROM seal WHERE seal_no = $1", (number,))], expected)

    def tail_cut(self) -> Crime:
        """The last seals are gone, and now and then what they sealed with them."""
        first = self.history.seals - self.dice.randrange(1, 4)
        gone = set(range(first, self.history.seals + 1))
        self.spared |= gone
        steps: list[tuple[str, tuple[object, ...]]] = [("DELETE FROM seal WHERE seal_no >= $1", (first,))]
        if self.dice.random() < 0.5:
            for table, rows in self.history.rows.items():
                keys = [row for row in rows if self.history.seal_of[key_bytes(table, row)] in gone]
                column = KEYS[table][-1]
                steps.append((f"DELETE FROM {table} WHERE {column} = ANY($1)", ([row[column] for row in keys],)))
        return Crime("tail cut", steps, {("seal", str(n)): {Fault.SEAL, Fault.ROSTER} for n in gone})


async def make_history(vault: Vault, owner: asyncpg.Connection) -> History:
    """Two minutes of rows a seal, in transactions of their own, some of them late or from a slow clock."""
    # What is written while tampering must not fill gaps in old pages: which rows prove a lost roster is up to that.
    await owner.execute("ALTER TABLE event SET (autovacuum_enabled = off)")
    await owner.execute("ALTER TABLE transfer SET (autovacuum_enabled = off)")
    for _ in range(40):
        for _ in range(3):
            vault.clock.advance(timedelta(seconds=20))
            behind = vault.clock.now() - timedelta(seconds=vault.dice.choice([0, 0, 0, 90]))
            events = [vault.an_event(at=behind, size=vault.dice.choice([0, 80, 2500])) for _ in range(14)]
            await insert(owner, events, [vault.a_transfer(at=behind) for _ in range(11)])
        vault.clock.advance(timedelta(seconds=60))
        assert await vault.seal() == 75
    vault.clock.advance(timedelta(hours=2))
    await insert(owner, [vault.an_event()], [vault.a_transfer()])
    await vault.seal()
    seal_of = {}
    for row in await owner.fetch("SELECT seal_no, event_roster, transfer_roster FROM seal"):
        for table, size in SIZES.items():
            roster = row[f"{table}_roster"]
            for start in range(0, len(roster), size):
                seal_of[roster[start : start + size - 32]] = row["seal_no"]
    rows = {table: await owner.fetch(f"SELECT * FROM {table} ORDER BY {KEYS[table][-1]}") for table in KEYS}
    return History(rows, seal_of, max(seal_of.values()))


def batches_of(history: History) -> Iterator[list[Crime]]:
    """Make up all tamperings, in batches that one verification is to find, with one or two on seals in each."""
    dice, left = random.Random(_SEED), TAMPERINGS
    while left > 0:
        criminal = Criminal(history, dice)
        crimes = [criminal.on_a_seal() for _ in range(dice.randrange(3))]
        if dice.random() < 0.3:
            crimes.append(criminal.seal_gone())
        if dice.random() < 0.3:
            crimes.append(criminal.tail_cut())
        crimes += [criminal.on_a_row() for _ in range(min(left - len(crimes), 300))]
        left -= len(crimes)
        yield dice.sample(crimes, len(crimes))


def judge(crimes: Sequence[Crime], findings: Sequence[Finding]) -> list[str]:
    """Say what was not found, or was found and never done."""
    found: dict[tuple[str, str], set[Fault]] = {}
    for finding in findings:
        found.setdefault((finding.place, finding.name), set()).add(finding.fault)
    wrong = []
    for crime in crimes:
        for place, faults in crime.expected.items():
            if not found.get(place, set()) or not found[place] <= faults:
                wrong.append(f"{crime.kind}: {place} is said to be {found.get(place)}: {crime.statements}")
    done = {place for crime in crimes for place in crime.expected}
    return wrong + [f"never done: {place} {faults}" for place, faults in found.items() if place not in done]


@pytest.mark.slow
@pytest.mark.timeout(600 + TAMPERINGS // 4)
async def test_G19_every_tampering_by_a_superuser_is_found_and_located(vault: Vault, owner: asyncpg.Connection) -> None:
    history = await make_history(vault, owner)
    assert (await vault.verify()).is_ok
    kinds: Counter[str] = Counter()
    for crimes in batches_of(history):
        transaction = owner.transaction(isolation="repeatable_read")
        await transaction.start()
        await owner.execute(UNLOCK)
        for crime in crimes:
            for statement, values in crime.statements:
                await owner.execute(statement, *values)
        report = await verify(owner, vault.anchor, vault.keys)
        await transaction.rollback()
        assert judge(crimes, report.findings) == []
        kinds.update(crime.kind for crime in crimes)
    assert kinds.total() >= TAMPERINGS
    assert (await vault.verify()).is_ok
