"""Capture and cancel over real HTTP, against the simulator: what is answered, and what the PSP's own books say."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.outside import ScriptedProvider
from tests.integration.running import Answer, RunningGateway, checkout, gateway_server, listening, simulator_url

from coatcheck.providers.protocol import Provider
from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["gateway_server", "simulator_url"]


@asynccontextmanager
async def served(server: RunningGateway, providers: Mapping[str, Provider]) -> AsyncIterator[RunningGateway]:
    """The same gateway once more, which knows of these providers' capabilities."""
    gateway = replace(server.gateway, providers=providers)
    async with listening(gateway) as url:
        yield replace(server, url=url, gateway=gateway)


@pytest.fixture
async def server(gateway_server: RunningGateway) -> RunningGateway:
    return gateway_server


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


async def authorize(server: RunningGateway, key: str, name: str = "c0", **more: Any) -> str:
    """Authorize a checkout; returns the payment's address."""
    answer = await server.pay(key, checkout(name, capture="manual", **more), Idempotency_Key=f"pay-{name}")
    assert (answer.status, answer.body["status"]) == (201, "AUTHORIZED"), answer.raw
    return f"/v1/payments/{answer.body['payment_id']}"


async def post(
    server: RunningGateway, path: str, key: str, ticket: str | None, body: Any = None, **headers: str
) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if ticket is not None:
        sent["Idempotency-Key"] = ticket
    return await server.ask("POST", path, key, json=body or {}, headers=sent)


def part(name: str, amount: str | None = None) -> dict[str, Any]:
    return {"payment_order_id": name} | ({} if amount is None else {"amount": amount})


async def books(server: RunningGateway) -> dict[str, Any]:
    async with server.session.get(f"{server.simulator_url}/admin/books") as answer:
        told: dict[str, Any] = await answer.json()
    return told


@asynccontextmanager
async def weather(server: RunningGateway, **dial: Any) -> AsyncIterator[None]:
    """The simulator's chaos dial, set for a while."""
    address = f"{server.simulator_url}/admin/chaos"
    async with server.session.put(address, json=dial) as answer:
        assert answer.status == 200
    try:
        yield
    finally:
        async with server.session.put(address, json={}) as answer:
            assert answer.status == 200


def of_orders(answer: Answer, field: str) -> list[Any]:
    return [order[field] for order in answer.body["payment_orders"]]


async def test_a_manual_payment_is_reserved_and_captured_in_whole(server: RunningGateway, key: str) -> None:
    body = checkout("c0", orders=2, capture="manual")
    made = await server.pay(key, body, Idempotency_Key="k")
    assert (made.status, made.body["status"], made.body["is_payment_done"]) == (201, "AUTHORIZED", False)
    assert (made.body["capture"], made.body["on_failure"], made.body["next_action"]) == ("manual", "keep", None)
    assert of_orders(made, "authorized") == ["12.34", "12.34"]
    assert of_orders(made, "captured") == of_orders(made, "refunded") == ["0.00", "0.00"]
    assert all(of_orders(made, "expires_at"))
    again = await server.pay(key, body, Idempotency_Key="k")
    assert (again.raw, again.headers["idempotent-replayed"]) == (made.raw, "true")

    path = f"/v1/payments/{made.body['payment_id']}"
    captured = await post(server, f"{path}/capture", key, "c")
    assert (captured.status, captured.body["status"]) == (200, "SUCCESS")
    assert of_orders(captured, "captured") == ["12.34", "12.34"]
    assert of_orders(captured, "expires_at") == [None, None]
    assert (await server.ask("GET", path, key)).body == captured.body
    order = await server.ask("GET", "/v1/payment_orders/c0-0", key)
    assert (order.body["authorized"], order.body["captured"], order.body["refunded"]) == ("12.34", "12.34", "0.00")
    assert (await books(server))["captured"] == {"EUR": 2468}


async def test_what_a_charge_takes_is_shown_as_authorized_by_its_answer_and_by_its_row(
    server: RunningGateway, key: str
) -> None:
    charged = await server.pay(key, checkout("c0"), Idempotency_Key="k")
    assert of_orders(charged, "authorized") == of_orders(charged, "captured") == ["12.34"]
    assert (await server.ask("GET", f"/v1/payments/{charged.body['payment_id']}", key)).raw == charged.raw


async def test_B2_a_capture_s_key_captures_once_and_stands_for_one_request_for_ever(
    server: RunningGateway, key: str
) -> None:
    path = await authorize(server, key, orders=3) + "/capture"
    first = await post(server, path, key, "c", {"payment_orders": [part("c0-0", "5.00"), part("c0-1")]})
    assert (first.status, of_orders(first, "captured")) == (200, ["5.00", "12.34", "0.00"])
    assert "idempotent-replayed" not in first.headers
    again = await post(server, path, key, "c", {"payment_orders": [part("c0-1"), part("c0-0", "5")], "final": True})
    assert (again.status, again.headers["idempotent-replayed"], again.body) == (200, "true", first.body)
    for other in (
        {"payment_orders": [part("c0-0", "5.01"), part("c0-1")]},
        {"payment_orders": [part("c0-0", "5.00")]},
        {"payment_orders": [part("c0-2")]},
        {"payment_orders": [part("c0-0", "5.00"), part("c0-1")], "final": False},
    ):
        answer = await post(server, path, key, "c", other)
        assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused"), other
    assert (await books(server))["captured"] == {"EUR": 1734}


async def test_B2_capturing_all_again_under_one_key_finds_what_it_captured(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key, orders=2) + "/capture"
    first = await post(server, path, key, "c")
    again = await post(server, path, key, "c")
    assert (again.status, again.headers["idempotent-replayed"], again.body) == (200, "true", first.body)
    new = await post(server, path, key, "other")
    assert (new.status, new.body["code"]) == (409, "capture_not_possible")
    assert [problem["detail"][:24] for problem in new.body["problems"]] == [
        "c0-0: it is captured alr",
        "c0-1: it is captured alr",
    ]
    assert (await books(server))["captured"] == {"EUR": 2468}


async def test_an_order_is_captured_in_parts_and_the_rest_released(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key) + "/capture"
    half = await post(server, path, key, "c1", {"payment_orders": [part("c0-0", "4.00")], "final": False})
    assert (half.status, half.body["status"], of_orders(half, "captured")) == (200, "AUTHORIZED", ["4.00"])
    beyond = await post(server, path, key, "c2", {"payment_orders": [part("c0-0", "8.35")]})
    assert (beyond.status, beyond.body["code"]) == (409, "capture_not_possible")
    assert beyond.body["problems"] == [
        {"pointer": "/payment_orders/0/amount", "detail": "c0-0: at most 8.34 EUR is left to capture."}
    ]
    rest = await post(server, path, key, "c3", {"payment_orders": [part("c0-0", "1.34")]})
    assert (rest.status, rest.body["status"], of_orders(rest, "captured")) == (200, "SUCCESS", ["5.34"])
    wallet = await server.ask("GET", "/v1/sellers/seller-0/wallet", key)
    assert wallet.body["balances"][0]["pending"] == "4.91"  # 5.34 less its share of the commission, rounded down


async def test_a_provider_that_captures_once_is_not_asked_to_keep_the_rest(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key) + "/capture"
    body = {"payment_orders": [part("c0-0", "4.00")], "final": False}
    for providers in ({"simulator": ScriptedProvider()}, dict[str, Provider]()):
        async with served(server, providers) as unable:
            answer = await post(unable, path, key, "c", body)
            assert (answer.status, answer.body["code"]) == (422, "invalid_request")
            assert [problem["pointer"] for problem in answer.body["problems"]] == ["/final"]
    assert (await books(server))["captured"] == {}


async def test_all_faults_of_a_capture_are_told_at_once_and_its_key_stays_free(
    server: RunningGateway, key: str
) -> None:
    await authorize(server, key, "c1")
    path = await authorize(server, key, orders=3) + "/capture"
    wrong = [part("c0-0", "1.234"), part("c1-0"), part("nobody"), part("c0-1", "0")]
    answer = await post(server, path, key, "c", {"payment_orders": wrong})
    assert (answer.status, answer.body["code"]) == (422, "invalid_request")
    assert [problem["pointer"] for problem in answer.body["problems"]] == [
        "/payment_orders/0/amount",
        "/payment_orders/1/payment_order_id",
        "/payment_orders/2/payment_order_id",
        "/payment_orders/3/amount",
    ]
    shape = {"payment_orders": [part("c0-0"), part("c0-0"), {"payment_order": "c0-1"}], "final": "no", "x": 1}
    misshapen = await post(server, path, key, "c", shape)
    assert [problem["pointer"] for problem in misshapen.body["problems"]] == [
        "/final",
        "/payment_orders/1/payment_order_id",
        "/payment_orders/2/payment_order",
        "/payment_orders/2/payment_order_id",
        "/x",
    ]
    assert (await post(server, path, key, "c")).status == 200


async def test_of_several_orders_all_are_captured_or_none_and_each_is_told(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key, orders=3) + "/capture"
    assert (await post(server, path, key, "c1", {"payment_orders": [part("c0-1")]})).status == 200
    wanted = {"payment_orders": [part("c0-0"), part("c0-1"), part("c0-2", "99.00")]}
    answer = await post(server, path, key, "c2", wanted)
    assert (answer.status, answer.body["code"]) == (409, "capture_not_possible")
    assert [problem["pointer"] for problem in answer.body["problems"]] == [
        "/payment_orders/1",
        "/payment_orders/2/amount",
    ]
    assert (await books(server))["captured"] == {"EUR": 1234}
    assert (await post(server, path, key, "c2", {"payment_orders": [part("c0-0"), part("c0-2")]})).status == 200


async def test_a_refused_capture_leaves_the_order_authorized(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key, token="tok_capture_declined")
    answer = await post(server, f"{path}/capture", key, "c")
    assert (answer.status, answer.body["status"], of_orders(answer, "captured")) == (200, "AUTHORIZED", ["0.00"])
    events = await server.ask("GET", f"{path}/events", key)
    assert "capture.declined" in [event["kind"] for event in events.body["events"]]
    assert (await post(server, f"{path}/cancel", key, "v")).body["status"] == "CANCELLED"


async def test_an_all_or_nothing_payment_captures_by_itself(server: RunningGateway, key: str) -> None:
    made = await server.pay(key, checkout("c0", orders=2, on_failure="all_or_nothing"), Idempotency_Key="k")
    assert (made.status, made.body["status"], of_orders(made, "captured")) == (201, "SUCCESS", ["12.34", "12.34"])
    answer = await post(server, f"/v1/payments/{made.body['payment_id']}/capture", key, "c")
    assert (answer.status, answer.body["code"]) == (409, "capture_not_possible")
    assert "captures by itself" in answer.body["detail"]


async def test_a_cancelled_payment_is_released_once(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key, orders=2)
    cancelled = await post(server, f"{path}/cancel", key, "v")
    assert (cancelled.status, cancelled.body["status"]) == (200, "CANCELLED")
    again = await post(server, f"{path}/cancel", key, "v")
    assert (again.status, again.headers["idempotent-replayed"], again.body) == (200, "true", cancelled.body)
    other = await post(server, f"{path}/cancel", key, "v2")  # what was asked for is so already
    assert (other.status, other.body) == (200, cancelled.body)
    assert "idempotent-replayed" not in other.headers
    late = await post(server, f"{path}/capture", key, "c")
    assert (late.status, late.body["code"]) == (409, "capture_not_possible")
    assert (await books(server))["statuses"] == {"voided": 2}


async def test_a_charged_payment_is_refunded_not_cancelled(server: RunningGateway, key: str) -> None:
    made = await server.pay(key, checkout("c0", orders=2), Idempotency_Key="k")
    answer = await post(server, f"/v1/payments/{made.body['payment_id']}/cancel", key, "v")
    assert (answer.status, answer.body["code"]) == (409, "payment_already_charged")
    assert "c0-0, c0-1" in answer.body["detail"]
    assert "POST /v1/refunds" in answer.body["detail"]


async def test_D4_while_a_capture_is_not_decided_nothing_else_is_done(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key)
    async with weather(server, latency_ms=700):
        started = await post(server, f"{path}/capture", key, "c", Prefer="wait=0")
        assert (started.status, of_orders(started, "captured")) == (202, ["0.00"])
        cancel = await post(server, f"{path}/cancel", key, "v")
        assert (cancel.status, cancel.body["code"]) == (409, "operation_in_progress")
        assert cancel.headers["retry-after"] == "1"
        second = await post(server, f"{path}/capture", key, "c2", {"payment_orders": [part("c0-0")]})
        assert (second.status, second.body["code"]) == (409, "capture_not_possible")
        assert second.body["problems"][0]["pointer"] == "/payment_orders/0"
        assert second.headers["retry-after"] == "1"
        early = await post(server, f"{path}/capture", key, "c", Prefer="wait=0")
        assert early.status == 202
        assert "idempotent-replayed" not in early.headers  # there is no answer yet to give again
        waited = await post(server, f"{path}/capture", key, "c", Prefer="wait=10")
    assert (waited.status, waited.body["status"], waited.headers["idempotent-replayed"]) == (200, "SUCCESS", "true")
    assert (await books(server))["captured"] == {"EUR": 1234}


async def test_D4_of_captures_and_cancels_at_once_one_wins(server: RunningGateway, key: str) -> None:
    path = await authorize(server, key)
    answers = await asyncio.gather(
        *[post(server, f"{path}/{act}", key, f"{act}-{n}") for n in range(5) for act in ("capture", "cancel")]
    )
    view = await server.ask("GET", path, key)
    assert view.body["status"] in {"SUCCESS", "CANCELLED"}
    winners = "capture" if view.body["status"] == "SUCCESS" else "cancel"
    assert {answer.status for answer in answers} <= {200, 409}
    told = await books(server)
    assert told["captured"] == ({"EUR": 1234} if winners == "capture" else {})
    assert (told["done_twice"], told["over_captured"]) == ([], [])


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("{payment}/capture", {}),
        ("{payment}/cancel", {}),
        ("/v1/refunds", {"payment_order_id": "c0-0"}),
    ],
)
async def test_B3_nothing_that_moves_money_goes_without_a_key(
    server: RunningGateway, key: str, store: Store, address: str, body: dict[str, str]
) -> None:
    path = address.format(payment=await authorize(server, key))
    missing = await post(server, path, key, None, body)
    assert (missing.status, missing.body["code"]) == (400, "idempotency_key_missing")
    differing = await post(server, path, key, "a", {**body, "idempotency_key": "b"})
    assert (differing.status, differing.body["code"]) == (400, "idempotency_key_mismatch")
    assert await store.pool.fetchval("SELECT count(*) FROM operation WHERE kind <> 'authorize'") == 0
    given = await post(server, path, key, None, {**body, "idempotency_key": "b"})
    assert given.body.get("code") in {None, "refund_not_possible"}


async def test_B7_another_shop_and_the_other_mode_find_nothing_and_change_nothing(
    server: RunningGateway, key: str, store: Store
) -> None:
    path = await authorize(server, key)
    for stranger in (await server.make_key("coats"), await server.make_key(mode=Mode.LIVE)):
        for act in ("capture", "cancel"):
            answer = await post(server, f"{path}/{act}", stranger, "k")
            assert (answer.status, answer.body["code"]) == (404, "not_found")
    assert (await server.ask("POST", f"{path}/capture", json={}, headers={"Idempotency-Key": "k"})).status == 401
    assert await store.pool.fetchval("SELECT count(*) FROM operation") == 1
    assert (await post(server, f"{path}/capture", key, "k")).status == 200


@pytest.mark.parametrize("act", ["capture", "cancel"])
async def test_a_payment_that_is_not_there_is_a_404(server: RunningGateway, key: str, act: str) -> None:
    for payment_id in ("pay_" + "a" * 26, "pay_x", "op_" + "a" * 26):
        assert (await post(server, f"/v1/payments/{payment_id}/{act}", key, "k")).status == 404


@pytest.mark.parametrize("address", ["{payment}/capture", "{payment}/cancel", "/v1/refunds"])
async def test_C16_the_bodies_of_all_posts_are_read_strictly(server: RunningGateway, key: str, address: str) -> None:
    path = address.format(payment=await authorize(server, key))
    headers, limit = {"Idempotency-Key": "k"}, server.gateway.settings.body_limit_bytes
    for raw in (b"", b"[]", b'{"idempotency_key": "k", "idempotency_key": "l"}', b'{"x": NaN}', b'{"x": "\\u0000"}'):
        answer = await server.ask("POST", path, key, data=raw, headers=headers)
        assert (answer.status, answer.body["code"]) == (400, "malformed_body"), raw
    text = await server.ask("POST", path, key, data=b"{}", headers={**headers, "Content-Type": "text/plain"})
    assert text.status == 415
    large = await server.ask("POST", path, key, data=b"{}" + b" " * limit, headers=headers)
    assert large.status == 413
    card = await server.ask("POST", path, key, data=b'{"idempotency_key": "x-4242424242424242"}')
    assert (card.status, card.body["code"]) == (422, "card_number_refused")
