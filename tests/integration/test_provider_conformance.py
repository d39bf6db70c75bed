"""The simulator's adapter against the simulator, a real process, and against a PSP that answers rubbish."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from tests.conformance import Card, LifecycleConformance, Position, ProviderConformance, intent

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, Intent
from coatcheck.providers.simulated import MAX_ANSWER_BYTES, SimulatedProvider
from coatcheck.states import Mode

API_KEY = "sk_sim_test_shop"
DAY = timedelta(days=1)


class Address(str):
    """Where a simulator listens, and the process that does."""

    __slots__ = ("process",)
    process: subprocess.Popen[str]


@contextmanager
def simulator_process(*arguments: str) -> Iterator[Address]:
    """Run the simulator as a user would; yields its address."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and constants
        [sys.executable, "-m", "coatcheck.simulator", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"simulator ready on (http://127\.0\.0\.1:[0-9]+)\n", line)
        assert found is not None, line
        address = Address(found[1])
        address.process = process
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with process:  # closes its output, whatever it ends with
            assert process.wait(10) == 0


@pytest.fixture(scope="module")
def simulator_url() -> Iterator[str]:
    with simulator_process("--slow-s", "2") as url:
        yield url


class Outside:
    """The simulator's own books and its dial, asked past the adapter."""

    decline_code = "insufficient_funds"

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def token(self, card: Card) -> str:
        return {
            Card.APPROVE: "tok_approve.visa1",
            Card.DECLINE: "tok_decline_insufficient_funds",
            Card.DROP_AFTER_CHARGE: "tok_drop",
        }[card]

    async def charged(self, intent: Intent) -> list[tuple[int, str]]:
        made = await self.charges(intent)
        return [(charge["amount"], charge["currency"]) for charge in made if charge["status"] == "succeeded"]

    async def position(self, charge: Intent) -> Position:
        made = await self.charges(charge)
        captured = sum(each["amount_captured"] for each in made)
        authorized = sum(each["amount"] - each["amount_captured"] for each in made if each["status"] == "authorized")
        return Position(authorized, captured, sum(each["amount_refunded"] for each in made))

    async def pay(self, page: Outcome) -> None:
        await self.ask("POST", f"/admin/sessions/{page.provider_reference}/pay", {"token": "tok_approve"})

    async def charges(self, intent: Intent) -> list[dict[str, Any]]:
        """List what was made of a charge, whatever became of it."""
        made: list[dict[str, Any]] = []
        cursor = "0"
        while cursor:
            page = await self.ask("GET", f"/admin/charges?limit=1000&cursor={cursor}")
            made += [charge for charge in page["data"] if charge["reference"] == intent.reference]
            cursor = page["next_cursor"]
        return made

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        async with self._session.request(method, self._url + path, data=data) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@asynccontextmanager
async def outside_of(url: str) -> AsyncIterator[Outside]:
    async with aiohttp.ClientSession() as session:
        yield Outside(url, session)


@pytest.fixture
async def bench(simulator_url: str) -> AsyncIterator[Outside]:
    async with outside_of(simulator_url) as outside:
        yield outside


@asynccontextmanager
async def adapter(url: str, **settings: Any) -> AsyncIterator[SimulatedProvider]:
    settings = {"idempotency_window": DAY, "api_key": API_KEY, **settings}
    made = SimulatedProvider(url, settings.pop("api_key"), **settings)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def provider(simulator_url: str) -> AsyncIterator[SimulatedProvider]:
    async with adapter(simulator_url) as made:
        yield made


@pytest.fixture
async def unreachable() -> AsyncIterator[SimulatedProvider]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with adapter(f"http://127.0.0.1:{port}") as made:
        yield made


def charge_with(provider: SimulatedProvider, token: str, *, amount_minor: int = 1234, currency: str = "EUR") -> Intent:
    return intent(
        provider,
        ChargeRequest(
            operation_id=uuid4(),
            amount_minor=amount_minor,
            currency=currency,
            token=token,
            seller_account="seller-1",
            payment_order_id="order-1",
        ),
    )


class TestSimulatedProvider(ProviderConformance):
    """The suite every adapter passes."""


class TestSimulatedLifecycle(LifecycleConformance):
    """The suite of adapters that do more than charge."""


# What only this PSP does


async def test_A3_after_the_window_the_same_key_charges_again() -> None:
    with simulator_process("--key-window-s", "0.3") as url:
        async with outside_of(url) as outside, adapter(url) as provider:
            intent = charge_with(provider, "tok_approve")
            first = await provider.send(intent)
            assert (await provider.send(intent)).provider_reference == first.provider_reference
            await asyncio.sleep(0.4)
            assert (await provider.send(intent)).provider_reference != first.provider_reference
            assert await outside.charged(intent) == [(1234, "EUR")] * 2
            assert (await outside.ask("GET", "/admin/books"))["charged_twice"] == [intent.reference]


async def test_A3_forgetting_the_keys_charges_again(provider: SimulatedProvider, bench: Outside) -> None:
    intent = charge_with(provider, "tok_approve")
    await provider.send(intent)
    await bench.ask("POST", "/admin/forget-keys")
    await provider.send(intent)
    assert len(await bench.charged(intent)) == 2


async def test_A4_a_stored_500_is_replayed_and_only_a_look_up_tells(
    provider: SimulatedProvider, bench: Outside
) -> None:
    intent = charge_with(provider, "tok_error_after")
    for _ in range(2):
        outcome = await provider.send(intent)
        assert (outcome.kind, outcome.is_server_error) == (OutcomeKind.UNKNOWN, True)
    assert (await provider.look_up(intent)).kind is OutcomeKind.APPROVED
    assert len(await bench.charged(intent)) == 1


async def test_A5_a_psp_that_stores_no_errors_charges_again_unless_asked_first() -> None:
    with simulator_process("--no-cache-errors") as url:
        async with outside_of(url) as outside, adapter(url, replays_errors=False) as provider:
            assert provider.capabilities.look_up_before_resend
            careful, careless = charge_with(provider, "tok_error_after"), charge_with(provider, "tok_error_after")
            for intent in (careful, careless):
                assert (await provider.send(intent)).is_server_error
            assert (await provider.look_up(careful)).kind is OutcomeKind.APPROVED
            assert (await provider.send(careless)).kind is OutcomeKind.APPROVED
            assert (len(await outside.charged(careful)), len(await outside.charged(careless))) == (1, 2)


async def test_an_error_before_charging_lets_the_second_sending_through(
    provider: SimulatedProvider, bench: Outside
) -> None:
    intent = charge_with(provider, "tok_error_before")
    outcome = await provider.send(intent)
    assert (outcome.kind, outcome.is_server_error) == (OutcomeKind.UNKNOWN, True)
    assert await bench.charged(intent) == []
    assert (await provider.send(intent)).kind is OutcomeKind.APPROVED
    assert len(await bench.charged(intent)) == 1


async def test_429_is_not_sent_and_says_when_to_come_back() -> None:
    with simulator_process("--rate-limit-share", "1", "--retry-after-s", "7", "--max-faults-per-key", "1") as url:
        async with outside_of(url) as outside, adapter(url) as provider:
            intent = charge_with(provider, "tok_approve")
            outcome = await provider.send(intent)
            assert (outcome.kind, outcome.retry_after) == (OutcomeKind.NOT_SENT, timedelta(seconds=7))
            assert await outside.charged(intent) == []
            assert (await provider.send(intent)).kind is OutcomeKind.APPROVED


async def test_A1_a_slow_answer_is_unknown_then_in_use_then_replayed(simulator_url: str, bench: Outside) -> None:
    async with adapter(simulator_url, call_deadline_s=1) as provider:
        intent = charge_with(provider, "tok_slow")
        assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
        in_use = await provider.send(intent)
        assert (in_use.kind, in_use.cause) == (OutcomeKind.UNKNOWN, "the first sending is still running")
        await asyncio.sleep(1.2)
        assert (await provider.send(intent)).kind is OutcomeKind.APPROVED
        assert len(await bench.charged(intent)) == 1


async def test_A16_another_body_under_the_key_is_unknown(provider: SimulatedProvider, bench: Outside) -> None:
    intent = charge_with(provider, "tok_approve")
    await provider.send(intent)
    changed = msgspec.structs.replace(intent, body=intent.body.replace(b"1234", b"1235"))
    outcome = await provider.send(changed)
    assert (outcome.kind, outcome.cause) == (OutcomeKind.UNKNOWN, "another body was sent under this key")
    assert await bench.charged(intent) == [(1234, "EUR")]


async def test_a_token_the_psp_does_not_know_is_its_documented_refusal(provider: SimulatedProvider) -> None:
    outcome = await provider.send(charge_with(provider, "tok_nonsense"))
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "invalid_token")


async def test_a_body_spoilt_on_the_way_is_no_decline(provider: SimulatedProvider) -> None:
    intent = msgspec.structs.replace(charge_with(provider, "tok_approve"), body=b"{")
    assert (await provider.send(intent)).kind is OutcomeKind.NOT_SENT


async def test_a_refused_api_key_is_not_a_decline(simulator_url: str) -> None:
    async with adapter(simulator_url, api_key="sk_sim_test_not-a-key") as provider:
        intent = charge_with(provider, "tok_approve")
        assert (await provider.send(intent)).kind is OutcomeKind.NOT_SENT
        assert (await provider.look_up(intent)).kind is OutcomeKind.UNKNOWN


async def test_I2_a_live_charge_does_not_go_out_under_a_test_key(provider: SimulatedProvider, bench: Outside) -> None:
    intent = msgspec.structs.replace(charge_with(provider, "tok_approve"), mode=Mode.LIVE)
    assert (await provider.send(intent)).kind is OutcomeKind.NOT_SENT
    assert await bench.charged(intent) == []


async def test_B7_one_account_cannot_see_or_replay_another_s_charges(simulator_url: str, bench: Outside) -> None:
    async with adapter(simulator_url) as ours, adapter(simulator_url, api_key="sk_sim_test_other") as theirs:
        intent = charge_with(ours, "tok_approve")
        first = await ours.send(intent)
        known = msgspec.structs.replace(intent, provider_reference=first.provider_reference)
        assert (await theirs.look_up(intent)).kind is OutcomeKind.NOT_FOUND
        assert (await theirs.look_up(known)).kind is OutcomeKind.NOT_FOUND
        assert (await theirs.send(intent)).provider_reference != first.provider_reference
        assert len(await bench.charged(intent)) == 2


async def test_a_pending_charge_is_decided_later(provider: SimulatedProvider, bench: Outside) -> None:
    intent = charge_with(provider, "tok_pending")
    outcome = await provider.send(intent)
    assert outcome.kind is OutcomeKind.PENDING
    assert (await provider.look_up(intent)).kind is OutcomeKind.PENDING
    await bench.ask("POST", f"/admin/settle/{outcome.provider_reference}", {"status": "succeeded"})
    assert (await provider.look_up(intent)).kind is OutcomeKind.APPROVED
    assert await bench.charged(intent) == [(1234, "EUR")]


async def test_A14_the_search_lags_and_the_id_does_not(simulator_url: str, bench: Outside) -> None:
    async with adapter(simulator_url) as provider:
        await bench.ask("PUT", "/admin/chaos", {"search_lag_ms": 60_000})
        intent = charge_with(provider, "tok_approve")
        outcome = await provider.send(intent)
        assert (await provider.look_up(intent)).kind is OutcomeKind.NOT_FOUND
        known = msgspec.structs.replace(intent, provider_reference=outcome.provider_reference)
        assert (await provider.look_up(known)).kind is OutcomeKind.APPROVED
        await bench.ask("PUT", "/admin/chaos", {})
        assert (await provider.look_up(intent)).kind is OutcomeKind.APPROVED


async def test_several_charges_of_one_reference_and_the_succeeded_one_wins(
    provider: SimulatedProvider, bench: Outside
) -> None:
    intent = charge_with(provider, "tok_approve")
    succeeded = await provider.send(intent)
    declined = intent.body.replace(b"tok_approve", b"tok_decline_card_declined")
    await bench.ask("POST", "/admin/forget-keys")
    await provider.send(msgspec.structs.replace(intent, body=declined))
    found = await provider.look_up(intent)
    assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, succeeded.provider_reference)


@pytest.mark.parametrize(
    ("token", "field", "truth"),
    [
        ("tok_wrong_amount", "amount_minor", 1234),
        ("tok_wrong_currency", "currency", "EUR"),
        ("tok_wrong_reference", "reference", None),
        ("tok_wrong_mode", "is_live", False),
    ],
)
async def test_A15_the_psp_s_own_words_reach_the_caller(
    provider: SimulatedProvider, token: str, field: str, truth: object
) -> None:
    intent = charge_with(provider, token)
    outcome = await provider.send(intent)
    assert outcome.kind is OutcomeKind.APPROVED
    assert getattr(outcome, field) != (intent.reference if truth is None else truth)


async def until_charged(bench: Outside, intent: Intent) -> None:
    if not await bench.charged(intent):
        await asyncio.sleep(0.01)
        await until_charged(bench, intent)


async def test_A17_a_cancelled_call_in_flight_charges_once(provider: SimulatedProvider, bench: Outside) -> None:
    intent = charge_with(provider, "tok_slow")
    task = asyncio.create_task(provider.send(intent))
    async with asyncio.timeout(1):
        await until_charged(bench, intent)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await provider.look_up(intent)).kind is OutcomeKind.APPROVED
    assert len(await bench.charged(intent)) == 1


async def test_the_dial_drops_answers_and_retries_get_through_to_one_charge_each() -> None:
    with simulator_process("--drop-after-charge-share", "0.5", "--error-before-share", "0.2", "--seed", "7") as url:
        async with outside_of(url) as outside, adapter(url) as provider:
            charges = [charge_with(provider, "tok_approve") for _ in range(60)]
            unclear = 0
            for intent in charges:
                while (await provider.send(intent)).kind is OutcomeKind.UNKNOWN:
                    unclear += 1
            books = await outside.ask("GET", "/admin/books")
            assert unclear == books["faults"]["dropped_after_charge"] + books["faults"]["error_before"] > 60
            assert books["charged_twice"] == []
            assert books["totals"] == {"EUR": {"count": 60, "amount": 60 * 1234}}
            references = await outside.ask("GET", "/admin/references?status=succeeded")
            assert references == {intent.reference: [1, 1234, "EUR"] for intent in charges}


async def test_the_books_and_the_keys_survive_a_restart(tmp_path: Path) -> None:
    books = str(tmp_path / "books.jsonl")
    with simulator_process("--books", books) as url:
        async with adapter(url) as provider:
            intent, pending = charge_with(provider, "tok_approve"), charge_with(provider, "tok_pending")
            first = await provider.send(intent)
            waiting = await provider.send(pending)
    with simulator_process("--books", books) as url:
        async with outside_of(url) as outside, adapter(url) as provider:
            assert (await provider.send(intent)).provider_reference == first.provider_reference
            await outside.ask("POST", f"/admin/settle/{waiting.provider_reference}", {"status": "declined"})
            before = await outside.ask("GET", "/admin/books")
    with simulator_process("--books", books) as url:
        async with outside_of(url) as outside:
            assert await outside.ask("GET", "/admin/books") == before
            assert before["statuses"] == {"succeeded": 1, "declined": 1}


async def test_F12_sigterm_sent_again_and_again_ends_as_one_does() -> None:
    with simulator_process() as url:
        for _ in range(40):
            url.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.005)


async def test_F12_sigterm_lets_a_slow_answer_out() -> None:
    with simulator_process("--slow-s", "0.5") as url:
        async with adapter(url) as provider:
            slow = asyncio.create_task(provider.send(charge_with(provider, "tok_slow")))
            await asyncio.sleep(0.2)
            url.process.send_signal(signal.SIGTERM)
            assert (await slow).kind is OutcomeKind.APPROVED


# A PSP that answers rubbish


class Rubbish:
    """A server that says one thing, whatever it is asked, and keeps the requests: first lines, and under each key."""

    def __init__(self, answer: bytes, *, then_waits: bool = False) -> None:
        self._answer = answer
        self._then_waits = then_waits
        self.requests: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.split(b"\r\n", 1)[0].decode())
            length = re.search(rb"(?i)content-length: ([0-9]+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if key := re.search(rb"(?i)idempotency-key: (\S+)", head):
                self.sent.append((key[1].decode(), body))
            writer.write(self._answer)
            await writer.drain()
            if self._then_waits:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Rubbish"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self


def answer(status: str, body: bytes, content_type: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


GOOD = (
    b'{"id":"ch_1","status":"succeeded","amount":1234,"currency":"EUR","reference":"op_x",'
    b'"decline_code":null,"livemode":false,"created":1}'
)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"HTTP/1.1 ",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n" + GOOD,
        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        answer("201 Created", b"xyz", extra="Content-Encoding: gzip\r\n"),
        answer("201 Created", GOOD[:-9]),
        answer("201 Created", GOOD, "text/html"),
        answer("201 Created", b"<html>Please wait</html>", "text/html"),
        answer("200 OK", GOOD),
        answer("202 Accepted", GOOD),
        answer("201 Created", b""),
        answer("201 Created", b"null"),
        answer("201 Created", b"[" * 5000),
        answer("201 Created", b'"\xff"'),
        answer("201 Created", GOOD.replace(b"succeeded", b"on its way")),
        answer("201 Created", GOOD.replace(b"1234", b'"1234"')),
        answer("201 Created", GOOD.replace(b"1234", b"1234.0")),
        answer("201 Created", GOOD.replace(b'"reference"', b'"reverence"')),
        answer("201 Created", GOOD[:-1] + b" " * MAX_ANSWER_BYTES + b"}"),
        answer("400 Bad Request", b'{"code":"something_new"}'),
        answer("400 Bad Request", b"<html>Bad Request</html>", "text/html"),
        answer("404 Not Found", b'{"code":"not_found"}'),
        answer("402 Payment Required", b'{"code":"invalid_token"}'),
        answer("429 Too Many Requests", b"slow down", "text/plain", "Retry-After: 3\r\n"),
        answer("409 Conflict", b'{"code":"idempotency_key_in_use"}'),
        answer("422 Unprocessable Content", b'{"code":"idempotency_key_reused"}'),
        answer("500 Internal Server Error", b'{"code":"invalid_token"}'),
        answer("502 Bad Gateway", b"<html>", "text/html"),
        answer("503 Service Unavailable", b"", "text/plain", "Retry-After: 9\r\n"),
    ],
)
async def test_A10_A11_what_is_not_the_documented_word_is_unknown_and_sent_once(rubbish: bytes) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url, call_deadline_s=5) as provider:
        outcome = await provider.send(charge_with(provider, "tok_approve"))
        assert outcome.kind is OutcomeKind.UNKNOWN
        assert outcome.cause
        assert outcome.is_server_error is (rubbish[9:10] == b"5")
        assert psp.requests == ["POST /v1/charges HTTP/1.1"]


async def test_the_rubbish_server_can_also_say_something_good() -> None:
    async with Rubbish(answer("201 Created", GOOD)).running() as psp, adapter(psp.url) as provider:
        assert (await provider.send(charge_with(provider, "tok_approve"))).kind is OutcomeKind.APPROVED


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        answer("401 Unauthorized", b'{"code":"invalid_api_key"}'),
        answer("404 Not Found", b"<html>", "text/html"),
        answer("404 Not Found", b'{"code":"not_found"}'),  # to a search: this is not the PSP's address
        answer("429 Too Many Requests", b'{"code":"rate_limited"}'),
        answer("500 Internal Server Error", b'{"code":"internal_error"}'),
        answer("200 OK", b"{}"),
        answer("200 OK", b'{"data":[{"id":"ch_1"}]}'),
        answer("200 OK", b'{"data":[]}', "text/html"),
    ],
)
async def test_A14_a_look_up_without_a_proper_answer_is_unknown(rubbish: bytes) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        assert (await provider.look_up(charge_with(provider, "tok_approve"))).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("rubbish", "kind"),
    [
        (answer("404 Not Found", b'{"code":"not_found"}'), OutcomeKind.NOT_FOUND),
        (answer("404 Not Found", b'{"code":"not_found"}', "text/html"), OutcomeKind.UNKNOWN),
        (answer("404 Not Found", b'{"code":"no_such_host"}'), OutcomeKind.UNKNOWN),
        (answer("404 Not Found", b"not found"), OutcomeKind.UNKNOWN),
        (answer("200 OK", b'{"data":[]}'), OutcomeKind.UNKNOWN),
    ],
)
async def test_A14_only_the_psp_s_own_word_means_that_an_id_is_unknown_to_it(rubbish: bytes, kind: OutcomeKind) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        intent = msgspec.structs.replace(charge_with(provider, "tok_approve"), provider_reference="ch_1")
        assert (await provider.look_up(intent)).kind is kind


async def test_A15_a_search_that_lists_someone_else_s_charge_is_not_found() -> None:
    async with (
        Rubbish(answer("200 OK", b'{"data":[' + GOOD + b"]}")).running() as psp,
        adapter(psp.url) as provider,
    ):
        assert (await provider.look_up(charge_with(provider, "tok_approve"))).kind is OutcomeKind.NOT_FOUND


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_A13_a_redirect_is_not_followed(status: int) -> None:
    async with Rubbish(answer("201 Created", GOOD)).running() as elsewhere:
        moved = answer(f"{status} Moved", b"", "text/plain", f"Location: {elsewhere.url}/v1/charges\r\n")
        async with Rubbish(moved).running() as psp, adapter(psp.url) as provider:
            intent = charge_with(provider, "tok_approve")
            assert (await provider.send(intent)).kind is OutcomeKind.UNKNOWN
            assert (await provider.look_up(intent)).kind is OutcomeKind.UNKNOWN
        assert elsewhere.requests == []


async def test_A1_no_answer_until_the_deadline_is_unknown() -> None:
    async with Rubbish(b"", then_waits=True).running() as psp, adapter(psp.url, call_deadline_s=1) as provider:
        outcome = await provider.send(charge_with(provider, "tok_approve"))
        assert (outcome.kind, outcome.cause) == (OutcomeKind.UNKNOWN, "no answer in time")


@pytest.mark.parametrize("host", ["http://does-not-exist.invalid", "https://127.0.0.1"])
async def test_A12_no_name_and_no_tls_are_not_sent(simulator_url: str, host: str) -> None:
    url = f"{host}:{simulator_url.rpartition(':')[2]}"
    async with adapter(url) as provider:
        assert (await provider.send(charge_with(provider, "tok_approve"))).kind is OutcomeKind.NOT_SENT


async def test_A12_a_connection_that_is_never_accepted_is_not_sent() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            async with adapter(f"http://127.0.0.1:{address[1]}", connect_deadline_s=1, call_deadline_s=5) as provider:
                outcome = await provider.send(charge_with(provider, "tok_approve"))
            assert (outcome.kind, outcome.cause) == (OutcomeKind.NOT_SENT, "connecting took too long")
        finally:
            for filler in fillers:
                filler.close()
