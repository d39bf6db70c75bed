"""One cell of the matrix: gateways that can be struck at a failpoint, a PSP, a clock, and clients who ask again.

A gateway's outside is its statements, its calls to the PSP and its replies. A fault strikes at the failpoint itself
(the process dies, raises, or hangs until its lease is long over) or at the next thing it does outside.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import asyncpg
from tests.failpoints.outside_world import Line, Psp
from tests.integration.outside import SETTINGS, START

from coatcheck.api.app import create_app
from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.failpoints import Failpoint, Failpoints
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.simulated_answers import Raw
from coatcheck.providers.transport import outcome_of_exception
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.wiring import make_gateway

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway

Answer = TypeVar("Answer")
Place = tuple[Failpoint, int]  # the nth time that a failpoint is reached

_GRACE: Final = timedelta(seconds=5)
OVER_A_LEASE: Final = timedelta(seconds=2 * SETTINGS.lease_s)
_TRIES: Final = 8
_STUCK_S: Final = 0.03  # what does not move for so long while somebody hangs waits for him
# How long to wait between the rounds of recovery: retries and leases first, then what comes again after an hour.
_ROUNDS: Final = (*[timedelta(minutes=2)] * 6, *[timedelta(minutes=40)] * 6)


class Fault(StrEnum):
    """What happens at a failpoint."""

    KILL = "kill"
    EXCEPTION = "exception"
    HANG = "hang beyond the lease"
    STOP = "SIGTERM"
    CUT_BEFORE_COMMIT = "connection cut before COMMIT"
    CUT_AFTER_COMMIT = "connection cut after COMMIT"
    ANSWER_LOST = "answer lost"


class Next(StrEnum):
    """What a gateway does outside next after a failpoint: where a line can be cut."""

    STATEMENT = "a statement"
    CALL = "a call to the PSP"
    REPLY = "a reply"
    NOTHING = "nothing"


class ProcessDied(BaseException):
    """The process that this task belonged to is gone."""


class UnexpectedError(Exception):
    """An error that nobody planned for."""


class ReplyLostError(Exception):
    """A reply that was sent and never arrived."""


TROUBLE: Final = (ProcessDied, UnexpectedError, ReplyLostError, asyncpg.PostgresConnectionError)


class Armed(Failpoints):
    """The failpoints of one process: the planned one strikes once, the nth time that any process reaches it."""

    __slots__ = ("_process", "_stage")

    def __init__(self, stage: "Stage", process: "Process") -> None:
        self._stage = stage
        self._process = process

    async def reach(self, failpoint: Failpoint) -> None:
        """Come to a failpoint; a dead process comes nowhere."""
        stage, process = self._stage, self._process
        process.live()
        stage.counts[failpoint] += 1
        place = (failpoint, stage.counts[failpoint])
        stage.reached[place] = Next.NOTHING
        process.arrived.append(place)
        if place != stage.place or stage.has_struck:
            return
        stage.has_struck = True
        if stage.fault is Fault.KILL:
            process.is_dead = True
            raise ProcessDied
        if stage.fault is Fault.EXCEPTION:
            raise UnexpectedError(failpoint.value)
        if stage.fault is Fault.STOP:
            process.stop()
            return
        if stage.fault is Fault.HANG:
            process.is_hanging = True
            stage.somebody_hangs.set()
            await stage.wakes.wait()
            return
        process.trouble = stage.fault


class Process:
    """A gateway process, as far as others can see it."""

    def __init__(self, stage: "Stage") -> None:
        self.is_dead = False
        self.is_hanging = False
        self.is_stopping = False
        self.trouble: Fault | None = None
        self.arrived: list[Place] = []
        self._stage = stage
        settings = stage.settings
        pool = cast("asyncpg.Pool", CutPool(stage.store.pool, self))
        failpoints = Armed(stage, self)
        self.gateway: Gateway = make_gateway(
            settings,
            Store(pool, stage.store.queries, stage.store.invariants),
            {settings.provider: stage.line(stage.psp, self)},
            clock=stage.clock,
            dice=random.Random(1),
            failpoints=failpoints,
        )
        self.app = create_app(self.gateway)

    def stop(self) -> None:
        """Take SIGTERM: nothing new is begun, and what is in flight goes on."""
        self.is_stopping = True
        self.gateway.stopping.set()
        self.gateway.executor.stop_claiming()

    async def end(self) -> None:
        """End as SIGTERM wants it: finish, give back what is left, and do nothing more."""
        if self.is_stopping and not self.is_dead:
            await self.gateway.executor.stop(_GRACE)
            self.is_dead = True

    def live(self) -> None:
        """Raise ProcessDied when it is."""
        if self.is_dead:
            raise ProcessDied

    def goes_outside(self, what: Next) -> Fault | None:
        """Note what is done outside; returns the fault that strikes it."""
        self.live()
        for place in self.arrived:
            self._stage.reached[place] = what
        self.arrived.clear()
        cuts = {Next.STATEMENT: (Fault.CUT_BEFORE_COMMIT, Fault.CUT_AFTER_COMMIT)}.get(what, (Fault.ANSWER_LOST,))
        fault = self.trouble if self.trouble in cuts else None
        if fault is not None:
            self.trouble = None
            self._stage.has_cut = True
        return fault

    async def call(self, take: Callable[[], Raw | Outcome]) -> Raw | Outcome:
        """Call the PSP."""
        fault = self.goes_outside(Next.CALL)
        await asyncio.sleep(0)
        answer = take()
        self.live()
        return outcome_of_exception(TimeoutError()) if fault is Fault.ANSWER_LOST else answer

    def reply(self) -> None:
        """Tell whoever asked. Raises ReplyLostError when that does not arrive."""
        if self.goes_outside(Next.REPLY) is Fault.ANSWER_LOST:
            raise ReplyLostError


class CutPool:
    """A process's connections to the database: they end with its life, and one of them may be cut."""

    def __init__(self, pool: asyncpg.Pool, process: Process) -> None:
        self._pool = pool
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in ("fetch", "fetchval", "fetchrow", "execute"):
            raise AttributeError(name)

        async def run(*arguments: Any) -> Any:
            fault = self._process.goes_outside(Next.STATEMENT)
            if fault is Fault.CUT_BEFORE_COMMIT:
                await self._roll_back(name, arguments)
                raise asyncpg.ConnectionDoesNotExistError("the connection was lost before COMMIT")
            answer = await getattr(self._pool, name)(*arguments)
            self._process.live()
            if fault is Fault.CUT_AFTER_COMMIT:
                raise asyncpg.ConnectionDoesNotExistError("the connection was lost between COMMIT and its answer")
            return answer

        return run

    async def _roll_back(self, name: str, arguments: tuple[Any, ...]) -> None:
        async with self._pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await getattr(connection, name)(*arguments)
            finally:
                await transaction.rollback()


class Stage:
    """Everything of one cell: a fault at the nth time that a failpoint is reached. Without, the run without faults."""

    def __init__(
        self,
        store: Store,
        *,
        place: Place | None = None,
        fault: Fault | None = None,
        settings: Settings = SETTINGS,
        line: type[Line] = Line,
    ) -> None:
        self.store = store
        self.place = place
        self.fault = fault
        self.settings = settings
        self.line = line
        self.clock = ManualClock(START)
        self.psp = Psp(self.clock)
        self.counts: Counter[Failpoint] = Counter()
        self.reached: dict[Place, Next] = {}
        self.has_struck = False
        self.has_cut = False
        self.somebody_hangs = asyncio.Event()
        self.wakes = asyncio.Event()
        self.unheard: list[BaseException] = []
        self._processes: list[Process] = []
        self._stuck: set[asyncio.Task[Any]] = set()

    # asking

    async def ask(self, what: Callable[[Process], Awaitable[Answer]]) -> Answer:
        """Ask a gateway for something until an answer arrives: of the same one, or of another if that is gone."""
        for _ in range(_TRIES):
            process = self.living()
            doing = asyncio.ensure_future(_replied(process, what))
            await self._done_or_stuck(process, [doing])
            if not doing.done():  # the client gives up; so does the lease
                self._stuck.add(doing)
                self.clock.advance(OVER_A_LEASE)
                continue
            await process.end()
            try:
                return doing.result()
            except TROUBLE:
                continue
        raise AssertionError(f"no answer in {_TRIES} tries")

    async def deliver(self) -> None:
        """Bring the PSP's letters to a gateway, each again until that says that it has it."""
        for letter in self.psp.letters:

            async def post(process: Process, letter: bytes = letter) -> None:
                reader = process.gateway.webhooks["simulator", Mode.TEST]
                headers = self.psp.sign(letter)
                events = reader.receive(headers, letter, self.clock.now())
                await process.gateway.inbox.store("simulator", Mode.TEST, headers, events)

            await self.ask(post)
        self.psp.letters.clear()

    async def tend(self, pause: timedelta = _ROUNDS[0]) -> None:
        """Let time pass, and a gateway do once what is due."""
        self.clock.advance(pause)
        await self.ask(_tend)
        await self._quiet()

    async def settle_down(self) -> None:
        """Let time pass and gateways do what is due, until nothing is."""
        for pause in _ROUNDS:
            await self.tend(pause)
            if await self._is_at_rest():
                return
        raise AssertionError("something is still due")

    async def end(self) -> None:
        """Let everything come to rest, wake who hangs, and let everything come to rest again."""
        await self.settle_down()
        if self.somebody_hangs.is_set() and not self.wakes.is_set():
            await self.wake()
            await self.settle_down()

    async def wake(self) -> None:
        """Let who hangs go on as a zombie: others have long taken over what it held."""
        if not self.somebody_hangs.is_set():
            return
        self.wakes.set()
        if self._stuck:
            await asyncio.wait(self._stuck, timeout=10)
            for task in self._stuck:
                self._hear(task.exception() if task.done() else TimeoutError("a zombie did not end"))
            self._stuck.clear()
        for process in self._processes:
            process.is_hanging = False
        await self._quiet()

    # gateways

    def living(self) -> Process:
        """Find a process that lives and does not hang, or start another."""
        for process in self._processes:
            if not (process.is_dead or process.is_hanging or process.is_stopping):
                return process
        self._processes.append(Process(self))
        return self._processes[-1]

    async def _done_or_stuck(self, process: Process, works: Sequence["asyncio.Task[Any]"]) -> None:
        """Wait until each is done, or the process hangs and nothing of it moves any more."""
        while busy := [work for work in works if not work.done()]:
            done, _ = await asyncio.wait(busy, timeout=_STUCK_S, return_when=asyncio.FIRST_COMPLETED)
            if not done and process.is_hanging:
                return

    async def _quiet(self) -> None:
        for process in [process for process in self._processes if not process.is_hanging]:
            while running := set(process.gateway.executor._running):
                await self._done_or_stuck(process, list(running))
                for task in running:
                    if task.done():
                        self._hear(task.exception())
                if not any(task.done() for task in running):
                    self._stuck |= running
                    break
                await asyncio.sleep(0)
            await process.end()

    def _hear(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, TROUBLE):
            self.unheard.append(error)

    async def _is_at_rest(self) -> bool:
        at_rest: bool = await self.store.pool.fetchval(
            "SELECT NOT EXISTS (SELECT FROM lease WHERE due_at IS NOT NULL) "
            "AND NOT EXISTS (SELECT FROM inbox_lease WHERE due_at IS NOT NULL) "
            "AND NOT EXISTS (SELECT FROM late_success) "
            "AND NOT EXISTS (SELECT FROM payout_run_item JOIN payout_run USING (run_id) "
            "WHERE outcome IS NULL AND status = 'APPROVED') "
            "AND NOT EXISTS (SELECT FROM payment_order WHERE status = 'AUTHORIZED' AND expires_at <= $1)",
            self.clock.now(),
        )
        return at_rest

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what nobody heard of; what a dead process leaves unheard is no news."""
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: self._hear(context.get("exception")))
        try:
            yield
        finally:
            loop.set_exception_handler(before)


async def _replied(process: Process, what: Callable[[Process], Awaitable[Answer]]) -> Answer:
    answer = await what(process)
    process.reply()
    return answer


async def _tend(process: Process) -> None:
    """Do once what a gateway does without being asked."""
    gateway = process.gateway
    await gateway.executor.recover_once()
    while await gateway.inbox.handle_once():
        pass
    await gateway.upkeep.tend_once()
