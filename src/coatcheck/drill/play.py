"""The drill from beginning to end: start everything, let clients and blows loose, wait for quiet, judge, clean up."""

import asyncio
import secrets
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp
import uvloop
from rich.console import Console

from coatcheck.drill.amnesia import Backup, ask_for_everything_again, restore
from coatcheck.drill.clients import let_clients_buy
from coatcheck.drill.judge import Evidence, judge, judge_adopted
from coatcheck.drill.processes import DrillError, GatewayProcess, Postgres, Process, run_command
from coatcheck.drill.report import Outcome, Progress, make_console, print_report, write_json
from coatcheck.drill.schedule import Blow, Stroke, plan_strokes
from coatcheck.drill.shop import Shop
from coatcheck.drill.verdict import Verdict
from coatcheck.drill.world import World

_SEEDS: Final = 10**6
_INTERRUPTED: Final = 130
_BANK_EVERY_S: Final = 2.0
_BACKUP_AT: Final = 0.75  # of the time: what comes after it will be forgotten
_LAST_ANSWERS_S: Final = 330.0  # how long clients may take to finish what they have begun
_PAYS_OUT_AT: Final = 0.05  # of the time, again and again
_PATIENCE_S: Final = 180.0  # how long the end may come no nearer
_QUIET_FOR_S: Final = 5.0  # longer than a refund takes to come back, and than a late webhook
_TAIL: Final = "the data and logs are in {directory}"


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """What was asked for on the command line. `clients`: at the same time, of both installations together."""

    seconds: float
    seed: int | None = None
    clients: int = 64
    keep: bool = False
    json_path: Path | None = None


def run_drill(plan: DrillPlan) -> int:
    """Run a drill and print what came of it. Returns the exit status: 0 when the proof holds, 1 when it does not.

    The data goes to a directory of its own, which is removed afterwards unless it is to be kept or something was
    found. Raises DrillError when the drill cannot be run.
    """
    console = make_console()
    directory = Path(tempfile.mkdtemp(prefix="coatcheck-drill-")).resolve()
    directory.chmod(0o755)  # as root, PostgreSQL runs as another user, who must be able to reach its files
    drill = _Drill(console, plan, secrets.randbelow(_SEEDS) if plan.seed is None else plan.seed, directory)
    is_to_keep = True
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the lines carry every byte there is
            outcome = runner.run(_until_interrupted(drill))
        is_to_keep = plan.keep or not outcome.verdict.is_ok
    except (KeyboardInterrupt, asyncio.CancelledError):
        is_to_keep = plan.keep
        console.print("\nInterrupted: nothing was judged.")
        return _INTERRUPTED
    except DrillError as error:
        raise DrillError(f"{error}\n{_TAIL.format(directory=directory)}") from error
    finally:
        drill.leave_nothing_behind()
        if not is_to_keep:
            shutil.rmtree(directory, ignore_errors=True)
    print_report(console, outcome, kept=directory if is_to_keep else None)
    if plan.json_path is not None:
        write_json(plan.json_path, outcome)
    return 0 if outcome.verdict.is_ok else 1


async def _until_interrupted(drill: "_Drill") -> Outcome:
    """Run; SIGTERM interrupts as Ctrl-C does, so that no process is left behind."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await drill.play()


@dataclass(slots=True)
class _Drill:
    console: Console
    plan: DrillPlan
    seed: int
    directory: Path
    worlds: list[World] = field(default_factory=list)
    postgres: Postgres = field(init=False)
    backup: Backup = field(init=False)
    blows: Counter[Blow] = field(default_factory=Counter)
    _postgres_gate: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.postgres = Postgres(self.directory)
        self.backup = Backup(self.directory)

    @property
    def gateways(self) -> list[GatewayProcess]:
        return [gateway for world in self.worlds for gateway in world.gateways]

    def leave_nothing_behind(self) -> None:
        """End every process, whatever state it is in."""
        processes: list[Process] = [*self.gateways, *[world.simulator for world in self.worlds], self.postgres]
        for process in processes:
            process.leave_nothing_behind()

    async def play(self) -> Outcome:
        """Run the whole drill and judge it; then forget much of it, recover, and judge again."""
        self.console.print(
            f"[bold]The failure drill[/], seed {self.seed}: two installations, each with two gateways and a PSP of its "
            f"own,\non one PostgreSQL. {self.plan.clients} clients for {self.plan.seconds:g} s. Everything is broken "
            "on purpose."
        )
        self.console.print("Starting PostgreSQL, two PSP simulators and four gateways ...")
        async with self._stage():
            started = monotonic()
            await self._rage()
            took_s = monotonic() - started
            self.console.print("The weather is calm. Waiting for quiet, and closing the books ...")
            verdict = await self._close()
            self.console.print("Asking the PSPs' books and every row and event ...")
            await self._judge(verdict)
            outcome = self._outcome(verdict, await self._psp_faults(), took_s)
            if verdict.is_ok:
                await self._suffer_amnesia(verdict)
            return outcome

    async def _suffer_amnesia(self, verdict: Verdict) -> None:
        """Lose all that was written since the backup; nobody may pay for it."""
        self.console.print("Amnesia: the database is restored from its backup, and told by the PSPs what it forgot ...")
        again = Verdict()
        verdict.done["adopted"] = await restore(self.backup, self.postgres, self.worlds)
        for world in self.worlds:
            rows = await world.witnesses.read_rows(with_events=False)
            again.add(judge_adopted(rows, await world.witnesses.read_books()))
        self.console.print(f"{verdict.done['adopted']} were adopted. Every client asks for everything again ...")
        await asyncio.gather(*[ask_for_everything_again(world) for world in self.worlds])
        again.add(await self._close())
        await self._judge(again)
        verdict.add_later(again, "after the amnesia")

    @asynccontextmanager
    async def _stage(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as ending:
            await asyncio.to_thread(self.postgres.prepare)
            ending.push_async_callback(self.postgres.stop)
            await self.postgres.start()
            for name in ("one", "two"):
                every_s = self.plan.seconds * _PAYS_OUT_AT
                world = World(name, self.directory, self.seed, self.postgres, pays_out_every_s=every_s)
                self.worlds.append(world)
                await ending.enter_async_context(world.running())
                if not world.has_webhooks:
                    self.console.print(f"The gateways of installation {name} take no webhooks: the PSP sends none.")
            yield

    async def _rage(self) -> None:
        """Let clients, weather and blows loose for the time asked for, then let the clients finish."""
        shops = [world.shop for world in self.worlds]
        is_over = asyncio.Event()
        with Progress(self.console, self.plan.seconds) as progress:
            for world in self.worlds:
                await world.unleash()
            clients = [
                asyncio.create_task(
                    let_clients_buy(shop, max(1, self.plan.clients // len(shops)), is_over, progress.tick)
                )
                for shop in shops
            ]
            banks = [asyncio.create_task(world.be_the_bank(_BANK_EVERY_S)) for world in self.worlds]
            offices = [asyncio.create_task(world.office.work()) for world in self.worlds]
            try:
                await self._strike(progress, [*clients, *offices])
                is_over.set()
                for world in self.worlds:
                    await world.calm()
                progress.finishing()
                await self._last_answers(clients, shops)
            finally:
                for task in (*clients, *offices, *banks):
                    task.cancel()
                await asyncio.gather(*clients, *offices, *banks, return_exceptions=True)

    async def _back_up(self) -> None:
        await asyncio.sleep(self.plan.seconds * _BACKUP_AT)
        async with self._postgres_gate:  # it is not killed meanwhile
            await self.backup.make(self.postgres)

    async def _strike(self, progress: "Progress", clients: Sequence[asyncio.Task[None]]) -> None:
        """Deal the planned blows in time, until the time is over; whatever fails ends the drill."""
        began = monotonic()
        dealing = [asyncio.create_task(self._back_up())]
        try:
            for stroke in [*plan_strokes(self.seed, self.plan.seconds), None]:
                due = self.plan.seconds if stroke is None else stroke.at_s
                while (left := began + due - monotonic()) > 0:
                    progress.show(monotonic() - began, self._kills(), self._wire_faults())
                    await asyncio.sleep(min(left, 0.5))
                    for task in (*clients, *dealing):
                        if task.done():
                            await task
                if stroke is not None:
                    dealing.append(asyncio.create_task(self._deal(stroke)))
            await asyncio.gather(*dealing)
        finally:
            for task in dealing:
                task.cancel()
            await asyncio.gather(*dealing, return_exceptions=True)

    async def _deal(self, stroke: Stroke) -> None:
        match stroke.blow:
            case Blow.POSTGRES_KILL:
                await self._kill_postgres()
            case Blow.PSP_AWAY:
                await self._send_away(stroke)
            case _:
                await self._hit_gateway(stroke)

    async def _kill_postgres(self) -> None:
        async with self._postgres_gate:  # a dead one is not killed again
            for world in self.worlds:
                world.journal.killed("PostgreSQL", None)
            await self.postgres.crash()
            self.blows[Blow.POSTGRES_KILL] += 1
            await self.postgres.start()

    async def _send_away(self, stroke: Stroke) -> None:
        line = [line for world in self.worlds for line in world.psp_lines][stroke.target % len(self.gateways)]
        await line.refuse()
        self.blows[Blow.PSP_AWAY] += 1
        await asyncio.sleep(stroke.lasts_s)
        await line.listen()

    async def _hit_gateway(self, stroke: Stroke) -> None:
        world = self.worlds[stroke.target % len(self.worlds)]
        gateway = world.gateways[stroke.target // len(self.worlds) % len(world.gateways)]
        if stroke.blow is not Blow.GATEWAY_KILL:
            if gateway.is_alive:
                self.blows[stroke.blow] += 1
                await gateway.stand_still(stroke.lasts_s)
            return
        while not gateway.kill():  # noqa: ASYNC110 - it is between two lives for some milliseconds
            await asyncio.sleep(0.02)
        world.journal.killed("gateway", gateway.name)
        self.blows[Blow.GATEWAY_KILL] += 1

    def _kills(self) -> int:
        return self.postgres.kills + sum(gateway.counts["kills"] for gateway in self.gateways)

    def _wire_faults(self) -> int:
        return sum(sum(world.wire_faults().values()) for world in self.worlds)

    async def _last_answers(self, clients: Sequence[asyncio.Task[None]], shops: Sequence[Shop]) -> None:
        _, late = await asyncio.wait(clients, timeout=_LAST_ANSWERS_S)
        for client in late:
            client.cancel()
        if late:
            shops[0].journal.complain(f"clients were not finished {_LAST_ANSWERS_S:.0f} s after the end")
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*clients)

    async def _until_quiet(self) -> bool:
        """Wait until nobody has had anything to do for some seconds; False when that comes no nearer for long."""
        fewest, fewest_since = None, monotonic()
        quiet_since: float | None = None
        while monotonic() - fewest_since < _PATIENCE_S:
            for world in self.worlds:
                await world.settle_pending()
            waiting = sum([await world.witnesses.count_waiting() for world in self.worlds])
            if fewest is None or waiting < fewest:
                fewest, fewest_since = waiting, monotonic()
            quiet_since = None if waiting else quiet_since or monotonic()
            if quiet_since is not None and monotonic() - quiet_since > _QUIET_FOR_S:
                return True
            await asyncio.sleep(0.5)
        return False

    async def _close(self) -> Verdict:
        """Wait for quiet, close the books with the PSPs' last files, and end the gateways."""
        is_quiet = await self._until_quiet()
        for world in self.worlds:
            await world.office.close_books()
        is_quiet = await self._until_quiet() and is_quiet
        verdict = await self._end_gateways()
        if not is_quiet:
            verdict.find(None, f"something was still going on: it came to no end for {_PATIENCE_S:.0f} s")
        return verdict

    async def _end_gateways(self) -> Verdict:
        """End the gateways as an operator would, and have `coatcheck audit` say what it thinks."""
        verdict = Verdict()
        statuses = await asyncio.gather(*[gateway.finish() for gateway in self.gateways])
        for gateway, status in zip(self.gateways, statuses, strict=True):
            if status:
                verdict.find(None, f"{gateway.name} ended with status {status} on SIGTERM; {gateway.last_words()}")
            for complaint in gateway.complaints:
                verdict.find(None, complaint)
        for world in self.worlds:
            status, printed = await run_command(["audit"], world.direct_settings())
            if status:
                verdict.find(None, f"`coatcheck audit` ended with status {status}: {printed[-800:]}")
        return verdict

    async def _judge(self, verdict: Verdict) -> None:
        """Hear every witness, and add to the verdict what they say."""
        for world in self.worlds:
            journal = world.journal
            try:
                rows, books = await world.witnesses.read_rows(), await world.witnesses.read_books()
            except aiohttp.ClientError as error:
                raise DrillError(f"a witness could not be heard ({error})") from error
            verdict.add(judge(Evidence(asked=journal.asked, asked_payouts=journal.payouts, rows=rows, books=books)))
            for complaint in journal.complaints:
                verdict.find(None, complaint)
            verdict.findings_in_all += journal.complaints_in_all - len(journal.complaints)
            journal.complaints.clear()
            journal.complaints_in_all = 0

    async def _psp_faults(self) -> Counter[str]:
        """Count what was injected on the lines and at the PSPs, as those say who injected it."""
        faults: Counter[str] = Counter()
        for world in self.worlds:
            faults.update(world.wire_faults())
            counted = (await world.witnesses.read_faults()).items()
            faults.update({f"PSP: {kind.replace('_', ' ')}": count for kind, count in counted})
        faults[str(Blow.PSP_AWAY)] += self.blows[Blow.PSP_AWAY]
        return faults

    def _outcome(self, verdict: Verdict, faults: Counter[str], took_s: float) -> Outcome:
        counts: Counter[str] = Counter()
        manners: Counter[str] = Counter()
        starts: Counter[str] = Counter()
        for world in self.worlds:
            counts.update(world.journal.counts)
            manners.update(world.journal.manners)
            for gateway in world.gateways:
                starts.update(gateway.counts)
        return Outcome(
            seed=self.seed,
            seconds=self.plan.seconds,
            clients=self.plan.clients,
            took_s=took_s,
            verdict=verdict,
            kills=self._kills(),
            faults=faults,
            blows=self.blows,
            counts=counts,
            manners=manners,
            starts=starts,
            recoveries=[each for world in self.worlds for each in world.journal.recoveries],
        )
