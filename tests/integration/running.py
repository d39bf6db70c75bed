"""A running gateway for tests: real HTTP on a free port in the test's loop, a real simulator in a process of its own.

Import the fixtures you need: `from tests.integration.running import gateway_server, simulator_url  # noqa: F401`.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from yarl import URL

from coatcheck.api.app import create_app
from coatcheck.api.gateway import Gateway
from coatcheck.api.server import make_server
from coatcheck.clock import Clock, SystemClock
from coatcheck.config import Settings
from coatcheck.ids import OPERATION, operation_id_of, order_id_of, print_id
from coatcheck.shops import create_key, shop_id_of
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Store
from coatcheck.wiring import at_work, make_gateway, make_providers

DIGEST_SECRET = "a secret for tests, 32 characters"


@contextmanager
def run_simulator(*arguments: str) -> Iterator[str]:
    """Run the simulator as a process; yields its address."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "coatcheck.simulator", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("simulator ready on http://"), line
        yield line.rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def simulator_url() -> Iterator[str]:
    """A simulator of the module's own; tok_slow takes a second."""
    with run_simulator("--slow-s", "1") as url:
        yield url


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    raw: bytes
    body: Any


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that listens, a client that talks to it, and a line to the simulator's own books."""

    url: str
    gateway: Gateway
    session: aiohttp.ClientSession
    clock: Clock
    simulator_url: str

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    async def make_key(self, shop: str = "hats", mode: Mode = Mode.TEST) -> str:
        """Print an API key of a shop."""
        printed, _ = await create_key(self.gateway.store, self.clock, shop, mode)
        return printed

    async def ask(
        self,
        method: str,
        path: str,
        key: str | None = None,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; the path is sent as it is written."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if json is not None:
            data = encode_json(json)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        target = URL(self.url + path, encoded=True)
        async with self.session.request(method, target, data=data, headers=sent, allow_redirects=False) as response:
            raw = await response.read()
            is_json = response.content_type.endswith("json") and raw
            body = await response.json(content_type=None) if is_json else None
            return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, raw, body)

    async def pay(self, key: str, body: Any, **headers: str) -> Answer:
        """POST a payment; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", "/v1/payments", key, json=body, headers=named)

    async def charges(self, payment_order_id: str, shop: str = "hats", mode: Mode = Mode.TEST) -> int:
        """Ask the simulator how often it really charged an order."""
        order_id = order_id_of(shop_id_of(shop), mode, payment_order_id)
        reference = print_id(OPERATION, operation_id_of(order_id, OperationKind.CHARGE))
        async with self.session.get(f"{self.simulator_url}/admin/references?status=succeeded") as response:
            counted: dict[str, list[Any]] = await response.json()
        return int(counted.get(reference, [0])[0])


def encode_json(body: Any) -> bytes:
    """Write JSON as a client would."""
    import json  # noqa: PLC0415 - `json` is also the name of an argument above

    return json.dumps(body).encode()


def checkout(name: str, *, token: str = "tok_approve", orders: int = 1, **more: Any) -> dict[str, Any]:
    """Write a body for POST /v1/payments: one seller per order, EUR 12.34 each with 1.00 commission."""
    return {
        "buyer": {"reference": "buyer-7"},
        "checkout_id": name,
        "payment_method": {"token": token},
        "payment_orders": [
            {
                "payment_order_id": f"{name}-{place}",
                "seller_account": f"seller-{place}",
                "amount": "12.34",
                "currency": "EUR",
                "commission": "1.00",
            }
            for place in range(orders)
        ],
        **more,
    }


@asynccontextmanager
async def run_gateway(
    store: Store, simulator: str, *, clock: Clock | None = None, settings: dict[str, Any] | None = None
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on an open store; it listens on a free port and is stopped as SIGTERM would.

    The database is new and the simulator's books are not: they are emptied, for the same ids come again in each test.
    """
    chosen = Settings(
        **{"simulator_url": simulator, "digest_secret": DIGEST_SECRET, "seal_interval_ms": 0, **(settings or {})}
    )
    clock = clock or SystemClock()
    providers = make_providers(chosen)
    try:
        async with (
            at_work(make_gateway(chosen, store, providers, clock=clock)) as gateway,
            listening(gateway) as url,
            aiohttp.ClientSession() as session,
        ):
            async with session.post(f"{simulator}/admin/reset") as emptied:
                assert emptied.status == 200
            yield RunningGateway(url, gateway, session, clock, simulator)
    finally:
        for provider in providers.values():
            await provider.close()


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[str]:
    """Serve a gateway's HTTP edge as `coatcheck serve` does, on a free port of this machine; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = make_server(create_app(gateway), grace_s=10)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
        assert not serving.done()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.fixture
async def gateway_server(store: Store, simulator_url: str) -> AsyncIterator[RunningGateway]:
    """A gateway on a database of the test's own."""
    async with run_gateway(store, simulator_url) as running:
        yield running
