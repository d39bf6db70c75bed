"""How far sealing has looked, against a table in memory: each committed row is sealed once, wherever and whenever."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from coatcheck.audit.sealing import coverage
from coatcheck.audit.sealing.coverage import Coverage, Look, Stretch
from coatcheck.audit.sealing.sealer import Progress

START = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


@dataclass
class Heap:
    """Blocks with rows, each by the number of its transaction; rows are seen when that is committed."""

    dice: random.Random
    blocks: list[list[int]] = field(default_factory=list)
    next_xid: int = 3
    running: set[int] = field(default_factory=set)
    committed: set[int] = field(default_factory=set)
    finished_at: dict[int, datetime] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        return min(self.running, default=self.next_xid)

    def begin(self) -> None:
        self.running.add(self.next_xid)
        self.next_xid += 1

    def write(self) -> None:
        """One transaction writes a few rows: mostly at the end, now and then into a gap anywhere."""
        if self.running:
            xid = self.dice.choice(sorted(self.running))
            for _ in range(self.dice.randrange(1, 4)):
                if not self.blocks or self.dice.random() < 0.3:
                    self.blocks.append([])
                place = self.dice.randrange(len(self.blocks)) if self.dice.random() < 0.2 else -1
                self.blocks[place].append(xid)

    def end(self, at: datetime) -> None:
        if self.running:
            xid = self.dice.choice(sorted(self.running))
            self.running.remove(xid)
            self.finished_at[xid] = at
            if self.dice.random() < 0.8:
                self.committed.add(xid)

    def visible(self) -> list[tuple[int, int, int]]:
        rows = [(place, n, xid) for place, block in enumerate(self.blocks) for n, xid in enumerate(block)]
        return [row for row in rows if row[2] in self.committed]


def look_at(heap: Heap, looked: Coverage, look: Look, progress: Progress) -> list[tuple[int, int, int]]:
    horizon = heap.horizon
    new = [row for row in heap.visible() if look.start <= row[0] < look.end and look.horizon <= row[2] < horizon]
    looked.note(look, horizon, progress.settled_at)
    return new


def seal(heap: Heap, looked: Coverage, progress: Progress, at: datetime) -> list[tuple[int, int, int]]:
    """One round, as the sealer goes about it; now and then it stops in the middle of the tail."""
    progress.settle(at, heap.horizon, heap.next_xid)
    blocks, found = len(heap.blocks), []
    looked.settle_in("here", blocks, has_seals=False)
    for look in looked.tail(blocks):
        if heap.dice.random() < 0.1:
            break
        found += look_at(heap, looked, look, progress)
    else:
        looked.tail_since = progress.settled_at
        for look in looked.sweep(blocks, timedelta(seconds=5)):
            found += look_at(heap, looked, look, progress)
            looked.sweep_at = look.end
    looked.settle(heap.horizon, heap.next_xid)
    progress.complete()
    return found


@pytest.mark.parametrize("seed", range(40))
def test_F9_every_committed_row_is_sealed_once_whatever_the_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "TAIL_BLOCKS", 4)
    monkeypatch.setattr(coverage, "PIECE_BLOCKS", 3)
    monkeypatch.setattr(coverage, "SWEEP_BLOCKS_PER_S", 1)
    heap, looked = Heap(random.Random(seed)), Coverage()
    progress, at = Progress(tables={"event": looked}), START
    sealed: list[tuple[int, int, int]] = []
    for _ in range(400):
        at += timedelta(seconds=1)
        match heap.dice.choice(["begin", "write", "write", "write", "end", "seal"]):
            case "begin":
                heap.begin()
            case "write":
                heap.write()
            case "end":
                heap.end(at)
            case _:
                sealed += seal(heap, looked, progress, at)
                complete = [xid for xid, ended in heap.finished_at.items() if ended < (progress.complete_to or START)]
                missing = {row for row in heap.visible() if row[2] in complete} - set(sealed)
                assert not missing, "complete_to promises too much"
        assert len(set(sealed)) == len(sealed)
        assert set(sealed) <= set(heap.visible())
    while heap.running:
        heap.end(at)
    for _ in range(len(heap.blocks)):
        sealed += seal(heap, looked, progress, at)
    assert sorted(sealed) == sorted(heap.visible())


def test_what_is_new_was_committed_after_the_time_a_look_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "PIECE_BLOCKS", 100)
    heap, looked = Heap(random.Random(1)), Coverage()
    progress, at = Progress(tables={"event": looked}), START
    for _ in range(2000):
        at += timedelta(seconds=1)
        match heap.dice.randrange(4):
            case 0:
                heap.begin()
            case 1:
                heap.end(at)
            case _:
                heap.write()
        if heap.dice.random() < 0.1:
            progress.settle(at, heap.horizon, heap.next_xid)
            for look in [*looked.tail(len(heap.blocks)), *looked.sweep(len(heap.blocks), timedelta(seconds=5))]:
                for _, _, xid in look_at(heap, looked, look, progress):
                    assert look.since is None or heap.finished_at[xid] > look.since
            looked.tail_since = progress.settled_at
            looked.settle(heap.horizon, heap.next_xid)
    assert progress.settled_at is not None


def test_looks_that_say_the_same_become_one_stretch() -> None:
    looked = Coverage()
    for start in range(0, 1000, 10):
        looked.note(Look(start, start + 10, 0, None), 77, START)
    assert looked.stretches == [Stretch(0, 77, START)]
    looked.note(Look(300, 400, 77, START), 80, START)
    assert looked.stretches == [Stretch(0, 77, START), Stretch(300, 80, START), Stretch(400, 77, START)]
    assert looked.end == 1000


def test_a_table_that_is_cut_short_and_grows_again_has_new_blocks() -> None:
    looked = Coverage()
    looked.settle_in("here", 100, has_seals=True)
    looked.recount_end = 0
    looked.note(Look(0, 100, 0, None), 50, START)
    looked.settle_in("here", 30, has_seals=True)
    assert (looked.end, looked.stretches) == (30, [Stretch(0, 50, START)])
    assert looked.tail(40)[-1] == Look(30, 40, 0, None)


def test_a_table_in_another_file_is_counted_anew_only_where_there_are_seals() -> None:
    looked = Coverage()
    looked.settle_in("here", 10, has_seals=False)
    assert not looked.is_recounting
    looked.note(Look(0, 10, 0, None), 50, START)
    looked.settle_in("there", 12, has_seals=True)
    assert looked.is_recounting
    assert looked.stretches == []
    looked.note(Look(0, 12, 0, None), 60, START)
    assert not looked.is_recounting


def test_a_slow_table_makes_no_more_stretches_than_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "TAIL_BLOCKS", 10)
    looked = Coverage()
    for blocks in range(1, 500):
        looked.settle_in("here", blocks, has_seals=False)
        for look in looked.tail(blocks):
            looked.note(look, blocks, START + timedelta(seconds=blocks))
        looked.settle(blocks, blocks)
    assert len(looked.stretches) <= 500 // 10 + 2


def test_the_tail_waits_for_a_transaction_that_holds_the_horizon_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "TAIL_BLOCKS", 2)
    monkeypatch.setattr(coverage, "PIECE_BLOCKS", 100)
    looked = Coverage()
    looked.settle_in("here", 10, has_seals=False)
    for blocks, next_xid in ((10, 60), (30, 90), (50, 120)):  # transaction 40 goes on and on
        for look in looked.tail(blocks):
            looked.note(look, 40, None)
        looked.settle(40, next_xid)
    assert [look.start for look in looked.tail(50)] == [0]  # and the rows of all others wait in these blocks
    looked.note(Look(0, 50, 40, None), 125, START)
    looked.settle(125, 125)
    assert [look.start for look in looked.tail(50)] == [48]
