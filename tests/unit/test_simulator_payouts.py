"""Payouts of the simulated PSP: destinations, keys, what comes back, its books, and the journal."""

from typing import Any

import msgspec
import pytest
from tests.unit.simulator_desk import KEY_WINDOW_S, Desk, content

from coatcheck.simulator.chaos import Dial
from coatcheck.simulator.records import PAYOUT_STATUSES, Entry
from coatcheck.simulator.webhooks import _false, event_of


def body_of(destination: str = "dest_ok", *, reference: str = "op_1", **fields: object) -> dict[str, object]:
    return {"amount": 1000, "currency": "EUR", "destination": destination, "reference": reference, **fields}


def pay(desk: Desk, destination: str = "dest_ok", *, reference: str = "op_1", key: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = desk.post("/v1/payouts", body_of(destination, reference=reference), key=key)
    return made


def told(desk: Desk) -> list[str]:
    return [happening.type for happening in desk.told]


def test_a_payout_is_paid_told_and_in_the_books() -> None:
    desk = Desk()
    made = pay(desk, "dest_ok.hat-maker")
    assert {name: made[name] for name in ("object", "amount", "currency", "status", "failure_code", "livemode")} == {
        "object": "payout",
        "amount": 1000,
        "currency": "EUR",
        "status": "paid",
        "failure_code": None,
        "livemode": False,
    }
    assert desk.get(f"/v1/payouts/{made['id']}") == made
    assert desk.get("/v1/payouts?reference=op_1") == {"data": [made]}
    assert told(desk) == ["payout.paid"]
    books = desk.bank.books()
    assert (books["paid_out"], books["paid_out_twice"]) == ({"EUR": 1000}, [])


def test_A3_a_key_replays_inside_its_window_and_is_forgotten_after_it() -> None:
    desk = Desk()
    first = pay(desk, key="k1")
    assert pay(desk, key="k1") == first
    assert desk.send("POST", "/v1/payouts", body_of(amount=1001), key="k1").status == 422
    desk.time += KEY_WINDOW_S
    assert pay(desk, key="k1")["id"] != first["id"]
    assert desk.bank.books()["paid_out_twice"] == ["op_1"]


@pytest.mark.parametrize(
    ("destination", "status", "code"),
    [
        ("dest_closed", "failed", "account_closed"),
        ("dest_pending", "pending", None),
        ("dest_returns", "paid", None),
        ("dest_wrong_amount", "paid", None),
    ],
)
def test_a_destination_decides(destination: str, status: str, code: str | None) -> None:
    desk = Desk()
    made = pay(desk, destination)
    assert (made["status"], made["failure_code"]) == (status, code)
    assert status in PAYOUT_STATUSES
    assert made["amount"] == (1001 if destination == "dest_wrong_amount" else 1000)


def test_an_admin_decides_what_is_pending_and_sends_back_what_was_paid() -> None:
    desk = Desk()
    paid, failed = pay(desk, "dest_pending"), pay(desk, "dest_pending", reference="op_2")
    assert desk.post(f"/admin/settle/{paid['id']}", {"status": "succeeded"})["status"] == "paid"
    assert desk.post(f"/admin/settle/{failed['id']}", {"status": "failed"})["status"] == "failed"
    assert desk.refusal(f"/admin/settle/{paid['id']}", {"status": "failed"}) == (409, "not_pending")
    assert desk.refusal(f"/admin/settle/{paid['id']}", {"status": "declined"}) == (400, "invalid_request")
    assert desk.post(f"/admin/return/{paid['id']}")["failure_code"] == "bank_returned"
    assert desk.refusal(f"/admin/return/{paid['id']}") == (409, "payout_not_paid")
    assert desk.refusal("/admin/return/po_nothing") == (404, "not_found")
    assert desk.bank.books()["paid_out"] == {}
    assert told(desk) == ["payout.pending", "payout.pending", "payout.paid", "payout.failed", "payout.returned"]


def test_what_the_dial_says_comes_by_itself() -> None:
    desk = Desk(dial=Dial(payout_settle_ms=2000, payout_returns_later_ms=3000))
    pending, returning = pay(desk, "dest_pending"), pay(desk, "dest_returns", reference="op_2")
    desk.time += 2
    assert desk.get(f"/v1/payouts/{pending['id']}")["status"] == "paid"
    assert desk.get(f"/v1/payouts/{returning['id']}")["status"] == "paid"
    desk.time += 1
    assert desk.get(f"/v1/payouts/{returning['id']}")["status"] == "returned"


def test_the_dial_s_weather_and_refusals_meet_payouts_too() -> None:
    desk = Desk(dial=Dial(error_after_share=1, max_faults_per_key=1))
    assert desk.send("POST", "/v1/payouts", body_of(), key="k1").status == 500
    assert desk.bank.books()["paid_out"] == {"EUR": 1000}
    desk = Desk(dial=Dial(decline_share=1))
    assert pay(desk)["failure_code"] == "payout_declined"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"destination": "DE89370400440532013000"}, "invalid_destination"),
        ({"destination": "dest_nobody"}, "invalid_destination"),
        ({"destination": "dest_ok."}, "invalid_destination"),
        ({"amount": 0}, "invalid_amount"),
        ({"currency": "EURO"}, "invalid_currency"),
        ({"reference": ""}, "invalid_reference"),
        ({"iban": "x"}, "invalid_request"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_paid(fields: dict[str, object], refusal: str) -> None:
    desk = Desk()
    assert desk.refusal("/v1/payouts", {**body_of(), **fields}) == (400, refusal)
    assert desk.bank.payouts.count == 0


def test_another_merchant_sees_nothing_of_it() -> None:
    desk = Desk()
    made = pay(desk)
    assert desk.send("GET", f"/v1/payouts/{made['id']}", account="test_other").status == 404
    reply = desk.send("GET", "/v1/payouts?reference=op_1", account="test_other")
    assert content(reply) == {"data": []}
    assert desk.send("DELETE", "/v1/payouts").status == 405


def test_the_journal_brings_payouts_back() -> None:
    desk = Desk(dial=Dial(payout_returns_later_ms=3000))
    pay(desk, key="k1")
    pay(desk, "dest_returns", reference="op_2")
    pending = pay(desk, "dest_pending", reference="op_3")
    desk.post(f"/admin/settle/{pending['id']}", {"status": "failed"})
    entries = [
        msgspec.json.decode(msgspec.json.encode(entry), type=Entry)  # as a file keeps them
        for entry in desk.entries
    ]
    other = desk.new_bank()
    for entry in entries:
        other.apply(entry)
    assert other.payouts.page(0, 10) == desk.bank.payouts.page(0, 10)
    assert other.books() == desk.bank.books()
    desk.time += 3
    assert [payout.status for payout in other.payouts.page(0, 10)] == ["paid", "returned", "failed"]


def test_a_forgery_says_the_opposite() -> None:
    desk = Desk()
    pay(desk)
    (paid,) = desk.told
    false = event_of(_false(paid), "/forged")
    assert (false.type, false.data.object.amount) == ("payout.failed", 100_000)  # type: ignore[union-attr]
