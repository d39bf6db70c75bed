"""Stripe paying sellers out: the suite that every adapter passes, against a server with the shapes of its Transfers.

localstripe knows no Transfers, so this server keeps keys, groups and reversals as Stripe documents them, and checks
what the SDK really sends. It is no proof of what Stripe does; it is one of what we ask it for.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.conformance import PayoutConformance, payout_to

from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent
from coatcheck.providers.stripe import API_VERSION, StripeProvider

ACCOUNT, CLOSED = "acct_1NvdFGQ9RKHgCVdK", "acct_closed1234567"
SENT = {"amount", "currency", "destination", "transfer_group", "metadata[coatcheck_operation]"}


class Transfers:
    """Stripe's Transfers, as far as payouts need them."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.by_key: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
        self.strange: list[str] = []  # what no request of ours may look like

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/transfers", self.create)
        app.router.add_get("/v1/transfers", self.show_all)
        app.router.add_get("/v1/transfers/{id}", self.read)
        return app

    async def create(self, request: web.Request) -> web.Response:
        self._look_at(request)
        form = {name: str(value) for name, value in (await request.post()).items()}
        key = request.headers.get("Idempotency-Key", "")
        if set(form) != SENT or key != form.get("transfer_group"):
            self.strange.append(f"{key}: {form}")
        if key in self.by_key:
            first, made = self.by_key[key]
            return answer(made) if first == form else refusal(400, "idempotency_error", "another body")
        if form["destination"] == CLOSED:
            return refusal(400, "invalid_request_error", "account_closed")
        made = {
            "id": f"tr_{len(self.made)}",
            "object": "transfer",
            "amount": int(form["amount"]),
            "amount_reversed": 0,
            "currency": form["currency"],
            "destination": form["destination"],
            "livemode": False,
            "reversed": False,
            "transfer_group": form["transfer_group"],
            "metadata": {"coatcheck_operation": form["metadata[coatcheck_operation]"]},
        }
        self.made.append(made)
        self.by_key[key] = form, made
        return answer(made)

    async def show_all(self, request: web.Request) -> web.Response:
        self._look_at(request)
        group = request.query["transfer_group"]
        found = [each for each in self.made if each["transfer_group"] == group]
        return answer({"object": "list", "data": found, "has_more": False, "url": "/v1/transfers"})

    async def read(self, request: web.Request) -> web.Response:
        self._look_at(request)
        for each in self.made:
            if each["id"] == request.match_info["id"]:
                return answer(each)
        return refusal(404, "invalid_request_error", "resource_missing")

    def _look_at(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != "Bearer sk_test_key":
            self.strange.append("the key")
        if request.headers.get("Stripe-Version") != API_VERSION:
            self.strange.append("the version")

    # the bench of the suite

    def destination(self, *, is_open: bool = True) -> str:
        return ACCOUNT if is_open else CLOSED

    async def paid(self, payout: Intent) -> list[tuple[int, str]]:
        ours = [each for each in self.made if each["transfer_group"] == payout.reference and not each["reversed"]]
        return [(each["amount"], each["currency"].upper()) for each in ours]

    async def send_back(self, outcome: Outcome) -> None:
        for each in self.made:
            if each["id"] == outcome.provider_reference:
                each.update(reversed=True, amount_reversed=each["amount"])


def answer(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers={"Request-Id": "req_1"})


def refusal(status: int, kind: str, code: str) -> web.Response:
    return answer({"error": {"type": kind, "code": code, "message": "no"}}, status)


@pytest.fixture
async def payouts() -> AsyncIterator[Transfers]:
    transfers = Transfers()
    yield transfers
    assert transfers.strange == []


@pytest.fixture
async def provider(payouts: Transfers) -> AsyncIterator[StripeProvider]:
    runner = web.AppRunner(payouts.app())
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    made = StripeProvider("sk_test_key", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


@pytest.fixture
async def unreachable() -> AsyncIterator[StripeProvider]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    made = StripeProvider("sk_test_key", base_url=f"http://127.0.0.1:{port}")
    yield made
    await made.close()


class TestStripePayouts(PayoutConformance):
    """The suite of adapters that pay sellers out."""


async def test_A1_two_sendings_at_once_under_one_key_are_one_transfer(
    provider: StripeProvider, payouts: Transfers
) -> None:
    wanted = payout_to(ACCOUNT)
    outcomes = await asyncio.gather(*[provider.send(wanted) for _ in range(5)])
    assert {outcome.provider_reference for outcome in outcomes} == {"tr_0"}
    assert len(payouts.made) == 1
