"""What is left when rows and rosters have met: each of it is put into words, and nothing twice.

First the rosters that were tampered with are mended from the rows, as far as their hashes prove it; only then a row
that no roster names, or an entry that no row fits, says something about rows.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from math import prod
from typing import Any

from coatcheck.audit.sealing.verifier.findings import Fault, Finding, name_of
from coatcheck.audit.sealing.verifier.tables import BRANCH_ROWS, Doubt, Layout, Matching, branch_of

_TRIALS_MOST = 20_000  # hashes tried to mend one branch
_BETWEEN_MOST = 2
_YOUNG_MOST = 5_000
_PAIRS_MOST = 250_000  # rows tried under other rows' names
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Judgement:
    """The findings about one table. `rows_of` fetches rows by key, as COPY sends them."""

    def __init__(self, matching: Matching, cutoff: datetime | None) -> None:
        self.findings: list[Finding] = []
        self.unsealed = 0
        self._layout: Layout = matching.layout
        self._awaited = matching.awaited
        self._strangers = matching.strangers
        self._matching = matching
        self._repeated = matching.repeated
        self._is_whole = True  # the rosters, when they are mended
        self._cutoff_us = None if cutoff is None else (cutoff - _EPOCH) // timedelta(microseconds=1)

    def _find(self, fault: Fault, key: bytes, text: str) -> None:
        self.findings.append(Finding(fault, self._layout.name, name_of(key), text))

    def _key(self, entry: bytes) -> bytes:
        return entry[: self._layout.key_bytes]

    # The rosters first.

    def mend(self, missing: Collection[int]) -> None:
        """Mend the rosters that are not as sealed. `missing`: seals that are gone, which is told already."""
        doubtful = {doubt.seal for doubt in self._matching.doubts}
        self._repeated = [(entry, seal) for entry, seal in self._matching.repeated if seal not in doubtful]
        for doubt in self._matching.doubts:
            step = BRANCH_ROWS * self._layout.entry_bytes
            extra = doubt.roster[doubt.rows * self._layout.entry_bytes :]
            if extra:
                self._roster(doubt, f"its {self._layout.name} roster has entries too many, after {doubt.rows}")
                self._forget(self._cut(extra))
            for place in doubt.bad:
                there = self._cut(doubt.roster[place * step : (place + 1) * step])[: doubt.rows - place * BRANCH_ROWS]
                should_be = min(BRANCH_ROWS, doubt.rows - place * BRANCH_ROWS)
                mended = self._mended(there, should_be, doubt.branches[place])
                if mended is None:
                    self._is_whole = False
                    self._roster(doubt, self._blame(there, place, should_be))
                    self._forget(there)
                    continue
                forged = [entry for entry, true in zip(there, mended, strict=False) if entry != true]
                if doubt.seal not in missing:
                    names = ", ".join(name_of(self._key(true)) for true in mended if true not in there)
                    self._roster(
                        doubt, f"its {self._layout.name} roster was rewritten at {names}; the row is as sealed"
                    )
                self._forget(forged)
                for entry in mended:
                    self._strangers.pop(entry, None)

    def _roster(self, doubt: Doubt, text: str) -> None:
        self.findings.append(Finding(Fault.ROSTER, "seal", str(doubt.seal), text))

    def _blame(self, there: Sequence[bytes], place: int, should_be: int) -> str:
        first = place * BRANCH_ROWS + 1
        told = f"its {self._layout.name} roster was rewritten among the entries {first} to {first + should_be - 1}"
        if not there:
            return f"{told}, which are missing"
        return f"{told}: the rows {', '.join(name_of(self._key(entry)) for entry in there)} are in doubt"

    def _cut(self, roster: bytes) -> list[bytes]:
        size = self._layout.entry_bytes
        return [roster[start : start + size] for start in range(0, len(roster) - size + 1, size)]

    def _forget(self, entries: Sequence[bytes]) -> None:
        for entry in entries:
            self._awaited.pop(entry, None)

    def _mended(self, there: Sequence[bytes], should_be: int, branch: bytes) -> Sequence[bytes] | None:
        """Find the entries that hash as the sealed ones did: rows that no roster names, in the places in doubt."""
        trials = self._in_place(there) if len(there) == should_be else self._in_a_row(there, should_be)
        for tried, entries in enumerate(trials):
            if tried == _TRIALS_MOST:
                break
            if branch_of(b"".join(entries)) == branch:
                return entries
        return None

    def _in_place(self, there: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        by_key = {self._key(entry): entry for entry in self._strangers}
        choices: list[list[bytes]] = []
        for entry in there:
            same = by_key.get(self._key(entry))
            if entry not in self._awaited:
                choices.append([entry])
            elif same is not None:
                choices.append([entry, same])
            else:
                choices.append([entry, *self._strangers])
        if prod(map(len, choices)) <= _TRIALS_MOST:
            yield from product(*choices)

    def _in_a_row(self, there: Sequence[bytes], should_be: int) -> Iterator[Sequence[bytes]]:
        """Where entries are missing: rows that follow one another in the table did so in the roster.

        Rows that came between since are left out: those that are sealed otherwise, and one or two of the others.
        """
        sealed = {self._key(entry) for entry in self._awaited}
        rows = [entry for entry in self._strangers if self._key(entry) not in sealed]
        kept = [entry for entry in there if entry not in self._awaited]
        need = should_be - len(kept)
        for between in range(_BETWEEN_MOST + 1):
            for start in range(len(rows) - need - between + 1):
                window = rows[start : start + need + between]
                for left_out in combinations(range(1, len(window) - 1), between):
                    yield [*kept, *(entry for place, entry in enumerate(window) if place not in left_out)]

    # Then the rows.

    def keys_in_question(self) -> list[bytes]:
        """Name the rows that are to be looked at once more: entries that no row fits, and rows that no roster names."""
        is_all = bool(self._awaited) and len(self._strangers) <= _YOUNG_MOST  # a young one may be a sealed one, renamed
        others = (entry for entry, at in self._strangers.items() if is_all or self._is_old(at))
        return list(dict.fromkeys(self._key(entry) for entry in (*self._awaited, *others)))

    def _is_old(self, at: int | None) -> bool:
        return at is None or (self._cutoff_us is not None and at < self._cutoff_us)

    def judge(self, rows: Mapping[bytes, bytes]) -> None:
        """Put what is left into words. `rows`: those in question, as COPY sends them, by key; absent ones are gone."""
        sealed = {self._key(entry): (entry, seal) for entry, seal in self._awaited.items()}
        others = {self._key(entry): at for entry, at in self._strangers.items()}
        moved = self._moved(sealed, others, rows)
        for key, origin in moved.items():
            instead = f", in the place of what seal {sealed[key][1]} has" if key in sealed else ""
            self._find(
                Fault.MOVED, key, f"is what was sealed as {name_of(origin)} in seal {sealed[origin][1]}{instead}"
            )
        told = moved.keys() | {origin for origin in moved.values() if origin not in others}
        for key, (_, seal) in sealed.items():
            if key not in told:
                self._judge_sealed(key, seal, is_other=key in others, is_there=key in rows)
        for key, at in others.items():
            if key not in told and key not in sealed:
                self._judge_unsealed(key, at)
        for entry in self._matching.copies:
            self._find(Fault.INSERTED, self._key(entry), "stands in the table more than once")
        for entry, seal in self._repeated:
            self._find(Fault.SEALED_TWICE, self._key(entry), f"was written again, and sealed again in seal {seal}")

    def _judge_sealed(self, key: bytes, seal: int, *, is_other: bool, is_there: bool) -> None:
        if is_other:
            self._find(Fault.CHANGED, key, f"is not as it was sealed in seal {seal}")
        elif is_there:
            self._find(Fault.SEALED_TWICE, key, f"was written again after it was sealed in seal {seal}")
        else:
            self._find(Fault.REMOVED, key, f"is gone; it was sealed in seal {seal}")

    def _judge_unsealed(self, key: bytes, at: int | None) -> None:
        if self._is_old(at):
            where = "is in no seal" if self._is_whole else "is in no roster that is left"
            self._find(Fault.INSERTED, key, f"{where}, and its time is {_print(at)}")
        else:
            self.unsealed += 1

    def _moved(
        self, sealed: Mapping[bytes, tuple[bytes, int]], others: Mapping[bytes, int | None], rows: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """Find rows that stand under another name than they were sealed under: by key, the key they had."""
        found: dict[bytes, bytes] = {}
        strangers = [key for key in others if key in rows]
        if len(strangers) * len(sealed) > _PAIRS_MOST:
            return found
        for key in strangers:
            for origin, (entry, _) in sealed.items():
                if origin != key and origin + hashlib.sha256(self._renamed(rows[key], origin)).digest() == entry:
                    found[key] = origin
        return found

    def _renamed(self, row: bytes, key: bytes) -> bytes:
        """Give a row other ids: the first columns, each after its length."""
        ids = [b"\0\0\0\x10" + key[start : start + 16] for start in range(0, len(key), 16)]
        return row[:2] + b"".join(ids) + row[2 + 20 * self._layout.keys :]


def late_rows(layout: Layout, number: int, part: Mapping[str, Any], roster: bytes) -> Iterator[Finding]:
    """Name the rows that a seal calls late."""
    size = layout.entry_bytes
    for position in part["late"]:
        key = roster[position * size : position * size + layout.key_bytes]
        name = name_of(key) if len(key) == layout.key_bytes else f"number {position + 1} of seal {number}"
        yield Finding(Fault.LATE, layout.name, name, f"was written long after its own time; seal {number} says so")


def _print(at: int | None) -> str:
    if at is None:
        return "none"
    try:
        return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:  # infinity, or before the year 1
        return "out of range"
