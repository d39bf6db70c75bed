"""The nightly reconciliation: takes the files that were put into a directory, and those that a PSP has to be asked for.

Once a day over any number of gateways: the day's row in the database is the turn (hazard F8). What a run could not do
yet (a file that still grows, a PSP that does not answer) it tries again until the day is over.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import date, time, timedelta
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.config import TIME_OF_DAY, Settings
from coatcheck.loops import until_stopped
from coatcheck.providers.simulated_settlements import SettlementsUnavailableError
from coatcheck.reconciliation.arrivals import Arrivals
from coatcheck.reconciliation.expected import ExpectedFiles
from coatcheck.reconciliation.files import Source, format_at
from coatcheck.reconciliation.lines import FileRefusedError
from coatcheck.reconciliation.report import Report
from coatcheck.shops import shop_id_of
from coatcheck.states import Mode
from coatcheck.store import Store

BY_THE_JOB: Final = "coatcheck nightly"
DONE, REFUSED = "done", "refused"  # where taken and refused files are moved to
_HALF: Final = (".part", ".partial", ".tmp", ".filepart", ".crdownload")  # what programs call a file that still grows
_LEASE: Final = timedelta(minutes=30)  # how long a run may take for one file before another gateway takes it up
_AGAIN: Final = timedelta(minutes=10)
_STABLE_S: Final = 5
_KNOWN: Final = """
SELECT batch FROM settlement_batch WHERE shop_id = $1 AND mode = $2 AND provider = $3 AND batch = ANY ($4)
"""

log = structlog.get_logger("coatcheck.reconciliation")


class SettlementSource(Protocol):
    """A PSP whose settlement files are fetched."""

    @property
    def name(self) -> str:
        """The provider's name."""
        ...

    async def batches(self) -> list[str]:
        """Name the settlements that there are. Raises SettlementsUnavailableError."""
        ...

    async def save(self, batch: str, path: Path) -> None:
        """Fetch one settlement's file. Raises SettlementsUnavailableError."""
        ...


class NightlyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Whose files are taken, when (UTC; None: only by hand), and from where."""

    shop_id: UUID
    mode: Mode
    at: time | None
    directory: Path | None


class Left(msgspec.Struct, frozen=True):
    """What was not taken, and why."""

    name: str
    why: str


class NightlyReport(msgspec.Struct, frozen=True):
    """What a run has taken and refused, and what waits for the next try."""

    taken: Sequence[Report]
    refused: Sequence[Left]
    waiting: Sequence[Left]

    @property
    def is_done(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting


class _Run(msgspec.Struct):
    taken: list[Report] = msgspec.field(default_factory=list)
    refused: list[Left] = msgspec.field(default_factory=list)
    waiting: list[Left] = msgspec.field(default_factory=list)


class Nightly:
    """Takes what has come, by itself or when asked."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        plan: NightlyPlan,
        *,
        arrivals: Arrivals,
        expected: ExpectedFiles | None,
        sources: Sequence[SettlementSource] = (),
        settle: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(_STABLE_S),
    ) -> None:
        self._store = store
        self._clock = clock
        self._plan = plan
        self._arrivals = arrivals
        self._expected = expected
        self._sources = sources
        self._settle = settle
        self._so_far: dict[date, tuple[int, int]] = {}  # what the tries of a day have taken and refused so far
        self._stopping: asyncio.Event | None = None
        self._is_warned = False

    async def tend(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Tend until stopped; trouble is waited out."""
        self._stopping = stopping
        await until_stopped(self.tend_once, interval, stopping, log=log, trouble="nightly_failed")

    async def tend_once(self) -> NightlyReport | None:
        """See which files are late; when the day's time has come and nobody else has the turn, take what has come.

        Idempotent: a day's run is ended once.
        """
        plan, at = self._plan, self._clock.now()
        if not await self.is_of_a_shop():
            return None
        if self._expected is not None:
            await self._expected.look()
        await self._arrivals.escalate(plan.shop_id, plan.mode)
        if plan.at is None or at.time() < plan.at:
            return None
        world = plan.shop_id, plan.mode.value
        attempt: int | None = await self._store.pool.fetchval(
            "SELECT claim_nightly($1, $2, $3, $4, $5)", at, *world, at.date(), at + _LEASE
        )
        if attempt is None:
            return None
        report = await self.run(BY_THE_JOB, lambda: self._goes_on(at.date(), attempt))
        await self._end(at.date(), attempt, report)
        return report

    async def is_of_a_shop(self) -> bool:
        """Say whether the shop that the settings name is there; it is told once in the log where it is not."""
        known = await self._store.pool.fetchval("SELECT true FROM shop WHERE shop_id = $1", self._plan.shop_id)
        if known is None and not self._is_warned:
            self._is_warned = True
            log.warning("settlement_shop_unknown", advice="`coatcheck keys list` shows the shops that there are")
        return known is not None

    async def _goes_on(self, day: date, attempt: int) -> bool:
        return not (self._stopping is not None and self._stopping.is_set()) and await self._hold(day, attempt, _LEASE)

    async def _hold(self, day: date, attempt: int, lease: timedelta) -> bool:
        plan = self._plan
        held: bool = await self._store.pool.fetchval(
            "SELECT hold_nightly($1, $2, $3, $4, $5)",
            *(plan.shop_id, plan.mode.value, day, attempt, self._clock.now() + lease),
        )
        return held

    async def _end(self, day: date, attempt: int, report: NightlyReport) -> None:
        taken, refused = self._so_far.pop(day, (0, 0))
        counts = taken + len(report.taken), refused + len(report.refused)
        for left in (*report.refused, *report.waiting):
            log.warning("file_left", name=left.name, why=left.why)
        log.info("nightly_run", day=str(day), taken=counts[0], refused=counts[1], waiting=len(report.waiting))
        if not report.is_done:
            self._so_far = {day: counts}
            await self._hold(day, attempt, _AGAIN)
            return
        plan = self._plan
        await self._store.pool.fetchval(
            "SELECT end_nightly($1, $2, $3, $4, $5, $6, $7)",
            *(self._clock.now(), plan.shop_id, plan.mode.value, day, attempt, *counts),
        )

    async def run(self, brought_by: str, goes_on: Callable[[], Awaitable[bool]] | None = None) -> NightlyReport:
        """Take what has come, now. Any number may run at once: a file that somebody else takes first is left to them.

        `goes_on` is asked before each file, so that whoever has the turn keeps it, or stops.
        """
        run = _Run()
        with tempfile.TemporaryDirectory(prefix="coatcheck-") as directory:
            for files in (self._fetched(run, Path(directory)), self._found(run)):
                async with aclosing(files):
                    async for path in files:
                        if goes_on is not None and not await goes_on():
                            run.waiting.append(Left(path.name, "the run was left before its turn came"))
                            break
                        await self._take(run, path, brought_by)
        await self._arrivals.match_bank_entries(self._plan.shop_id, self._plan.mode)
        return NightlyReport(run.taken, run.refused, run.waiting)

    async def _take(self, run: _Run, path: Path, brought_by: str) -> None:
        plan, name = self._plan, path.name
        kept_in = plan.directory or path.parent
        source = Source(path=path, name=name, shop_id=plan.shop_id, mode=plan.mode, brought_by=brought_by)
        try:
            run.taken.append(await self._arrivals.take(source))
            await asyncio.to_thread(_move, path, kept_in / DONE)
        except FileRefusedError as error:
            run.refused.append(Left(name, str(error)))
            why = f"{name} was refused, and nothing of it was taken: {error}\n"
            await asyncio.to_thread(_move, path, kept_in / REFUSED, why)
        except FileNotFoundError:
            return  # somebody else was here first
        except (ConnectionError, TimeoutError):
            raise  # the database's, not the file's
        except OSError as error:
            run.waiting.append(Left(name, f"it cannot be read or moved: {error.strerror}"))

    async def _found(self, run: _Run) -> AsyncGenerator[Path, None]:
        """Find the files of the directory that have stopped growing, banks' statements last.

        A statement is about payouts that settlement files have told of.
        """
        if self._plan.directory is None:
            return
        before = await asyncio.to_thread(_sizes_in, self._plan.directory)
        if not before:
            return
        await self._settle()
        after = await asyncio.to_thread(_sizes_in, self._plan.directory)
        is_last = await asyncio.to_thread(lambda: {path: _is_statement(path) for path in after})
        for path, size in sorted(after.items(), key=lambda each: is_last[each[0]]):
            if before.get(path) == size:
                yield path
            else:
                run.waiting.append(Left(path.name, "it still grows"))

    async def _fetched(self, run: _Run, directory: Path) -> AsyncGenerator[Path, None]:
        """Fetch the files of settlements that the books do not have yet."""
        plan = self._plan
        for source in self._sources:
            try:
                names = await source.batches()
                rows = await self._store.pool.fetch(_KNOWN, plan.shop_id, plan.mode.value, source.name, names)
                known = {row["batch"] for row in rows}
                for name in names:
                    if name not in known:
                        path = directory / f"{source.name}-{name}.csv"
                        await source.save(name, path)
                        yield path
            except SettlementsUnavailableError as error:
                run.waiting.append(Left(source.name, str(error)))


def _sizes_in(directory: Path) -> Mapping[Path, tuple[int, int]]:
    """Say how long each file of a directory is, and when it was last written to, by name."""
    for each in (directory, directory / DONE, directory / REFUSED):
        each.mkdir(parents=True, exist_ok=True)
    found = {}
    for path in sorted(directory.iterdir()):
        is_half = path.name.startswith(".") or path.name.endswith(_HALF)
        if not is_half and path.is_file() and not path.is_symlink():
            stat = path.stat()
            found[path] = stat.st_size, stat.st_mtime_ns
    return found


def _is_statement(path: Path) -> bool:
    try:
        return format_at(path).provider is None
    except (FileRefusedError, OSError):
        return False  # whoever takes it says what is wrong


def _move(path: Path, folder: Path, why: str | None = None) -> None:
    """Move a file into a folder, under its name or, where one of that name is there, under the next that is free."""
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    if why is not None:
        target.with_name(f"{target.name}.why").write_text(why, "utf-8")
    shutil.move(path, target)


def nightly_plan_of(settings: Settings) -> NightlyPlan | None:
    """Read the plan of the settings; None where nobody's files are taken."""
    if settings.settlement_shop is None:
        return None
    found = TIME_OF_DAY.fullmatch(settings.settlement_nightly_at or "")
    return NightlyPlan(
        shop_id=shop_id_of(settings.settlement_shop),
        mode=Mode(settings.settlement_mode),
        at=None if found is None else time(int(found[1]), int(found[2])),
        directory=settings.settlement_dir,
    )
