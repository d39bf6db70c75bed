"""The program: reads the anchor, then the database on one snapshot, and reports."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from coatcheck.audit.sealing.verifier.chain import (
    Chain,
    StoredSeal,
    UnreadableError,
    read_anchor,
    read_public_keys,
)
from coatcheck.audit.sealing.verifier.findings import Finding, Report
from coatcheck.audit.sealing.verifier.judgement import Judgement, late_rows
from coatcheck.audit.sealing.verifier.tables import LAYOUTS, CopyStream, Layout, Matching, columns_of

__all__ = ["UnreadableError", "verify", "verify_database"]

# A row that is in no seal is missed there when it is so much older than what the last seal calls complete.
_PATIENCE = timedelta(minutes=10)
_PIECE_BLOCKS = 4096
_LEAD_ROWS = 200_000  # how far the rosters are read ahead of the rows
_SEALS = "SELECT seal_no, content, signature FROM public.seal ORDER BY seal_no"
_SEALS_AT_ONCE = 200
_ROSTERS_AT_ONCE = 16
_KEYS_AT_ONCE = 1000
_HEADER_BYTES = 19
_TRAILER_BYTES = 2


async def verify_database(
    database_url: str, anchor: Path, public_keys: Sequence[Path], *, patience: timedelta = _PATIENCE
) -> Report:
    """Verify a database; it is only read. Raises UnreadableError, or asyncpg's errors."""
    keys = read_public_keys(public_keys)
    connection = await asyncpg.connect(
        database_url, server_settings={"application_name": "coatcheck audit verify", "statement_timeout": "0"}
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await verify(connection, anchor, keys, patience=patience)
    finally:
        await connection.close()


async def verify(connection: Any, anchor: Path, keys: Collection[str], *, patience: timedelta = _PATIENCE) -> Report:
    """Verify over a connection whose transaction has one snapshot (repeatable read), not yet taken.

    The anchor is read before it: so it can lack a seal of the database, and the database none of the anchor's.
    """
    started = time.perf_counter()
    report = Report()
    chain = await _read_chain(connection, anchor, keys, report)
    last = chain.last
    if last is not None:
        report.sealed_at, report.complete_to = last.said["sealed_at"], last.said["complete_to"]
    complete_to = None if report.complete_to is None else datetime.fromisoformat(report.complete_to).astimezone(UTC)
    cutoff = None if complete_to is None else complete_to - patience
    for layout in LAYOUTS:
        await _Reading(connection, layout, chain).run(cutoff, report)
    report.seconds = time.perf_counter() - started
    return report


async def _read_chain(connection: Any, anchor: Path, keys: Collection[str], report: Report) -> Chain:
    broken: list[Finding] = []
    chain = Chain(read_anchor(anchor, keys, broken), keys)  # opens it, and knows where it ends
    rows: list[StoredSeal] = []
    async for row in connection.cursor(_SEALS, prefetch=_SEALS_AT_ONCE):
        seal = StoredSeal(row["seal_no"], (row["content"] or "").encode(), bytes(row["signature"] or b""))
        if rows and rows[0].number != seal.number:
            chain.take(rows)
            rows = []
        rows.append(seal)
    if rows:
        chain.take(rows)
    chain.finish()
    report.seals, report.unanchored = chain.believed, chain.unanchored
    report.findings += [*broken, *chain.findings]
    return chain


class _Reading:
    """One table and its rosters, read through."""

    def __init__(self, connection: Any, layout: Layout, chain: Chain) -> None:
        self._connection = connection
        self._layout = layout
        self._chain = chain
        self._next_seal = 1
        self._matching = Matching(layout)
        self._missing: set[int] = set()
        self._late: list[Finding] = []

    async def run(self, cutoff: datetime | None, report: Report) -> None:
        """Let rows and rosters meet, and judge what is left of both."""
        blocks = await self._connection.fetchval(
            "SELECT pg_relation_size(($1::text)::regclass) / current_setting('block_size')::bigint",
            f"public.{self._layout.name}",
        )
        starts = range(0, max(blocks, 1), _PIECE_BLOCKS)
        for start in starts:
            await self._read_rosters(self._matching.rows + _LEAD_ROWS)
            await self._read_rows(start, is_last=start == starts[-1])
        await self._read_rosters(None)
        judgement = Judgement(self._matching, cutoff)
        judgement.mend(self._missing)
        judgement.judge(await self._fetch(judgement.keys_in_question()))
        report.rows += self._matching.rows
        report.unsealed += judgement.unsealed
        report.findings += sorted(judgement.findings, key=lambda finding: (finding.place, finding.name)) + self._late

    async def _read_rosters(self, until: int | None) -> None:
        """Read rosters until so many entries are known, or all."""
        length = self._chain.length
        while self._next_seal <= length and (until is None or self._matching.expected < until):
            numbers = range(self._next_seal, min(self._next_seal + _ROSTERS_AT_ONCE, length + 1))
            self._next_seal = numbers[-1] + 1
            await self._take_rosters(numbers)
        if until is None and self._chain.strays:
            await self._take_rosters(self._chain.strays)

    async def _take_rosters(self, numbers: Sequence[int]) -> None:
        rows = await self._connection.fetch(
            f"SELECT seal_no, content, {self._layout.name}_roster AS roster FROM public.seal "
            "WHERE seal_no = ANY($1::bigint[])",
            list(numbers),
        )
        stored: dict[int, list[tuple[bytes, bytes]]] = {}
        for row in rows:
            seal = ((row["content"] or "").encode(), bytes(row["roster"] or b""))
            stored.setdefault(row["seal_no"], []).append(seal)
        for number in numbers:
            there = stored.get(number, [])
            if not there:
                self._missing.add(number)
            departure = self._chain.departures.get(number)
            believed = next((seal for seal in there if self._chain.believes(number, seal[0])), None)
            content = departure.content if departure is not None else None if believed is None else believed[0]
            roster = (believed or (there[0] if there else (b"", b"")))[1]
            part = None if content is None else json.loads(content)[self._layout.name]
            self._matching.expect(number, roster, part)
            if part is not None:
                self._late += late_rows(self._layout, number, part, roster)

    async def _read_rows(self, start: int, *, is_last: bool) -> None:
        before_next = "" if is_last else f" AND ctid < '({start + _PIECE_BLOCKS},0)'"
        stream = CopyStream(self._matching)
        await self._connection.copy_from_query(
            f"{self._select()} WHERE ctid >= '({start},0)'{before_next}", output=stream.take, format="binary"
        )
        stream.finish()

    def _select(self) -> str:
        return f"SELECT {', '.join(self._layout.columns)} FROM public.{self._layout.name}"

    async def _fetch(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Fetch rows by key, as COPY sends them."""
        layout, found = self._layout, dict[bytes, bytes]()
        named = ", ".join(layout.columns[: layout.keys])
        sound = [key for key in keys if len(key) == layout.key_bytes]
        for first in range(0, len(sound), _KEYS_AT_ONCE):
            values = ", ".join(_values_of(key) for key in sound[first : first + _KEYS_AT_ONCE])
            pieces: list[bytes] = []

            async def take(data: bytes, pieces: list[bytes] = pieces) -> None:
                pieces.append(data)

            await self._connection.copy_from_query(
                f"{self._select()} WHERE ({named}) IN (VALUES {values})", output=take, format="binary"
            )
            data, place = b"".join(pieces), _HEADER_BYTES
            while len(data) - place > _TRAILER_BYTES:
                columns, end = columns_of(data, place)
                found[b"".join(columns[: layout.keys])] = data[place:end]
                place = end
        return found


def _values_of(key: bytes) -> str:
    return "(" + ", ".join(f"'{key[start : start + 16].hex()}'::uuid" for start in range(0, len(key), 16)) + ")"
