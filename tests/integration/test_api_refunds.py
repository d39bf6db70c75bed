"""Refunds over real HTTP, against the simulator: never more than was captured, and once for each key."""

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.integration.running import Answer, RunningGateway, checkout, gateway_server, simulator_url

from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["gateway_server", "simulator_url"]


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


async def pay(server: RunningGateway, key: str, name: str = "c0", **more: Any) -> dict[str, Any]:
    answer = await server.pay(key, checkout(name, **more), Idempotency_Key=f"pay-{name}")
    assert answer.status == 201, answer.raw
    body: dict[str, Any] = answer.body
    return body


async def refund(server: RunningGateway, key: str, ticket: str, order: str = "c0-0", **more: Any) -> Answer:
    body = {"payment_order_id": order, **more}
    return await server.ask("POST", "/v1/refunds", key, json=body, headers={"Idempotency-Key": ticket})


async def refunded_at_psp(server: RunningGateway) -> dict[str, int]:
    async with server.session.get(f"{server.simulator_url}/admin/books") as answer:
        told = await answer.json()
    assert (told["over_refunded"], told["done_twice"]) == ([], [])
    sums: dict[str, int] = told["refunded"]
    return sums


async def test_a_part_and_then_the_rest_go_back(gateway_server: RunningGateway, key: str) -> None:
    payment = await pay(gateway_server, key)
    part = await refund(gateway_server, key, "r1", amount="2.3", reason="the hat was too small")
    assert part.status == 201
    assert part.body["refund_id"].startswith("rf_")
    assert part.body["provider_reference"].startswith("re_")
    assert part.body["created_at"] <= part.body["decided_at"]
    assert {name: part.body[name] for name in part.body if not name.endswith(("_at", "_reference", "refund_id"))} == {
        "payment_order_id": "c0-0",
        "payment_id": payment["payment_id"],
        "amount": "2.30",
        "commission": "0.18",
        "currency": "EUR",
        "status": "SUCCEEDED",
        "reason": "the hat was too small",
        "decline_code": None,
    }
    rest = await refund(gateway_server, key, "r2")
    assert (rest.status, rest.body["amount"], rest.body["commission"]) == (201, "10.04", "0.82")
    shown = await gateway_server.ask("GET", f"/v1/payments/{payment['payment_id']}", key)
    assert (
        shown.body["payment_orders"][0] | {"refunded": "12.34", "status": "SUCCESS"} == shown.body["payment_orders"][0]
    )
    one = await gateway_server.ask("GET", f"/v1/refunds/{part.body['refund_id']}", key)
    assert (one.status, one.body) == (200, part.body)
    listed = await gateway_server.ask("GET", "/v1/refunds?payment_order_id=c0-0", key)
    assert listed.body == {"refunds": [part.body, rest.body], "next_cursor": None}
    assert await refunded_at_psp(gateway_server) == {"EUR": 1234}


async def test_a_refund_is_written_in_its_order_s_currency(gateway_server: RunningGateway, key: str) -> None:
    body = checkout("c0")
    body["payment_orders"][0] |= {"amount": "950", "currency": "JPY", "commission": "0"}
    assert (await gateway_server.pay(key, body, Idempotency_Key="k")).status == 201
    wrong = await refund(gateway_server, key, "r1", amount="1.50")
    assert (wrong.status, wrong.body["problems"][0]["pointer"]) == (422, "/amount")
    right = await refund(gateway_server, key, "r1", amount="150")  # and the key was still free
    assert (right.status, right.body["amount"], right.body["currency"]) == (201, "150", "JPY")


async def test_B2_a_refund_s_key_gives_back_once_and_stands_for_one_request_for_ever(
    gateway_server: RunningGateway, key: str
) -> None:
    await pay(gateway_server, key, orders=2)
    first = await refund(gateway_server, key, "r", amount="2.00")
    assert "idempotent-replayed" not in first.headers
    again = await refund(gateway_server, key, "r", amount="2")
    assert (again.status, again.headers["idempotent-replayed"], again.raw) == (201, "true", first.raw)
    for other in ({"amount": "2.01"}, {}, {"amount": "2.00", "reason": "other"}, {"amount": "2.00", "order": "c0-1"}):
        answer = await refund(gateway_server, key, "r", **other)
        assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused"), other
    assert await refunded_at_psp(gateway_server) == {"EUR": 200}


async def test_D1_refunds_at_once_never_give_back_more_than_was_captured(
    gateway_server: RunningGateway, key: str
) -> None:
    await pay(gateway_server, key)
    answers = await asyncio.gather(*[refund(gateway_server, key, f"r{n}", amount="2.00") for n in range(12)])
    assert sorted(answer.status for answer in answers) == [201] * 6 + [409] * 6
    refused = [answer.body for answer in answers if answer.status == 409]
    assert {body["code"] for body in refused} == {"refund_not_possible"}
    late = await refund(gateway_server, key, "late", amount="0.35")
    assert late.body["problems"][0]["pointer"] == "/amount"
    assert "Still refundable: 0.34 EUR." in late.body["detail"]
    assert await refunded_at_psp(gateway_server) == {"EUR": 1200}


async def test_D1_what_failed_may_be_asked_for_again_and_what_is_under_way_may_not(
    gateway_server: RunningGateway, key: str
) -> None:
    await pay(gateway_server, key, "c0", token="tok_refund_fails")
    failed = await refund(gateway_server, key, "r1")
    assert (failed.status, failed.body["status"], failed.body["decline_code"]) == (201, "FAILED", "refund_declined")
    assert (await refund(gateway_server, key, "r2", amount="12.34")).status == 201

    await pay(gateway_server, key, "c1", token="tok_refund_pending")
    waiting = await refund(gateway_server, key, "r3", "c1-0", amount="10.00")
    assert (waiting.status, waiting.body["status"], waiting.body["decided_at"]) == (202, "PENDING", None)
    again = await refund(gateway_server, key, "r3", "c1-0", amount="10.00")
    assert (again.status, again.body["refund_id"]) == (202, waiting.body["refund_id"])
    more = await refund(gateway_server, key, "r4", "c1-0", amount="2.35")
    assert (more.status, more.body["code"]) == (409, "refund_not_possible")
    assert "Still refundable: 2.34 EUR." in more.body["detail"]


async def test_nothing_is_refunded_before_it_is_captured(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, capture="manual")
    answer = await refund(gateway_server, key, "r")
    assert (answer.status, answer.body["code"]) == (409, "refund_not_possible")
    assert "/cancel" in answer.body["detail"]
    assert "Still refundable: 0.00 EUR." in answer.body["detail"]


async def test_D3_a_disputed_order_is_not_refunded(
    gateway_server: RunningGateway, key: str, owner: asyncpg.Connection
) -> None:
    await pay(gateway_server, key)
    await owner.execute("UPDATE payment_order SET is_disputed = true")
    answer = await refund(gateway_server, key, "r")
    assert (answer.status, answer.body["code"]) == (409, "refund_not_possible")
    assert "twice" in answer.body["detail"]
    assert "Still refundable: 12.34 EUR." in answer.body["detail"]


async def test_B7_refunds_are_seen_and_made_by_their_own_shop_and_mode_only(
    gateway_server: RunningGateway, key: str, store: Store
) -> None:
    await pay(gateway_server, key)
    made = await refund(gateway_server, key, "r", amount="1.00")
    for stranger in (await gateway_server.make_key("coats"), await gateway_server.make_key(mode=Mode.LIVE)):
        assert (await refund(gateway_server, stranger, "r", amount="1.00")).status == 404
        for path in (f"/v1/refunds/{made.body['refund_id']}", "/v1/refunds?payment_order_id=c0-0"):
            answer = await gateway_server.ask("GET", path, stranger)
            assert (answer.status, answer.body["code"]) == (404, "not_found")
    assert await store.pool.fetchval("SELECT count(*) FROM refund") == 1

    others = await gateway_server.make_key("coats")
    await pay(gateway_server, others)
    theirs = await refund(gateway_server, others, "r", amount="1.00")  # the same names and key, and another refund
    assert (theirs.status, "idempotent-replayed" in theirs.headers) == (201, False)
    assert theirs.body["refund_id"] != made.body["refund_id"]


async def test_an_order_or_refund_that_is_not_there_is_a_404(gateway_server: RunningGateway, key: str) -> None:
    assert (await refund(gateway_server, key, "r", "nobody")).status == 404
    assert (await gateway_server.ask("GET", "/v1/refunds?payment_order_id=nobody", key)).status == 404
    for refund_id in ("rf_" + "a" * 26, "rf_x", "pay_" + "a" * 26):
        assert (await gateway_server.ask("GET", f"/v1/refunds/{refund_id}", key)).status == 404


async def test_a_list_needs_its_order_and_has_pages(gateway_server: RunningGateway, key: str) -> None:
    missing = await gateway_server.ask("GET", "/v1/refunds?limit=0", key)
    assert (missing.status, missing.body["code"]) == (422, "invalid_request")
    assert [problem["pointer"] for problem in missing.body["problems"]] == ["/limit", "/payment_order_id"]
    await pay(gateway_server, key)
    made = [(await refund(gateway_server, key, f"r{n}", amount="1.00")).body for n in range(5)]
    address = "/v1/refunds?payment_order_id=c0-0&limit=2"
    found, cursor = [], ""
    for size in (2, 2, 1):
        page = (await gateway_server.ask("GET", address + cursor, key)).body
        assert len(page["refunds"]) == size
        found += page["refunds"]
        cursor = f"&cursor={page['next_cursor']}"
    assert (found, page["next_cursor"]) == (made, None)
    foreign = (await gateway_server.ask("GET", "/v1/payments?limit=1", key)).body["next_cursor"] or "x" * 43
    assert (await gateway_server.ask("GET", f"{address}&cursor={foreign}", key)).status == 400


async def test_a_slow_refund_is_answered_with_what_is_known_and_goes_on(
    gateway_server: RunningGateway, key: str
) -> None:
    await pay(gateway_server, key)
    body = {"payment_order_id": "c0-0"}
    started = await gateway_server.ask(
        "POST", "/v1/refunds", key, json=body, headers={"Idempotency-Key": "r", "Prefer": "wait=0"}
    )
    assert (started.status, started.body["status"]) == (202, "PENDING")
    waited = await gateway_server.ask(
        "POST", "/v1/refunds", key, json=body, headers={"Idempotency-Key": "r", "Prefer": "wait=10"}
    )
    assert (waited.status, waited.body["status"]) == (201, "SUCCEEDED")
    assert waited.body["refund_id"] == started.body["refund_id"]
    assert await refunded_at_psp(gateway_server) == {"EUR": 1234}


async def test_PAN_guard_refuses_a_card_number_in_a_reason_and_keeps_nothing_of_it(
    gateway_server: RunningGateway, key: str, store: Store
) -> None:
    await pay(gateway_server, key)
    answer = await refund(gateway_server, key, "r", reason="card 4242 4242 4242 4242")
    assert (answer.status, answer.body["code"]) == (422, "card_number_refused")
    assert b"4242" not in answer.raw
    assert await store.pool.fetchval("SELECT count(*) FROM refund") == 0
