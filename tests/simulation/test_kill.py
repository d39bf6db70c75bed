"""Real gateway processes, killed at random moments: what the PSP charged and what the gateway says must agree."""

import asyncio
import json
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from tests.integration.running import run_simulator
from tests.simulation.judge import printed
from tests.simulation.processes import GatewayProcess, checkout_body, run_command

PAYMENTS: Final = 600
KILLS: Final = 10
LEASE_S: Final = 4
_CLIENTS: Final = 24
_PATIENCE_S: Final = 75
_CURRENCIES: Final = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3}
# Answers take up to 150 ms; one in fifty charges takes longer than a call may.
WEATHER: Final = {
    "latency-ms": 30,
    "latency-jitter-ms": 120,
    "slow-share": 0.02,
    "slow-ms": 1_500,
    "drop-after-charge-share": 0.05,
    "error-before-share": 0.03,
    "error-after-share": 0.03,
    "rate-limit-share": 0.02,
    "decline-share": 0.05,
    "look-up-error-share": 0.03,
    "search-lag-ms": 300,
}


@dataclass(slots=True)
class Shop:
    """The clients of one shop: they ask until they get a final answer."""

    key: str
    urls: list[str]
    dice: random.Random
    killing_is_over: asyncio.Event = field(default_factory=asyncio.Event)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: int = 0
    began: int = 0

    async def shop(self) -> None:
        """Buy until there are enough payments and nobody is killed any more."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {self.key}"}) as session:
            await asyncio.gather(*[self._client(session) for _ in range(_CLIENTS)])

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while self.began < PAYMENTS or not self.killing_is_over.is_set():
            self.began += 1
            body = self._checkout(f"checkout-{self.began}")
            copies = 2 if self.dice.random() < 0.2 else 1
            await asyncio.gather(*[self._pay(session, body) for _ in range(copies)])
            await asyncio.sleep(0 if self.began < PAYMENTS else 0.2)

    async def _pay(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        headers = {"Idempotency-Key": body["checkout_id"], "Prefer": "wait=5"}
        while True:
            url = self.dice.choice(self.urls)
            try:
                async with session.post(f"{url}/v1/payments", json=body, headers=headers) as response:
                    answer = await response.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                self.broken += 1
            else:
                if response.status == 201:
                    before = self.answers.setdefault(body["checkout_id"], answer)
                    assert before == answer, "two clients of one payment got different final answers"
                    return
                assert response.status in (202, 409, 500, 503), (response.status, answer)
                if response.status == 409:
                    assert answer["code"] == "request_in_progress", answer
            await asyncio.sleep(0.1 + 0.3 * self.dice.random())

    def _checkout(self, name: str) -> dict[str, Any]:
        orders = []
        for place in range(self.dice.randint(1, 4)):
            currency = self.dice.choice(list(_CURRENCIES))
            amount_minor = self.dice.randint(1, 90_000)
            self.asked[f"{name}-{place}"] = (amount_minor, currency)
            orders.append(
                {
                    "payment_order_id": f"{name}-{place}",
                    "seller_account": f"seller-{self.dice.randrange(20)}",
                    "amount": decimal(amount_minor, _CURRENCIES[currency]),
                    "currency": currency,
                }
            )
        return checkout_body(name, orders, f"tok_approve.{name}")


def decimal(amount_minor: int, places: int) -> str:
    digits = str(amount_minor).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coatcheck-kill-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
async def settings(database_url: str, directory: Path) -> AsyncIterator[dict[str, str]]:
    """Settings of both gateways: a call has a second, and a lease ends soon after."""
    with run_simulator(*[f"--{name}={value}" for name, value in WEATHER.items()]) as simulator_url:
        chosen = {
            "SIMULATOR_URL": simulator_url,
            "DATA_DIR": str(directory),
            "DIGEST_SECRET": "a-secret-of-the-kill-test-and-of-nobody-else",
            "LEASE_S": str(LEASE_S),
            "CALL_DEADLINE_S": "1",
            "CONNECT_DEADLINE_S": "1",
            "RETRY_BASE_MS": "100",
            "RETRY_CAP_S": "1",
            "RETRY_BUDGET_ATTEMPTS": "100",
            "RECOVERY_INTERVAL_MS": "100",
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
        }
        yield {f"COATCHECK_{name}": value for name, value in chosen.items()} | {"DATABASE_URL": database_url}


async def kill_again_and_again(gateways: list[GatewayProcess], dice: random.Random) -> None:
    """SIGKILL ten times; between them one SIGSTOP for longer than a lease and one SIGTERM."""
    for number in range(KILLS):
        victim, other = dice.sample(gateways, 2)
        await asyncio.sleep(dice.uniform(0.2, 1.2))
        victim.tell(signal.SIGKILL)
        assert await victim.ended() == -signal.SIGKILL
        if number == 3:  # F2: a machine that stands still; it wakes up as a zombie, its work taken over
            other.tell(signal.SIGSTOP)
            await victim.serve()
            await asyncio.sleep(LEASE_S + 1.5)
            other.tell(signal.SIGCONT)
            continue
        await victim.serve()
    await asyncio.sleep(0.5)
    gateways[0].tell(signal.SIGTERM)  # F12: in the middle of everything
    assert await gateways[0].ended() == 0
    await gateways[0].serve()


@asynccontextmanager
async def two_gateways(settings: dict[str, str], directory: Path) -> AsyncIterator[list[GatewayProcess]]:
    gateways = [GatewayProcess(name, settings, directory) for name in ("gateway-1", "gateway-2")]
    with ExitStack() as ending:
        for gateway in gateways:
            ending.callback(gateway.end)
        await asyncio.gather(*[gateway.serve() for gateway in gateways])
        yield gateways


async def until_nothing_is_left(owner: asyncpg.Connection) -> None:
    """Wait until every operation is decided; the clients have their answers already."""
    while await owner.fetchval("SELECT count(*) FROM lease"):  # noqa: ASYNC110 - the event is in the database
        await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(115)
async def test_A2_F1_F2_F12_killed_gateways_lose_nothing_and_charge_nobody_twice(
    settings: dict[str, str], directory: Path, owner: asyncpg.Connection, seed: int
) -> None:
    dice = random.Random(f"kill {seed}")
    key = await run_command(["keys", "create", "--shop", "hats"], settings)
    async with two_gateways(settings, directory) as gateways:
        shop = Shop(key.strip(), [gateway.url for gateway in gateways], dice)
        async with asyncio.timeout(_PATIENCE_S):
            shopping = asyncio.create_task(shop.shop())
            try:
                await kill_again_and_again(gateways, dice)
                shop.killing_is_over.set()
                await shopping
            finally:
                shopping.cancel()
            await until_nothing_is_left(owner)
        assert len(shop.answers) == shop.began >= PAYMENTS
        assert shop.broken > KILLS  # somebody was always in the middle of something
        await compare(shop, settings["COATCHECK_SIMULATOR_URL"], owner)
    assert "invariants hold" in await run_command(["audit"], settings)
    assert " difference=0" in await run_command(["audit", "replay"], settings)
    assert " ok=true" in await run_command(["audit", "verify"], settings)


async def test_F12_a_connection_that_was_idle_is_closed_by_who_keeps_it_and_not_by_the_gateway(
    settings: dict[str, str], directory: Path
) -> None:
    """Whoever sends on a connection that was closed under his hands does not know what became of his request."""
    gateway = GatewayProcess("gateway", settings, directory)
    asked = b"GET /health/live HTTP/1.1\r\nhost: gateway\r\n\r\n"
    try:
        await gateway.serve()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port)
        for pause_s in (0, 6):  # uvicorn's own time is 5
            await asyncio.sleep(pause_s)
            writer.write(asked)
            assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
            while await reader.readline() != b"\r\n":
                pass
            await reader.read(65536)
        writer.close()
    finally:
        gateway.end()


async def compare(shop: Shop, simulator_url: str, owner: asyncpg.Connection) -> None:
    """Hold the clients' answers, the gateway's rows, its API and the PSP's own books against each other."""
    async with aiohttp.ClientSession() as session:
        books = await read(session, f"{simulator_url}/admin/books")
        charged = await read(session, f"{simulator_url}/admin/references?status=succeeded")
        headers = {"Authorization": f"Bearer {shop.key}"}
        for checkout_id in list(shop.answers)[::20]:
            url = f"{shop.urls[0]}/v1/payments/{shop.answers[checkout_id]['payment_id']}"
            assert await read(session, url, headers) == shop.answers[checkout_id]
    assert books["charged_twice"] == []
    assert min(books["faults"][fault] for fault in ("dropped_after_charge", "error_after", "slow")) > 0
    told = {order["payment_order_id"]: order for answer in shop.answers.values() for order in answer["payment_orders"]}
    assert told.keys() == shop.asked.keys()
    rows = await owner.fetch(
        "SELECT operation_id, payment_order_id, o.status, o.amount_minor, o.currency::text AS currency "
        "FROM operation AS c JOIN payment_order AS o USING (order_id)"
    )
    assert {row["payment_order_id"]: row["status"] for row in rows} == {
        name: order["status"] for name, order in told.items()
    }
    assert {row["status"] for row in rows} == {"SUCCESS", "FAILED"}
    paid = {
        printed(row["operation_id"]): [1, *shop.asked[row["payment_order_id"]]]
        for row in rows
        if row["status"] == "SUCCESS"
    }
    assert paid == charged  # nothing lost, nothing twice, every amount its own


async def read(session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> Any:
    async with session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        return json.loads(await response.read())
