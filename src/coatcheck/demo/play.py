"""The evening from beginning to end: start the processes, let the shoppers in, hear the witnesses, clean up."""

import asyncio
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import msgspec
from rich.console import Console

from coatcheck import wiring
from coatcheck.clock import SystemClock
from coatcheck.config import load_settings
from coatcheck.demo.evening import Evening, plan_evening
from coatcheck.demo.judge import judge
from coatcheck.demo.month import WEBHOOK_SECRET, Desk, Month, pay_out_earlier, play_month
from coatcheck.demo.processes import Child, DemoError, child_environ
from coatcheck.demo.report import Outcome, make_console, print_report, progress
from coatcheck.demo.shoppers import open_shop_session, play_evening, read_json
from coatcheck.demo.witnesses import hear_witnesses, mark_books
from coatcheck.logs import configure_logs
from coatcheck.shops import create_key, list_keys
from coatcheck.states import Mode
from coatcheck.store import Store

# What the simulated PSP does wrong in the evening. Its answers take 15 to 45 ms, as a PSP nearby would.
WEATHER = {
    "drop-after-charge-share": "0.03",
    "error-before-share": "0.01",
    "error-after-share": "0.01",
    "slow-share": "0.02",
    "slow-ms": "1500",
    "decline-share": "0.05",
    "latency-ms": "15",
    "latency-jitter-ms": "30",
}

_SHOP = "evening-"
_OF_A_SHOP = re.compile(rf"{_SHOP}([1-9][0-9]{{0,8}})")
_SIMULATOR_READY = re.compile(r"^simulator ready on (http://\S+)$", re.MULTILINE)
_GATEWAY_READY = re.compile(r'"url": ?"(http://[^"]+)".*"event": ?"ready"')
_PROVIDER_CALLS = re.compile(
    r'^coatcheck_provider_seconds_count\{call="(?P<call>\w+)".*\} (?P<count>\S+)$', re.MULTILINE
)
_REPLAYED = re.compile(r"^REPLAY rows=(\d+) difference=(\d+)$", re.MULTILINE)
_AS_MERCHANT = {"Authorization": "Bearer sk_sim_test_coatcheck"}
_FEES = ("1.5%+0.10 USD", "1.5%+0.10 EUR", "1.5%+10 JPY", "1.5%+0.010 KWD")  # what the simulated PSP keeps
_INTERRUPTED = 130
_READY_TRIES = 200
_READY_PAUSE_S = 0.05
_SEEDS = 10**6


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where the evening takes place."""

    number: int
    api_key: str
    simulator_url: str
    gateway_url: str
    simulator: Child
    gateway: Child


def run_demo(
    data_dir: Path = Path("coatcheck-data"),
    *,
    checkouts: int = 3_000,
    seed: int | None = None,
    at_once: int = 64,
    port: int = 0,
) -> int:
    """Play an evening on a data directory, new or used, and print what came of it. Returns the exit status.

    0 when the proof holds, 1 when it does not. Raises DemoError when the evening cannot be played.
    """
    configure_logs("warning", "console")
    console = make_console()
    played = _Demo(console, data_dir, checkouts, secrets.randbelow(_SEEDS) if seed is None else seed, at_once, port)
    try:
        outcome = asyncio.run(_until_interrupted(played))
    except (KeyboardInterrupt, asyncio.CancelledError):
        words = f"\nInterrupted. The data stays in {data_dir}; the next evening there finishes what was open."
        console.print(words, soft_wrap=True)
        return _INTERRUPTED
    finally:
        for child in played.children:  # nothing to do, unless a second Ctrl-C came before the first was obeyed
            child.tell_to_end()
    print_report(console, outcome)
    return 0 if outcome.verdict.is_ok else 1


async def _until_interrupted(demo: "_Demo") -> Outcome:
    """Play; SIGTERM interrupts as Ctrl-C does, so that no process is left behind."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await demo.play()


@dataclass(slots=True)
class _Demo:
    console: Console
    data_dir: Path
    checkouts: int
    seed: int
    at_once: int
    port: int
    children: list[Child] = field(default_factory=list)

    @property
    def books(self) -> Path:
        """The simulator's journal: one PSP for all evenings, or an interrupted one could be charged twice."""
        return self.data_dir / "demo" / "psp-books.jsonl"

    async def play(self) -> Outcome:
        """Play one evening and judge it."""
        self._announce()
        async with self._stage() as stage:
            evening = plan_evening(number=stage.number, seed=self.seed, checkouts=self.checkouts)
            outcome = await _while_running((stage.gateway, stage.simulator), self._play_on(stage, evening))
            for child in (stage.gateway, stage.simulator):
                status = await child.stop()
                if status:
                    outcome.verdict.find(f"the {child.name} ended with status {status} on SIGTERM; see {child.log}")
        return outcome

    async def _play_on(self, stage: _Stage, evening: Evening) -> Outcome:
        async with (
            open_shop_session(stage.gateway_url, stage.api_key) as gateway,
            aiohttp.ClientSession(base_url=stage.simulator_url, headers=_AS_MERCHANT, trust_env=False) as simulator,
        ):
            earlier = await pay_out_earlier(simulator, gateway)
            since = await mark_books(simulator)
            started = monotonic()
            with progress(self.console, self.checkouts) as tick:
                memory = await play_evening(gateway, evening, at_once=self.at_once, tick=tick)
            took_s = monotonic() - started
            self.console.print("The evening is over. Asking the PSP's books, every payment and every wallet ...")
            verdict = judge(await hear_witnesses(simulator, gateway, evening, memory, since))
            sendings = await _sendings(gateway)
            desk = Desk(gateway, stage.gateway_url, simulator, evening, self.seed, self.console.print)
            month = await play_month(desk, earlier)
            await self._replay(month)
            verdict.close(month)
            return Outcome(
                evening=evening,
                memory=memory,
                verdict=verdict,
                faults=(await read_json(simulator, "/admin/books"))["faults"],
                sendings=sendings,
                took_s=took_s,
                data_dir=self.data_dir,
                books=self.books,
                api_key=stage.api_key,
            )

    async def _replay(self, month: Month) -> None:
        """Have the audit rebuild everything from the events alone, and compare."""
        self.console.print("The audit rebuilds all of it from the events alone ...")
        environ = child_environ(DATA_DIR=str(self.data_dir))
        command = [sys.executable, "-c", "from coatcheck.cli import main; main()", "audit", "replay"]
        running = await asyncio.create_subprocess_exec(
            *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        printed = (await running.communicate())[0].decode("utf-8", "replace")
        found = _REPLAYED.search(printed)
        if found is None:
            raise DemoError(f"the audit could not replay: {printed[-1000:]}")
        month.replay_rows, month.replay_difference = int(found[1]), int(found[2])
        if month.replay_difference:
            month.findings.append(f"the replay differs: {printed[:1000]}")

    def _announce(self) -> None:
        self.console.print("[bold]A shopping evening[/]: a gateway, a PSP that fails, and shoppers who click twice.")
        self.console.print(
            f"{self.checkouts} checkouts, {self.at_once} shoppers at once, seed {self.seed}. The PSP drops 3% of its "
            "answers after charging,\nanswers 5xx to 2%, is slow for 2% and declines 5%."
        )

    @asynccontextmanager
    async def _stage(self) -> AsyncIterator[_Stage]:
        """Start PostgreSQL, the simulator and the gateway; end them in the opposite order, whatever happens."""
        self.console.print("Starting PostgreSQL, the PSP simulator and the gateway ...")
        started = monotonic()
        async with AsyncExitStack() as running:
            settings = load_settings(child_environ(DATA_DIR=str(self.data_dir)), None, {})
            async with wiring.open_store(settings) as store:
                number, api_key = await _open_shop(store)
                simulator = self._start("simulator", ["simulator", *self._weather()], {})
                running.push_async_callback(simulator.stop)
                simulator_url = await simulator.find_in_log(_SIMULATOR_READY)
                gateway = self._start("gateway", ["serve"], self._settings(simulator_url))
                running.push_async_callback(gateway.stop)
                gateway_url = await gateway.find_in_log(_GATEWAY_READY)
                # The server belongs to whoever has it open: it is let go of only once the gateway has it, too.
                await _until_ready(gateway_url, gateway)
            words = f"Ready after {monotonic() - started:.1f} s. The gateway's log is {gateway.log}."
            self.console.print(words, soft_wrap=True)
            yield _Stage(number, api_key, simulator_url, gateway_url, simulator, gateway)

    def _start(self, name: str, arguments: list[str], settings: dict[str, str]) -> Child:
        environ = child_environ(DATA_DIR=str(self.data_dir), LOG_LEVEL="info", LOG_FORMAT="json", **settings)
        child = Child(name, arguments, environ, self.data_dir / "demo" / "logs" / f"{name}.log")
        self.children.append(child)
        return child

    def _settings(self, simulator_url: str) -> dict[str, str]:
        """Let a month pass in a minute: what is settled matures at once."""
        return {
            "PORT": str(self.port),
            "SIMULATOR_URL": simulator_url,
            "SIMULATOR_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "PSP_FEES": msgspec.json.encode({"simulator": ", ".join(_FEES)}).decode(),
            "WALLET_HOLD_DAYS": "0",
            "MATURING_INTERVAL_S": "1",
        }

    def _weather(self) -> list[str]:
        shares = [f"--{name}={value}" for name, value in WEATHER.items()]
        return ["--port=0", f"--books={self.books}", f"--seed={self.seed}", *shares]


async def _while_running(children: Sequence[Child], work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Do the work while the processes live. Raises DemoError when one of them ends, or does not answer the judge."""
    working = asyncio.create_task(work)
    watching = [asyncio.create_task(child.watch()) for child in children]
    try:
        await asyncio.wait({working, *watching}, return_when=asyncio.FIRST_COMPLETED)
        for watch in watching:
            if watch.done():
                await watch
        return await working
    except* (aiohttp.ClientError, TimeoutError, OSError) as failed:
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise DemoError(f"a witness could not be heard ({first!s}); the logs are beside {children[0].log}") from failed
    finally:
        for task in (working, *watching):
            task.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)


async def _open_shop(store: Store) -> tuple[int, str]:
    """Open tonight's shop, a new one each evening, and give the evening's number and the shop's key.

    Raises DemoError where an evening would get in somebody's way.
    """
    keys = await list_keys(store)
    if any(key.mode is Mode.LIVE for key in keys):
        raise DemoError("this data directory has keys for real money; play elsewhere: coatcheck demo --data-dir DIR")
    others = await store.pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coatcheck' AND datname = current_database()"
    )
    if others > store.pool.get_size():
        raise DemoError(
            "another gateway is running on this data directory; stop it, or play elsewhere: "
            "coatcheck demo --data-dir DIR"
        )
    numbers = [int(found[1]) for key in keys if (found := _OF_A_SHOP.fullmatch(key.shop_name))]
    number = max(numbers, default=0) + 1
    api_key, _ = await create_key(store, SystemClock(), f"{_SHOP}{number}", Mode.TEST)
    return number, api_key


async def _until_ready(gateway_url: str, gateway: Child) -> None:
    async with aiohttp.ClientSession(base_url=gateway_url, trust_env=False) as session:
        for _ in range(_READY_TRIES):
            try:
                async with session.get("/health/ready") as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(_READY_PAUSE_S)
    raise DemoError(f"the gateway does not become ready; its log is {gateway.log}")


async def _sendings(gateway: aiohttp.ClientSession) -> dict[str, int]:
    """Read from the gateway's metrics how often it called the PSP, by the kind of call."""
    async with gateway.get("/metrics") as response:
        text = await response.text()
    return {found["call"]: round(float(found["count"])) for found in _PROVIDER_CALLS.finditer(text)}
