"""One installation under the drill: a database, a PSP, two gateways, and the lines between them."""

import asyncio
import hashlib
import hmac
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import aiohttp
import msgspec

from coatcheck.drill.evidence import Witnesses
from coatcheck.drill.journal import Journal
from coatcheck.drill.office import Office
from coatcheck.drill.plan import Checkout, plan_checkouts
from coatcheck.drill.processes import DrillError, GatewayProcess, Postgres, Simulator, run_command
from coatcheck.drill.proxy import DATABASE_FAULTS, PSP_FAULTS, WEBHOOK_FAULTS, DatabaseLine, HttpLine, Line, Target
from coatcheck.drill.schedule import LEASE_S, skew_of
from coatcheck.drill.shop import Shop

_READY_S: Final = 90.0
_CALL_DEADLINE_S: Final = 2
_WEBHOOK_SECRET: Final = "whsec_of_the_drill_and_of_nobody_else"  # noqa: S105 - guards nothing but the drill
_RETURNS_AFTER_MS: Final = 3_000
_THINK_S: Final = 0.15
# A charge that is slow takes longer than a call may. Faults of sendings: 8%.
_WEATHER: Final[Mapping[str, Any]] = {
    "latency_ms": 5,
    "latency_jitter_ms": 25,
    "slow_share": 0.008,
    "slow_ms": 1_000 * _CALL_DEADLINE_S + 500,
    "drop_after_charge_share": 0.025,
    "error_before_share": 0.015,
    "error_after_share": 0.02,
    "rate_limit_share": 0.015,
    "decline_share": 0.02,
    "look_up_error_share": 0.05,
    "search_lag_ms": 300,
    "webhook_duplicate_share": 0.04,
    "webhook_late_share": 0.04,
    "webhook_late_ms": 1_500,
    "webhook_reorder_share": 0.04,
    "webhook_forged_share": 0.02,
    "webhook_wrong_amount_share": 0.02,
}
_LOST_WEBHOOKS: Final = 0.10


class World:
    """Everything of one installation. `is_second`: its PSP loses no webhook, so that refunds may come back there."""

    shop: Shop
    office: Office

    def __init__(self, name: str, directory: Path, seed: int, postgres: Postgres, *, pays_out_every_s: float) -> None:
        self.name = name
        self.is_second = name == "two"
        self.journal = Journal()
        self.simulator = Simulator(f"simulator-{name}", directory / "logs" / f"simulator-{name}.log")
        self.gateways: list[GatewayProcess] = []
        self.lines: list[Line] = []
        self.psp_lines: list[HttpLine] = []
        self.api_key = ""
        self.has_webhooks = False
        self._directory = directory
        self._data_dir = directory / f"data-{name}"
        self._seed = seed
        self._postgres = postgres
        self._pays_out_every_s = pays_out_every_s
        self._database = f"drill_{name}"
        self._dice = random.Random(f"bank {name} {seed}")  # noqa: S311 - a drill that can be run again

    @property
    def witnesses(self) -> Witnesses:
        """Who says what really happened."""
        return Witnesses(self._postgres.url(self._database), self.simulator.url)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """Start everything in calm weather; on the way out leave nothing behind."""
        async with AsyncExitStack() as ending:
            await self._postgres.create_database(self._database)
            self.api_key = await self._command("keys", "create", "--shop", "drill")
            ending.callback(self.simulator.leave_nothing_behind)
            books = self._directory / f"psp-books-{self.name}.jsonl"
            await self.simulator.start([f"--books={books}", "--session-life-s=8", "--slow-s=3"])
            for letter in "ab":
                gateway = await self._make_gateway(letter, ending)
                ending.callback(gateway.leave_nothing_behind)
                gateway.keep_running()
            await self.until_ready()
            await self._open_webhooks(ending)
            self.shop = self._make_shop()
            ending.push_async_callback(self.shop.session.close)
            self.office = Office(
                self.shop, self.name, self._seed, returns=self._may_return, pays_out_every_s=self._pays_out_every_s
            )
            yield self

    async def _make_gateway(self, letter: str, ending: AsyncExitStack) -> GatewayProcess:
        name = f"gateway-{self.name}-{letter}"
        database_line = DatabaseLine(
            f"{name} database", self._seed, DATABASE_FAULTS, lambda: Target("127.0.0.1", self._postgres.port), 0.2
        )
        psp_line = HttpLine(f"{name} psp", self._seed, PSP_FAULTS, lambda: _target_of(self.simulator.url), 1.6)
        for line in (database_line, psp_line):
            await line.listen()
            ending.push_async_callback(line.close)
        self.lines += [database_line, psp_line]
        self.psp_lines.append(psp_line)
        database_url = f"postgresql://postgres@127.0.0.1:{database_line.port}/{self._database}?sslmode=disable"
        settings = self._settings(database_url, psp_line.url)
        log = self._directory / "logs" / f"{name}.log"
        gateway = GatewayProcess(name, log, settings, lambda start: skew_of(self._seed, name, start))
        self.gateways.append(gateway)
        return gateway

    def _settings(self, database_url: str, simulator_url: str) -> dict[str, str]:
        """Give the settings of the gateways: everything about time is shorter than usual, nothing is switched off."""
        settings: dict[str, object] = {
            "DATA_DIR": self._data_dir,
            "DIGEST_SECRET": "a-secret-of-the-drill-and-of-nobody-else",
            "DATABASE_POOL_SIZE": 4,
            "SIMULATOR_URL": simulator_url,
            "SIMULATOR_WEBHOOK_SECRETS": _WEBHOOK_SECRET,
            "CALL_DEADLINE_S": _CALL_DEADLINE_S,
            "CONNECT_DEADLINE_S": 1,
            "LEASE_S": LEASE_S,
            "RETRY_BASE_MS": 100,
            "RETRY_CAP_S": 2,
            "RETRY_BUDGET_ATTEMPTS": 1_000,
            "RECOVERY_INTERVAL_MS": 400,
            "WALLET_HOLD_DAYS": 0,
            "MATURING_INTERVAL_S": 3,
            "WATCH_INTERVAL_S": 5,
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
        }
        return {f"COATCHECK_{name}": str(value) for name, value in settings.items()} | {"DATABASE_URL": database_url}

    async def _command(self, *arguments: str) -> str:
        status, printed = await run_command(arguments, self.direct_settings())
        if status:
            raise DrillError(f"`coatcheck {' '.join(arguments)}` ended with status {status}: {printed[-1500:]}")
        return printed.splitlines()[0].strip()

    def direct_settings(self) -> dict[str, str]:
        """Give the settings for a command that must not meet a fault."""
        return self._settings(self._postgres.url(self._database), self.simulator.url or "http://127.0.0.1:1")

    async def until_ready(self) -> None:
        """Wait until all gateways take requests."""
        await asyncio.gather(*[self._until_ready(gateway) for gateway in self.gateways])

    async def _until_ready(self, gateway: GatewayProcess) -> None:
        deadline = monotonic() + _READY_S
        async with aiohttp.ClientSession(base_url=gateway.url, trust_env=False) as session:
            while monotonic() < deadline:
                try:
                    async with session.get("/health/ready") as response:
                        if response.ok:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
        raise DrillError(f"{gateway.name} does not become ready; {gateway.last_words()}")

    async def _open_webhooks(self, ending: AsyncExitStack) -> None:
        """Send the PSP's events to whichever gateway takes the connection, if this release takes them at all."""
        line = HttpLine(f"{self.name} webhooks", self._seed, WEBHOOK_FAULTS, self._some_gateway, 0.5)
        await line.listen()
        ending.push_async_callback(line.close)
        self.has_webhooks = await _takes_webhooks(f"{line.url}/webhooks/simulator")
        if self.has_webhooks:
            self.lines.append(line)
            body = {"url": f"{line.url}/webhooks/simulator", "secret": _WEBHOOK_SECRET}
            async with (
                aiohttp.ClientSession(base_url=self.simulator.url, trust_env=False) as session,
                session.put("/admin/webhooks", data=msgspec.json.encode(body)) as response,
            ):
                response.raise_for_status()

    def _some_gateway(self) -> Target:
        return Target("127.0.0.1", self._dice.choice(self.gateways).port)

    @property
    def _may_return(self) -> bool:
        """Whether refunds and payouts may come back later, which only a webhook tells."""
        return self.is_second and self.has_webhooks

    def checkouts(self) -> Iterator[Checkout]:
        """Plan what its clients ask for; always the same."""
        return plan_checkouts(self._seed, self.name, returned_refunds=self._may_return)

    def _make_shop(self) -> Shop:
        return Shop(
            journal=self.journal,
            checkouts=self.checkouts(),
            gateways={gateway.name: gateway.url for gateway in self.gateways},
            api_key=self.api_key,
            simulator_url=self.simulator.url,
            think_s=_THINK_S,
        )

    async def unleash(self) -> None:
        """Let the weather turn bad, at the PSP and on every line."""
        lost = {} if self.is_second else {"webhook_lost_share": _LOST_WEBHOOKS}
        await self.witnesses.set_dial({"seed": self._seed, **_WEATHER, **lost, **self._bank_times()})
        for line in self.lines:
            line.is_calm = False

    async def calm(self) -> None:
        """Let the weather turn good."""
        for line in self.lines:
            line.is_calm = True
        await self.witnesses.set_dial({"seed": self._seed, **self._bank_times()})

    def _bank_times(self) -> dict[str, int]:
        back = ("refund_fails_later_ms", "payout_returns_later_ms") if self.is_second else ()
        return {"refund_settle_ms": 800, "payout_settle_ms": 800, **dict.fromkeys(back, _RETURNS_AFTER_MS)}

    def set_anchor_aside(self) -> None:
        """Keep the anchor as evidence: it has seals that a restored database has lost (docs/audit.md)."""
        seals = self._data_dir / "seals"
        if seals.exists():
            seals.rename(seals.with_name("seals-before-the-restore"))

    async def be_the_bank(self, every_s: float) -> None:
        """Decide what is pending at the PSP, again and again, until cancelled."""
        while True:
            await self.settle_pending()
            await asyncio.sleep(every_s)

    async def settle_pending(self) -> None:
        """Decide once what is pending at the PSP."""
        self.journal.counts["charges decided late by the bank"] += await self.witnesses.settle_pending(self._dice)

    def wire_faults(self) -> Counter[str]:
        """Count what the lines did, by line and kind."""
        counted: Counter[str] = Counter()
        for line in self.lines:
            for fault, count in line.counts.items():
                counted[f"{line.name.rpartition(' ')[2]} line: {fault}"] += count
        return counted


def _target_of(url: str) -> Target:
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return Target(host, int(port))


async def _takes_webhooks(url: str) -> bool:
    """Say whether an authentic event is answered with a 2xx."""
    at = int(time())
    event = {
        "id": "evt_of_the_drill",
        "type": "drill.began",
        "created": at,
        "livemode": False,
        "account": "coatcheck",
        "data": {"object": {}},
    }
    body = msgspec.json.encode(event)
    signature = hmac.new(_WEBHOOK_SECRET.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    headers = {"Simulator-Signature": f"t={at},v1={signature}", "Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            return response.ok
    except aiohttp.ClientError:
        return False
