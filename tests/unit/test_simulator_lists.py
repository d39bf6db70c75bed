"""The simulated PSP's lists of what was made since a time, with a merchant's words; and how the adapter reads them."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.unit.simulator_desk import START, Desk, content

from coatcheck.ids import derive_id
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import Intent, NotListedError, PayoutOrigin
from coatcheck.providers.simulated import _payout_body
from coatcheck.providers.simulated_answers import (
    Raw,
    found_action,
    found_charge,
    found_payout,
    listed_actions,
    listed_charge,
    listed_charges,
    listed_payout,
    listed_payouts,
)
from coatcheck.states import Mode, OperationKind

SHOP = "01234567-89ab-cdef-0123-456789abcdef"
WORDS = {"shop": SHOP.replace("-", ""), "checkout": "c1", "seller": "seller-1", "commission": "100"}


def charge(desk: Desk, reference: str, **more: Any) -> str:
    body = {"amount": 1000, "currency": "EUR", "token": "tok_approve", "reference": reference}
    return str(desk.post("/v1/charges", body | more)["id"])


def raw(body: object, status: int = 200) -> Raw:
    return Raw(status, True, None, msgspec.json.encode(body))


def intent_of(kind: OperationKind, target_reference: str | None = None) -> Intent:
    return Intent(
        operation_id=derive_id("a", kind.value),
        amount_minor=1000,
        currency="EUR",
        mode=Mode.TEST,
        body=b"",
        kind=kind,
        target_reference=target_reference,
    )


def test_A8_two_charges_under_one_reference_are_told_and_none_is_taken() -> None:
    asked = intent_of(OperationKind.CHARGE)
    made = {"status": "succeeded", "amount": 1000, "currency": "EUR", "reference": asked.reference, "livemode": False}
    declined = made | {"id": "ch_0", "status": "declined", "decline_code": "no"}
    listed = {"data": [declined, made | {"id": "ch_1"}, made | {"id": "ch_2"}]}
    found = found_charge(raw(listed), asked)
    assert (found.kind, found.several, found.evidence) == (OutcomeKind.UNKNOWN, ("ch_1", "ch_2"), "ch_1 ch_2")
    listed["data"].pop()
    assert found_charge(raw(listed), asked).provider_reference == "ch_1"


def test_two_payouts_or_refunds_under_one_reference_are_not_taken_for_one() -> None:
    payout = intent_of(OperationKind.PAYOUT, "ba_1")
    paid = {"object": "payout", "amount": 1000, "currency": "EUR", "destination": "ba_1", "status": "paid"}
    paid |= {"reference": payout.reference, "livemode": False}
    found = found_payout(raw({"data": [paid | {"id": "po_1"}, paid | {"id": "po_2"}]}), payout)
    assert (found.kind, found.several) == (OutcomeKind.UNKNOWN, ("po_1", "po_2"))
    refund = intent_of(OperationKind.REFUND, "ch_1")
    done = {"object": "refund", "charge": "ch_1", "amount": 1000, "currency": "EUR", "status": "succeeded"}
    done |= {"reference": refund.reference, "livemode": False}
    found = found_action(raw({"data": [done | {"id": "re_1"}, done | {"id": "re_2"}]}), refund)
    assert (found.kind, found.several) == (OutcomeKind.UNKNOWN, ("re_1", "re_2"))


def test_charges_are_listed_since_a_time_page_by_page_with_what_was_written_on_them() -> None:
    desk = Desk()
    charge(desk, "op_0")
    desk.time = START + 10
    for number in (1, 2, 3):
        charge(desk, f"op_{number}", description=f"order-{number}", metadata=WORDS | {"seller": f"s{number}"})
    first = desk.get(f"/v1/charges?since={int(START) + 5}&limit=2")
    assert [each["charge"]["reference"] for each in first["data"]] == ["op_1", "op_2"]
    second = desk.get(f"/v1/charges?since={int(START) + 5}&limit=2&after={first['next']}")
    assert [(each["description"], each["metadata"]["seller"]) for each in second["data"]] == [("order-3", "s3")]
    assert second["next"] is None
    assert desk.get("/v1/charges?since=0")["data"][0]["metadata"] is None


def test_actions_are_listed_with_their_ends_and_words() -> None:
    desk = Desk()
    held = desk.authorize(reference="op_a")
    for amount, final in ((100, False), (200, True)):
        body = {"amount": amount, "reference": f"cap_{amount}", "final": final}
        desk.post(f"/v1/charges/{held}/capture", body)
    refunded = {"amount": 50, "reference": "ref", "metadata": {"refund": WORDS["shop"]}}
    desk.post(f"/v1/charges/{held}/refund", refunded)
    listed = desk.get("/v1/actions?since=0")
    assert [(each["action"]["reference"], each["final"]) for each in listed["data"]] == [
        ("cap_100", False),
        ("cap_200", True),
        ("ref", False),
    ]
    found, following = listed_actions(raw(listed))
    assert following is None
    assert [(each.kind, each.charge_reference, each.is_final) for each in found] == [
        (OperationKind.CAPTURE, held, False),
        (OperationKind.CAPTURE, held, True),
        (OperationKind.REFUND, held, False),
    ]
    assert found[2].refund_id == UUID(WORDS["shop"])


def test_one_thing_is_shown_with_its_words_to_its_own_merchant_only() -> None:
    desk = Desk()
    made = charge(desk, "op_1", description="order-1", metadata=WORDS)
    found = listed_charge(raw(desk.get(f"/v1/charges/{made}/metadata")))
    assert found is not None
    assert found.origin is not None
    assert (found.origin.shop_id, found.origin.payment_order_id) == (UUID(SHOP), "order-1")
    for account in ("test_other", "live_shop"):
        reply = desk.send("GET", f"/v1/charges/{made}/metadata", account=account)
        assert (reply.status, content(reply)["code"]) == (404, "not_found")
        assert content(desk.send("GET", "/v1/charges?since=0", account=account))["data"] == []


def test_what_is_written_survives_the_journal_and_a_page() -> None:
    desk = Desk()
    charge(desk, "op_1", description="order-1", metadata=WORDS)
    item = {"reference": "op_2", "amount": 5, "currency": "EUR", "description": "order-2", "metadata": WORDS}
    page = desk.post("/v1/sessions", {"reference": "cart", "return_url": "https://shop.example", "charges": [item]})
    desk.post(f"/admin/sessions/{page['id']}/pay")
    for bank in (desk.bank, desk.rebuilt()):
        made, _ = bank.made_since(bank.merchant("shop", is_live=False), 0, 0, 10)
        assert [(each.description, each.metadata) for each in made] == [("order-1", WORDS), ("order-2", WORDS)]


@pytest.mark.parametrize(
    "metadata", [{f"name{number}": "x" for number in range(21)}, {"x" * 501: "x"}, {"x": "x" * 501}, {"x": 1}]
)
def test_too_many_or_too_long_words_are_refused(metadata: object) -> None:
    desk = Desk()
    body = {"amount": 1000, "currency": "EUR", "token": "tok_approve", "reference": "op_1", "metadata": metadata}
    assert desk.refusal("/v1/charges", body) == (400, "invalid_request")


@pytest.mark.parametrize(
    "change",
    [
        {"shop": "somebody"},
        {"checkout": ""},
        {"checkout": "c" * 129},
        {"checkout": "two\nlines"},
        {"commission": "-1"},
        {"commission": "1e3"},
        {"seller": ""},
    ],
)
def test_words_that_are_not_as_we_write_them_name_nobody(change: dict[str, str]) -> None:
    desk = Desk()
    charge(desk, "op_1", description="order-1", metadata=WORDS | change)
    (found,), _ = listed_charges(raw(desk.get("/v1/charges?since=0")))
    assert found.origin is None


@pytest.mark.parametrize("answer", [raw({}), raw({"data": []}, 500), Raw(200, False, None, b"<html>")])
def test_what_is_no_list_concludes_nothing(answer: Raw) -> None:
    with pytest.raises(NotListedError):
        listed_charges(answer)


RUN = derive_id("run", "1")
OURS = PayoutOrigin(shop_id=UUID(SHOP), seller_account="seller-1", key=f"run {RUN} seller-1", run_id=RUN)


def payout_of(origin: PayoutOrigin | None = OURS) -> Intent:
    return Intent(
        operation_id=derive_id("operation", "1"),
        kind=OperationKind.PAYOUT,
        amount_minor=400,
        currency="EUR",
        mode=Mode.TEST,
        body=b"",
        target_reference="dest_ok",
        payout=origin,
    )


def remit(desk: Desk, destination: str = "dest_ok", **more: Any) -> str:
    body = {"amount": 400, "currency": "EUR", "destination": destination, "reference": "op_1"}
    return str(desk.post("/v1/payouts", body | more)["id"])


def test_G16_a_payout_s_body_says_whose_it_is_the_same_at_every_attempt() -> None:
    body = _payout_body(payout_of())
    assert body == _payout_body(msgspec.structs.replace(payout_of(), provider_reference="po_1", first_sent_at=None))
    assert msgspec.json.decode(body)["metadata"] == {
        "shop": UUID(SHOP).hex,
        "seller": "seller-1",
        "key": f"run {RUN} seller-1",
        "run": RUN.hex,
    }
    longest = msgspec.structs.replace(OURS, key="k" * 255, seller_account="s" * 128, run_id=None)
    desk = Desk()
    desk.post("/v1/payouts", msgspec.json.decode(_payout_body(payout_of(longest))))
    (found,), _ = listed_payouts(raw(desk.get("/v1/payouts?since=0")))
    assert found.payout == longest
    assert "metadata" not in msgspec.json.decode(_payout_body(payout_of(None)))


def test_G16_payouts_are_listed_since_a_time_page_by_page_with_what_became_of_them() -> None:
    desk = Desk()
    remit(desk)
    desk.time = START + 10
    body = msgspec.json.decode(_payout_body(payout_of()))
    back = desk.post("/v1/payouts", body)["id"]
    remit(desk, "dest_closed")
    remit(desk, "dest_pending")
    desk.bank.payouts.send_back(back)
    for bank in (desk.bank, desk.rebuilt()):
        made, _ = bank.payouts.made_since(bank.merchant("shop", is_live=False), 0, 0, 10)
        assert [each.metadata for each in made] == [None, body["metadata"], None, None]
    first = desk.get(f"/v1/payouts?since={int(START) + 5}&limit=2")
    second = desk.get(f"/v1/payouts?since={int(START) + 5}&limit=2&after={first['next']}")
    found = [each for page in (first, second) for each in listed_payouts(raw(page))[0]]
    assert second["next"] is None
    assert [(each.kind, each.status, each.was_paid, each.payout) for each in found] == [
        (OperationKind.PAYOUT, OutcomeKind.DECLINED, True, OURS),
        (OperationKind.PAYOUT, OutcomeKind.DECLINED, False, None),
        (OperationKind.PAYOUT, OutcomeKind.PENDING, False, None),
    ]
    (one, *_) = found
    assert (one.destination, one.amount_minor, one.currency, one.reference) == (
        "dest_ok",
        400,
        "EUR",
        payout_of().reference,
    )
    assert one.made_at.timestamp() == START + 10
    assert listed_payout(raw(desk.get(f"/v1/payouts/{back}/metadata"))) == one
    for account in ("test_other", "live_shop"):
        assert content(desk.send("GET", "/v1/payouts?since=0", account=account))["data"] == []
        assert desk.send("GET", f"/v1/payouts/{back}/metadata", account=account).status == 404


@pytest.mark.parametrize(
    "change",
    [
        {"shop": "somebody"},
        {"seller": ""},
        {"seller": "s" * 129},
        {"key": ""},
        {"key": "k" * 256},
        {"key": "two\nlines"},
        {"run": "1"},
    ],
)
def test_G16_words_on_a_payout_that_are_not_as_we_write_them_name_nobody(change: dict[str, str]) -> None:
    desk = Desk()
    remit(desk, metadata={"shop": UUID(SHOP).hex, "seller": "seller-1", "key": "k1"} | change)
    (found,), _ = listed_payouts(raw(desk.get("/v1/payouts?since=0")))
    assert found.payout is None


def test_too_long_words_on_a_payout_are_refused() -> None:
    body = {"amount": 400, "currency": "EUR", "destination": "dest_ok", "reference": "op_1"}
    assert Desk().refusal("/v1/payouts", body | {"metadata": {"key": "k" * 501}}) == (400, "invalid_request")
