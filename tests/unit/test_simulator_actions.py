"""Captures, voids and refunds at the simulated PSP: what each does, every refusal, every replay."""

from typing import Any

import pytest
from tests.unit.simulator_desk import START, Desk, content

from coatcheck.simulator.chaos import Dial

A_WEEK_S = 604_800


@pytest.fixture
def desk() -> Desk:
    return Desk()


def shown(desk: Desk, charge: str) -> dict[str, Any]:
    found = desk.get(f"/v1/charges/{charge}")
    return {name: found[name] for name in ("status", "amount_captured", "amount_refunded")}


def capture(amount: int, *, final: bool = True, reference: str = "cap") -> dict[str, object]:
    return {"amount": amount, "reference": reference, "final": final}


def refund(amount: int, reference: str = "re") -> dict[str, object]:
    return {"amount": amount, "reference": reference}


def state(status: str, captured: int, refunded: int = 0) -> dict[str, object]:
    return {"status": status, "amount_captured": captured, "amount_refunded": refunded}


# authorizations


def test_an_authorization_takes_nothing_and_says_until_when(desk: Desk) -> None:
    charge = desk.get(f"/v1/charges/{desk.authorize()}")
    assert (charge["status"], charge["amount_captured"], charge["expires_at"]) == ("authorized", 0, START + A_WEEK_S)
    books = desk.get("/admin/books")
    assert (books["totals"], books["captured"], books["statuses"]) == ({}, {}, {"authorized": 1})


def test_a_declined_authorization_is_declined(desk: Desk) -> None:
    charge = desk.get(f"/v1/charges/{desk.authorize('tok_decline_fraudulent')}")
    assert (charge["status"], charge["decline_code"], charge["expires_at"]) == ("declined", "fraudulent", None)


def test_a_pending_authorization_is_settled_to_authorized(desk: Desk) -> None:
    charge = desk.authorize("tok_pending")
    settled = desk.post(f"/admin/settle/{charge}", {"status": "succeeded"})
    assert (settled["status"], settled["amount_captured"]) == ("authorized", 0)
    assert settled["expires_at"] == START + A_WEEK_S
    desk.time += A_WEEK_S
    assert shown(desk, charge) == state("expired", 0)


def test_a_pending_charge_is_settled_to_captured(desk: Desk) -> None:
    charge = desk.charge("tok_pending")
    assert shown(desk, charge) == state("pending", 0)
    desk.post(f"/admin/settle/{charge}", {"status": "succeeded"})
    assert shown(desk, charge) == state("succeeded", 1000)


def test_an_authorization_expires_by_the_clock(desk: Desk) -> None:
    charge = desk.authorize()
    desk.time += A_WEEK_S - 1
    assert shown(desk, charge)["status"] == "authorized"
    desk.time += 1
    assert shown(desk, charge)["status"] == "expired"
    assert desk.heard() == ["charge.authorized", "charge.expired"]
    assert desk.refusal(f"/v1/charges/{charge}/capture", capture(1)) == (409, "authorization_expired")
    assert desk.refusal(f"/v1/charges/{charge}/void", {"reference": "v"}) == (409, "authorization_expired")
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(1)) == (409, "charge_not_refundable")


def test_what_was_captured_outlives_the_authorization(desk: Desk) -> None:
    charge = desk.authorize()
    desk.post(f"/v1/charges/{charge}/capture", capture(300, final=False))
    desk.time += A_WEEK_S
    assert desk.get("/admin/books")["totals"] == {"EUR": {"count": 1, "amount": 300}}
    assert shown(desk, charge) == state("succeeded", 300)
    assert desk.refusal(f"/v1/charges/{charge}/capture", capture(1)) == (409, "charge_not_authorized")


def test_the_token_and_the_admin_let_an_authorization_expire_early(desk: Desk) -> None:
    soon, now = desk.authorize("tok_authorization_expires"), desk.authorize(reference="op_2")
    desk.time += 1
    assert shown(desk, soon)["status"] == "expired"
    assert desk.post(f"/admin/expire/{now}")["status"] == "expired"
    assert desk.refusal(f"/admin/expire/{now}") == (409, "charge_not_authorized")
    assert desk.refusal("/admin/expire/ch_none") == (404, "not_found")


# captures


def test_a_final_capture_ends_the_authorization(desk: Desk) -> None:
    charge = desk.authorize()
    made = desk.post(f"/v1/charges/{charge}/capture", {"amount": 400, "reference": "cap"})
    assert made.pop("id").startswith("cap_")
    assert made == {
        "object": "capture",
        "charge": charge,
        "amount": 400,
        "currency": "EUR",
        "reference": "cap",
        "status": "succeeded",
        "failure_code": None,
        "livemode": False,
        "created": int(START),
    }
    assert shown(desk, charge) == state("succeeded", 400)
    assert desk.heard() == ["charge.authorized", "capture.succeeded", "charge.captured"]
    assert desk.refusal(f"/v1/charges/{charge}/capture", capture(1)) == (409, "charge_not_authorized")


def test_captures_in_parts_never_exceed_what_was_authorized(desk: Desk) -> None:
    charge = desk.authorize()
    desk.post(f"/v1/charges/{charge}/capture", capture(600, final=False))
    assert shown(desk, charge) == state("authorized", 600)
    assert desk.get("/admin/books")["captured"] == {"EUR": 600}
    assert desk.refusal(f"/v1/charges/{charge}/capture", capture(401)) == (409, "amount_too_large")
    desk.post(f"/v1/charges/{charge}/capture", capture(400, final=False))
    assert shown(desk, charge) == state("succeeded", 1000)
    assert desk.get("/admin/books")["over_captured"] == []


@pytest.mark.parametrize("token", ["tok_approve", "tok_pending", "tok_decline_expired_card"])
def test_only_an_authorization_is_captured(desk: Desk, token: str) -> None:
    charge = desk.charge(token)
    assert desk.refusal(f"/v1/charges/{charge}/capture", capture(1)) == (409, "charge_not_authorized")


def test_a_capture_that_is_declined_leaves_the_authorization(desk: Desk) -> None:
    charge = desk.authorize("tok_capture_declined.card7")
    made = desk.post(f"/v1/charges/{charge}/capture", capture(1000))
    assert (made["status"], made["failure_code"]) == ("failed", "capture_declined")
    assert shown(desk, charge) == state("authorized", 0)
    assert desk.heard() == ["charge.authorized", "capture.failed"]
    desk.post(f"/v1/charges/{charge}/void", {"reference": "v"})
    assert desk.get("/admin/books")["done_twice"] == []


# voids


def test_a_void_releases_the_authorization(desk: Desk) -> None:
    charge = desk.authorize()
    made = desk.post(f"/v1/charges/{charge}/void", {"reference": "v"})
    assert (made["object"], made["amount"], made["status"]) == ("void", 1000, "succeeded")
    assert shown(desk, charge) == state("voided", 0)
    assert desk.heard() == ["charge.authorized", "void.succeeded", "charge.voided"]
    assert desk.refusal(f"/v1/charges/{charge}/void", {"reference": "v"}) == (409, "charge_not_voidable")
    desk.time += A_WEEK_S
    assert shown(desk, charge) == state("voided", 0)


def test_a_void_of_a_partly_captured_charge_releases_the_rest(desk: Desk) -> None:
    charge = desk.authorize()
    desk.post(f"/v1/charges/{charge}/capture", capture(300, final=False))
    assert desk.post(f"/v1/charges/{charge}/void", {"reference": "v"})["amount"] == 700
    assert shown(desk, charge) == state("succeeded", 300)


def test_a_pending_charge_can_be_voided_and_then_no_more_be_settled(desk: Desk) -> None:
    charge = desk.charge("tok_pending")
    desk.post(f"/v1/charges/{charge}/void", {"reference": "v"})
    assert shown(desk, charge) == state("voided", 0)
    assert desk.refusal(f"/admin/settle/{charge}", {"status": "succeeded"}) == (409, "not_pending")


@pytest.mark.parametrize("token", ["tok_approve", "tok_decline_expired_card"])
def test_what_is_decided_is_not_voided(desk: Desk, token: str) -> None:
    charge = desk.charge(token)
    assert desk.refusal(f"/v1/charges/{charge}/void", {"reference": "v"}) == (409, "charge_not_voidable")


# refunds


def test_refunds_never_exceed_what_was_captured(desk: Desk) -> None:
    charge = desk.authorize()
    desk.post(f"/v1/charges/{charge}/capture", capture(500, final=False))
    made = desk.post(f"/v1/charges/{charge}/refund", refund(200))
    assert (made["object"], made["status"], made["amount"]) == ("refund", "succeeded", 200)
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(301)) == (409, "refund_exceeds_captured")
    desk.post(f"/v1/charges/{charge}/refund", refund(300, "re_2"))
    assert shown(desk, charge) == state("authorized", 500, 500)
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(1)) == (409, "refund_exceeds_captured")
    books = desk.get("/admin/books")
    assert (books["captured"], books["refunded"], books["over_refunded"]) == ({"EUR": 500}, {"EUR": 500}, [])


def test_a_pending_refund_holds_its_amount_until_it_fails(desk: Desk) -> None:
    charge = desk.charge("tok_refund_pending")
    made = desk.post(f"/v1/charges/{charge}/refund", refund(700))
    assert made["status"] == "pending"
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(301)) == (409, "refund_exceeds_captured")
    failed = desk.post(f"/admin/settle/{made['id']}", {"status": "failed"})
    assert (failed["status"], failed["failure_code"]) == ("failed", "refund_declined")
    assert shown(desk, charge) == state("succeeded", 1000)
    assert desk.refusal(f"/admin/settle/{made['id']}", {"status": "succeeded"}) == (409, "not_pending")
    assert desk.heard()[1:] == ["refund.pending", "refund.failed"]


def test_a_pending_refund_settles_by_itself_when_the_dial_says_so() -> None:
    desk = Desk(dial=Dial(refund_settle_ms=1500))
    charge = desk.charge("tok_refund_pending")
    waits = desk.post(f"/v1/charges/{charge}/refund", refund(300))["id"]
    denied = desk.post(f"/v1/charges/{charge}/refund", refund(200, "re_2"))["id"]
    desk.post(f"/admin/settle/{denied}", {"status": "failed"})
    desk.time += 1.4
    assert desk.get(f"/v1/actions/{waits}")["status"] == "pending"
    desk.time += 0.1
    assert desk.get(f"/v1/actions/{waits}")["status"] == "succeeded"
    assert desk.get(f"/v1/actions/{denied}")["status"] == "failed"
    assert shown(desk, charge) == state("succeeded", 1000, 300)


def test_a_refund_that_fails_at_once_gives_nothing_back(desk: Desk) -> None:
    charge = desk.charge("tok_refund_fails")
    made = desk.post(f"/v1/charges/{charge}/refund", refund(1000))
    assert (made["status"], made["failure_code"]) == ("failed", "refund_declined")
    assert shown(desk, charge) == state("succeeded", 1000)
    assert desk.get("/admin/books")["refunded"] == {}


def test_a_refund_may_come_back_later() -> None:
    desk = Desk(dial=Dial(refund_fails_later_ms=60_000))
    charge = desk.charge("tok_refund_fails_later")
    made = desk.post(f"/v1/charges/{charge}/refund", refund(1000))
    assert made["status"] == "succeeded"
    desk.time += 60
    found = desk.get(f"/v1/actions/{made['id']}")
    assert (found["status"], found["failure_code"]) == ("failed", "bank_returned")
    assert shown(desk, charge) == state("succeeded", 1000)
    assert desk.heard()[1:] == ["refund.succeeded", "refund.failed"]


def test_an_admin_lets_a_refund_come_back_once(desk: Desk) -> None:
    charge = desk.charge("tok_refund_fails_later")
    made = desk.post(f"/v1/charges/{charge}/refund", refund(1000))
    desk.time += A_WEEK_S
    assert desk.post(f"/admin/fail-refund/{made['id']}")["failure_code"] == "bank_returned"
    assert desk.refusal(f"/admin/fail-refund/{made['id']}") == (409, "refund_not_succeeded")
    assert desk.refusal("/admin/fail-refund/re_none") == (404, "not_found")
    assert shown(desk, charge) == state("succeeded", 1000)
    # The money is there again, so it can be given back again, and that is no second time.
    desk.post(f"/v1/charges/{charge}/refund", refund(1000))
    assert desk.get("/admin/books")["done_twice"] == []


@pytest.mark.parametrize("token", ["tok_pending", "tok_decline_expired_card"])
def test_what_was_never_captured_is_not_refunded(desk: Desk, token: str) -> None:
    charge = desk.charge(token)
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(1)) == (409, "charge_not_refundable")


def test_a_disputed_charge_is_not_refunded(desk: Desk) -> None:
    charge = desk.charge()
    assert desk.post(f"/admin/dispute/{charge}")["disputed"] is True
    assert desk.refusal(f"/v1/charges/{charge}/refund", refund(1)) == (409, "charge_disputed")
    assert desk.refusal(f"/admin/dispute/{charge}") == (409, "charge_not_disputable")
    assert desk.refusal("/admin/dispute/ch_none") == (404, "not_found")
    assert desk.heard() == ["charge.succeeded", "dispute.opened", "dispute.funds_withdrawn"]
    declined = desk.charge("tok_decline_fraudulent", reference="op_2")
    assert desk.refusal(f"/admin/dispute/{declined}") == (409, "charge_not_disputable")


def test_a_charge_and_a_refund_are_settled_in_words_of_their_own(desk: Desk) -> None:
    charge = desk.charge("tok_pending")
    assert desk.refusal(f"/admin/settle/{charge}", {"status": "failed"}) == (400, "invalid_request")
    assert desk.refusal("/admin/settle/re_1", {"status": "declined"}) == (400, "invalid_request")
    assert desk.refusal("/admin/settle/re_1", {"status": "failed"}) == (404, "not_found")


# what is common to all


VERBS = [("capture", capture(400)), ("void", {"reference": "v"}), ("refund", refund(100))]


def paid(desk: Desk) -> str:
    """An authorization, partly captured: all three verbs can be done to it."""
    charge = desk.authorize()
    desk.post(f"/v1/charges/{charge}/capture", capture(500, final=False, reference="first"))
    return charge


@pytest.mark.parametrize(("verb", "body"), VERBS)
def test_a_replay_is_the_same_answer_and_does_nothing(desk: Desk, verb: str, body: dict[str, object]) -> None:
    target = f"/v1/charges/{paid(desk)}/{verb}"
    first = desk.send("POST", target, body, key="k")
    before = desk.get("/admin/books")
    again = desk.send("POST", target, body, key="k")
    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert b"idempotent-replayed: true" in again.headers
    assert b"idempotent-replayed" not in first.headers
    assert desk.get("/admin/books") == before
    assert desk.bank.action_count == 2


@pytest.mark.parametrize(("verb", "body"), VERBS)
def test_a_key_belongs_to_one_request(desk: Desk, verb: str, body: dict[str, object]) -> None:
    charge = paid(desk)
    desk.post(f"/v1/charges/{charge}/{verb}", body, key="k")
    other = desk.authorize(reference="op_2")
    for target, changed in (
        (f"/v1/charges/{charge}/{verb}", {**body, "reference": "other"}),
        (f"/v1/charges/{other}/{verb}", body),
    ):
        reply = desk.send("POST", target, changed, key="k")
        assert (reply.status, content(reply)["code"]) == (422, "idempotency_key_reused")
    assert desk.bank.action_count == 2


@pytest.mark.parametrize(("verb", "body"), VERBS)
@pytest.mark.parametrize(
    ("dial", "seen"),
    [
        (Dial(rate_limit_share=1), (429, False, 1)),
        (Dial(error_before_share=1), (500, False, 1)),
        (Dial(error_after_share=1), (500, False, 2)),
        (Dial(drop_after_charge_share=1), (201, True, 2)),
        (Dial(slow_share=1, slow_ms=500), (201, False, 2)),
    ],
)
def test_the_weather_is_that_of_charges(
    desk: Desk, verb: str, body: dict[str, object], dial: Dial, seen: tuple[int, bool, int]
) -> None:
    target = f"/v1/charges/{paid(desk)}/{verb}"
    desk.app.chaos.set(dial)
    reply = desk.send("POST", target, body, key="k")
    assert (reply.status, reply.is_dropped, desk.bank.action_count) == seen
    if reply.delay_s:
        assert content(desk.send("POST", target, body, key="k"))["code"] == "idempotency_key_in_use"


@pytest.mark.parametrize("cache_errors", [True, False])
def test_A4_A5_an_error_after_a_refund(cache_errors: bool) -> None:  # noqa: FBT001
    desk = Desk(cache_errors=cache_errors)
    target = f"/v1/charges/{desk.charge()}/refund"
    desk.app.chaos.set(Dial(error_after_share=1, max_faults_per_key=1))
    assert desk.send("POST", target, refund(400), key="k").status == 500
    again = desk.send("POST", target, refund(400), key="k")
    assert again.status == (500 if cache_errors else 201)
    books = desk.get("/admin/books")
    assert books["refunded"] == {"EUR": 400 if cache_errors else 800}
    assert books["done_twice"] == ([] if cache_errors else ["re"])


@pytest.mark.parametrize(("verb", "body"), VERBS)
def test_nothing_is_done_to_a_charge_of_another(desk: Desk, verb: str, body: dict[str, object]) -> None:
    charge = paid(desk)
    for target, account in (
        (f"/v1/charges/{charge}/{verb}", "test_other"),
        (f"/v1/charges/{charge}/{verb}", "live_shop"),
        (f"/v1/charges/ch_none/{verb}", "test_shop"),
    ):
        reply = desk.send("POST", target, body, account=account)
        assert (reply.status, content(reply)["code"]) == (404, "not_found")
    assert desk.bank.action_count == 1


@pytest.mark.parametrize(
    ("verb", "body", "code"),
    [
        ("capture", {"amount": 0, "reference": "r"}, "invalid_amount"),
        ("capture", {"amount": 10**15, "reference": "r"}, "invalid_amount"),
        ("capture", {"amount": 1.5, "reference": "r"}, "invalid_request"),
        ("capture", {"amount": 1}, "invalid_request"),
        ("capture", {"amount": 1, "reference": "a b"}, "invalid_reference"),
        ("capture", {"amount": 1, "reference": "r", "final": 1}, "invalid_request"),
        ("capture", b"{", "malformed_json"),
        ("void", {"reference": ""}, "invalid_reference"),
        ("void", {"reference": "r", "amount": 1}, "invalid_request"),
        ("refund", {"amount": -1, "reference": "r"}, "invalid_amount"),
        ("refund", {"amount": 1, "reference": "r" * 65}, "invalid_reference"),
        ("refund", {"amount": True, "reference": "r"}, "invalid_request"),
    ],
)
def test_a_body_that_cannot_be_read_does_nothing(desk: Desk, verb: str, body: object, code: str) -> None:
    target = f"/v1/charges/{paid(desk)}/{verb}"
    assert desk.refusal(target, body) == (400, code)
    assert desk.bank.action_count == 1


@pytest.mark.parametrize(("verb", "body"), VERBS)
def test_a_refusal_is_not_remembered(desk: Desk, verb: str, body: dict[str, object]) -> None:
    charge = desk.charge("tok_pending", reference="op_9")
    target = f"/v1/charges/{charge}/{verb}"
    if verb == "void":
        desk.post(target, body, key="k")
        assert desk.send("POST", target, body, key="k").status == 201
        return
    assert desk.send("POST", target, body, key="k").status == 409
    desk.post(f"/admin/settle/{charge}", {"status": "succeeded"})
    assert desk.send("POST", target, body, key="k").status == (201 if verb == "refund" else 409)


def test_actions_are_found_by_id_and_by_reference(desk: Desk) -> None:
    charge = desk.charge()
    first = desk.post(f"/v1/charges/{charge}/refund", refund(100))
    desk.time += 5
    second = desk.post(f"/v1/charges/{charge}/refund", refund(200))
    assert desk.get(f"/v1/actions/{first['id']}") == first
    assert desk.get("/v1/actions?reference=re") == {"data": [second, first]}
    assert desk.get("/v1/actions?reference=other") == {"data": []}
    assert desk.send("GET", f"/v1/actions/{first['id']}", account="test_other").status == 404
    assert desk.send("GET", "/v1/actions/re_none").status == 404
    assert content(desk.send("GET", "/v1/actions"))["code"] == "reference_missing"
    desk.app.chaos.set(Dial(search_lag_ms=3000))
    assert desk.get("/v1/actions?reference=re") == {"data": [first]}
    assert desk.get(f"/v1/actions/{second['id']}") == second
    desk.app.chaos.set(Dial(look_up_error_share=1))
    assert desk.send("GET", f"/v1/actions/{first['id']}").status == 500


def test_actions_are_paged(desk: Desk) -> None:
    charge = desk.charge()
    for number in range(5):
        desk.post(f"/v1/charges/{charge}/refund", refund(1, f"re_{number}"))
    seen, cursor = [], "0"
    while cursor:
        page = desk.get(f"/admin/actions?cursor={cursor}&limit=2")
        seen += [action["reference"] for action in page["data"]]
        cursor = page["next_cursor"]
    assert seen == [f"re_{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("first_ends_by", "twice"), [(None, ["op_1"]), ("void", []), ("expire", []), ("capture", ["op_1"])]
)
def test_two_live_authorizations_are_charged_twice(desk: Desk, first_ends_by: str | None, twice: list[str]) -> None:
    first = desk.authorize()
    match first_ends_by:
        case "void":
            desk.post(f"/v1/charges/{first}/void", {"reference": "v"})
        case "expire":
            desk.time += A_WEEK_S
        case "capture":
            desk.post(f"/v1/charges/{first}/capture", capture(10))
        case None:
            pass
    desk.charge()
    assert desk.get("/admin/books")["charged_twice"] == twice


def test_an_action_that_took_effect_twice_is_named(desk: Desk) -> None:
    charge = desk.charge()
    desk.post(f"/v1/charges/{charge}/refund", refund(10))
    assert desk.get("/admin/books")["done_twice"] == []
    desk.post(f"/v1/charges/{charge}/refund", refund(10))
    assert desk.get("/admin/books")["done_twice"] == ["re"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/charges/ch_1/capture", 404),
        ("PUT", "/v1/charges/ch_1/capture", 405),
        ("POST", "/v1/charges/ch_1/steal", 405),
        ("POST", "/v1/actions", 405),
        ("POST", "/v1/mandates", 404),
        ("GET", "/admin/dispute/ch_1", 405),
        ("GET", "/admin/actions?cursor=x", 400),
        ("PUT", "/admin/actions", 405),
        ("POST", "/admin/unheard-of/ch_1", 404),
        ("GET", "/admin/references?status=authorized", 200),
    ],
)
def test_every_address_has_its_answer(desk: Desk, method: str, target: str, status: int) -> None:
    assert desk.send(method, target).status == status


@pytest.mark.parametrize(("verb", "body"), VERBS)
def test_what_moves_money_needs_a_key_and_an_account(desk: Desk, verb: str, body: dict[str, object]) -> None:
    target = f"/v1/charges/{paid(desk)}/{verb}".encode()
    bearer = {b"authorization": b"Bearer sk_sim_test_shop"}
    for headers, status in ((bearer, 400), ({b"idempotency-key": b"k"}, 401)):
        assert desk.app.handle(b"POST", target, headers, b"{}").status == status
    assert body
    assert desk.bank.action_count == 1
