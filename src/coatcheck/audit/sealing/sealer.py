"""The sealer: takes what was committed and not sealed yet, makes a seal of it, and carries it to the anchor.

Any number of gateways may run one: the database lets one at a time look, and adds a seal at the end of the chain or
not at all. It reads what is there; nothing that writes an event or a transfer knows of it.
"""

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp
import asyncpg
import msgspec
import structlog

from coatcheck.audit.sealing.anchor import AnchorEndpoint, AnchorError, AnchorFile, Line
from coatcheck.audit.sealing.coverage import Coverage, Look
from coatcheck.audit.sealing.keys import SealingKey
from coatcheck.audit.sealing.rows import TABLES, SealedTable
from coatcheck.audit.sealing.seals import Seal, Sealing, line_of, make_seal
from coatcheck.clock import Clock
from coatcheck.loops import log_trouble, until_stopped
from coatcheck.metrics import Metrics
from coatcheck.store import Store

# A row that was written so long after its own time is late: longer than any transaction of ours lives, batch and
# retries included, and than clocks differ. It is sealed, and the seal says so.
LATE: Final = timedelta(minutes=10)
# A row that is found so long after its own time is looked for in the rosters first: it may be a sealed one that was
# written again, or one of four billion transactions ago, which no server does in less.
ANCIENT: Final = timedelta(hours=6)
_ROWS_MOST: Final = 16_384  # of one table in one seal, about: what one goes through without holding anybody up
_RECOUNTED_MOST: Final = 1_000_000
_GROWTH_BLOCKS: Final = 16
_PATIENCE: Final = timedelta(minutes=1)
_LINES_MOST: Final = 64
_AGE_OF_NONE: Final = 2**31 - 1  # of a transaction that was never one: whose rows are frozen, or were copied in
# What a transaction hears whose snapshot is older than another sealer's commit.
_FASTER: Final = (asyncpg.SerializationError, asyncpg.UniqueViolationError)
_LINES: Final = "SELECT seal_no, content, signature FROM seal WHERE seal_no >= $1 ORDER BY seal_no LIMIT $2"

log = structlog.get_logger("coatcheck.sealing")


class Round(msgspec.Struct, frozen=True):
    """What one round did: rows sealed, and whether more of them wait."""

    rows: int = 0
    has_more: bool = False


class Progress(msgspec.Struct):
    """How far sealing is, as the database keeps it for whoever seals next.

    Every row that was committed before `settled_at` belongs to a transaction below the horizon. `pending_*`: the same
    will be said of that moment once the horizon has reached that transaction. Until `complete_to` every row is sealed.
    """

    looked_at: datetime | None = None
    pending_xid: int = 0
    pending_at: datetime | None = None
    settled_at: datetime | None = None
    complete_to: datetime | None = None
    tables: dict[str, Coverage] = {}

    def settle(self, at: datetime, horizon: int, next_xid: int) -> None:
        """Work out what the horizon says about time. `at` is before the snapshot that both numbers come from."""
        self.looked_at = at
        if horizon >= next_xid:
            self.settled_at, self.pending_at = at, None
            return
        if self.pending_at is not None and horizon >= self.pending_xid:
            self.settled_at, self.pending_at = self.pending_at, None
        if self.pending_at is None:
            self.pending_xid, self.pending_at = next_xid, at

    def complete(self) -> None:
        """Work out until when everything is sealed. It never goes back: what is sealed stays so."""
        times = [self.complete_to, *(coverage.complete_to() for coverage in self.tables.values())]
        known = [time for time in times[1:] if time is not None]
        if len(known) == len(times) - 1:
            self.complete_to = max(min(known), self.complete_to or min(known))
        if self.complete_to is not None and self.looked_at is not None:  # unless the clock was set back
            self.complete_to = min(self.complete_to, self.looked_at)


class Sealer:
    """Seals, once or until stopped."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        key: SealingKey,
        anchor: AnchorFile,
        endpoint: AnchorEndpoint | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._anchor = anchor
        self._endpoint = endpoint
        self._metrics = metrics or Metrics()
        self._refusal = ""

    async def expect(self) -> None:
        """Say in the database that seals are made from now on, so that the watcher misses them when they are not."""
        await self._store.pool.execute("SELECT expect_seals($1)", self._clock.now() + _PATIENCE)

    async def seal(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Seal until stopped; trouble with the database is waited out."""
        has_more = False

        async def seal() -> bool:
            nonlocal has_more
            has_more = await self._seal_through_trouble(timedelta() if has_more else interval * 9 / 10)
            return has_more

        await until_stopped(seal, interval, stopping, log=log, trouble="sealing_failed")

    async def _seal_through_trouble(self, every: timedelta) -> bool:
        try:
            return (await self.seal_once(every)).has_more
        except AnchorError as error:
            self._metrics.sealing_failures["refused"].inc()
            if str(error) != self._refusal:  # once, not every few seconds
                log.error("sealing_refused", why=str(error))  # noqa: TRY400 - the text is all there is to say
            self._refusal = str(error)
        except _FASTER:
            log.debug("sealed_by_another")
        except Exception as error:  # noqa: BLE001 - tried again
            self._metrics.sealing_failures["failed"].inc()
            log_trouble(log, "sealing_failed", error)
        return False

    async def seal_once(self, every: timedelta = timedelta()) -> Round:
        """Make one seal of what is new, if anything is.

        `every`: nothing is done when anybody looked less than that ago; less than a minute, where little was written.
        Raises AnchorError when the database contradicts the anchor: nothing is sealed on top of a rewritten history;
        and asyncpg's SerializationError or UniqueViolationError when another sealer was faster, and has the rows.
        """
        await self._carry_to_anchor()
        at = self._clock.now()
        async with self._store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            sight: Any = await connection.fetchrow("SELECT * FROM begin_seal()")
            if not sight["is_mine"]:
                return Round()
            progress = Progress() if sight["state"] is None else msgspec.json.decode(sight["state"], type=Progress)
            if not _is_time(progress, at, every, sum(sight["blocks"])):
                return Round()
            elapsed = timedelta() if progress.looked_at is None else max(timedelta(), at - progress.looked_at)
            progress.settle(at, sight["horizon"], sight["next_xid"])
            searches = [
                _Search(connection, table, progress, elapsed=elapsed, sight=sight, place=place, blocks=blocks)
                for table, place, blocks in zip(TABLES, sight["places"], sight["blocks"], strict=True)
            ]
            for search in searches:
                await search.run()
            progress.complete()
            found = {search.table.name: search.found for search in searches}
            seal = self._seal_of(found, sight, at, progress.complete_to)
            await _write(connection, seal, progress, at + max(2 * every, _PATIENCE))
        rows = sum(len(sealing.entries) for sealing in found.values())
        self._metrics.sealed_rows.inc(rows)
        if progress.complete_to is not None:
            self._metrics.sealed_to.set(progress.complete_to.timestamp())
        await self._carry_to_anchor()
        if seal is not None:
            log.debug("sealed", seal=seal.number, rows=rows, swept=sum(search.swept for search in searches))
        return Round(rows, any(search.has_more for search in searches))

    def _seal_of(
        self, found: Mapping[str, Sealing], sight: Any, at: datetime, complete_to: datetime | None
    ) -> Seal | None:
        if not any(sealing.entries for sealing in found.values()):
            return None
        last: str | None = sight["last_content"]
        return make_seal(
            found,
            self._key,
            number=(sight["last_seal_no"] or 0) + 1,
            previous=None if last is None else last.encode(),
            sealed_at=at,
            complete_to=complete_to,
        )

    async def _carry_to_anchor(self) -> None:
        """Add the seals that this machine's anchor has not got yet; every gateway does, whoever made them."""
        after = await asyncio.to_thread(self._anchor.last_number)
        while lines := await self._lines(max(after, 1)):
            await asyncio.to_thread(self._anchor.keep, lines, after)
            if lines[-1][0] <= after:
                break
            after = lines[-1][0]
        else:
            await asyncio.to_thread(self._anchor.keep, [], after)
        if self._endpoint is not None:
            await self._post(self._endpoint)

    async def _post(self, endpoint: AnchorEndpoint) -> None:
        try:
            while lines := await self._lines(endpoint.last_number() + 1):
                await endpoint.post(lines)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._metrics.sealing_failures["endpoint"].inc()
            log.warning("anchor_endpoint_failed", error=str(error) or type(error).__name__)

    async def _lines(self, first: int) -> list[Line]:
        rows = await self._store.pool.fetch(_LINES, first, _LINES_MOST)
        return [(row["seal_no"], line_of(row["content"].encode(), row["signature"])) for row in rows]


def _is_time(progress: Progress, at: datetime, every: timedelta, blocks: int) -> bool:
    """Say whether to look: not before `every`, and where little was written not before a seal is worth its room."""
    if progress.looked_at is None or not every or at < progress.looked_at:  # a clock that was set back
        return True
    grown = blocks - sum(coverage.end for coverage in progress.tables.values())
    return at - progress.looked_at >= (every if grown >= _GROWTH_BLOCKS else max(every, _PATIENCE))


async def _write(connection: Any, seal: Seal | None, progress: Progress, due_at: datetime) -> None:
    state = msgspec.json.encode(progress).decode()
    told = (
        (None,) * 5
        if seal is None
        else (seal.number, seal.content.decode(), seal.signature, seal.rosters["event"], seal.rosters["transfer"])
    )
    await connection.execute("SELECT write_seal($1, $2, $3, $4, $5, $6, $7)", *told, state, due_at)


class _Search:
    """The search for the rows of one table that are not sealed yet, on one snapshot."""

    def __init__(
        self,
        connection: Any,
        table: SealedTable,
        progress: Progress,
        *,
        elapsed: timedelta,
        sight: Any,
        place: str,
        blocks: int,
    ) -> None:
        self.table = table
        self.found = Sealing()
        self.has_more = False
        self.swept = 0
        self._connection = connection
        self._progress = progress
        self._elapsed = elapsed
        self._horizon: int = sight["horizon"]
        self._next_xid: int = sight["next_xid"]
        self._horizon_age: int = sight["horizon_age"]
        self._last_seal: int = sight["last_seal_no"] or 0
        self._blocks = blocks
        self._coverage = progress.tables.setdefault(table.name, Coverage())
        self._coverage.settle_in(place, blocks, has_seals=self._last_seal > 0)
        self._suspects: list[int] = []  # positions of rows that may be sealed already

    async def run(self) -> None:
        """Look at the end of the table, and if that is all read, at the next step of the sweep."""
        most = _RECOUNTED_MOST if self._coverage.is_recounting else _ROWS_MOST
        for look in self._coverage.tail(self._blocks):
            if len(self.found.entries) >= most:
                self.has_more = True
                break
            await self._look_at(look)
        else:
            self._coverage.tail_since = self._progress.settled_at
            before = len(self.found.entries)
            for look in self._coverage.sweep(self._blocks, self._elapsed):
                await self._look_at(look)
                self._coverage.sweep_at = look.end
            self.swept = len(self.found.entries) - before
        self._coverage.settle(self._horizon, self._next_xid)
        await self._drop_what_is_sealed()
        if self.found.late:
            log.warning("late_rows_sealed", table=self.table.name, rows=len(self.found.late))

    async def _look_at(self, look: Look) -> None:
        if look.horizon != self._horizon:
            limits = self._limits(look.since or self._progress.complete_to)
            query = f"SELECT roster, late, ancient FROM {self.table.unsealed}($1, $2, $3, $4, $5, $6, $7)"
            roster, late, ancient = await self._connection.fetchrow(query, *self._range(look), *limits)
            self._take(self.table.entries_of(roster), set(late or ()), set(ancient or ()), look)
        self._coverage.note(look, self._horizon, self._progress.settled_at)

    def _take(self, entries: list[bytes], late: set[bytes], ancient: set[bytes], look: Look) -> None:
        base = len(self.found.entries)
        is_counted_anew = look.horizon == 0 and look.start < self._coverage.recount_end
        if is_counted_anew:
            self._suspects += range(base, base + len(entries))
        elif ancient:
            self._suspects += [base + position for position, entry in enumerate(entries) if entry in ancient]
        if late:
            self.found.late += [base + position for position, entry in enumerate(entries) if entry in late]
        self.found.entries += entries

    def _limits(self, since: datetime | None) -> tuple[datetime, datetime] | tuple[None, None]:
        """Say from when back a row is late or ancient that was committed later than `since`."""
        if since is None or self._progress.looked_at is None:
            return None, None
        since = min(since, self._progress.looked_at)  # unless the clock was set back
        return since - LATE, since - ANCIENT

    def _range(self, look: Look) -> tuple[int, int, int, int, bool]:
        """Say which rows there are new: those of the transactions between the blocks' earlier horizon and today's.

        A row has 32 bits of its transaction's number, which are compared by their distance from now. After four billion
        transactions an old row may look like one of today: it will be found late, and known.
        """
        if look.horizon == 0:
            return look.start, look.end, self._horizon_age, _AGE_OF_NONE, True
        oldest = min(self._horizon_age + self._horizon - look.horizon, _AGE_OF_NONE - 1)
        return look.start, look.end, self._horizon_age, oldest, False

    async def _drop_what_is_sealed(self) -> None:
        """Take out the suspects that have a seal: their blocks were numbered anew, or somebody wrote them again."""
        entries, size = self.found.entries, self.table.key_bytes
        known = await self._sealed_of({entries[position][:size] for position in self._suspects})
        if not known:
            return
        dropped = {position for position in self._suspects if entries[position][:size] in known}
        changed = sum(entries[position] not in known[entries[position][:size]] for position in dropped)
        if changed:
            log.error("sealed_rows_were_changed", table=self.table.name, rows=changed)
        late = {entries[position] for position in self.found.late if position not in dropped}
        self.found.entries = [entry for position, entry in enumerate(entries) if position not in dropped]
        self.found.late = [position for position, entry in enumerate(self.found.entries) if entry in late]

    async def _sealed_of(self, keys: Collection[bytes]) -> dict[bytes, set[bytes]]:
        """Find the entries that seals have for these keys. Reads every roster: only what is rare comes here."""
        known: dict[bytes, set[bytes]] = {}
        if not keys:
            return known
        key_size = self.table.key_bytes
        query = f"SELECT {self.table.name}_roster FROM seal WHERE seal_no = $1"
        for number in range(1, self._last_seal + 1):
            for entry in self.table.entries_of(await self._connection.fetchval(query, number) or b""):
                if entry[:key_size] in keys:
                    known.setdefault(entry[:key_size], set()).add(entry)
        return known
