"""The simulated PSP's webhooks over real sockets: delivered, signed, insisted on, and told again after a restart."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.integration.running import run_simulator

SECRET = "whsec_of_this_test"
BEARER = {"Authorization": "Bearer sk_sim_test_shop"}


class Merchant:
    """A webhook endpoint that keeps what it got; it answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, bytes]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.headers["Simulator-Signature"], await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    @property
    def events(self) -> list[Any]:
        return [msgspec.json.decode(raw) for _, raw in self.got]

    async def until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_enough():  # noqa: ASYNC110 - the other process has no event to wait for
                await asyncio.sleep(0.02)


@pytest.fixture
async def merchant() -> AsyncIterator[Merchant]:
    made = Merchant()
    app = web.Application()
    app.router.add_post("/hooks", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield made
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def charge(session: aiohttp.ClientSession, psp: str, reference: str, **more: object) -> Any:
    body = {"amount": 1000, "currency": "EUR", "token": "tok_approve", "reference": reference, **more}
    async with session.post(f"{psp}/v1/charges", json=body, headers=BEARER | {"Idempotency-Key": reference}) as answer:
        assert answer.status == 201
        return await answer.json()


async def counts(session: aiohttp.ClientSession, psp: str) -> Any:
    async with session.get(f"{psp}/admin/webhooks") as answer:
        return await answer.json()


def is_authentic(secret: str, header: str, raw: bytes) -> bool:
    parts = dict(part.split("=", 1) for part in header.split(","))
    expected = hmac.new(secret.encode(), f"{parts['t']}.".encode() + raw, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["v1"])


async def test_C5_events_arrive_signed_and_forgeries_do_not_verify(
    merchant: Merchant, session: aiohttp.ClientSession
) -> None:
    with run_simulator("--webhook-url", merchant.url, "--webhook-secret", SECRET) as psp:
        made = await charge(session, psp, "op_1")
        await merchant.until(lambda: len(merchant.got) == 1)
        header, raw = merchant.got[0]
        assert is_authentic(SECRET, header, raw)
        assert not is_authentic("whsec_simulator", header, raw)
        assert msgspec.json.decode(raw)["data"]["object"] == made

        async with session.put(f"{psp}/admin/chaos", json={"webhook_forged_share": 1}) as turned:
            assert turned.status == 200
        await charge(session, psp, "op_2")
        await merchant.until(lambda: len(merchant.got) == 3)
        assert [is_authentic(SECRET, *got) for got in merchant.got].count(False) == 1


@pytest.mark.parametrize("status", [500, 400, 302])
async def test_an_event_that_is_not_taken_comes_again_signed_anew(
    merchant: Merchant, session: aiohttp.ClientSession, status: int
) -> None:
    merchant.status = status
    with run_simulator() as psp:
        async with session.put(f"{psp}/admin/webhooks", json={"url": merchant.url, "secret": SECRET}) as turned:
            assert turned.status == 200
        await charge(session, psp, "op_1")
        await merchant.until(lambda: len(merchant.got) == 2)
        assert (await counts(session, psp))["pending"] == 1
        merchant.status = 204
        await merchant.until(lambda: len(merchant.got) == 3)
        async with asyncio.timeout(5):
            while (await counts(session, psp))["pending"]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert await counts(session, psp) == {"sent": 1, "delivered": 1, "failed": 0, "pending": 0}
    assert len({event["id"] for event in merchant.events}) == 1
    assert all(is_authentic(SECRET, *got) for got in merchant.got)


async def test_nobody_at_home_costs_no_charge(session: aiohttp.ClientSession) -> None:
    with run_simulator("--webhook-url", "http://127.0.0.1:9/hooks") as psp:
        for number in range(20):
            await charge(session, psp, f"op_{number}")
        assert (await counts(session, psp))["pending"] == 20


async def test_what_runs_out_is_told_without_anybody_asking(merchant: Merchant, session: aiohttp.ClientSession) -> None:
    with run_simulator("--webhook-url", merchant.url, "--authorization-life-s", "0", "--session-life-s", "0") as psp:
        await charge(session, psp, "op_1", capture=False)
        body = {
            "reference": "cart",
            "return_url": "http://shop.example/",
            "charges": [{"reference": "op_2", "amount": 1, "currency": "EUR"}],
        }
        async with session.post(f"{psp}/v1/sessions", json=body, headers=BEARER | {"Idempotency-Key": "k"}) as opened:
            assert opened.status == 201
        await merchant.until(lambda: len(merchant.got) == 3)
    assert {event["type"] for event in merchant.events} == {"charge.authorized", "charge.expired", "session.expired"}


async def test_C3_after_a_restart_with_a_journal_events_are_told_again(
    merchant: Merchant, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    arguments = ("--books", str(tmp_path / "books.jsonl"), "--webhook-url", merchant.url)
    with run_simulator(*arguments) as psp:
        made = await charge(session, psp, "op_1")
        body = {"amount": 10, "reference": "re"}
        async with session.post(
            f"{psp}/v1/charges/{made['id']}/refund", json=body, headers=BEARER | {"Idempotency-Key": "k"}
        ) as refunded:
            assert refunded.status == 201
        await merchant.until(lambda: len(merchant.got) == 2)
    before = {event["id"]: event for event in merchant.events}
    merchant.got.clear()
    with run_simulator(*arguments) as psp:
        await merchant.until(lambda: len(merchant.got) == 2)
        assert {event["id"]: event for event in merchant.events} == before
        async with session.get(f"{psp}/admin/books") as answer:
            books = await answer.json()
        assert (books["captured"], books["refunded"]) == ({"EUR": 1000}, {"EUR": 10})
