"""The simulated PSP's journal rebuilds everything, and no order of requests breaks its books."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulator_desk import Desk, content

from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Dial
from coatcheck.simulator.records import Booked, Charge, Entry, Happening, SessionOpened, in_todays_words

TOKENS = [
    "tok_approve",
    "tok_pending",
    "tok_decline_card_declined",
    "tok_capture_declined",
    "tok_refund_pending",
    "tok_refund_fails",
    "tok_refund_fails_later",
    "tok_authorization_expires",
    "tok_wrong_amount",
]
DIAL = Dial(refund_settle_ms=2000, refund_fails_later_ms=3000)


def everything(bank: Bank) -> dict[str, Any]:
    shop = bank.merchant("shop", is_live=False)
    references = sorted({charge.reference for charge in bank.page(0, 10_000)})
    return {
        "books": {name: value for name, value in bank.books().items() if name != "faults"},
        "charges": bank.page(0, 10_000),
        "actions": bank.page_actions(0, 10_000),
        "sessions": [bank.sessions.search(shop, f"cart_{number}") for number in range(100)],
        "found": [bank.search(shop, reference) for reference in references],
        "acted": [bank.search_actions(shop, reference) for reference in ("cap", "v", "re")],
        "keys": shop.keys,
        "next": bank.new_id("ch"),
    }


def every_kind_of_entry() -> Desk:
    desk = Desk(dial=DIAL)
    desk.charge()
    desk.bank.forget_keys()
    desk.post(f"/admin/settle/{desk.charge('tok_pending', reference='p1')}", {"status": "declined"})
    later = desk.charge("tok_pending", reference="p2", capture=False)
    desk.post(f"/admin/settle/{later}", {"status": "succeeded"})
    parts = desk.authorize(reference="parts")
    desk.post(f"/v1/charges/{parts}/capture", {"amount": 300, "reference": "cap", "final": False})
    desk.post(f"/v1/charges/{parts}/refund", {"amount": 100, "reference": "re"})
    desk.post(f"/v1/charges/{parts}/void", {"reference": "v"})
    desk.post(f"/admin/dispute/{parts}")
    for token in ("tok_refund_pending", "tok_refund_fails", "tok_refund_fails_later"):
        charge = desk.charge(token, reference=token)
        desk.post(f"/v1/charges/{charge}/refund", {"amount": 10, "reference": "re"})
    desk.authorize("tok_authorization_expires", reference="soon")
    paid, tried, asked, left = (desk.session(reference=f"cart_{number}", capture=number > 0) for number in range(4))
    desk.post(f"/admin/sessions/{paid['id']}/pay", {"token": "tok_capture_declined"})
    desk.post(f"/admin/sessions/{tried['id']}/pay", {"token": "tok_decline_lost_card"})
    desk.post(f"/v1/sessions/{tried['id']}/expire", {"reference": "x"})
    desk.post(f"/v1/sessions/{tried['id']}/expire", {"reference": "x"})
    desk.bank.sessions.challenge(asked["id"])
    desk.time += 1
    desk.bank.now()
    assert left["status"] == "open"
    return desk


def test_the_journal_rebuilds_every_kind_of_entry() -> None:
    desk = every_kind_of_entry()
    rebuilt = desk.rebuilt()
    assert {type(entry).__name__ for entry in desk.entries} >= {
        *("Booked", "Settled", "Acted", "DisputeChanged", "ChargeExpired", "KeysForgotten"),
        *("SessionOpened", "SessionTried", "SessionEnded"),
    }
    assert everything(rebuilt) == everything(desk.bank)
    # What was still to run out runs out in the rebuilt bank as well.
    for later_s in (2, 5, 2_000, 700_000):
        desk.time += later_s
        assert everything(rebuilt) == everything(desk.bank)
    assert "returned" in msgspec.json.encode(rebuilt.page_actions(0, 100)).decode()
    for session in desk.bank.sessions.search(desk.bank.merchant("shop", is_live=False), "cart_2"):
        assert session.status == "expired"


def test_the_journal_rebuilds_a_reset_and_what_came_after_it() -> None:
    desk = every_kind_of_entry()
    assert desk.send("POST", "/admin/reset").status == 200
    desk.charge(reference="new")
    desk.session(reference="cart_0")
    assert everything(desk.rebuilt()) == everything(desk.bank)
    assert desk.bank.charge_count == 1


def test_the_journal_tells_the_same_events_again() -> None:
    desk = every_kind_of_entry()
    rebuilt = desk.new_bank()
    told: list[Happening] = []
    rebuilt.tell = told.append
    for entry in desk.entries:
        rebuilt.apply(entry)
    assert told == desk.told


def test_a_key_is_replayed_by_a_rebuilt_bank() -> None:
    desk = Desk()
    charge = desk.charge()
    body = {"amount": 100, "reference": "re"}
    first = desk.send("POST", f"/v1/charges/{charge}/refund", body, key="k")
    desk.app.bank = desk.rebuilt()
    again = desk.send("POST", f"/v1/charges/{charge}/refund", body, key="k")
    assert (again.status, content(again)) == (201, content(first))
    assert desk.app.bank.action_count == 1


def test_a_journal_of_an_earlier_version_is_read() -> None:
    charge = b"""{"id":"ch_1","status":"succeeded","amount":5,"currency":"EUR","reference":"op_1","decline_code":null,
        "livemode":false,"created":7}"""
    lines = [
        b'{"entry":"charge","account":"shop","at":7.5,"charge":%b,"key":"k","digest":"d","answer":%b,'
        b'"is_error":false,"busy_s":0.0}' % (charge, charge),
        b'{"entry":"charge","account":"shop","at":7.5,"charge":%b,"key":null,"digest":"d","answer":%b,'
        b'"is_error":false,"busy_s":0.0}'
        % (2 * (charge.replace(b"succeeded", b"pending").replace(b"ch_1", b"ch_2").replace(b"op_1", b"op_2"),)),
        b'{"entry":"settle","id":"ch_2","status":"succeeded","decline_code":null}',
    ]
    bank = Desk().new_bank()
    for line in lines:
        bank.apply(in_todays_words(msgspec.json.decode(line, type=Entry)))
    assert [(made.status, made.amount_captured) for made in bank.page(0, 9)] == [("succeeded", 5), ("succeeded", 5)]
    remembered = bank.recall(bank.merchant("shop", is_live=False), "k", "d")
    assert remembered is not None
    assert isinstance(remembered.answer, Charge)
    assert remembered.answer.amount_captured == 5


def test_a_plain_charge_writes_no_more_than_it_needs() -> None:
    desk = Desk()
    desk.charge()
    booked = desk.entries[0]
    assert isinstance(booked, Booked)
    written = msgspec.json.decode(msgspec.json.encode(booked))
    assert written.keys() <= {"entry", "account", "at", "key", "digest", "busy_s", "charge", "answer"}


Step = tuple[str, int, int, str]
VERBS = (
    *("charge", "authorize", "capture", "void", "refund", "settle", "decide", "fail", "expire", "end", "dispute"),
    *("open", "pay", "decline", "cancel", "wait", "forget"),
    *("capture", "capture", "refund", "refund", "refund", "decide", "fail"),  # these more often
)
STEPS = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(0, 5), st.integers(1, 1200), st.sampled_from(TOKENS)),
    min_size=5,
    max_size=40,
)


def chosen(things: list[str], which: int) -> str:
    return things[which % len(things)] if things else "none"


def request_of(desk: Desk, step: Step, number: int) -> tuple[str, object]:
    """The address and the body of a step."""
    what, which, amount, token = step
    charge = chosen([charge.id for charge in desk.bank.page(0, 1000)], which)
    action = chosen([action.id for action in desk.bank.page_actions(0, 1000)], which)
    session = chosen([entry.session.id for entry in desk.entries if isinstance(entry, SessionOpened)], which)
    money = {"amount": amount, "currency": "EUR", "reference": f"op_{which}", "capture": what != "authorize"}
    cart = {"reference": f"cart_{number}", "return_url": "https://shop.example/"}
    requests: dict[str, tuple[str, object]] = {
        "charge": ("/v1/charges", money | {"token": token}),
        "authorize": ("/v1/charges", money | {"token": token}),
        "capture": (f"/v1/charges/{charge}/capture", {"amount": amount, "reference": "cap", "final": which % 2 == 0}),
        "void": (f"/v1/charges/{charge}/void", {"reference": "v"}),
        "refund": (f"/v1/charges/{charge}/refund", {"amount": amount, "reference": "re"}),
        "settle": (f"/admin/settle/{charge}", {"status": "succeeded"}),
        "decide": (f"/admin/settle/{action}", {"status": "failed" if which % 2 else "succeeded"}),
        "fail": (f"/admin/fail-refund/{action}", None),
        "expire": (f"/admin/expire/{charge}", None),
        "end": (f"/v1/sessions/{session}/expire", {"reference": "x"}),
        "dispute": (f"/admin/dispute/{charge}", None),
        "open": ("/v1/sessions", cart | {"charges": [money | {"capture": which % 2 == 0}]}),
        "pay": (f"/admin/sessions/{session}/pay", {"token": token}),
        "decline": (f"/admin/sessions/{session}/pay", {"token": "tok_decline_card_declined"}),
        "cancel": (f"/admin/sessions/{session}/cancel", None),
        "forget": ("/admin/forget-keys", None),
    }
    return requests[what]


def take_step(desk: Desk, step: Step, number: int) -> None:
    what, which, seconds, _ = step
    if what == "wait":
        desk.time += seconds
        return
    target, body = request_of(desk, step, number)
    # Some keys come again, for the same request or for another one.
    assert desk.send("POST", target, body, key=f"{what}_{which if which < 2 else number}").status < 500


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_no_order_of_requests_takes_or_gives_too_much(steps: list[Step]) -> None:
    desk = Desk(dial=DIAL)
    for number, token in enumerate(("tok_approve", "tok_refund_pending", "tok_refund_fails_later")):
        desk.charge(token, reference=f"op_{number}", capture=number != 0)
    for number, step in enumerate(steps):
        take_step(desk, step, number)
    books = desk.get("/admin/books")
    assert (books["over_captured"], books["over_refunded"]) == ([], [])
    captured, refunded = Counter[str](), Counter[str]()
    for action in desk.bank.page_actions(0, 1000):
        if action.status != "failed" and action.object != "void":
            (captured if action.object == "capture" else refunded)[action.charge] += action.amount
    authorized = {entry.charge.id for entry in all_booked(desk) if not entry.capture}
    for charge in desk.bank.page(0, 1000):
        assert 0 <= charge.amount_refunded <= charge.amount_captured <= charge.amount
        assert charge.amount_refunded == refunded[charge.id]
        if charge.id in authorized:
            assert charge.amount_captured == captured[charge.id]
    every = desk.bank.page(0, 1000)
    assert sum(books["captured"].values()) == sum(charge.amount_captured for charge in every)
    assert sum(books["refunded"].values()) == sum(charge.amount_refunded for charge in every)
    assert books["statuses"] == Counter(charge.status for charge in every)
    assert everything(desk.rebuilt()) == everything(desk.bank)


def all_booked(desk: Desk) -> list[Booked]:
    found = [entry for entry in desk.entries if isinstance(entry, Booked)]
    return found + [booked for entry in desk.entries for booked in getattr(entry, "charges", ())]
