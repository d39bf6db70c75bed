"""The simulated PSP's events: what they say, how they are signed, and what the chaos dial does to them."""

import asyncio
import hashlib
import hmac
import re
from collections import Counter
from typing import Any

import msgspec
import pytest
from tests.unit.simulator_desk import START, Desk

from coatcheck.simulator import webhooks
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Chaos, Dial, Fate
from coatcheck.simulator.webhooks import Courier, sign

URL = "http://shop.example/hooks"


class Posted:
    """One body that a courier sent."""

    def __init__(self, body: bytes, *, is_forged: bool) -> None:
        self.is_forged = is_forged
        self.event = msgspec.json.decode(body)


class RecordingCourier(Courier):
    """Keeps what it would post; `refuses` is how many tries the merchant does not take."""

    def __init__(self, bank: Bank, chaos: Chaos) -> None:
        super().__init__(bank, chaos)
        self.posted: list[Posted] = []
        self.refuses = 0

    async def _post(self, delivery: webhooks._Delivery) -> bool:
        await asyncio.sleep(0)
        self.posted.append(Posted(delivery.body, is_forged=delivery.is_forged))
        self.refuses -= 1
        return self.refuses < 0

    def types(self) -> list[str]:
        return [posted.event["type"] for posted in self.posted]


def courier_of(desk: Desk, **dial: Any) -> RecordingCourier:
    desk.app.chaos.set(Dial(**dial))
    courier = RecordingCourier(desk.bank, desk.app.chaos)
    courier.send_to(URL)
    return courier


async def until_idle(courier: Courier) -> None:
    async with asyncio.timeout(10):
        while courier.counts()["pending"] or courier._tasks:  # noqa: ASYNC110 - pauses leave nothing to wait for
            await asyncio.sleep(0.001)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(webhooks, "LONGEST_PAUSE_S", 0.002)
    monkeypatch.setattr(webhooks, "HELD_BACK_AT_MOST_S", 0.05)


def test_C5_the_signature_is_an_hmac_over_the_second_and_the_raw_body() -> None:
    expected = hmac.new(b"secret", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert sign("secret", b'{"a":1}', 1_700_000_000) == f"t=1700000000,v1={expected}"


async def test_an_event_says_what_happened_to_what(desk: Desk) -> None:
    courier = courier_of(desk)
    charge = desk.charge()
    await until_idle(courier)
    [posted] = courier.posted
    assert re.fullmatch(r"evt_[0-9a-f]{24}", posted.event.pop("id"))
    assert posted.event == {
        "type": "charge.succeeded",
        "created": int(START),
        "livemode": False,
        "account": "shop",
        "data": {"object": desk.get(f"/v1/charges/{charge}")},
    }
    assert courier.counts() == {"sent": 1, "delivered": 1, "failed": 0, "pending": 0}


async def test_every_event_has_an_id_of_its_own_and_the_journal_tells_it_again(desk: Desk) -> None:
    courier = courier_of(desk)
    charge = desk.authorize()
    for _ in range(3):
        body = {"amount": 100, "reference": "cap", "final": False}
        desk.post(f"/v1/charges/{charge}/capture", body)
    session = desk.session()
    desk.post(f"/admin/sessions/{session['id']}/pay")
    await until_idle(courier)
    events = [posted.event for posted in courier.posted]
    assert Counter(event["type"] for event in events) == {
        "charge.authorized": 1,
        "capture.succeeded": 3,
        "charge.captured": 3,
        "charge.succeeded": 2,
        "session.completed": 1,
    }
    assert len({event["id"] for event in events}) == 10

    again = RecordingCourier(desk.new_bank(), Chaos(Dial()))
    again.send_to(URL)
    for entry in desk.entries:
        again._bank.apply(entry)
    await until_idle(again)
    assert sorted(posted.event["id"] for posted in again.posted) == sorted(event["id"] for event in events)


async def test_without_an_address_nothing_is_queued(desk: Desk) -> None:
    courier = courier_of(desk)
    courier.send_to(None)
    desk.charge()
    assert courier.counts() == {"sent": 0, "delivered": 0, "failed": 0, "pending": 0}
    assert desk.bank.tell is None


async def test_an_event_is_sent_until_it_is_taken(desk: Desk) -> None:
    courier = courier_of(desk)
    courier.refuses = 3
    desk.charge()
    assert courier.counts() == {"sent": 1, "delivered": 0, "failed": 0, "pending": 1}
    await until_idle(courier)
    assert len(courier.posted) == 4
    assert len({posted.event["id"] for posted in courier.posted}) == 1
    assert courier.counts() == {"sent": 1, "delivered": 1, "failed": 0, "pending": 0}


async def test_C14_an_event_is_given_up_in_the_end_and_counted(desk: Desk) -> None:
    courier = courier_of(desk)
    courier.refuses = 1000
    desk.charge()
    await until_idle(courier)
    assert len(courier.posted) == webhooks.MAX_TRIES == 20
    assert courier.counts() == {"sent": 1, "delivered": 0, "failed": 1, "pending": 0}


async def test_turning_webhooks_off_gives_the_queue_up(desk: Desk) -> None:
    courier = courier_of(desk)
    courier.refuses = 1000
    desk.charge()
    await asyncio.gather(*courier._tasks)  # the first try
    courier.send_to(None)
    await asyncio.sleep(0.02)
    assert courier.counts() == {"sent": 1, "delivered": 0, "failed": 1, "pending": 0}
    assert len(courier.posted) == 1


async def test_no_more_than_sixty_four_are_on_their_way(desk: Desk) -> None:
    courier = courier_of(desk)
    for number in range(100):
        desk.charge(reference=f"op_{number}")
    await asyncio.sleep(0)
    assert len(courier._tasks) == webhooks.AT_ONCE == 64
    await until_idle(courier)
    assert courier.counts()["delivered"] == 100


async def test_a_lost_event_is_never_sent(desk: Desk) -> None:
    courier = courier_of(desk, webhook_lost_share=1)
    desk.charge()
    await until_idle(courier)
    assert (courier.posted, courier.counts()["sent"]) == ([], 0)
    assert desk.get("/admin/books")["faults"] == {"webhook_lost": 1}


async def test_C3_a_duplicate_is_the_same_event(desk: Desk) -> None:
    courier = courier_of(desk, webhook_duplicate_share=1)
    desk.charge()
    await until_idle(courier)
    first, second = courier.posted
    assert first.event == second.event
    assert courier.counts() == {"sent": 2, "delivered": 2, "failed": 0, "pending": 0}
    assert desk.get("/admin/books")["faults"] == {"webhook_duplicated": 1}


async def test_a_late_event_comes_later(desk: Desk) -> None:
    courier = courier_of(desk, webhook_late_share=1, webhook_late_ms=20)
    desk.charge()
    await asyncio.sleep(0)
    assert (courier.posted, courier.counts()["pending"]) == ([], 1)
    await until_idle(courier)
    assert courier.types() == ["charge.succeeded"]
    assert desk.get("/admin/books")["faults"] == {"webhook_late": 1}


async def test_C2_an_event_is_held_back_behind_the_next_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "HELD_BACK_AT_MOST_S", 60)
    courier = courier_of(desk, webhook_reorder_share=1)
    charge = desk.charge()
    desk.app.chaos.set(Dial())
    desk.post(f"/v1/charges/{charge}/refund", {"amount": 1, "reference": "re"})
    await until_idle(courier)
    assert courier.types() == ["refund.succeeded", "charge.succeeded"]
    assert desk.get("/admin/books")["faults"] == {"webhook_reordered": 1}


async def test_what_is_held_back_goes_out_when_nothing_follows(desk: Desk) -> None:
    courier = courier_of(desk, webhook_reorder_share=1)
    desk.charge()
    await until_idle(courier)
    assert courier.types() == ["charge.succeeded"]


@pytest.mark.parametrize(
    ("token", "told", "forged"),
    [
        ("tok_approve", "charge.succeeded", "charge.declined"),
        ("tok_decline_lost_card", "charge.declined", "charge.succeeded"),
        ("tok_pending", "charge.pending", "charge.succeeded"),
    ],
)
async def test_C5_a_forgery_comes_beside_the_event_and_is_not_insisted_on(
    desk: Desk, token: str, told: str, forged: str
) -> None:
    courier = courier_of(desk, webhook_forged_share=1)
    courier.refuses = 2
    desk.charge(token)
    await until_idle(courier)
    await asyncio.sleep(0.02)
    false = [posted for posted in courier.posted if posted.is_forged]
    true = [posted for posted in courier.posted if not posted.is_forged]
    assert [posted.event["type"] for posted in false] == [forged]
    assert false[0].event["data"]["object"]["amount"] == 100_000
    assert {posted.event["type"] for posted in true} == {told}
    assert false[0].event["id"] != true[0].event["id"]
    assert courier.counts() == {"sent": 1, "delivered": 1, "failed": 0, "pending": 0}
    assert desk.get("/admin/books")["faults"] == {"webhook_forged": 1}


async def test_C5_whoever_takes_a_forgery_is_found_out(desk: Desk) -> None:
    courier = courier_of(desk, webhook_forged_share=1)
    desk.charge()
    await until_idle(courier)
    assert desk.get("/admin/books")["faults"] == {"webhook_forged": 1, "webhook_forged_accepted": 1}


async def test_C6_an_authentic_event_with_a_wrong_amount_comes_beside(desk: Desk) -> None:
    courier = courier_of(desk, webhook_wrong_amount_share=1)
    session = desk.session(entries=1)
    desk.post(f"/admin/sessions/{session['id']}/pay")
    await until_idle(courier)
    amounts: dict[str, list[int]] = {}
    for posted in courier.posted:
        thing = posted.event["data"]["object"]
        amounts.setdefault(posted.event["type"], []).append(
            thing["amount"] if thing.get("object") != "session" else thing["charges"][0]["amount"]
        )
        assert not posted.is_forged
    assert {kind: sorted(seen) for kind, seen in amounts.items()} == {
        "charge.succeeded": [1000, 1001],
        "session.completed": [1000, 1001],
    }
    assert len({posted.event["id"] for posted in courier.posted}) == 4
    assert courier.counts()["sent"] == 4


def test_what_an_event_meets_depends_on_the_seed_and_what_it_tells() -> None:
    dial = Dial(
        webhook_lost_share=0.5,
        webhook_duplicate_share=0.3,
        webhook_late_share=0.2,
        webhook_reorder_share=0.1,
        webhook_forged_share=0.4,
        webhook_wrong_amount_share=0.6,
    )
    names = [("charge.succeeded", f"op_{number}") for number in range(2000)]
    forward, backward = Chaos(dial), Chaos(dial)
    fates = [forward.of_event(*name) for name in names]
    assert [backward.of_event(*name) for name in reversed(names)] == fates[::-1]
    shares = {field: sum(getattr(fate, field) for fate in fates) / len(fates) for field in Fate.__struct_fields__}
    expected = {
        "is_lost": 0.5,
        "is_duplicated": 0.3,
        "is_late": 0.2,
        "is_held_back": 0.1,
        "has_forgery": 0.4,
        "has_wrong_amount": 0.6,
    }
    assert shares == pytest.approx(expected, abs=0.05)
    assert [forward.of_event(*name) for name in names] != fates
    assert Chaos(Dial()).of_event("charge.succeeded", "op_1") == Fate()


def test_webhook_trouble_leaves_charges_in_calm_weather() -> None:
    dial = Dial(webhook_lost_share=1, webhook_duplicate_share=1, refund_settle_ms=5, search_lag_ms=5)
    assert Chaos(dial)._is_calm


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"url": URL, "secret": "s"}, 200),
        ({"url": URL}, 200),
        ({"url": None}, 200),
        ({"url": "ftp://shop.example"}, 400),
        ({"url": ""}, 400),
        ({"url": URL, "secret": ""}, 400),
        ({"secret": "s"}, 400),
        ({}, 400),
    ],
)
def test_the_admin_says_where_events_go(desk: Desk, body: dict[str, object], status: int) -> None:
    assert desk.send("PUT", "/admin/webhooks", body).status == status
    assert (desk.bank.tell == desk.app.courier.tell) is (status == 200 and body["url"] is not None)
    assert desk.get("/admin/webhooks") == {"sent": 0, "delivered": 0, "failed": 0, "pending": 0}


async def test_a_reset_forgets_what_was_queued(desk: Desk) -> None:
    courier = desk.app.courier
    desk.app.courier.send_to(URL)
    courier.tell(_first_happening())
    assert courier.counts()["sent"] == 1
    assert desk.send("POST", "/admin/reset").status == 200
    assert courier.counts() == {"sent": 0, "delivered": 0, "failed": 0, "pending": 0}
    await courier.close()


def _first_happening() -> Any:
    desk = Desk()
    desk.charge()
    return desk.told[0]
