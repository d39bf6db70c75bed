"""Payouts over real HTTP, against the simulator: destinations, requests, runs, what comes back, and statements."""

import asyncio
import csv
import io
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from tests.integration.running import Answer, RunningGateway, gateway_server, simulator_url

from coatcheck.dead_letters import person_of
from coatcheck.ids import PAYOUT, PAYOUT_RUN, parse_id, print_id
from coatcheck.ledger import Account, Ledger, Transfer, psp_receivable, seller_available
from coatcheck.shops import shop_id_of
from coatcheck.simulator.webhooks import DEFAULT_SECRET
from coatcheck.states import Mode

__all__ = ["gateway_server", "simulator_url"]

HATS = shop_id_of("hats")


@pytest.fixture
async def key(gateway_server: RunningGateway) -> str:
    return await gateway_server.make_key()


async def fund(server: RunningGateway, seller: str, amount_minor: int, currency: str = "EUR") -> None:
    ledger, at = Ledger(server.gateway.store), server.clock.now()
    names = (psp_receivable("simulator"), seller_available(seller))
    receivable, available = [Account(HATS, Mode.TEST, name, currency) for name in names]
    await ledger.open_accounts([receivable, available], at)
    transfer = Transfer(
        transfer_id=uuid4(),
        kind="funding",
        debit_account_id=receivable.account_id,
        credit_account_id=available.account_id,
        amount_minor=amount_minor,
        currency=currency,
        subject_id=uuid4(),
    )
    assert [outcome.is_booked for outcome in await ledger.post([transfer], at)] == [True]


async def put(server: RunningGateway, key: str, what: str, seller: str = "seller-1", **body: Any) -> Answer:
    return await server.ask("PUT", f"/v1/sellers/{seller}/{what}", key, json={"currency": "EUR", **body})


async def seller_with(server: RunningGateway, key: str, amount_minor: int, token: str = "dest_ok") -> None:
    await fund(server, "seller-1", amount_minor)
    answer = await put(server, key, "payout_destination", token=token)
    assert answer.status == 200, answer.raw


async def pay_out(server: RunningGateway, key: str, ticket: str = "p1", **body: Any) -> Answer:
    asked = {"seller_account": "seller-1", "currency": "EUR", **body}
    return await server.ask("POST", "/v1/payouts", key, json=asked, headers={"Idempotency-Key": ticket})


async def at_psp(server: RunningGateway, path: str, body: object = None) -> Any:
    method = "GET" if body is None else "POST"
    async with server.session.request(method, server.simulator_url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def wallet(server: RunningGateway, key: str) -> dict[str, str]:
    answer = await server.ask("GET", "/v1/sellers/seller-1/wallet", key)
    (balance,) = answer.body["balances"]
    told: dict[str, str] = balance
    return told


async def until_decided(server: RunningGateway, key: str, payout_id: str, status: str) -> dict[str, Any]:
    for _ in range(200):
        shown: dict[str, Any] = (await server.ask("GET", f"/v1/payouts/{payout_id}", key)).body
        if shown["status"] == status:
            return shown
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {status}: {shown}")


async def test_a_payout_reaches_the_seller_s_bank_once(gateway_server: RunningGateway, key: str) -> None:
    await seller_with(gateway_server, key, 10_000, "dest_ok.hat-maker")
    first = await pay_out(gateway_server, key, amount="25.50")
    assert first.status == 201, first.raw
    assert first.body["payout_id"].startswith("out_")
    assert first.body["provider_reference"].startswith("po_")
    assert {name: first.body[name] for name in ("seller_account", "amount", "currency", "status", "destination")} == {
        "seller_account": "seller-1",
        "amount": "25.50",
        "currency": "EUR",
        "status": "PAID",
        "destination": "dest_ok.hat-maker",
    }
    again = await pay_out(gateway_server, key, amount="25.5")
    assert (again.status, again.headers["idempotent-replayed"], again.body) == (201, "true", first.body)
    assert (await at_psp(gateway_server, "/admin/books"))["paid_out"] == {"EUR": 2550}
    rest = await pay_out(gateway_server, key, "p2")
    assert (rest.body["amount"], (await wallet(gateway_server, key))["available"]) == ("74.50", "0.00")
    listed = await gateway_server.ask("GET", "/v1/payouts?seller_account=seller-1&limit=1", key)
    assert [each["payout_id"] for each in listed.body["payouts"]] == [rest.body["payout_id"]]
    following = await gateway_server.ask(
        "GET", f"/v1/payouts?seller_account=seller-1&limit=1&cursor={listed.body['next_cursor']}", key
    )
    assert ([each["amount"] for each in following.body["payouts"]], following.body["next_cursor"]) == (["25.50"], None)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"amount": "100.01"}, 409, "payout_not_possible"),
        ({"seller_account": "nobody"}, 409, "payout_not_possible"),
        ({"currency": "JPY"}, 409, "payout_not_possible"),
        ({"amount": "1.001"}, 422, "invalid_request"),
        ({"amount": 1}, 422, "invalid_request"),
        ({"currency": "EURO"}, 422, "invalid_request"),
        ({"seller_account": "a:b"}, 422, "invalid_request"),
        ({"seller_account": "4111111111111111"}, 422, "card_number_refused"),
        ({"iban": "DE89370400440532013000"}, 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_paid_out_is_refused_and_nothing_moves(
    gateway_server: RunningGateway, key: str, body: dict[str, Any], status: int, code: str
) -> None:
    await seller_with(gateway_server, key, 10_000)
    answer = await pay_out(gateway_server, key, **body)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert (await wallet(gateway_server, key))["available"] == "100.00"
    assert (await at_psp(gateway_server, "/admin/payouts"))["data"] == []


async def test_B2_a_key_is_one_payout_s_for_ever(gateway_server: RunningGateway, key: str) -> None:
    await seller_with(gateway_server, key, 10_000)
    await pay_out(gateway_server, key, amount="1.00")
    answer = await pay_out(gateway_server, key, amount="2.00")
    assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")


async def test_what_the_bank_refuses_is_a_result_and_the_money_is_back(
    gateway_server: RunningGateway, key: str
) -> None:
    await seller_with(gateway_server, key, 10_000, "dest_closed")
    answer = await pay_out(gateway_server, key)
    assert (answer.status, answer.body["status"], answer.body["decline_code"]) == (201, "FAILED", "account_closed")
    assert (await wallet(gateway_server, key))["available"] == "100.00"


async def test_D10_a_payout_that_the_bank_sends_back_is_in_the_wallet_again(
    gateway_server: RunningGateway, key: str
) -> None:
    door = f"{gateway_server.url}/webhooks/simulator"
    async with gateway_server.session.put(
        f"{gateway_server.simulator_url}/admin/webhooks", json={"url": door, "secret": DEFAULT_SECRET}
    ) as answer:
        assert answer.status == 200
    await seller_with(gateway_server, key, 10_000)
    paid = (await pay_out(gateway_server, key)).body
    assert (paid["status"], (await wallet(gateway_server, key))["available"]) == ("PAID", "0.00")
    await at_psp(gateway_server, f"/admin/return/{paid['provider_reference']}", {})
    returned = await until_decided(gateway_server, key, paid["payout_id"], "RETURNED")
    assert returned["decline_code"] == "bank_returned"
    assert (await wallet(gateway_server, key))["available"] == "100.00"
    assert (await at_psp(gateway_server, "/admin/books"))["paid_out"] == {}
    async with gateway_server.session.put(f"{gateway_server.simulator_url}/admin/webhooks", json={"url": None}):
        pass


async def test_a_pending_payout_is_202_and_decided_later(gateway_server: RunningGateway, key: str) -> None:
    await seller_with(gateway_server, key, 10_000, "dest_pending")
    answer = await pay_out(gateway_server, key)
    assert (answer.status, answer.body["status"]) == (202, "PENDING")
    assert (await wallet(gateway_server, key))["in_payout"] == "100.00"
    (made,) = (await at_psp(gateway_server, "/admin/payouts"))["data"]
    await at_psp(gateway_server, f"/admin/settle/{made['id']}", {"status": "succeeded"})
    await until_decided(gateway_server, key, answer.body["payout_id"], "PAID")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"token": "DE89370400440532013000"}, "bank_details_refused"),
        ({"token": "0532013000"}, "bank_details_refused"),
        ({"token": "acct_1NvdFGQ9RKHgCVdK"}, "invalid_request"),
        ({"token": "dest_ok", "provider": "stripe"}, "invalid_request"),
        ({"token": "dest_ok", "currency": "XYZ"}, "invalid_request"),
        ({}, "invalid_request"),
    ],
)
async def test_a_destination_that_is_no_token_is_refused(
    gateway_server: RunningGateway, key: str, owner: asyncpg.Connection, body: dict[str, Any], code: str
) -> None:
    answer = await put(gateway_server, key, "payout_destination", **body)
    assert (answer.status, answer.body["code"]) == (422, code)
    assert b"DE89" not in answer.raw
    assert await owner.fetchval("SELECT count(*) FROM payout_destination") == 0
    shown = await gateway_server.ask("GET", "/v1/sellers/seller-1/payout_destination", key)
    assert shown.status == 404


async def test_a_changed_destination_tells_until_when_it_cools_down(gateway_server: RunningGateway, key: str) -> None:
    await seller_with(gateway_server, key, 10_000)
    changed = await put(gateway_server, key, "payout_destination", token="dest_ok.new")
    (shown,) = changed.body["destinations"]
    assert (shown["token"], shown["usable_from"] > shown["changed_at"]) == ("dest_ok.new", True)
    answer = await pay_out(gateway_server, key)
    assert (answer.status, answer.body["code"]) == (409, "payout_not_possible")
    assert "cools down" in answer.body["detail"]


async def test_a_schedule_is_kept_and_can_be_taken_away(gateway_server: RunningGateway, key: str) -> None:
    answer = await put(gateway_server, key, "payout_schedule", cron="0 6 * * mon", threshold="50.00")
    (shown,) = answer.body["schedules"]
    assert (shown["cron"], shown["threshold"], shown["changed_by"][:8]) == ("0 6 * * MON", "50.00", "key key_")
    assert (await put(gateway_server, key, "payout_schedule", cron="at noon now")).status == 422
    answer = await put(gateway_server, key, "payout_schedule")
    (shown,) = answer.body["schedules"]
    assert (shown["cron"], shown["next_at"]) == (None, None)


async def test_I1_a_run_that_waits_is_let_go_by_another_key_than_proposed_it(
    gateway_server: RunningGateway, key: str
) -> None:
    runs = gateway_server.gateway.payout_runs
    await seller_with(gateway_server, key, 10_000)
    await put(gateway_server, key, "payout_schedule", cron="* * * * *")
    store = gateway_server.gateway.store
    listed = await gateway_server.ask("GET", "/v1/payout_runs", key)
    assert listed.body["payout_runs"] == []
    (planned,) = await runs.plan(at=gateway_server.clock.now() + timedelta(minutes=2))
    asker = await gateway_server.gateway.keys.authenticate(f"Bearer {key}".encode())
    run = await runs.propose(planned, person_of(asker))
    printed = print_id(PAYOUT_RUN, run.run_id)
    path = f"/v1/payout_runs/{printed}/approval"
    own = await gateway_server.ask("POST", path, key, json={"decision": "approve"})
    assert (own.status, own.body["code"]) == (409, "approval_not_possible")
    other_key = await gateway_server.make_key()
    assert (await gateway_server.ask("POST", path, other_key, json={"decision": "perhaps"})).status == 422
    let_go = await gateway_server.ask("POST", path, other_key, json={"decision": "approve"})
    assert (let_go.status, let_go.body["status"], let_go.body["total"]) == (200, "APPROVED", "100.00")
    (item,) = let_go.body["sellers"]
    shown = await until_decided(gateway_server, key, item["payout_id"], "PAID")
    assert shown["run_id"] == printed
    late = await gateway_server.ask("POST", path, other_key, json={"decision": "reject"})
    assert (late.status, late.body["code"]) == (409, "approval_not_possible")
    strange = await gateway_server.make_key("gloves")
    assert (await gateway_server.ask("GET", f"/v1/payout_runs/{printed}", strange)).status == 404
    assert (await gateway_server.ask("GET", f"/v1/payouts/{item['payout_id']}", strange)).status == 404
    assert parse_id(PAYOUT, item["payout_id"]) is not None
    assert await store.pool.fetchval("SELECT count(*) FROM payout") == 1


async def test_a_statement_s_opening_and_movements_are_its_closing(gateway_server: RunningGateway, key: str) -> None:
    before = gateway_server.clock.now() - timedelta(minutes=1)
    await seller_with(gateway_server, key, 10_000)
    await pay_out(gateway_server, key, amount="30.00")
    path = f"/v1/sellers/seller-1/statement?from={before:%Y-%m-%dT%H:%M:%SZ}"
    body = (await gateway_server.ask("GET", path, key)).body
    (part,) = body["currencies"]
    assert (part["opening"]["total"], part["closing"]["total"]) == ("0.00", "70.00")
    assert [each["kind"] for each in part["movements"]] == ["funding", "payout", "payout_paid"]
    assert part["movements"][1]["change"] == {
        "pending": "0.00",
        "available": "-30.00",
        "in_payout": "30.00",
        "reserved": "0.00",
        "total": "0.00",
    }
    text = await gateway_server.ask("GET", f"{path}&format=csv", key)
    assert text.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(text.raw.decode())))
    assert [row["kind"] for row in rows] == ["opening", "funding", "payout", "payout_paid", "closing"]
    assert [row["balance"] for row in rows] == ["0.00", "100.00", "100.00", "70.00", "70.00"]
    paper = await gateway_server.ask("GET", f"{path}&format=pdf", key)
    assert (paper.headers["content-type"], paper.raw[:5]) == ("application/pdf", b"%PDF-")
    assert (await gateway_server.ask("GET", f"{path}&to=2020-01-01T00:00:00Z", key)).status == 422
    assert (await gateway_server.ask("GET", f"{path}&format=docx", key)).status == 422
    assert (await gateway_server.ask("GET", path.replace("seller-1", "nobody"), key)).status == 404
