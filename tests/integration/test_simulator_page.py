"""The simulated PSP's hosted page over real sockets, as a browser without scripts uses it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.integration.running import run_simulator

HEADERS = {"Authorization": "Bearer sk_sim_test_shop"}
CARD = {"do": "pay", "number": "4242 4242 4242 4242", "expiry": "12/40", "cvc": "123"}
BODY = {
    "reference": "cart_1",
    "return_url": "https://shop.example/back",
    "charges": [
        {"reference": "op_1", "amount": 1250, "currency": "EUR", "description": "A hat"},
        {"reference": "op_2", "amount": 700, "currency": "EUR", "capture": False},
    ],
}


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def open_session(browser: aiohttp.ClientSession, psp: str, key: str = "k") -> Any:
    async with browser.post(f"{psp}/v1/sessions", json=BODY, headers=HEADERS | {"Idempotency-Key": key}) as answer:
        assert answer.status == 201
        return await answer.json()


async def send(browser: aiohttp.ClientSession, url: str, fields: dict[str, str]) -> tuple[int, str | None, str]:
    async with browser.post(url, data=fields, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location"), await answer.text()


async def ask(browser: aiohttp.ClientSession, url: str) -> Any:
    async with browser.get(url, headers=HEADERS) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_a_buyer_is_declined_then_challenged_then_pays_once(browser: aiohttp.ClientSession) -> None:
    with run_simulator() as psp:
        session = await open_session(browser, psp)
        url = session["url"]
        assert url == f"{psp}/page/{session['id']}"
        async with browser.get(url) as shown:
            assert (shown.status, shown.content_type) == (200, "text/html")
            text = await shown.text()
            assert "12.50 EUR" in text
            assert "19.50 EUR" in text
        status, _, text = await send(browser, url, CARD | {"number": "4000000000000002"})
        assert (status, "was declined" in text) == (200, True)
        status, _, text = await send(browser, url, CARD | {"number": "4000000000003220"})
        assert (status, 'value="confirm"' in text) == (200, True)
        clicks = await asyncio.gather(*(send(browser, url, {"do": "confirm"}) for _ in range(5)))
        back = f"https://shop.example/back?session={session['id']}"
        assert [(status, location) for status, location, _ in clicks] == 5 * [(303, back)]

        paid = await ask(browser, f"{psp}/v1/sessions/{session['id']}")
        assert paid["status"] == "completed"
        assert [entry["charge"]["status"] for entry in paid["charges"]] == ["succeeded", "authorized"]
        books = await ask(browser, f"{psp}/admin/books")
        assert (books["charges"], books["charged_twice"]) == (2, [])


async def test_a_double_click_on_pay_charges_once(browser: aiohttp.ClientSession) -> None:
    with run_simulator() as psp:
        url = (await open_session(browser, psp))["url"]
        clicks = await asyncio.gather(*(send(browser, url, CARD) for _ in range(8)))
        assert {status for status, _, _ in clicks} == {303}
        assert (await ask(browser, f"{psp}/admin/books"))["charges"] == 2


async def test_a_buyer_cancels_and_finds_the_page_ended(browser: aiohttp.ClientSession) -> None:
    with run_simulator() as psp:
        session = await open_session(browser, psp)
        status, location, _ = await send(browser, session["url"], {"do": "cancel"})
        assert (status, location) == (303, f"https://shop.example/back?session={session['id']}")
        status, _, text = await send(browser, session["url"], CARD)
        assert (status, "was cancelled" in text) == (200, True)
        assert (await ask(browser, f"{psp}/admin/books"))["charges"] == 0
