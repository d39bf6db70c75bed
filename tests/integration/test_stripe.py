"""Stripe's adapter against localstripe: a real server that speaks Stripe's API and keeps no idempotency keys.

It stands for a PSP whose window is always over. Whatever went wrong, its own books say how often money moved.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from tests.conformance import Card, ProviderConformance

from coatcheck.drill.ports import free_port
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, Intent
from coatcheck.providers.stripe import StripeProvider
from coatcheck.states import Mode

API_KEY = "sk_test_localstripe"
GOOD_CARD = "4242424242424242"
DECLINED_CARD = "4000000000000341"  # localstripe refuses charges to it; the better known 0002 only when it is saved
AUTHENTICATED_CARD = "4000002500003155"

Head = bytes
Wire = Callable[[Head, Callable[[], Awaitable[bytes]]], Awaitable[bytes | None]]


@pytest.fixture(scope="module")
def localstripe_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with localstripe(tmp_path_factory.mktemp("localstripe") / "log") as url:
        yield url


@contextmanager
def localstripe(log: Path) -> Iterator[str]:
    """Run a server of its own; yields its address."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and constants
            [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"], stdout=output, stderr=output
        )
        try:
            await_port(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"localstripe did not start: {log.read_text()}")


class Outside:
    """The world around the gateway: the buyer's browser, and localstripe's own books."""

    decline_code = "card_declined"

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.dropped: set[str] = set()

    async def token(self, card: Card) -> str:
        """Name a card for the conformance suite."""
        method = await self.card(DECLINED_CARD if card is Card.DECLINE else GOOD_CARD)
        if card is Card.DROP_AFTER_CHARGE:
            self.dropped.add(method)
        return method

    async def charged(self, intent: Intent) -> list[tuple[int, str]]:
        """List what was taken; the suite's currencies have the same units in ISO 4217 and at Stripe."""
        return [(made["amount"], made["currency"].upper()) for made in await self.charges(intent)]

    async def card(self, number: str) -> str:
        """Do what Stripe's script does in the buyer's browser: turn a card into a PaymentMethod."""
        card = {"card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
        return str((await self._call("POST", "/v1/payment_methods", {"type": "card", **card}))["id"])

    async def intents(self, intent: Intent) -> list[dict[str, Any]]:
        page = await self._call("GET", "/v1/payment_intents?limit=100000")
        return [made for made in page["data"] if made["metadata"].get("coatcheck_operation") == intent.reference]

    async def charges(self, intent: Intent) -> list[dict[str, Any]]:
        """Every time money was taken for this operation."""
        ours = {made["id"] for made in await self.intents(intent)}
        page = await self._call("GET", "/v1/charges?limit=100000")
        return [made for made in page["data"] if made["payment_intent"] in ours and made["status"] == "succeeded"]

    async def held(self, intent: Intent) -> tuple[int, int]:
        """Say what was taken for this operation after all refunds, and what is still reserved, in Stripe's units."""
        [made] = await self.intents(intent)
        charge = made["latest_charge"]
        if made["status"] == "requires_capture":
            return 0, charge["amount"]
        return (charge["amount"] - charge["amount_refunded"] if made["status"] == "succeeded" else 0), 0

    async def refunds(self, intent: Intent) -> list[dict[str, Any]]:
        """Every refund that carries this operation's reference."""
        page = await self._call("GET", "/v1/refunds?limit=100000")
        return [made for made in page["data"] if made["metadata"].get("coatcheck_operation") == intent.reference]

    async def cancel(self, intent_id: str) -> None:
        await self._call("POST", f"/v1/payment_intents/{intent_id}/cancel")

    async def _call(self, method: str, path: str, data: dict[str, str] | None = None) -> dict[str, Any]:
        async with self._session.request(method, path, data=data) as response:
            assert response.status == HTTPStatus.OK
            body: dict[str, Any] = await response.json()
        return body


@pytest.fixture
async def outside(localstripe_url: str) -> AsyncIterator[Outside]:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with aiohttp.ClientSession(localstripe_url, headers=headers) as session:
        yield Outside(session)


@asynccontextmanager
async def stripe_at(url: str, *, api_key: str = API_KEY, call_deadline_s: int = 5) -> AsyncIterator[StripeProvider]:
    provider = StripeProvider(
        api_key, base_url=url, call_deadline_s=call_deadline_s, idempotency_window=timedelta(0), connect_deadline_s=1
    )
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def provider(localstripe_url: str) -> AsyncIterator[StripeProvider]:
    async with stripe_at(localstripe_url) as made:
        yield made


def charge_of(provider: StripeProvider, method: str, *, amount_minor: int = 1234, currency: str = "USD") -> Intent:
    request = ChargeRequest(
        operation_id=uuid4(),
        amount_minor=amount_minor,
        currency=currency,
        token=method,
        seller_account="seller-1",
        payment_order_id="order-1",
    )
    return Intent(
        operation_id=request.operation_id,
        amount_minor=amount_minor,
        currency=currency,
        mode=Mode.TEST,
        body=provider.prepare(request),
        first_sent_at=datetime.now(UTC),
    )


async def registered(provider: StripeProvider, intent: Intent) -> Intent:
    outcome = await provider.register(intent)
    assert (outcome.kind, outcome.reference) == (OutcomeKind.NOT_SENT, intent.reference)
    assert outcome.provider_reference is not None
    return msgspec.structs.replace(intent, provider_reference=outcome.provider_reference)


class Proxy:
    """A wire to localstripe that counts requests and does to those that move money what the test says."""

    def __init__(self, upstream: str, moving: str = "/confirm") -> None:
        self._upstream_port = int(upstream.rpartition(":")[2])
        self._moving = moving
        self.requests: list[str] = []
        self.on_moving: Wire | None = None
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while message := await self._read(reader):
                answer = await self._answer(message)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    async def _answer(self, message: bytes) -> bytes | None:
        line = message.split(b"\r\n", 1)[0].decode()
        self.requests.append(line.rpartition(" ")[0])

        async def forward() -> bytes:
            return await self._forward(message)

        if self.on_moving is not None and line.startswith("POST") and line.split()[1].endswith(self._moving):
            return await self.on_moving(message, forward)
        return await forward()

    async def _forward(self, message: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        writer.write(message)
        answer = await self._read(reader)
        writer.close()
        await writer.wait_closed()
        return answer

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)


@pytest.fixture
async def proxy(localstripe_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(localstripe_url).running() as made:
        yield made


async def drop(_: Head, forward: Callable[[], Awaitable[bytes]]) -> None:
    """Let the request through and cut the connection where the answer should be."""
    await forward()


@pytest.mark.parametrize(
    ("amount_minor", "currency", "at_stripe"),
    [(1234, "USD", 1234), (500, "JPY", 500), (500, "ISK", 50000), (50000, "MGA", 500), (5120, "KWD", 5120)],
)
async def test_register_then_charge_takes_the_money_once(
    provider: StripeProvider, outside: Outside, amount_minor: int, currency: str, at_stripe: int
) -> None:
    method = await outside.card(GOOD_CARD)
    intent = await registered(provider, charge_of(provider, method, amount_minor=amount_minor, currency=currency))
    assert await outside.charges(intent) == []
    outcome = await provider.send(intent)
    assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, intent.provider_reference)
    assert (outcome.amount_minor, outcome.currency, outcome.reference) == (amount_minor, currency, intent.reference)
    assert outcome.is_live is False
    [taken] = await outside.charges(intent)
    assert (taken["amount"], taken["currency"]) == (at_stripe, currency.lower())


async def test_A2_a_crash_after_creating_leaves_an_intent_that_charges_nothing(
    provider: StripeProvider, outside: Outside
) -> None:
    intent = charge_of(provider, await outside.card(GOOD_CARD))
    await registered(provider, intent)  # and the process dies before it stores the id
    again = await registered(provider, intent)
    assert (await provider.send(again)).kind is OutcomeKind.APPROVED
    assert len(await outside.intents(intent)) == 2
    assert len(await outside.charges(intent)) == 1
    # Whoever lost the id finds the one that took the money, not the one left over.
    assert (await provider.look_up(intent)).provider_reference == again.provider_reference


async def test_A1_A3_a_lost_answer_is_unknown_and_a_look_up_settles_it(proxy: Proxy, outside: Outside) -> None:
    async with stripe_at(proxy.url) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = drop
        outcome = await provider.send(intent)
        assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.UNKNOWN, intent.provider_reference)
        found = await provider.look_up(intent)
    assert (found.kind, found.amount_minor, found.reference) == (OutcomeKind.APPROVED, 1234, intent.reference)
    assert len(await outside.charges(intent)) == 1
    confirmations = [request for request in proxy.requests if request.endswith("/confirm")]
    assert confirmations == [f"POST /v1/payment_intents/{intent.provider_reference}/confirm"]


async def test_A3_confirming_again_without_keys_still_charges_once(proxy: Proxy, outside: Outside) -> None:
    async with stripe_at(proxy.url) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = drop
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
        proxy.on_moving = None
        assert (await provider.send(intent)).kind is OutcomeKind.APPROVED
    assert len(await outside.charges(intent)) == 1


async def test_A2_a_request_lost_on_the_way_is_seen_as_not_charged(proxy: Proxy, outside: Outside) -> None:
    async def lose(_: Head, __: Callable[[], Awaitable[bytes]]) -> None:
        return None

    async with stripe_at(proxy.url) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = lose
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
        assert (await provider.look_up(intent)).kind is OutcomeKind.NOT_SENT
    assert await outside.charges(intent) == []


async def test_A1_a_slow_answer_is_unknown_at_the_deadline(proxy: Proxy, outside: Outside) -> None:
    async def stall(_: Head, forward: Callable[[], Awaitable[bytes]]) -> None:
        await forward()
        await asyncio.sleep(3)

    async with stripe_at(proxy.url, call_deadline_s=1) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = stall
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
        assert (await provider.look_up(intent)).kind is OutcomeKind.APPROVED
    assert len(await outside.charges(intent)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nStripe-Should-Retry: true\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 33\r\n\r\n{"error": {"type": "api_error"}}\n',
        b'HTTP/1.1 409 Conflict\r\nContent-Length: 35\r\n\r\n{"error": {"code": "lock_timeout"}}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",  # and then nothing more
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
        b"no HTTP at all\r\n\r\n",
    ],
)
async def test_A10_A11_one_request_goes_out_whatever_comes_back(proxy: Proxy, outside: Outside, answer: bytes) -> None:
    async def answer_and_end(_: Head, __: Callable[[], Awaitable[bytes]]) -> bytes:
        return answer

    async with stripe_at(proxy.url, call_deadline_s=2) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = answer_and_end
        before = len(proxy.requests)
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
        assert len(proxy.requests) == before + 1


@pytest.mark.parametrize("status", [301, 303, 307, 308])
async def test_A13_a_redirect_is_not_followed(proxy: Proxy, outside: Outside, status: int) -> None:
    async def redirect(_: Head, __: Callable[[], Awaitable[bytes]]) -> bytes:
        return f"HTTP/1.1 {status} Moved\r\nLocation: {proxy.url}/elsewhere\r\nContent-Length: 0\r\n\r\n".encode()

    async with stripe_at(proxy.url) as provider:
        intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
        proxy.on_moving = redirect
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
    assert not [request for request in proxy.requests if "elsewhere" in request]
    assert await outside.charges(intent) == []


async def test_a_declined_card_is_declined_every_time_it_is_asked_about(
    provider: StripeProvider, outside: Outside
) -> None:
    intent = await registered(provider, charge_of(provider, await outside.card(DECLINED_CARD)))
    for outcome in (await provider.send(intent), await provider.look_up(intent), await provider.send(intent)):
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "card_declined")
        assert outcome.provider_reference == intent.provider_reference
    assert await outside.charges(intent) == []


async def test_a_card_that_wants_its_holder_waits_without_charging(provider: StripeProvider, outside: Outside) -> None:
    intent = await registered(provider, charge_of(provider, await outside.card(AUTHENTICATED_CARD)))
    # Stripe declines this with error_on_requires_action, which localstripe does not know: there it stays pending.
    assert (await provider.send(intent)).kind is OutcomeKind.PENDING
    assert (await provider.look_up(intent)).kind is OutcomeKind.PENDING
    assert await outside.charges(intent) == []


async def test_a_cancelled_intent_is_a_decline(provider: StripeProvider, outside: Outside) -> None:
    intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
    assert intent.provider_reference is not None
    await outside.cancel(intent.provider_reference)
    for outcome in (await provider.send(intent), await provider.look_up(intent)):
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "canceled")


async def test_an_unknown_payment_method_is_refused_when_created(provider: StripeProvider) -> None:
    outcome = await provider.register(charge_of(provider, "pm_nobody"))
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "invalid_request")


async def test_A14_nothing_is_found_where_nothing_was_made(provider: StripeProvider, outside: Outside) -> None:
    intent = charge_of(provider, await outside.card(GOOD_CARD))
    assert (await provider.look_up(intent)).kind is OutcomeKind.NOT_FOUND
    # An id that Stripe once gave and does not know is another account's: no proof that nothing was charged.
    strange = msgspec.structs.replace(intent, provider_reference="pi_nobody")
    assert (await provider.look_up(strange)).kind is OutcomeKind.UNKNOWN
    assert (await provider.send(strange)).kind is OutcomeKind.UNKNOWN


async def test_a_wrong_key_does_nothing(localstripe_url: str, provider: StripeProvider, outside: Outside) -> None:
    intent = await registered(provider, charge_of(provider, await outside.card(GOOD_CARD)))
    async with stripe_at(localstripe_url, api_key="wrong") as stranger:
        assert (await stranger.register(intent)).kind is OutcomeKind.NOT_SENT
        assert (await stranger.send(intent)).kind is OutcomeKind.NOT_SENT
        assert (await stranger.look_up(intent)).kind is OutcomeKind.UNKNOWN
    assert len(await outside.intents(intent)) == 1
    assert await outside.charges(intent) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_A12_a_host_that_is_not_there_was_sent_nothing(provider: StripeProvider, scheme: str) -> None:
    intent = charge_of(provider, "pm_1")
    async with stripe_at(f"{scheme}://127.0.0.1:{free_port()}") as nowhere:
        assert (await nowhere.register(intent)).kind is OutcomeKind.NOT_SENT
        sent = msgspec.structs.replace(intent, provider_reference="pi_1")
        outcome = await nowhere.send(sent)
        assert (outcome.kind, outcome.cause) == (OutcomeKind.NOT_SENT, "not connected")
        assert (await nowhere.look_up(sent)).kind is OutcomeKind.UNKNOWN


async def test_A12_a_host_without_a_name_was_sent_nothing(provider: StripeProvider) -> None:
    sent = msgspec.structs.replace(charge_of(provider, "pm_1"), provider_reference="pi_1")
    async with stripe_at("http://stripe.invalid") as nowhere:
        assert (await nowhere.send(sent)).kind is OutcomeKind.NOT_SENT


async def test_A12_a_failed_tls_handshake_sent_nothing(proxy: Proxy, provider: StripeProvider) -> None:
    sent = msgspec.structs.replace(charge_of(provider, "pm_1"), provider_reference="pi_1")
    async with asyncio.timeout(10), stripe_at(proxy.url.replace("http:", "https:")) as plain:
        assert (await plain.send(sent)).kind is OutcomeKind.NOT_SENT
    assert proxy.requests == []


async def test_many_at_once_share_a_client(provider: StripeProvider, outside: Outside) -> None:
    charges = [await registered(provider, charge_of(provider, await outside.card(GOOD_CARD))) for _ in range(20)]
    outcomes = await asyncio.gather(*(provider.send(intent) for intent in charges))
    assert [(outcome.kind, outcome.reference) for outcome in outcomes] == [
        (OutcomeKind.APPROVED, intent.reference) for intent in charges
    ]


class TestConformance(ProviderConformance):
    """Every case of the suite; the wire cuts the answers to the cards that are to be dropped."""

    @pytest.fixture
    async def provider(self, proxy: Proxy, outside: Outside) -> AsyncIterator[StripeProvider]:
        async def drop_some(_: Head, forward: Callable[[], Awaitable[bytes]]) -> bytes | None:
            answer = await forward()
            return None if any(method.encode() in answer for method in outside.dropped) else answer

        proxy.on_moving = drop_some
        async with stripe_at(proxy.url) as made:
            yield made

    @pytest.fixture
    async def unreachable(self) -> AsyncIterator[StripeProvider]:
        async with stripe_at(f"http://127.0.0.1:{free_port()}") as nowhere:
            yield nowhere

    @pytest.fixture
    def bench(self, outside: Outside) -> Outside:
        return outside
