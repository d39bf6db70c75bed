"""The simulator's adapter paying sellers out: the suite that every adapter passes, against the real server."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from tests.conformance import PayoutConformance
from tests.integration.test_provider_conformance import adapter, provider, simulator_process, unreachable

from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent

__all__ = ["adapter", "provider", "unreachable"]


@pytest.fixture(scope="module")
def simulator_url() -> Iterator[str]:
    with simulator_process() as url:
        yield url


class Outside:
    """The simulator's own books of payouts."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    def destination(self, *, is_open: bool = True) -> str:
        return "dest_ok.hat-maker" if is_open else "dest_closed"

    async def paid(self, payout: Intent) -> list[tuple[int, str]]:
        made: list[dict[str, Any]] = (await self._ask("GET", "/admin/payouts?limit=1000"))["data"]
        ours = [each for each in made if each["reference"] == payout.reference and each["status"] == "paid"]
        return [(each["amount"], each["currency"]) for each in ours]

    async def send_back(self, outcome: Outcome) -> None:
        await self._ask("POST", f"/admin/return/{outcome.provider_reference}")

    async def _ask(self, method: str, path: str) -> Any:
        async with self._session.request(method, self._url + path) as response:
            assert response.status == 200, await response.text()
            return json.loads(await response.read())


@pytest.fixture
async def payouts(simulator_url: str) -> AsyncIterator[Outside]:
    async with aiohttp.ClientSession() as session:
        yield Outside(simulator_url, session)


class TestSimulatedPayouts(PayoutConformance):
    """The suite of adapters that pay sellers out."""
