"""A buyer who pays on the provider's page, and the page of ours that tells him how it stands."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.running import Answer, RunningGateway, checkout, run_gateway, simulator_url

from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["simulator_url"]

QUICK = {"retry_base_ms": 20, "retry_cap_s": 1, "recovery_interval_ms": 50}


@pytest.fixture
async def server(store: Store, simulator_url: str) -> AsyncIterator[RunningGateway]:
    """A gateway that asks again soon."""
    async with run_gateway(store, simulator_url, settings=QUICK) as running:
        yield running


@pytest.fixture
async def key(server: RunningGateway) -> str:
    return await server.make_key()


def hosted(name: str = "c0", **more: Any) -> dict[str, Any]:
    body = checkout(name, orders=2, **more)
    body["buyer"] = {"reference": "buyer-7", "email": "ada@shop.example", "name": "Ada Lovelace"}
    return body | {"payment_method": {"hosted": {"return_url": "https://shop.example/thanks"}}}


async def settled(server: RunningGateway, key: str, path: str, status: str) -> Answer:
    """Ask until a payment stands so."""
    async with asyncio.timeout(20):
        while True:
            answer = await server.ask("GET", path, key)
            if answer.body["status"] == status:
                return answer
            await asyncio.sleep(0.05)


async def test_a_hosted_payment_says_where_the_buyer_pays_and_learns_that_he_did(
    server: RunningGateway, key: str
) -> None:
    made = await server.pay(key, hosted(), Idempotency_Key="k")
    assert (made.status, made.body["status"], made.body["is_payment_done"]) == (202, "PENDING", False)
    url = made.body["next_action"]["redirect_url"]
    assert made.body["next_action"] == {"type": "redirect", "redirect_url": url}
    assert url.startswith(f"{server.simulator_url}/page/cs_")
    again = await server.pay(key, hosted(), Idempotency_Key="k")
    assert (again.status, again.body) == (202, made.body)
    page = await server.ask("GET", made.body["status_url"])
    assert f'href="{url}"' in page.raw.decode()

    session_id = url.rpartition("/")[2]
    async with server.session.post(
        f"{server.simulator_url}/admin/sessions/{session_id}/pay", json={"token": "tok_approve"}
    ) as paid:
        assert paid.status == 200
    done = await settled(server, key, f"/v1/payments/{made.body['payment_id']}", "SUCCESS")
    assert done.body["next_action"] is None
    assert [order["captured"] for order in done.body["payment_orders"]] == ["12.34", "12.34"]
    assert (await server.pay(key, hosted(), Idempotency_Key="k")).status == 201
    page = await server.ask("GET", f"{made.body['status_url']}&session={session_id}")  # as the provider sends him back
    assert page.status == 200
    assert "Your payment succeeded" in page.raw.decode()
    assert "refresh" not in page.raw.decode()
    assert url not in page.raw.decode()


async def test_a_payment_that_waits_for_the_buyer_can_be_cancelled(server: RunningGateway, key: str) -> None:
    made = await server.pay(key, hosted(), Idempotency_Key="k")
    path = f"/v1/payments/{made.body['payment_id']}"
    answer = await server.ask(
        "POST", f"{path}/cancel", key, json={}, headers={"Idempotency-Key": "v", "Prefer": "wait=20"}
    )
    assert (answer.status, answer.body["status"], answer.body["next_action"]) == (200, "CANCELLED", None)
    async with server.session.get(made.body["next_action"]["redirect_url"]) as page:
        assert "Pay</button>" not in await page.text()  # the provider takes nothing any more


async def test_the_buyer_s_page_shows_amounts_and_states_and_nothing_else(server: RunningGateway, key: str) -> None:
    made = await server.pay(key, hosted(), Idempotency_Key="k")
    page = await server.ask("GET", made.body["status_url"])
    text = page.raw.decode()
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "noindex" in page.headers["x-robots-tag"]
    assert (page.headers["referrer-policy"], page.headers["cache-control"]) == ("no-referrer", "no-store")
    assert '<meta http-equiv="refresh"' in text
    assert "<script" not in text
    assert text.count("12.34 EUR") == 2
    for kept_back in ("ada", "Ada", "buyer-7", "seller-0", "c0-0", "checkout", "token="):
        assert kept_back not in text, kept_back


async def test_B7_the_buyer_s_page_needs_the_payment_s_own_token(server: RunningGateway, key: str) -> None:
    mine = (await server.pay(key, checkout("c0"), Idempotency_Key="k0")).body["status_url"]
    other = (await server.pay(key, checkout("c1"), Idempotency_Key="k1")).body["status_url"]
    live = await server.make_key(mode=Mode.LIVE)
    of_live = (await server.pay(live, checkout("c0"), Idempotency_Key="k0", Prefer="wait=0")).body["status_url"]
    path, token = mine.split("?token=")
    assert re.fullmatch("/pay/pay_[a-z2-7]{26}", path)
    assert re.fullmatch("[0-9a-f]{32}", token)
    tokens = {url.split("?token=")[1] for url in (mine, other, of_live)}
    assert len(tokens) == 3
    wrong = [
        *(f"{path}?token={each}" for each in tokens - {token}),
        *(path, f"{path}?token=", f"{path}?token={token[:-1]}", f"{path}?token={token.upper()}"),
        *(f"{path}?token={token}&token={token}", f"{path}?token={'%00' * 32}", f"{path}?token={'%C3%A9' * 32}"),
        *(f"/pay/pay_{'a' * 26}?token={token}", f"/pay/x?token={token}", f"{path}?{'x&' * 30}"),
    ]
    for address in wrong:
        answer = await server.ask("GET", address)
        assert (answer.status, b"EUR" in answer.raw) == (404, False), address
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert (await server.ask("GET", mine)).status == 200
