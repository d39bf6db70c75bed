"""Disputes over real HTTP, against the simulator: heard by webhook, shown, answered once, and refunds kept back."""

import asyncio
import base64
import io
from typing import Any

import pytest
from tests.integration.running import (
    Answer,
    RunningGateway,
    checkout,
    encode_json,
    gateway_server,
    run_gateway,
    simulator_url,
)

from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["gateway_server", "simulator_url"]

SAID = {"texts": {"explanation": "it was delivered"}}
PDF = {
    "part": "receipt",
    "name": "r.pdf",
    "content_type": "application/pdf",
    "content": base64.b64encode(b"%PDF-1.4 4242424242424242 " + bytes(range(256)) * 400).decode(),
}


class Case:
    """A shop with one disputed order."""

    def __init__(self, server: RunningGateway, key: str) -> None:
        self.server = server
        self.key = key

    async def psp(self, path: str, **body: Any) -> Any:
        async with self.server.session.post(f"{self.server.simulator_url}{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json(content_type=None)

    async def begin(self, **more: Any) -> dict[str, Any]:
        """Pay, dispute, and wait until the webhook has told of it."""
        url = f"{self.server.url}/webhooks/simulator"
        async with self.server.session.put(f"{self.server.simulator_url}/admin/webhooks", json={"url": url}) as answer:
            assert answer.status == 200
        paid = await self.server.pay(self.key, checkout("c0"), Idempotency_Key="pay")
        reference = paid.body["payment_orders"][0]["provider_reference"]
        await self.psp("/admin/disputes", charge=reference, **more)
        return await self.until(bool)

    async def until(self, holds: Any) -> dict[str, Any]:
        for _ in range(400):
            listed = await self.ask("GET", "/v1/disputes")
            assert listed.status == 200
            if listed.body["disputes"] and holds(listed.body["disputes"][0]):
                view: dict[str, Any] = listed.body["disputes"][0]
                return view
            await asyncio.sleep(0.02)
        raise AssertionError(listed.body)

    async def ask(self, method: str, path: str, json: Any = None, ticket: str | None = None) -> Answer:
        headers = {} if ticket is None else {"Idempotency-Key": ticket}
        return await self.server.ask(method, path, self.key, json=json, headers=headers)


@pytest.fixture
async def case(gateway_server: RunningGateway) -> Case:
    return Case(gateway_server, await gateway_server.make_key())


async def test_a_dispute_is_heard_shown_answered_and_won(case: Case) -> None:
    view = await case.begin(reason="product_not_received")
    assert view["dispute_id"].startswith("dsp_")
    assert {name: view[name] for name in ("payment_order_id", "amount", "currency", "reason", "status")} == {
        "payment_order_id": "c0-0",
        "amount": "12.34",
        "currency": "EUR",
        "reason": "product_not_received",
        "status": "NEEDS_RESPONSE",
    }
    assert [(moved["gross"], moved["fee"], moved["is_settled"]) for moved in view["movements"]] == [
        ("-12.34", "15.00", False)
    ]
    refund = await case.ask("POST", "/v1/refunds", {"payment_order_id": "c0-0"}, "r1")
    assert (refund.status, refund.body["code"]) == (409, "refund_not_possible")
    path = f"/v1/disputes/{view['dispute_id']}"
    said = await case.ask("POST", f"{path}/evidence", SAID | {"files": [PDF]}, "e1")
    assert said.status == 201
    assert (said.body["status"], [part["part"] for part in said.body["parts"]]) == ("SENT", ["explanation", "receipt"])
    shown = await case.ask("GET", path)
    assert (shown.body["status"], shown.body["evidence"][0]["status"]) == ("UNDER_REVIEW", "SENT")
    await case.psp(f"/admin/disputes/{view['provider_reference']}/win", return_fee=True)
    won = await case.until(lambda each: each["status"] == "WON" and len(each["movements"]) == 2)
    assert [moved["gross"] for moved in won["movements"]] == ["-12.34", "12.34"]
    wallet = await case.ask("GET", "/v1/sellers/seller-0/wallet")
    assert wallet.body["balances"][0]["pending"] == "11.34"
    assert (await case.ask("POST", "/v1/refunds", {"payment_order_id": "c0-0"}, "r2")).status == 201


async def test_B1_the_same_answer_at_once_arrives_once_and_is_replayed(case: Case) -> None:
    view = await case.begin()
    path = f"/v1/disputes/{view['dispute_id']}/evidence"
    answers = await asyncio.gather(*[case.ask("POST", path, SAID, "e1") for _ in range(16)])
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["evidence_id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 15
    async with case.server.session.get(f"{case.server.simulator_url}/admin/disputes") as told:
        (dispute,) = (await told.json())["data"]
    assert len(dispute["evidence"]) == 1


async def test_B2_a_key_with_another_answer_is_refused(case: Case) -> None:
    view = await case.begin()
    path = f"/v1/disputes/{view['dispute_id']}/evidence"
    draft = await case.ask("POST", path, SAID | {"submit": False}, "e1")
    assert (draft.status, draft.body["submit"]) == (201, False)
    other = await case.ask("POST", path, SAID, "e1")
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    assert (await case.ask("POST", path, SAID)).body["code"] == "idempotency_key_missing"


async def test_who_reads_that_an_answer_is_sent_finds_the_dispute_as_the_psp_has_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to book what the PSP said with it."""
    view = await case.begin()
    path = f"/v1/disputes/{view['dispute_id']}"
    disputes = case.server.gateway.disputes
    apply = disputes.apply

    async def apply_slowly(news: Any) -> Any:
        await asyncio.sleep(0.5)
        return await apply(news)

    monkeypatch.setattr(disputes, "apply", apply_slowly)
    accepted = await case.ask("POST", f"{path}/accept", {}, "a1")
    assert accepted.body["status"] == "SENT"
    assert (await case.ask("GET", path)).body["status"] == "LOST"


async def test_an_answer_that_has_arrived_is_sent_also_when_the_psp_s_word_cannot_be_booked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await case.begin()

    async def refuse(news: Any) -> Any:
        raise RuntimeError(f"cannot book {news}")

    monkeypatch.setattr(case.server.gateway.disputes, "apply", refuse)
    accepted = await case.ask("POST", f"/v1/disputes/{view['dispute_id']}/accept", {}, "a1")
    assert (accepted.status, accepted.body["status"]) == (201, "SENT")


async def test_an_accepted_dispute_is_lost_and_takes_no_more_answers(case: Case) -> None:
    view = await case.begin()
    path = f"/v1/disputes/{view['dispute_id']}"
    accepted = await case.ask("POST", f"{path}/accept", {}, "a1")
    assert (accepted.status, accepted.body["kind"], accepted.body["status"]) == (201, "acceptance", "SENT")
    assert (await case.ask("GET", path)).body["status"] == "LOST"
    late = await case.ask("POST", f"{path}/evidence", SAID, "e1")
    assert (late.status, late.body["code"]) == (409, "dispute_not_answerable")
    assert (await case.ask("POST", f"{path}/accept", {}, "a1")).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/texts"),
        ({"texts": {"poem": "roses are red"}}, "/texts/poem"),
        ({"files": [PDF | {"part": "poem"}]}, "/files/0/part"),
        ({"files": [PDF, PDF]}, "/files/1/part"),
        ({"files": [PDF | {"content_type": "text/html"}]}, ""),
        ({"files": [PDF | {"content": "not base64!"}]}, ""),
        ({"texts": {"explanation": ""}}, ""),
        ({"color": "red"}, ""),
    ],
)
async def test_what_cannot_be_passed_on_is_refused(case: Case, body: dict[str, Any], pointer: str) -> None:
    view = await case.begin()
    told = await case.ask("POST", f"/v1/disputes/{view['dispute_id']}/evidence", body, "e1")
    assert (told.status, told.body["code"]) == (422, "invalid_request")
    assert told.body["problems"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "body",
    [
        {"texts": {"explanation": "the card 4242 4242 4242 4242 was used"}},
        {"texts": {"4242424242424242": "x"}},
        {"files": [PDF | {"name": "4242424242424242.pdf"}]},
    ],
)
async def test_a_card_number_is_refused_wherever_it_is_written(case: Case, body: dict[str, Any]) -> None:
    view = await case.begin()
    told = await case.ask("POST", f"/v1/disputes/{view['dispute_id']}/evidence", body, "e1")
    assert (told.status, told.body["code"]) == (422, "card_number_refused")
    assert b"4242" not in told.raw


async def test_C17_an_answer_that_is_too_large_is_refused(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url, settings={"evidence_limit_bytes": 100_000}) as server:
        case = Case(server, await server.make_key())
        view = await case.begin()
        told = await case.ask("POST", f"/v1/disputes/{view['dispute_id']}/evidence", {"files": [PDF]}, "e1")
        assert (told.status, told.body["code"]) == (413, "body_too_large")


async def test_a_document_of_some_megabytes_arrives_whole(case: Case) -> None:
    view = await case.begin()
    large = PDF | {"content": base64.b64encode(b"%PDF-1.4" + bytes(range(256)) * 10_000).decode()}
    async with case.server.session.post(
        f"{case.server.url}/v1/disputes/{view['dispute_id']}/evidence",
        data=io.BytesIO(encode_json({"files": [large]})),
        headers={
            "Authorization": f"Bearer {case.key}",
            "Content-Type": "application/json",
            "Idempotency-Key": "e1",
        },
    ) as answer:
        told = await answer.json()
    assert (answer.status, told["status"]) == (201, "SENT")
    assert told["parts"][0]["size_bytes"] == 8 + 2_560_000


async def test_B7_a_dispute_is_its_own_shop_s(case: Case) -> None:
    view = await case.begin()
    path = f"/v1/disputes/{view['dispute_id']}"
    for other in (await case.server.make_key("shoes"), await case.server.make_key(mode=Mode.LIVE)):
        stranger = Case(case.server, other)
        assert (await stranger.ask("GET", path)).status == 404
        assert (await stranger.ask("POST", f"{path}/evidence", SAID, "e1")).status == 404
        assert (await stranger.ask("GET", "/v1/disputes")).body["disputes"] == []
    assert (await case.ask("GET", "/v1/disputes/dsp_none")).status == 404
    assert (await case.server.ask("GET", path)).status == 401


async def test_the_list_goes_on_where_its_cursor_says(case: Case) -> None:
    first = await case.begin(amount=100)
    reference = (await case.ask("GET", "/v1/payment_orders/c0-0")).body["provider_reference"]
    for amount in (200, 300):
        await case.psp("/admin/disputes", charge=reference, amount=amount)
        await case.until(lambda each, amount=amount: each["amount"] == f"{amount // 100}.00")
    found: list[str] = []
    cursor = ""
    for _ in range(3):
        page = await case.ask("GET", f"/v1/disputes?limit=1{cursor}")
        found += [each["amount"] for each in page.body["disputes"]]
        cursor = f"&cursor={page.body['next_cursor']}"
    assert found == ["3.00", "2.00", "1.00"]
    assert page.body["next_cursor"] is None
    assert (await case.ask("GET", "/v1/disputes?status=LOST")).body["disputes"] == []
    assert len((await case.ask("GET", "/v1/disputes?payment_order_id=c0-0")).body["disputes"]) == 3
    assert (await case.ask("GET", "/v1/disputes?payment_order_id=nobody")).status == 404
    foreign = await case.ask("GET", f"/v1/disputes?status=LOST{cursor[:20]}")
    assert foreign.status == 400
    assert first["amount"] == "1.00"
