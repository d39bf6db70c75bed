"""The read side of the API over real HTTP: lists with their cursors and filters, orders, wallets, books, events."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from tests.integration.running import (
    DIGEST_SECRET,
    RunningGateway,
    checkout,
    gateway_server,
    listening,
    simulator_url,
)

from coatcheck.clock import SystemClock
from coatcheck.config import Settings
from coatcheck.reporting import read_models
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.wiring import make_gateway, make_providers

__all__ = ["gateway_server", "simulator_url"]


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


WRONG = (
    *(
        "limit=101",
        "limit=-1",
        "limit=1.5",
        "limit=",
        "limit=%D9%A1",
        "limit=1e1",
        "limit=5&limit=5",
        "limit=9999999999",
    ),
    *("created_after=2026-05-01", "created_after=2026-05-01T00:00:00", "created_after=2026-05-01T00:00:00+00:00"),
    *("status=failed", "status=null", "checkout_id=", "checkout_id=a%00", "buyer_reference=%ff", "=5", "x&" * 101),
)


async def pay(server: RunningGateway, key: str, name: str, **more: Any) -> dict[str, Any]:
    answer = await server.pay(key, checkout(name, **more), Idempotency_Key=f"key-{name}")
    assert answer.status == 201, answer.raw
    body: dict[str, Any] = answer.body
    return body


async def pages(server: RunningGateway, key: str, path: str, field: str) -> list[list[Any]]:
    """Follow the cursor to the end."""
    cursor, found = "", []
    while True:
        answer = await server.ask("GET", path + cursor, key)
        assert answer.status == 200, answer.raw
        found.append(answer.body[field])
        if answer.body["next_cursor"] is None:
            return found
        cursor = f"&cursor={answer.body['next_cursor']}"


async def test_a_list_is_newest_first_and_its_pages_hold_everything_once(
    gateway_server: RunningGateway, key: str
) -> None:
    made = [(await pay(gateway_server, key, f"c{place}"))["payment_id"] for place in range(5)]
    found = await pages(gateway_server, key, "/v1/payments?limit=2", "payments")
    assert [len(page) for page in found] == [2, 2, 1]
    assert [payment["payment_id"] for page in found for payment in page] == made[::-1]
    whole = await pages(gateway_server, key, "/v1/payments?limit=5", "payments")
    assert whole == [[payment for page in found for payment in page]]  # and no empty last page
    one = await gateway_server.ask("GET", f"/v1/payments/{made[4]}", key)
    assert found[0][0] == one.body


async def test_payments_of_one_moment_are_kept_apart_by_their_ids(
    gateway_server: RunningGateway, key: str, owner: Any
) -> None:
    made = {(await pay(gateway_server, key, f"c{place}"))["payment_id"] for place in range(5)}
    await owner.execute("UPDATE payment SET created_at = '2026-05-01T12:00:00.000001Z'")
    found = await pages(gateway_server, key, "/v1/payments?limit=2", "payments")
    assert [len(page) for page in found] == [2, 2, 1]
    assert {payment["payment_id"] for page in found for payment in page} == made


async def test_the_times_are_exclusive_on_both_sides(gateway_server: RunningGateway, key: str, owner: Any) -> None:
    for place in range(3):
        payment = await pay(gateway_server, key, f"c{place}")
        assert payment["checkout_id"] == f"c{place}"
        await owner.execute(
            "UPDATE payment SET created_at = $1::timestamptz + $2 * interval '1 second' WHERE checkout_id = $3",
            SystemClock().now().replace(year=2026, month=5, day=1, hour=12, minute=0, second=0, microsecond=0),
            place,
            f"c{place}",
        )

    async def found(query: str) -> list[str]:
        answer = await gateway_server.ask("GET", f"/v1/payments?{query}", key)
        assert answer.status == 200, answer.raw
        return [payment["checkout_id"] for payment in answer.body["payments"]]

    assert await found("created_after=2026-05-01T12:00:00Z") == ["c2", "c1"]
    assert await found("created_before=2026-05-01T12:00:02Z") == ["c1", "c0"]
    assert await found("created_after=2026-05-01T12:00:00Z&created_before=2026-05-01T12:00:02Z") == ["c1"]
    assert await found("created_before=2026-05-01T14:00:02%2B02:00") == ["c1", "c0"]
    assert await found("created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z") == ["c2", "c1", "c0"]
    assert await found("checkout_id=c1&created_after=2026-05-01T12:00:01Z") == []
    assert await found("checkout_id=c1&created_after=2026-05-01T12:00:00Z") == ["c1"]


async def test_filters_by_status_checkout_and_buyer(
    gateway_server: RunningGateway, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(4):
        token = "tok_decline_do_not_honor" if place % 2 else "tok_approve"
        buyer = {"reference": f"buyer-{place // 2}"}
        await pay(gateway_server, key, f"c{place}", token=token, buyer=buyer)

    async def found(query: str) -> list[str]:
        every = await pages(gateway_server, key, f"/v1/payments?{query}", "payments")
        return [payment["checkout_id"] for page in every for payment in page]

    for scanned in (1_000, 3, 1):  # however few are looked at for one page, the cursor goes on to the end
        monkeypatch.setattr(read_models, "SCANNED_MOST", scanned)
        assert await found("status=FAILED") == ["c3", "c1"]
        assert await found("status=SUCCESS&limit=1") == ["c2", "c0"]
        assert await found("buyer_reference=buyer-0") == ["c1", "c0"]
        assert await found("buyer_reference=buyer-1&status=FAILED") == ["c3"]
        assert await found("status=PARTIAL") == []
    assert await found("checkout_id=c2") == ["c2"]
    assert await found("checkout_id=c2&status=FAILED") == []
    assert await found("checkout_id=c2&buyer_reference=buyer-0") == []
    assert await found("checkout_id=nobody-s") == []


async def test_a_changed_or_foreign_cursor_is_refused(gateway_server: RunningGateway, key: str) -> None:
    for place in range(3):
        await pay(gateway_server, key, f"c{place}")
    cursor = (await gateway_server.ask("GET", "/v1/payments?limit=1", key)).body["next_cursor"]
    other = await gateway_server.make_key("coats")
    live = await gateway_server.make_key("hats", Mode.LIVE)
    swapped = ("A" if cursor[5] != "A" else "B").join([cursor[:5], cursor[6:]])
    attempts = [
        (key, f"cursor={swapped}"),
        (key, f"cursor={cursor[:-1]}"),
        (key, f"cursor={cursor}A"),
        (key, "cursor="),
        (key, "cursor=%00%C3%A9"),
        (key, f"cursor={'*' * 43}"),
        (key, f"cursor={cursor}&status=FAILED"),
        (key, f"cursor={cursor}&checkout_id=c1"),
        (other, f"cursor={cursor}"),
        (live, f"cursor={cursor}"),
    ]
    for caller, query in attempts:
        answer = await gateway_server.ask("GET", f"/v1/payments?{query}", caller)
        assert (answer.status, answer.body["code"]) == (400, "invalid_cursor"), query
    assert (await gateway_server.ask("GET", f"/v1/payments?limit=2&cursor={cursor}", key)).status == 200


async def test_every_wrong_parameter_is_told_at_once(gateway_server: RunningGateway, key: str) -> None:
    query = "limit=0&created_after=yesterday&created_before=0001-01-01T00:00:00%2B01:00&status=paid&stauts=FAILED"
    answer = await gateway_server.ask("GET", f"/v1/payments?{query}&checkout_id=a%20b&limit=5", key)
    assert (answer.status, answer.body["code"]) == (422, "invalid_request")
    told = {problem["pointer"]: problem["detail"] for problem in answer.body["problems"]}
    assert told.keys() == {"/limit", "/created_after", "/created_before", "/status", "/stauts", "/checkout_id"}
    assert "AUTHORIZED, CANCELLED" in told["/status"]
    assert "buyer_reference" in told["/stauts"]
    for wrong in WRONG:
        answer = await gateway_server.ask("GET", f"/v1/payments?{wrong}", key)
        assert (answer.status, answer.body["code"]) == (422, "invalid_request"), wrong


@pytest.mark.parametrize(
    "path",
    ["/v1/ledger/trial_balance", "/v1/sellers/seller-0/wallet", "/v1/payment_orders/c0-0", "/v1/payments/{}",
     "/v1/payments/{}/events"],
)  # fmt: skip
async def test_an_unknown_parameter_is_told_by_every_address(
    gateway_server: RunningGateway, key: str, path: str
) -> None:
    payment = await pay(gateway_server, key, "c0")
    path = path.format(payment["payment_id"])
    assert (await gateway_server.ask("GET", path, key)).status == 200
    answer = await gateway_server.ask("GET", f"{path}?expand=all", key)
    assert (answer.status, answer.body["problems"][0]["pointer"]) == (422, "/expand")


async def test_an_order_is_found_by_the_shop_s_own_id(gateway_server: RunningGateway, key: str) -> None:
    payment = await pay(gateway_server, key, "c0", orders=2)
    answer = await gateway_server.ask("GET", "/v1/payment_orders/c0-1", key)
    assert answer.status == 200
    assert {name: answer.body[name] for name in payment["payment_orders"][1]} == payment["payment_orders"][1]
    named = {name: answer.body[name] for name in ("payment_id", "checkout_id", "mode", "created_at")}
    assert named == {name: payment[name] for name in named}
    assert answer.body["decided_at"] >= answer.body["created_at"]


async def test_ids_of_the_shop_may_hold_any_printable_character(gateway_server: RunningGateway, key: str) -> None:
    name = "a/b?c#d%2Fe:{f}\"g'\\h"
    body = checkout(name)
    body["payment_orders"][0]["seller_account"] = seller = "s/../%41&t?"
    assert (await gateway_server.pay(key, body, Idempotency_Key="k")).status == 201
    order = await gateway_server.ask("GET", f"/v1/payment_orders/{quote(name, safe='')}-0", key)
    assert order.body["payment_order_id"] == f"{name}-0"
    found = await gateway_server.ask("GET", f"/v1/sellers/{quote(seller, safe='')}/wallet", key)
    assert found.body["seller_account"] == seller
    listed = await gateway_server.ask("GET", f"/v1/payments?checkout_id={quote(name, safe='')}", key)
    assert [payment["checkout_id"] for payment in listed.body["payments"]] == [name]


@pytest.mark.parametrize("name", ["nobody-s", "%00", "%FF%FE", "a%20b", "x" * 129, "%C3%A9", "..%2F", "."])
@pytest.mark.parametrize("path", ["/v1/payment_orders/{}", "/v1/sellers/{}/wallet", "/v1/payments/{}"])
async def test_what_is_not_there_is_a_404(gateway_server: RunningGateway, key: str, path: str, name: str) -> None:
    answer = await gateway_server.ask("GET", path.format(name), key)
    assert (answer.status, answer.body["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_wallet_says_what_a_seller_has_per_currency(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0")
    body = checkout("c1")
    body["payment_orders"][0] |= {"amount": "5000", "currency": "JPY", "commission": "1"}
    assert (await gateway_server.pay(key, body, Idempotency_Key="k1")).status == 201
    answer = await gateway_server.ask("GET", "/v1/sellers/seller-0/wallet", key)
    assert answer.body == {
        "seller_account": "seller-0",
        "balances": [
            {"currency": "EUR", "pending": "11.34", "available": "0.00", "in_payout": "0.00", "reserve": "0.00"},
            {"currency": "JPY", "pending": "4999", "available": "0", "in_payout": "0", "reserve": "0"},
        ],
    }


async def test_the_trial_balance_agrees_with_what_was_charged(gateway_server: RunningGateway, key: str) -> None:
    empty = await gateway_server.ask("GET", "/v1/ledger/trial_balance", key)
    assert empty.body == {"currencies": []}
    await pay(gateway_server, key, "c0", orders=2)
    await pay(gateway_server, key, "c1", token="tok_decline_do_not_honor")
    answer = await gateway_server.ask("GET", "/v1/ledger/trial_balance", key)
    (euros,) = answer.body["currencies"]
    assert (euros["currency"], euros["debits"], euros["credits"]) == ("EUR", "24.68", "24.68")
    balances = {account["name"]: (account["kind"], account["balance"]) for account in euros["accounts"]}
    assert balances == {
        "psp:simulator:receivable": ("psp_receivable", "24.68"),
        "platform:commission": ("platform_commission", "2.00"),
        "seller:seller-0:pending": ("seller_pending", "11.34"),
        "seller:seller-1:pending": ("seller_pending", "11.34"),
    }
    nothing_held = {(account["debits_pending"], account["credits_pending"]) for account in euros["accounts"]}
    assert nothing_held == {("0.00", "0.00")}


async def test_a_payment_s_events_tell_its_story_without_the_buyer(gateway_server: RunningGateway, key: str) -> None:
    buyer = {
        "reference": "ada-reference",
        "email": "ada@shop.example",
        "name": "Ada Lovelace",
        "country": "GB",
        "ip": "203.0.113.7",
    }
    payment = await pay(gateway_server, key, "c0", orders=3, buyer=buyer)
    path = f"/v1/payments/{payment['payment_id']}/events"
    (story,) = await pages(gateway_server, key, f"{path}?limit=100", "events")
    assert [event["kind"] for event in story] == ["payment.accepted", *["order.succeeded"] * 3]
    assert story[0]["body"]["checkout_id"] == "c0"
    assert sum(event["body"]["transfers"][0]["amount_minor"] for event in story[1:]) == 3 * 1134
    for personal in buyer.values():
        assert personal not in json.dumps(story).replace('"GB"', "" if personal != "GB" else '"GB"')
    by_one = await pages(gateway_server, key, f"{path}?limit=1", "events")
    assert [event for page in by_one for event in page] == story
    assert [len(page) for page in by_one] == [1] * 4
    other = await pay(gateway_server, key, "c1")
    cursor = (await gateway_server.ask("GET", f"{path}?limit=1", key)).body["next_cursor"]
    stranger = await gateway_server.ask("GET", f"/v1/payments/{other['payment_id']}/events?cursor={cursor}", key)
    assert (stranger.status, stranger.body["code"]) == (400, "invalid_cursor")


async def test_I2_another_shop_and_the_other_mode_see_nothing(gateway_server: RunningGateway, key: str) -> None:
    payment = await pay(gateway_server, key, "c0")
    paths = (
        f"/v1/payments/{payment['payment_id']}",
        f"/v1/payments/{payment['payment_id']}/events",
        "/v1/payment_orders/c0-0",
        "/v1/sellers/seller-0/wallet",
    )
    strangers = [await gateway_server.make_key("coats"), await gateway_server.make_key("hats", Mode.LIVE)]
    for stranger in strangers:
        for path in paths:
            assert (await gateway_server.ask("GET", path, key)).status == 200
            answer = await gateway_server.ask("GET", path, stranger)
            assert (answer.status, answer.body["code"]) == (404, "not_found"), path
        for query in ("", "?checkout_id=c0", "?buyer_reference=buyer-7", "?status=SUCCESS"):
            answer = await gateway_server.ask("GET", f"/v1/payments{query}", stranger)
            assert answer.body == {"payments": [], "next_cursor": None}, query
        assert (await gateway_server.ask("GET", "/v1/ledger/trial_balance", stranger)).body == {"currencies": []}


@pytest.mark.parametrize(
    "path",
    ["/v1/payments", "/v1/payments/pay_x", "/v1/payments/pay_x/events", "/v1/payment_orders/x",
     "/v1/sellers/x/wallet", "/v1/ledger/trial_balance"],
)  # fmt: skip
async def test_nobody_reads_without_a_key(gateway_server: RunningGateway, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer cck_test_x"}, {"Authorization": "Basic eDp5"}):
        answer = await gateway_server.ask("GET", f"{path}?limit=many", headers=headers)
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_list_reads_its_index_and_nothing_more(gateway_server: RunningGateway, key: str, owner: Any) -> None:
    await pay(gateway_server, key, "c0")
    await owner.execute(
        "INSERT INTO payment SELECT gen_random_uuid(), shop_id, mode, n::text, request_digest, accepted_by, buyer_id, "
        "order_ids, NULL, risk_decision, risk_signals, risk_subjects, capture, on_failure, return_url, "
        "created_at - n * interval '1 second' "
        "FROM payment, generate_series(1, 20000) AS n"
    )
    await owner.execute("ANALYZE payment")
    shop_id = await owner.fetchval("SELECT shop_id FROM payment LIMIT 1")
    place = read_models.NEWEST
    plan = await owner.fetchval(
        "EXPLAIN (ANALYZE, FORMAT JSON) " + gateway_server.gateway.store.queries["payment_list"],
        *(shop_id, "test", place.at - timedelta(days=1), place.row_id, read_models._EARLIEST, 21, False),
    )
    told = json.dumps(json.loads(plan))
    assert "payment_by_shop_and_age" in told
    assert '"Node Type": "Sort"' not in told
    scan = json.loads(plan)[0]["Plan"]["Plans"][0]
    assert (scan["Node Type"], scan["Actual Rows"]) == ("Index Scan", 21)


async def test_a_lost_database_is_a_503_that_says_when_to_come_again(store: Store, simulator_url: str) -> None:
    settings = Settings(simulator_url=simulator_url, digest_secret=DIGEST_SECRET)
    clock, providers = SystemClock(), make_providers(settings)
    gateway = make_gateway(settings, store, providers, clock=clock)
    async with listening(gateway) as url, aiohttp.ClientSession() as session:
        server = RunningGateway(url, gateway, session, clock, simulator_url)
        key = await server.make_key()
        assert (await server.ask("GET", "/v1/payments", key)).status == 200
        await asyncio.wait_for(store.pool.close(), 10)
        for answer in (
            await server.ask("GET", "/v1/ledger/trial_balance", key),
            await server.pay(key, checkout("c0"), Idempotency_Key="k"),
        ):
            assert (answer.status, answer.body["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert answer.body["instance"].startswith("urn:uuid:")
        assert (await server.ask("GET", "/health/ready")).status == 503
        assert (await server.ask("GET", "/health/live")).status == 200
    await providers["simulator"].close()
