"""Ledger accounts, statements, the trial balance of any moment and reports, over real HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from tests.integration.running import RunningGateway, checkout, gateway_server, simulator_url

from coatcheck.states import Mode

__all__ = ["gateway_server", "simulator_url"]

RECEIVABLE = "/v1/ledger/accounts/psp:simulator:receivable/statement?currency=EUR"
REPORTS = ["/v1/reports/revenue", "/v1/reports/fees", "/v1/reports/volumes"]


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


async def pay(server: RunningGateway, key: str, name: str, **more: Any) -> None:
    answer = await server.pay(key, checkout(name, **more), Idempotency_Key=f"key-{name}")
    assert answer.status == 201, answer.raw


async def get(server: RunningGateway, key: str, path: str) -> Any:
    answer = await server.ask("GET", path, key)
    assert answer.status == 200, answer.raw
    return answer.body


def zulu(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


async def test_a_statement_comes_in_pages_that_hold_every_line_once(gateway_server: RunningGateway, key: str) -> None:
    for place in range(3):
        await pay(gateway_server, key, f"c{place}")
    whole = await get(gateway_server, key, RECEIVABLE)
    assert (whole["account"], whole["kind"], whole["next_cursor"]) == (
        "psp:simulator:receivable",
        "psp_receivable",
        None,
    )
    assert [line["debit"] for line in whole["lines"]] == ["11.34", "1.00"] * 3
    assert {line["counter_account"] for line in whole["lines"]} == {"seller:seller-0:pending", "platform:commission"}
    assert [line["balance"] for line in whole["lines"]] == ["11.34", "12.34", "23.68", "24.68", "36.02", "37.02"]
    assert (whole["opening_balance"], whole["closing_balance"]) == ("0.00", "37.02")
    lines: list[Any] = []
    page = await get(gateway_server, key, RECEIVABLE + "&limit=4")
    while True:
        lines += page["lines"]
        assert (page["opening_balance"], page["closing_balance"]) == ("0.00", "37.02")
        if page["next_cursor"] is None:
            break
        page = await get(gateway_server, key, f"{RECEIVABLE}&limit=4&cursor={page['next_cursor']}")
    assert lines == whole["lines"]
    third = quote(whole["lines"][2]["at"])
    later = await get(gateway_server, key, f"{RECEIVABLE}&from={third}")
    assert later["opening_balance"] == "12.34"
    assert later["lines"] == whole["lines"][2:]
    earlier = await get(gateway_server, key, f"{RECEIVABLE}&to={third}")
    assert (earlier["closing_balance"], earlier["lines"]) == ("12.34", whole["lines"][:2])


async def test_a_cursor_of_another_statement_is_refused(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0")
    page = await get(gateway_server, key, RECEIVABLE + "&limit=1")
    for path in (
        "/v1/ledger/accounts/platform:commission/statement?currency=EUR",
        RECEIVABLE + "&from=2026-01-01T00:00:00Z",
        "/v1/ledger/accounts?limit=1",
        "/v1/ledger/trial_balance?limit=1",
    ):
        answer = await gateway_server.ask("GET", f"{path}&cursor={page['next_cursor']}", key)
        assert (answer.status, answer.body["code"]) == (400, "invalid_cursor"), path


async def test_accounts_are_listed_by_currency_and_name(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0", orders=3)
    body = checkout("c1")
    body["payment_orders"][0] |= {"amount": "5000", "currency": "JPY", "commission": "1"}
    assert (await gateway_server.pay(key, body, Idempotency_Key="k1")).status == 201
    found: list[Any] = []
    path = "/v1/ledger/accounts?limit=3"
    cursor = ""
    while cursor is not None:
        page = await get(gateway_server, key, path + (f"&cursor={cursor}" if cursor else ""))
        found += page["accounts"]
        cursor = page["next_cursor"]
    assert [(each["currency"], each["name"], each["balance"]) for each in found] == [
        ("EUR", "platform:commission", "3.00"),
        ("EUR", "psp:simulator:receivable", "37.02"),
        ("EUR", "seller:seller-0:pending", "11.34"),
        ("EUR", "seller:seller-1:pending", "11.34"),
        ("EUR", "seller:seller-2:pending", "11.34"),
        ("JPY", "platform:commission", "1"),
        ("JPY", "psp:simulator:receivable", "5000"),
        ("JPY", "seller:seller-0:pending", "4999"),
    ]


async def test_the_trial_balance_of_any_moment_agrees_and_comes_in_pages(
    gateway_server: RunningGateway, key: str
) -> None:
    before = gateway_server.clock.now()
    await pay(gateway_server, key, "c0")
    now = await get(gateway_server, key, "/v1/ledger/trial_balance")
    soon = zulu(datetime.now(UTC) + timedelta(seconds=5))
    later = await get(gateway_server, key, f"/v1/ledger/trial_balance?at={soon}")
    for part in later["currencies"]:
        assert {account["debits_pending"] for account in part["accounts"]} == {None}
        for account in part["accounts"]:
            account |= {"debits_pending": "0.00", "credits_pending": "0.00"}
    assert later == now
    earlier = await get(gateway_server, key, f"/v1/ledger/trial_balance?at={zulu(before - timedelta(hours=1))}")
    assert earlier == {"currencies": []}
    (first,) = (page := await get(gateway_server, key, "/v1/ledger/trial_balance?limit=2"))["currencies"]
    assert (first["debits"], first["credits"], len(first["accounts"])) == ("12.34", "12.34", 2)
    rest = await get(gateway_server, key, f"/v1/ledger/trial_balance?limit=2&cursor={page['next_cursor']}")
    assert rest["next_cursor"] is None
    assert first["accounts"] + rest["currencies"][0]["accounts"] == now["currencies"][0]["accounts"]


async def test_an_account_s_name_may_hold_any_printable_character(gateway_server: RunningGateway, key: str) -> None:
    body = checkout("c0")
    body["payment_orders"][0]["seller_account"] = seller = "s/../%41&t?"
    assert (await gateway_server.pay(key, body, Idempotency_Key="k")).status == 201
    name = quote(f"seller:{seller}:pending", safe="")
    found = await get(gateway_server, key, f"/v1/ledger/accounts/{name}/statement?currency=EUR")
    assert found["account"] == f"seller:{seller}:pending"
    assert len(found["lines"]) == 1


async def test_I2_another_shop_and_the_other_mode_see_no_books(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0")
    for stranger in (await gateway_server.make_key("coats"), await gateway_server.make_key("hats", Mode.LIVE)):
        answer = await gateway_server.ask("GET", RECEIVABLE, stranger)
        assert (answer.status, answer.body["code"]) == (404, "not_found")
        assert (await get(gateway_server, stranger, "/v1/ledger/accounts"))["accounts"] == []
        for path in REPORTS:
            assert (await get(gateway_server, stranger, f"{path}?from=2026-01-01&to=2026-12-31"))["rows"] == []


async def test_what_is_wrong_with_a_question_is_told(gateway_server: RunningGateway, key: str) -> None:
    for path, pointer in (
        ("/v1/ledger/accounts/x/statement", "/currency"),
        ("/v1/ledger/accounts/x/statement?currency=eur", "/currency"),
        (f"{RECEIVABLE}&from=2026-05-02T00:00:00Z&to=2026-05-01T00:00:00Z", "/to"),
        (RECEIVABLE + "&from=2026-01-01", "/from"),
        (RECEIVABLE + "&since=2026-01-01T00:00:00Z", "/since"),
        ("/v1/ledger/trial_balance?at=now", "/at"),
        ("/v1/reports/revenue?from=2026-01-01", "/to"),
        ("/v1/reports/fees?from=2026-01-01&to=2026-02-30", "/to"),
        ("/v1/reports/volumes?from=2026-02-01&to=2026-01-01", "/to"),
        ("/v1/reports/volumes?from=2026-02-01&to=2026-03-01&granularity=year", "/granularity"),
    ):
        answer = await gateway_server.ask("GET", path, key)
        assert (answer.status, answer.body["problems"][0]["pointer"]) == (422, pointer), path
    answer = await gateway_server.ask("GET", "/v1/ledger/accounts/a%20b/statement?currency=EUR", key)
    assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_a_report_in_pages_is_the_report(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0")
    for currency, amount in (("JPY", "950"), ("USD", "9.50")):
        order = {"payment_order_id": currency, "seller_account": "s1", "amount": amount, "currency": currency}
        await pay(gateway_server, key, currency, payment_orders=[order])
    today = gateway_server.clock.now().date()
    period = f"from={today - timedelta(days=1)}&to={today + timedelta(days=2)}"
    for path in ("/v1/reports/revenue", "/v1/reports/volumes"):
        whole = await get(gateway_server, key, f"{path}?{period}")
        assert ([row["currency"] for row in whole["rows"]], "next_cursor" in whole) == (["EUR", "JPY", "USD"], False)
        first = await get(gateway_server, key, f"{path}?{period}&limit=2")
        asked = f"{period}&limit=2&cursor={first['next_cursor']}"
        second = await get(gateway_server, key, f"{path}?{asked}")
        assert (first["rows"] + second["rows"], second["next_cursor"]) == (whole["rows"], None)
        for other in (f"{path}?{asked}&granularity=month", f"/v1/reports/fees?{asked}"):
            answer = await gateway_server.ask("GET", other, key)
            assert (answer.status, answer.body["code"]) == (400, "invalid_cursor"), other


async def test_E8_reports_are_told_by_currency(gateway_server: RunningGateway, key: str) -> None:
    await pay(gateway_server, key, "c0")
    await pay(gateway_server, key, "c1", token="tok_decline_do_not_honor")
    today = gateway_server.clock.now().date()
    period = f"from={today - timedelta(days=1)}&to={today + timedelta(days=2)}"
    (row,) = (await get(gateway_server, key, f"/v1/reports/revenue?{period}"))["rows"]
    assert (row["currency"], row["charged"], row["commission"], row["net"]) == ("EUR", "12.34", "1.00", "1.00")
    (row,) = (await get(gateway_server, key, f"/v1/reports/volumes?{period}&granularity=month"))["rows"][:1]
    assert (row["orders"], row["succeeded"], row["failed"], row["success_rate"]) == (2, 1, 1, "0.5000")
    assert row["declines"] == [{"code": "do_not_honor", "orders": 1, "amount": "12.34"}]
    assert row["period"] == str(today.replace(day=1)) or today.day == 1
    assert (await get(gateway_server, key, f"/v1/reports/fees?{period}"))["rows"] == []
