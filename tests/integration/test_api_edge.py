"""The edge over real HTTP: bodies that must be refused, keys and their replays, and clients that go away."""

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import structlog
from tests.integration.running import RunningGateway, checkout, encode_json, gateway_server, run_gateway, simulator_url

from coatcheck.clock import ManualClock
from coatcheck.logs import configure_logs
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.validation import parse_payment_request

__all__ = ["gateway_server", "simulator_url"]

PAN = "4242424242424242"


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


async def payments_in(store: Store) -> int:
    return int(await store.pool.fetchval("SELECT count(*) FROM payment"))


async def done(server: RunningGateway, key: str, payment_id: str) -> dict[str, Any]:
    """Ask until a payment is done."""
    async with asyncio.timeout(10):
        while True:
            answer = await server.ask("GET", f"/v1/payments/{payment_id}", key)
            assert answer.status == 200
            if answer.body["is_payment_done"]:
                body: dict[str, Any] = answer.body
                return body
            await asyncio.sleep(0.02)


async def talk(server: RunningGateway, sent: bytes, *, within_s: float = 10) -> bytes:
    """Send bytes as they are and read until the server closes, or has been silent for a moment after its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), within_s)
    writer.close()
    await writer.wait_closed()
    return head


# Bodies


async def test_a_body_too_large_is_a_413_however_it_is_sent(
    gateway_server: RunningGateway, key: str, store: Store
) -> None:
    limit = gateway_server.gateway.settings.body_limit_bytes
    body = encode_json(checkout("c0"))
    at_the_limit = await gateway_server.ask(
        "POST", "/v1/payments", key, data=body + b" " * (limit - len(body)), headers={"Idempotency-Key": "k"}
    )
    assert at_the_limit.status == 201
    beyond = body.replace(b"c0", b"c1") + b" " * (limit - len(body) + 1)
    whole = await gateway_server.ask("POST", "/v1/payments", key, data=beyond, headers={"Idempotency-Key": "k1"})
    assert (whole.status, whole.body["code"]) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(beyond), 10_000):
            yield beyond[start : start + 10_000]

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": "k2"}
    url = gateway_server.url + "/v1/payments"
    async with gateway_server.session.post(url, data=chunks(), headers=headers) as answer:
        assert answer.status == 413
    assert await payments_in(store) == 1


async def test_a_slow_body_is_a_408_and_others_are_served_meanwhile(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url, settings={"body_deadline_s": 1}) as server:
        key = await server.make_key()
        head = f"POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        head += "Content-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 500\r\n\r\n"
        silent = asyncio.create_task(talk(server, head.encode()))
        cut_off = asyncio.create_task(talk(server, head.encode() + b'{"checkout_id": '))
        assert (await server.pay(key, checkout("c0"), Idempotency_Key="k0")).status == 201
        for answer in await asyncio.gather(silent, cut_off):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"application/problem+json" in answer


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_another_content_type_is_a_415(gateway_server: RunningGateway, key: str, content_type: str) -> None:
    answer = await gateway_server.ask(
        "POST",
        "/v1/payments",
        key,
        data=encode_json(checkout("c0")),
        headers={"Content-Type": content_type, "Idempotency-Key": "k"},
    )
    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")
    suited = await gateway_server.ask(
        "POST",
        "/v1/payments",
        key,
        data=encode_json(checkout("c0")),
        headers={"Content-Type": "Application/JSON; charset=utf-8", "Idempotency-Key": "k"},
    )
    assert suited.status == 201


GOOD = encode_json(checkout("c0"))
MALFORMED = {
    "empty": b"",
    "cut off": GOOD[:-1],
    "two": GOOD + GOOD,
    "a list": b"[" + GOOD + b"]",
    "NUL": GOOD.replace(b"buyer-7", b"buyer\\u00007"),
    "raw NUL": GOOD.replace(b"buyer-7", b"buyer\x007"),
    "NaN": GOOD.replace(b'"12.34"', b"NaN"),
    "Infinity": GOOD.replace(b'"12.34"', b"-Infinity"),
    "duplicate key": GOOD.replace(b'"checkout_id"', b'"checkout_id": "other", "checkout_id"'),
    "duplicate nested key": GOOD.replace(b'"amount"', b'"amount": "1.00", "amount"'),
    "lone surrogate": GOOD.replace(b"buyer-7", b"\\ud800"),
    "not UTF-8": GOOD.replace(b"buyer-7", b"\xff\xfe"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "beyond 2^53": GOOD.replace(b'"12.34"', b"9007199254740993"),
    "deep": b'{"buyer":' * 100 + b"{}" + b"}" * 100,
    "deep list": GOOD.replace(b'"buyer-7"', b"[" * 2000 + b"]" * 2000),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_C16_a_body_that_is_not_strict_json_is_a_400(
    gateway_server: RunningGateway, key: str, store: Store, name: str
) -> None:
    answer = await gateway_server.ask(
        "POST", "/v1/payments", key, data=MALFORMED[name], headers={"Idempotency-Key": "k"}
    )
    assert (answer.status, answer.body["code"]) == (400, "malformed_body"), answer.raw
    assert answer.headers["content-type"] == "application/problem+json"
    assert await payments_in(store) == 0


async def test_all_problems_of_a_request_are_told_and_its_key_stays_free(
    gateway_server: RunningGateway, key: str
) -> None:
    body = checkout("c0", orders=3)
    body["payment_orders"][0]["amount"] = "0.00"
    body["payment_orders"][1]["currency"] = "EURO"
    body["payment_orders"][2]["payment_order_id"] = "c0-0"
    body["bayer"] = body.pop("buyer")
    answer = await gateway_server.pay(key, body, Idempotency_Key="k")
    assert (answer.status, answer.body["code"]) == (422, "invalid_request")
    assert [problem["pointer"] for problem in answer.body["problems"]] == [
        "/bayer",
        "/buyer",
        "/payment_orders/0/amount",
        "/payment_orders/1/currency",
        "/payment_orders/2/payment_order_id",
    ]
    assert (await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")).status == 201


# Card numbers


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that this process logs, at the most talkative level."""
    written = io.StringIO()
    configure_logs("debug", "json", written)
    yield written
    structlog.reset_defaults()


async def rows_of(owner: asyncpg.Connection) -> str:
    """Everything in the database, as text."""
    names = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    tables = [await owner.fetch(f'SELECT t::text FROM "{name[0]}" AS t') for name in names]
    return "\n".join([row[0] for table in tables for row in table])


def with_note(note: str) -> bytes:
    return encode_json(checkout("c0", metadata={"note": note}))


KEYED = {"Idempotency-Key": "k"}
SPACED = "4242 4242 4242 4242"
# A card number somewhere in a request: its method, path, body and headers.
WITH_CARD: dict[str, tuple[str, str, bytes | None, dict[str, str]]] = {
    "token": ("POST", "/v1/payments", GOOD.replace(b"tok_approve", PAN.encode()), KEYED),
    "metadata": ("POST", "/v1/payments", with_note(f"card {SPACED}, thanks"), KEYED),
    "name": ("POST", "/v1/payments", encode_json(checkout("c0", metadata={PAN: "x"})), KEYED),
    "nested": ("POST", "/v1/payments", GOOD.replace(b'"buyer-7"', b'{"a": [{"pan": "4242-4242-4242-4242"}]}'), KEYED),
    "base64": ("POST", "/v1/payments", with_note(b64encode(f"pan={PAN}".encode()).decode()), KEYED),
    "number": ("POST", "/v1/payments", GOOD.replace(b'"12.34"', PAN.encode()), KEYED),
    "escapes": (
        *("POST", "/v1/payments"),
        GOOD.replace(b"tok_approve", "".join(f"\\u{ord(digit):04x}" for digit in PAN).encode()),
        KEYED,
    ),
    "not JSON": ("POST", "/v1/payments", b"card=" + PAN.encode(), KEYED),
    "key in the header": ("POST", "/v1/payments", GOOD, {"Idempotency-Key": PAN}),
    "key in the body": ("POST", "/v1/payments", encode_json(checkout("c0", idempotency_key=f"order-{PAN}")), {}),
    "query of a POST": ("POST", f"/v1/payments?card={PAN}", GOOD, KEYED),
    "query": ("GET", f"/v1/payments?checkout_id={SPACED.replace(' ', '%20')}", None, {}),
    "path": ("GET", f"/v1/payments/{PAN}", None, {}),
    "escaped path": ("GET", f"/v1/payment_orders/{PAN[:4]}%2D{PAN[4:]}", None, {}),
    "path that leads nowhere": ("GET", f"/cards/{PAN}", None, {}),
    "method that is not taken": ("DELETE", f"/v1/payments/{PAN}", None, {}),
}


@pytest.mark.parametrize("place", WITH_CARD)
async def test_PAN_guard_refuses_a_card_number_and_keeps_nothing_of_it(
    gateway_server: RunningGateway, key: str, owner: asyncpg.Connection, logged: io.StringIO, place: str
) -> None:
    method, path, data, headers = WITH_CARD[place]
    answer = await gateway_server.ask(method, path, key, data=data, headers=headers)
    assert (answer.status, answer.body["code"]) == (422, "card_number_refused"), answer.raw
    told = answer.raw.decode() + repr(answer.headers) + logged.getvalue() + await rows_of(owner)
    told += (await gateway_server.ask("GET", "/metrics")).raw.decode()
    digits = "".join(character for character in told if character not in " -.%")
    assert PAN not in digits
    assert PAN[4:] not in digits


# Idempotency keys


@pytest.mark.parametrize("path", ["/nowhere", "/pay/pay_dpgs5zdhcp7p3nlvvnjrb7o7cq", "/v1/payments"])
async def test_PAN_guard_looks_at_the_key_of_every_request(gateway_server: RunningGateway, key: str, path: str) -> None:
    refused = await gateway_server.ask("GET", path, key, headers={"Idempotency-Key": PAN})
    assert refused.body["code"] == "card_number_refused"


async def test_B3_a_payment_without_a_key_is_a_400_that_says_how(gateway_server: RunningGateway, key: str) -> None:
    missing = await gateway_server.pay(key, checkout("c0"))
    assert (missing.status, missing.body["code"]) == (400, "idempotency_key_missing")
    assert "Idempotency-Key" in missing.body["detail"]
    differing = await gateway_server.pay(key, checkout("c0", idempotency_key="a"), Idempotency_Key="b")
    assert (differing.status, differing.body["code"]) == (400, "idempotency_key_mismatch")
    for invalid in ("", '""', '"a', "a b", "k" * 256, "schl\u00fcssel"):
        answer = await gateway_server.pay(key, checkout("c0"), Idempotency_Key=invalid)
        assert (answer.status, answer.body["code"]) == (400, "idempotency_key_invalid"), invalid
    same = await gateway_server.pay(key, checkout("c0", idempotency_key="a"), Idempotency_Key="a")
    assert same.status == 201


async def test_B1_B2_the_same_request_gets_the_same_bytes_however_its_key_is_written(
    gateway_server: RunningGateway, key: str
) -> None:
    first = await gateway_server.pay(key, checkout("c0", orders=2), Idempotency_Key="k-1")
    assert first.status == 201
    assert "idempotent-replayed" not in first.headers
    again = [
        await gateway_server.pay(key, checkout("c0", orders=2), Idempotency_Key="k-1"),
        await gateway_server.pay(key, checkout("c0", orders=2), Idempotency_Key='"k-1"'),
        await gateway_server.pay(key, checkout("c0", orders=2, idempotency_key="k-1")),
        await gateway_server.pay(key, dict(reversed(checkout("c0", orders=2).items())), Idempotency_Key="k-1"),
        await gateway_server.ask(
            *("POST", "/v1/payments", key),
            data=encode_json(checkout("c0", orders=2)).replace(b'"1.00"', b'"1"'),
            headers={"Idempotency-Key": "k-1"},
        ),
    ]
    for answer in again:
        assert (answer.status, answer.raw) == (201, first.raw)
        assert answer.headers["idempotent-replayed"] == "true"
    assert [await gateway_server.charges(f"c0-{place}") for place in range(2)] == [1, 1]


@pytest.mark.parametrize("change", ["amount", "token", "buyer", "metadata", "order", "checkout"])
async def test_B2_the_same_key_with_another_request_is_a_422(
    gateway_server: RunningGateway, key: str, change: str
) -> None:
    first = await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")
    other = {
        "amount": checkout("c0") | {"payment_orders": [checkout("c0")["payment_orders"][0] | {"amount": "12.35"}]},
        "token": checkout("c0", token="tok_approve.other"),
        "buyer": checkout("c0", buyer={"reference": "buyer-8"}),
        "metadata": checkout("c0", metadata={"a": "b"}),
        "order": checkout("c0", orders=2),
        "checkout": checkout("c1"),
    }[change]
    answer = await gateway_server.pay(key, other, Idempotency_Key="k")
    assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")
    assert (await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")).raw == first.raw
    assert await gateway_server.charges("c0-0") == 1
    assert await gateway_server.charges("c0-1") == await gateway_server.charges("c1-0") == 0


async def test_a_checkout_under_a_new_key_is_the_same_payment_or_a_conflict(
    gateway_server: RunningGateway, key: str
) -> None:
    first = await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k1")
    same = await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k2")
    assert (same.status, same.raw) == (201, first.raw)
    other = await gateway_server.pay(key, checkout("c0", orders=2), Idempotency_Key="k3")
    assert (other.status, other.body["code"]) == (409, "checkout_conflict")
    assert first.body["payment_id"] in other.body["detail"]
    assert (await gateway_server.charges("c0-0"), await gateway_server.charges("c0-1")) == (1, 0)


async def test_an_order_of_another_payment_is_a_conflict_and_nothing_of_the_new_one_is_charged(
    gateway_server: RunningGateway, key: str, store: Store
) -> None:
    await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k1")
    body = checkout("c1", orders=2)
    body["payment_orders"][1]["payment_order_id"] = "c0-0"
    answer = await gateway_server.pay(key, body, Idempotency_Key="k2")
    assert (answer.status, answer.body["code"]) == (409, "payment_order_conflict")
    assert "c0-0" in answer.body["detail"]
    assert await payments_in(store) == 1
    assert (await gateway_server.charges("c1-0"), await gateway_server.charges("c0-0")) == (0, 1)
    corrected = await gateway_server.pay(key, checkout("c1"), Idempotency_Key="k2")
    assert corrected.status == 201  # a refused request leaves its key free


@pytest.mark.parametrize("keys", ["one", "each"])
async def test_B1_B4_twenty_at_once_charge_once(
    gateway_server: RunningGateway, key: str, store: Store, keys: str
) -> None:
    answers = await asyncio.gather(
        *[
            gateway_server.pay(
                key,
                checkout("c0", orders=3),
                Idempotency_Key="k" if keys == "one" else f"k{place}",
                Prefer="wait=10",
            )
            for place in range(20)
        ]
    )
    assert {answer.status for answer in answers} == {201}
    assert len({answer.raw for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert [await gateway_server.charges(f"c0-{place}") for place in range(3)] == [1, 1, 1]
    assert await payments_in(store) == 1


async def test_B1_while_the_first_runs_a_second_is_told_when_to_come_again(
    gateway_server: RunningGateway, key: str
) -> None:
    body = checkout("c0", token="tok_slow")
    first = asyncio.create_task(gateway_server.pay(key, body, Idempotency_Key="k"))
    await asyncio.sleep(0.3)
    second = await gateway_server.pay(key, body, Idempotency_Key="k")
    assert (second.status, second.body["code"]) == (409, "request_in_progress")
    assert int(second.headers["retry-after"]) >= 1
    waiting = await gateway_server.pay(key, body, Idempotency_Key="k", Prefer="wait=10")
    assert (waiting.status, waiting.raw) == (201, (await first).raw)
    assert await gateway_server.charges("c0-0") == 1


async def test_F10_who_waits_is_told_by_nobody_and_finds_what_became_of_it(
    gateway_server: RunningGateway, key: str
) -> None:
    """What a process that died had begun is finished by recovery, which knows of nobody who waits."""
    gateway, body = gateway_server.gateway, checkout("c0")
    caller = await gateway.keys.authenticate(f"Bearer {key}".encode())
    request = parse_payment_request(encode_json(body), body_depth=8, orders_limit=8)
    assert (await gateway.payments.accept(caller, request, "k")).operations
    waiting = asyncio.create_task(gateway_server.pay(key, body, Idempotency_Key="k", Prefer="wait=20"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert await gateway.operations.release() == 1
    answer = await waiting
    assert (answer.status, answer.body["status"], answer.headers["idempotent-replayed"]) == (201, "SUCCESS", "true")
    assert await gateway_server.charges("c0-0") == 1


async def test_B6_a_key_lives_24_hours_and_the_checkout_for_ever(store: Store, simulator_url: str) -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    async with run_gateway(store, simulator_url, clock=clock) as server:
        key = await server.make_key()
        first = await server.pay(key, checkout("c0"), Idempotency_Key="k")
        assert first.status == 201
        clock.advance(timedelta(hours=24) - timedelta(seconds=1))
        early = await server.pay(key, checkout("c1"), Idempotency_Key="k")
        assert (early.status, early.body["code"]) == (422, "idempotency_key_reused")
        clock.advance(timedelta(seconds=2))
        late = await server.pay(key, checkout("c1"), Idempotency_Key="k")
        assert late.status == 201
        assert "idempotent-replayed" not in late.headers
        clock.advance(timedelta(days=400))
        same = await server.pay(key, checkout("c0"), Idempotency_Key="k")
        assert (same.status, same.raw) == (201, first.raw)
        other = await server.pay(key, checkout("c0", orders=2), Idempotency_Key="new")
        assert (other.status, other.body["code"]) == (409, "checkout_conflict")
        assert [await server.charges(name) for name in ("c0-0", "c0-1", "c1-0")] == [1, 0, 1]


async def test_B7_a_key_says_nothing_to_another_shop_or_to_nobody(gateway_server: RunningGateway, key: str) -> None:
    first = await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")
    other = await gateway_server.make_key("coats")
    theirs = await gateway_server.pay(other, checkout("c0"), Idempotency_Key="k")
    assert theirs.status == 201
    assert "idempotent-replayed" not in theirs.headers
    assert theirs.body["payment_id"] != first.body["payment_id"]
    assert [await gateway_server.charges("c0-0", shop) for shop in ("hats", "coats")] == [1, 1]
    for headers in ({}, {"Authorization": f"Bearer {key[:-1]}x"}):
        answer = await gateway_server.ask(
            "POST", "/v1/payments", json=checkout("c0"), headers={"Idempotency-Key": "k", **headers}
        )
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated")
        assert first.body["payment_id"] not in answer.raw.decode()


async def test_B7_a_revoked_key_gets_no_replay(store: Store, simulator_url: str, owner: asyncpg.Connection) -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    async with run_gateway(store, simulator_url, clock=clock) as server:
        key = await server.make_key()
        assert (await server.pay(key, checkout("c0"), Idempotency_Key="k")).status == 201
        await owner.execute("UPDATE api_key SET revoked_at = $1", clock.now())
        clock.advance(timedelta(seconds=1))
        assert (await server.pay(key, checkout("c0"), Idempotency_Key="k")).status == 401


async def test_I2_test_and_live_are_separate_worlds(gateway_server: RunningGateway, key: str, store: Store) -> None:
    played = await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")
    live = await gateway_server.make_key(mode=Mode.LIVE)
    real = await gateway_server.pay(live, checkout("c0"), Idempotency_Key="k", Prefer="wait=0")
    assert (played.status, played.body["mode"], real.status, real.body["mode"]) == (201, "test", 202, "live")
    assert played.body["payment_id"] != real.body["payment_id"]
    assert await payments_in(store) == 2
    assert (await gateway_server.ask("GET", f"/v1/payments/{played.body['payment_id']}", live)).status == 404


# Clients that do not wait


async def test_prefer_wait_0_answers_at_once_and_the_work_goes_on(gateway_server: RunningGateway, key: str) -> None:
    body = checkout("c0", token="tok_slow")
    answer = await gateway_server.pay(key, body, Idempotency_Key="k", Prefer="respond-async, wait=0")
    assert answer.status == 202
    assert (answer.body["status"], answer.body["is_payment_done"]) == ("EXECUTING", False)
    assert "idempotent-replayed" not in answer.headers
    finished = await done(gateway_server, key, answer.body["payment_id"])
    assert finished["status"] == "SUCCESS"
    again = await gateway_server.pay(key, body, Idempotency_Key="k", Prefer="wait=0")
    assert (again.status, again.body) == (201, finished)
    assert await gateway_server.charges("c0-0") == 1


async def test_a_pending_payment_is_answered_at_once_and_again_without_a_conflict(
    gateway_server: RunningGateway, key: str
) -> None:
    body = checkout("c0", token="tok_pending")
    async with asyncio.timeout(10):  # well below response_wait_s: nobody waits for a provider that decides later
        answers = [await gateway_server.pay(key, body, Idempotency_Key="k") for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202]
    assert {answer.body["status"] for answer in answers} == {"PENDING"}


async def test_A17_a_client_that_goes_away_leaves_its_payment_finishing(
    gateway_server: RunningGateway, key: str, store: Store
) -> None:
    body = encode_json(checkout("c0", token="tok_slow"))
    head = f"POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: k\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", gateway_server.port)
    writer.write(head.encode() + body)
    await writer.drain()
    async with asyncio.timeout(5):
        while not await payments_in(store):  # noqa: ASYNC110 - a row is waited for
            await asyncio.sleep(0.01)
    writer.transport.abort()  # a reset, in the middle of the PSP's second
    listed = await gateway_server.ask("GET", "/v1/payments?checkout_id=c0", key)
    assert [payment["status"] for payment in listed.body["payments"]] == ["EXECUTING"]
    finished = await done(gateway_server, key, listed.body["payments"][0]["payment_id"])
    assert finished["status"] == "SUCCESS"
    assert await gateway_server.charges("c0-0") == 1


async def test_a_client_that_goes_away_before_its_body_is_whole_leaves_nothing(
    gateway_server: RunningGateway, key: str, store: Store, logged: io.StringIO
) -> None:
    head = f"POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: k\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", gateway_server.port)
    writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n" + GOOD[:100])
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.transport.abort()
    await asyncio.sleep(0.2)
    assert (await gateway_server.pay(key, checkout("c0"), Idempotency_Key="k")).status == 201
    assert await payments_in(store) == 1
    assert [line for line in logged.getvalue().splitlines() if json.loads(line)["level"] in {"error", "critical"}] == []


# Addresses and methods


BESIDE = {
    "paid": ({}, checkout("beside")),
    "no key": ({"Authorization": ""}, checkout("c1")),
    "no idempotency key": ({"Idempotency-Key": ""}, checkout("c1")),
    "other type": ({"Content-Type": "text/plain"}, checkout("c1")),
    "not json": ({}, "no"),
    "many faults": ({}, {"checkout_id": 1}),
    "key of another": ({"Idempotency-Key": "beside"}, checkout("c2")),
    "card number": ({"Idempotency-Key": PAN}, checkout("c1")),
}


@pytest.mark.parametrize("name", BESIDE)
async def test_a_checkout_past_the_framework_is_answered_as_by_the_framework(
    gateway_server: RunningGateway, key: str, name: str
) -> None:
    """With a slash at the end an address is the framework's."""
    headers, body = BESIDE[name]
    await gateway_server.pay(key, checkout("beside"), Idempotency_Key="beside")
    sent = {"Idempotency-Key": "beside", "Authorization": f"Bearer {key}"} | headers
    past, through = [
        await gateway_server.ask("POST", path, json=body, headers={each: sent[each] for each in sent if sent[each]})
        for path in ("/v1/payments", "/v1/payments/")
    ]
    assert (past.status, past.raw) == (through.status, through.raw)
    assert past.headers | {"date": ""} == through.headers | {"date": ""}
    assert (past.status == 201) is (name == "paid")
    assert past.headers["content-type"] == ("application/json" if name == "paid" else "application/problem+json")


async def test_a_fault_of_ours_is_told_the_same_way_past_the_framework(
    gateway_server: RunningGateway, key: str
) -> None:
    gateway_server.gateway.keys.authenticate = None  # type: ignore[method-assign, assignment]
    past, through = [
        await gateway_server.ask("POST", path, key, json=checkout("c"), headers={"Idempotency-Key": "k"})
        for path in ("/v1/payments", "/v1/payments/")
    ]
    assert past.status == through.status == 500
    assert past.body | {"instance": ""} == through.body | {"instance": ""}


async def test_what_is_not_an_address_or_a_method_is_a_problem_too(gateway_server: RunningGateway, key: str) -> None:
    nowhere = await gateway_server.ask("GET", "/v1/refounds", key)
    assert (nowhere.status, nowhere.body["code"]) == (404, "not_found")
    for method, path, allowed in (
        ("DELETE", "/v1/payments", {"GET", "POST"}),
        ("PUT", "/v1/payments/pay_x", {"GET"}),
        ("POST", "/v1/payments/pay_x/events", {"GET"}),
        ("PATCH", "/v1/payment_orders/x", {"GET"}),
        ("POST", "/v1/sellers/x/wallet", {"GET"}),
        ("POST", "/v1/ledger/trial_balance", {"GET"}),
        ("POST", "/schema", {"GET"}),
    ):
        answer = await gateway_server.ask(method, path, key)
        assert (answer.status, answer.body["code"]) == (405, "method_not_allowed"), path
        assert answer.headers["content-type"] == "application/problem+json"
        assert {name.strip() for name in answer.headers["allow"].split(",")} - {"OPTIONS"} == allowed
    options = await gateway_server.ask("OPTIONS", "/v1/payments")
    assert (options.status, options.headers["allow"], options.raw) == (204, "GET, OPTIONS, POST", b"")
    assert (await gateway_server.ask("OPTIONS", "/v1/payment_orders/x")).headers["allow"] == "GET, OPTIONS"
    head = await gateway_server.ask("HEAD", "/v1/payments", key)
    assert (head.status, head.raw) == (405, b"")
    assert "GET" in head.headers["allow"]


async def test_a_request_line_that_is_not_ascii_is_refused_and_the_server_lives(
    gateway_server: RunningGateway, key: str
) -> None:
    for path in (b"/v1/payments/\xc3\xa9", b"/v1/payments/\xff?\xff"):
        answer = await talk(gateway_server, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ", b"HTTP/1.1 404 ")), answer
    assert (await gateway_server.ask("GET", "/v1/payments", key)).status == 200
