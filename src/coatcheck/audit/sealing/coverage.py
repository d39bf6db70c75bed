"""How far sealing has looked: for every block of a table, below which transaction its rows are sealed.

A row carries the number of the transaction that wrote it (xmin), at no cost. When a block is looked at, every
transaction below the horizon is over for ever, so all rows of such transactions that will ever be in the block are
there: those at or above the block's earlier horizon are new, and the others are sealed. So each row is sealed once,
whatever the order of ids and commits (hazard F9), and none escapes that is looked at again. New rows are nearly all in
the last blocks; those that fill a gap further up are found by the sweep.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

TAIL_BLOCKS = 256  # looked at again every time, and at most twice as many
PIECE_BLOCKS = 256
SWEEP_BLOCKS_PER_S = 512  # of the rest; a GiB in four minutes
_SWEPT_AT_ONCE = timedelta(minutes=1)


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """Blocks from `start` to the next stretch: rows of transactions below `horizon` are sealed.

    Whatever is not was committed after `settled_at`.
    """

    start: int
    horizon: int
    settled_at: datetime | None


class Look(msgspec.Struct, frozen=True):
    """Blocks to look at, `end` excluded. `horizon` 0: nobody has looked at them yet.

    `since`: whatever is new here was committed later; None when nothing is known.
    """

    start: int
    end: int
    horizon: int
    since: datetime | None


class Coverage(msgspec.Struct):
    """How far one table is looked at. `place` says in which file of which server the blocks are counted.

    Blocks from `end` on nobody has looked at; what is in them was written after `tail_since`. Up to `recount_end` the
    blocks are counted anew: what is in them may be sealed all the same. Before `settled_end` every row was below the
    horizon at the last look, but for gaps filled since; the same will be said of `pending_end` once the horizon has
    reached `pending_xid`.
    """

    place: str = ""
    end: int = 0
    stretches: list[Stretch] = []
    tail_since: datetime | None = None
    sweep_at: int = 0
    recount_end: int = 0
    settled_end: int = 0
    pending_end: int = 0
    pending_xid: int = 0

    def settle_in(self, place: str, blocks: int, *, has_seals: bool) -> None:
        """Take notice of the table as it is now: moved to another file (all is counted anew), or cut short."""
        if place != self.place:
            self.place, self.end, self.stretches, self.tail_since, self.sweep_at = place, 0, [], None, 0
            self.settled_end = self.pending_end = self.pending_xid = 0
            self.recount_end = blocks if has_seals else 0
        if blocks < self.end:  # the blocks that are gone had no rows
            self.end = blocks
            self.stretches = [stretch for stretch in self.stretches if stretch.start < blocks]

    def tail(self, blocks: int) -> list[Look]:
        """Give the last blocks: those where transactions were under way, then the new ones, in pieces."""
        starts = range(self.end, blocks, PIECE_BLOCKS)
        return [
            *self._looked_at(self._tail_start(blocks), self.end),
            *(Look(start, min(start + PIECE_BLOCKS, blocks), 0, self.tail_since) for start in starts),
        ]

    def sweep(self, blocks: int, elapsed: timedelta) -> list[Look]:
        """Give the next step of the sweep through all blocks before the tail, by the time since the last one."""
        before = self._tail_start(blocks)
        if self.sweep_at >= before:
            self.sweep_at = 0
        step = SWEEP_BLOCKS_PER_S * min(elapsed, _SWEPT_AT_ONCE) // timedelta(seconds=1)
        return list(self._looked_at(self.sweep_at, min(self.sweep_at + step, before)))

    def settle(self, horizon: int, next_xid: int) -> None:
        """Take notice of the end of a round, and so move the tail on; not while a transaction holds the horizon up."""
        if horizon >= next_xid:
            self.settled_end, self.pending_xid = self.end, 0
            return
        if self.pending_xid and horizon >= self.pending_xid:
            self.settled_end, self.pending_xid = self.pending_end, 0
        if not self.pending_xid:
            self.pending_end, self.pending_xid = self.end, next_xid

    def note(self, look: Look, horizon: int, settled_at: datetime | None) -> None:
        """Take notice that these blocks were looked at: what is below the horizon there is sealed."""
        before = [stretch for stretch in self.stretches if stretch.start < look.start]
        after = []
        if look.end < self.end:
            last = [stretch for stretch in self.stretches if stretch.start <= look.end][-1]
            after = [Stretch(look.end, last.horizon, last.settled_at)]
            after += [stretch for stretch in self.stretches if stretch.start > look.end]
        joined = [*before, Stretch(look.start, horizon, settled_at), *after]
        self.stretches = joined[:1] + [
            right
            for left, right in pairwise(joined)
            if (left.horizon, left.settled_at) != (right.horizon, right.settled_at)
        ]
        self.end = max(self.end, look.end)

    @property
    def is_recounting(self) -> bool:
        """Whether the next new blocks may hold rows that are sealed already."""
        return self.end < self.recount_end

    def complete_to(self) -> datetime | None:
        """Say until when every committed row is sealed; None when that is not known."""
        times = [self.tail_since, *(stretch.settled_at for stretch in self.stretches)]
        known = [time for time in times if time is not None]
        return min(known) if len(known) == len(times) else None

    def _tail_start(self, blocks: int) -> int:
        # In whole steps, so that few stretches arise however slowly the table grows.
        return max(0, min(self.settled_end, blocks) // TAIL_BLOCKS - 1) * TAIL_BLOCKS

    def _looked_at(self, start: int, end: int) -> Iterator[Look]:
        ends = [*(stretch.start for stretch in self.stretches[1:]), self.end]
        for stretch, stretch_end in zip(list(self.stretches), ends, strict=False):
            first, last = max(start, stretch.start), min(end, stretch_end)
            if first < last:
                yield Look(first, last, stretch.horizon, stretch.settled_at)
