"""The whole road over real HTTP: the gateway, the simulated PSP in its own process, its page and its webhooks."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from tests.integration.running import Answer, RunningGateway, checkout, run_gateway, simulator_url  # noqa: F401

from coatcheck.clock import Clock, ManualClock
from coatcheck.store import Store

SECRET = "whsec_of_this_test"
# Polls are slow on purpose: whatever is settled within a test was told, not asked.
SETTINGS = {"retry_base_ms": 600_000, "retry_cap_s": 86_400, "simulator_webhook_secrets": ("whsec_older", SECRET)}


@asynccontextmanager
async def told_gateway(
    store: Store, simulator: str, *, clock: Clock | None = None, **more: Any
) -> AsyncIterator[RunningGateway]:
    """A gateway whose PSP sends webhooks to it."""
    async with run_gateway(store, simulator, clock=clock, settings=SETTINGS | more) as running:
        await admin(running, "PUT", "/admin/webhooks", {"url": f"{running.url}/webhooks/simulator", "secret": SECRET})
        try:
            yield running
        finally:
            await admin(running, "PUT", "/admin/webhooks", {"url": None, "secret": SECRET})


async def admin(running: RunningGateway, method: str, path: str, body: Any = None) -> Any:
    async with running.session.request(method, running.simulator_url + path, json=body) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def until(running: RunningGateway, key: str, path: str, status: str) -> Answer:
    """Ask until something has a status."""
    async with asyncio.timeout(20):
        while True:
            answer = await running.ask("GET", path, key)
            assert answer.status == 200, answer.raw
            if answer.body["status"] == status:
                return answer
            await asyncio.sleep(0.05)


async def audit(owner: asyncpg.Connection, running: RunningGateway) -> None:
    for name, text in running.gateway.store.invariants.items():
        assert not await owner.fetch(text), name


async def test_a_hosted_payment_is_settled_by_the_webhook(
    store: Store,
    owner: asyncpg.Connection,
    simulator_url: str,  # noqa: F811
) -> None:
    async with told_gateway(store, simulator_url) as running:
        key = await running.make_key()
        body = checkout("hosted", orders=2)
        body["payment_method"] = {"hosted": {"return_url": "https://shop.example/thanks"}}
        answer = await running.pay(key, body, Idempotency_Key="k1")
        assert (answer.status, answer.body["status"]) == (202, "PENDING")
        page = answer.body["next_action"]["redirect_url"]
        again = await running.pay(key, body, Idempotency_Key="k2")
        assert again.body["next_action"]["redirect_url"] == page  # the page is made once
        async with running.session.get(page) as shown:
            assert shown.status == 200
        await admin(running, "POST", f"/admin/sessions/{page.rpartition('/')[2]}/pay", {"token": "tok_approve"})
        paid = await until(running, key, f"/v1/payments/{answer.body['payment_id']}", "SUCCESS")
        assert paid.body["next_action"] is None
        assert [order["captured"] for order in paid.body["payment_orders"]] == ["12.34", "12.34"]
        assert await running.charges("hosted-0") == await running.charges("hosted-1") == 1
        await audit(owner, running)


async def test_A8_two_pages_of_one_payment_that_are_both_paid_are_told(store: Store, simulator_url: str) -> None:  # noqa: F811
    """The PSP takes the money twice, under ids of its own; that anybody hears of the second is the event's doing."""
    async with told_gateway(store, simulator_url) as running:
        key = await running.make_key()
        body = checkout("twice")
        body["payment_method"] = {"hosted": {"return_url": "https://shop.example/thanks"}}
        answer = await running.pay(key, body, Idempotency_Key="k1")
        first = answer.body["next_action"]["redirect_url"].rpartition("/")[2]
        async with running.session.post(  # the same request, from somebody who has lost the key
            f"{running.simulator_url}/v1/sessions",
            data=await store.pool.fetchval("SELECT body FROM operation"),
            headers={"Authorization": "Bearer sk_sim_test_coatcheck", "Idempotency-Key": "another"},
        ) as made:
            second = (await made.json())["id"]
        assert first != second
        for session in (first, second):
            await admin(running, "POST", f"/admin/sessions/{session}/pay", {"token": "tok_approve"})
            await until(running, key, f"/v1/payments/{answer.body['payment_id']}", "SUCCESS")
        assert await running.charges("twice-0") == 2
        async with asyncio.timeout(20):
            while not await store.pool.fetchval("SELECT count(*) FROM event WHERE kind = 'order.charged_twice'"):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        assert await store.pool.fetchval("SELECT count(*) FROM transfer WHERE kind = 'charge'") == 1


async def test_a_buyer_who_leaves_the_page_cancels(store: Store, owner: asyncpg.Connection, simulator_url: str) -> None:  # noqa: F811
    async with told_gateway(store, simulator_url) as running:
        key = await running.make_key()
        body = checkout("left")
        body["payment_method"] = {"hosted": {"return_url": "https://shop.example/thanks"}}
        answer = await running.pay(key, body, Idempotency_Key="k1")
        session = answer.body["next_action"]["redirect_url"].rpartition("/")[2]
        await admin(running, "POST", f"/admin/sessions/{session}/cancel")
        ended = await until(running, key, f"/v1/payments/{answer.body['payment_id']}", "CANCELLED")
        assert ended.body["payment_orders"][0]["decline_code"] == "page_cancelled"
        await audit(owner, running)


async def test_authorize_capture_in_parts_refund_and_the_bank_sends_it_back(
    store: Store,
    owner: asyncpg.Connection,
    simulator_url: str,  # noqa: F811
) -> None:
    async with told_gateway(store, simulator_url) as running:
        key = await running.make_key()
        answer = await running.pay(
            key, checkout("parts", token="tok_refund_fails_later", capture="manual"), Idempotency_Key="k1"
        )
        assert answer.body["status"] == "AUTHORIZED"
        path = f"/v1/payments/{answer.body['payment_id']}"
        part = {"payment_orders": [{"payment_order_id": "parts-0", "amount": "5.00"}], "idempotency_key": "c1"}
        captured = await running.ask("POST", f"{path}/capture", key, json={**part, "final": False})
        assert (captured.status, captured.body["payment_orders"][0]["captured"]) == (200, "5.00")
        captured = await running.ask("POST", f"{path}/capture", key, json={"idempotency_key": "c2"})
        assert captured.body["status"] == "SUCCESS"
        wanted = {"payment_order_id": "parts-0", "amount": "2.00", "idempotency_key": "r1"}
        refund = await running.ask("POST", "/v1/refunds", key, json=wanted)
        assert (refund.status, refund.body["status"]) == (201, "SUCCEEDED")
        (action,) = [
            each for each in (await admin(running, "GET", "/admin/actions"))["data"] if each["object"] == "refund"
        ]
        await admin(running, "POST", f"/admin/fail-refund/{action['id']}")
        failed = await until(running, key, f"/v1/refunds/{refund.body['refund_id']}", "FAILED")
        assert failed.body["decline_code"] == "bank_returned"
        wallet = await running.ask("GET", "/v1/sellers/seller-0/wallet", key)
        assert [each["pending"] for each in wallet.body["balances"]] == ["11.34"]
        await audit(owner, running)


async def test_all_or_nothing_over_http(store: Store, owner: asyncpg.Connection, simulator_url: str) -> None:  # noqa: F811
    async with told_gateway(store, simulator_url) as running:
        key = await running.make_key()
        together = {"on_failure": "all_or_nothing"}
        taken = await running.pay(key, checkout("all", orders=3, **together), Idempotency_Key="k1")
        assert (taken.status, taken.body["status"]) == (201, "SUCCESS")
        none = checkout("none", orders=2, **together)
        none["payment_orders"][1]["amount"] = "0.01"
        none["payment_orders"][1].pop("commission")
        none["payment_method"] = {"token": "tok_capture_declined"}
        refused = await running.pay(key, none, Idempotency_Key="k2")
        ended = await until(running, key, f"/v1/payments/{refused.body['payment_id']}", "CANCELLED")
        assert {order["status"] for order in ended.body["payment_orders"]} == {"CANCELLED"}
        await audit(owner, running)


@pytest.mark.parametrize("skew_s", [-299, 299])
async def test_C9_the_door_is_open_on_both_sides_of_the_tolerance_and_shut_beyond(
    store: Store,
    simulator_url: str,  # noqa: F811
    skew_s: int,
) -> None:
    clock = ManualClock(datetime.now(UTC))  # it stands still, so a slow machine does not move the bounds
    async with told_gateway(store, simulator_url, clock=clock) as running:

        async def knock(at: int, secret: str = SECRET) -> Answer:
            raw = (
                b'{"id":"evt_x%d","type":"x","created":1,"livemode":false,"account":"coatcheck","data":{"object":{}}}'
                % at
            )
            signature = hmac.new(secret.encode(), b"%d." % at + raw, hashlib.sha256).hexdigest()
            return await running.ask(
                "POST", "/webhooks/simulator", data=raw, headers={"Simulator-Signature": f"t={at},v1={signature}"}
            )

        now = int(clock.now().timestamp())
        assert (await knock(now + skew_s)).status == 200
        assert (await knock(now + skew_s, "whsec_older")).status == 200  # C11: while secrets change, both prove
        beyond = await knock(now + (310 if skew_s > 0 else -310))
        assert (beyond.status, beyond.body["code"]) == (400, "webhook_refused")
        assert (await knock(now, "whsec_of_somebody")).status == 400
        assert await store.pool.fetchval("SELECT count(*) FROM inbox") == 1  # C5: what is refused leaves no trace
        nobody = await running.ask("POST", "/webhooks/paypal", data=b"{}")
        assert nobody.status == 404


async def test_C17_a_webhook_that_is_too_large_is_refused(store: Store, simulator_url: str) -> None:  # noqa: F811
    async with told_gateway(store, simulator_url, webhook_limit_bytes=4096) as running:
        answer = await running.ask("POST", "/webhooks/simulator", data=b"x" * 5000)
        assert (answer.status, answer.body["code"]) == (413, "body_too_large")
