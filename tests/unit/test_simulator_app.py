"""The simulated PSP's HTTP interface: what it takes, what it refuses, and that nothing makes it fail."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.simulator.app import MAX_AMOUNT, App, Reply
from coatcheck.simulator.bank import Bank
from coatcheck.simulator.chaos import Chaos, Dial
from coatcheck.simulator.tokens import DECLINE_CODES

HEADERS = {b"authorization": b"Bearer sk_sim_test_shop", b"idempotency-key": b"op_1"}
BODY = {"amount": 1234, "currency": "EUR", "token": "tok_approve", "reference": "op_1"}


def new_app(*, dial: Dial | None = None, cache_errors: bool = True) -> App:
    bank = Bank(clock=lambda: 1_000_000.0, key_window_s=60)
    return App(bank, Chaos(dial or Dial()), cache_errors=cache_errors, slow_s=3)


@pytest.fixture
def app() -> App:
    return new_app()


def post(app: App, body: object = None, *, headers: Mapping[bytes, bytes] = HEADERS, key: str = "op_1") -> Reply:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(BODY | (body or {}))  # type: ignore[operator]
    headers = {**headers, b"idempotency-key": key.encode()} if b"idempotency-key" in headers else headers
    return app.handle(b"POST", b"/v1/charges", headers, raw)


def ask(app: App, method: str, target: str, body: bytes = b"", headers: Mapping[bytes, bytes] = HEADERS) -> Reply:
    return app.handle(method.encode(), target.encode(), headers, body)


def content(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body)


def test_a_charge_is_answered_and_found_again(app: App) -> None:
    reply = post(app)
    charge = content(reply)
    assert reply.status == 201
    assert charge.pop("id").startswith("ch_")
    assert charge == {
        "status": "succeeded",
        "amount": 1234,
        "currency": "EUR",
        "reference": "op_1",
        "decline_code": None,
        "livemode": False,
        "created": 1_000_000,
        "amount_captured": 1234,
        "amount_refunded": 0,
        "expires_at": None,
        "disputed": False,
    }
    found = ask(app, "GET", f"/v1/charges/{content(reply)['id']}")
    assert (found.status, content(found)) == (200, content(reply))
    listed = ask(app, "GET", "/v1/charges?reference=op_1")
    assert (listed.status, content(listed)) == (200, {"data": [content(reply)]})


def test_a_replay_is_the_same_answer_and_says_so(app: App) -> None:
    first, again = post(app), post(app)
    assert (again.status, again.body) == (first.status, first.body)
    assert b"idempotent-replayed: true" in again.headers
    assert b"idempotent-replayed" not in first.headers
    assert app.bank.charge_count == 1


def test_a_live_key_charges_live(app: App) -> None:
    live = {**HEADERS, b"authorization": b"Bearer sk_sim_live_shop"}
    assert content(post(app, headers=live))["livemode"] is True
    assert app.bank.charge_count == 1
    assert content(post(app))["livemode"] is False
    assert app.bank.charge_count == 2


@pytest.mark.parametrize(
    "credentials",
    [b"", b"sk_sim_test_shop", b"Bearer sk_test_shop", b"Bearer sk_sim_test_", b"Bearer sk_sim_demo_x", b"Basic eA=="],
)
def test_other_credentials_are_refused(app: App, credentials: bytes) -> None:
    headers = {**HEADERS, b"authorization": credentials}
    for reply in (post(app, headers=headers), ask(app, "GET", "/v1/charges?reference=op_1", headers=headers)):
        assert (reply.status, content(reply)["code"]) == (401, "invalid_api_key")
    assert app.bank.charge_count == 0


def test_a_charge_without_a_key_is_refused(app: App) -> None:
    reply = post(app, headers={b"authorization": HEADERS[b"authorization"]})
    assert (reply.status, content(reply)["code"]) == (400, "idempotency_key_missing")
    for key in ("", "a b", "k" * 256):
        reply = post(app, key=key)
        assert (reply.status, content(reply)["code"]) == (400, "idempotency_key_invalid")
    assert app.bank.charge_count == 0


@pytest.mark.parametrize("code", sorted(DECLINE_CODES))
def test_a_decline_is_an_answer(app: App, code: str) -> None:
    reply = post(app, {"token": f"tok_decline_{code}"})
    assert (reply.status, content(reply)["status"], content(reply)["decline_code"]) == (201, "declined", code)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 0}, "invalid_amount"),
        ({"amount": -1}, "invalid_amount"),
        ({"amount": MAX_AMOUNT + 1}, "invalid_amount"),
        ({"amount": 10**40}, "invalid_amount"),
        ({"amount": 12.0}, "invalid_request"),
        ({"amount": 12.5}, "invalid_request"),
        ({"amount": "12"}, "invalid_request"),
        ({"amount": True}, "invalid_request"),
        ({"amount": None}, "invalid_request"),
        ({"currency": "eur"}, "invalid_currency"),
        ({"currency": "XXX"}, "invalid_currency"),
        ({"currency": 978}, "invalid_request"),
        ({"reference": ""}, "invalid_reference"),
        ({"reference": "op 1"}, "invalid_reference"),
        ({"reference": "op\x00"}, "invalid_reference"),
        ({"reference": "op_1\n"}, "invalid_reference"),
        ({"reference": "r" * 65}, "invalid_reference"),
        ({"description": "d" * 501}, "invalid_request"),
        ({"token": ""}, "invalid_token"),
        ({"token": "tok_unheard_of"}, "invalid_token"),
        ({"token": "tok_decline"}, "invalid_token"),
        ({"token": "tok_decline_because"}, "invalid_token"),
        ({"token": "tok_approve."}, "invalid_token"),
        ({"token": "tok_approve.card 42"}, "invalid_token"),
        ({"extra": 1}, "invalid_request"),
    ],
)
def test_a_body_that_cannot_be_charged_is_refused_and_not_remembered(
    app: App, change: dict[str, object], code: str
) -> None:
    for _ in range(2):
        reply = post(app, change)
        assert (reply.status, content(reply)["code"]) == (400, code)
        assert content(reply)["message"]
    assert app.bank.charge_count == 0
    assert post(app).status == 201


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"amount":NaN}', b'{"amount":1e999}', b"[" * 10_000, b'"\\ud800"']
)
def test_a_body_that_cannot_be_read_is_refused(app: App, raw: bytes) -> None:
    reply = post(app, raw)
    assert reply.status == 400
    assert content(reply)["code"] in ("malformed_json", "invalid_request")


def test_a_card_suffix_is_another_card_with_the_same_manners(app: App) -> None:
    assert content(post(app, {"token": "tok_approve.card42"}))["status"] == "succeeded"
    assert content(post(app, {"token": "tok_decline_fraudulent.card42"}, key="op_2"))["decline_code"] == "fraudulent"


def test_a_dropped_charge_is_made_and_its_replay_answers(app: App) -> None:
    assert post(app, {"token": "tok_drop"}).is_dropped
    again = post(app, {"token": "tok_drop"})
    assert (again.is_dropped, again.status, app.bank.charge_count) == (False, 201, 1)


def test_a_slow_charge_is_held_back_and_its_key_is_in_use(app: App) -> None:
    reply = post(app, {"token": "tok_slow"})
    assert (reply.status, reply.delay_s) == (201, 3)
    assert post(app, {"token": "tok_slow"}).status == 409
    assert app.bank.charge_count == 1


def test_html_comes_once_and_the_truth_after_it(app: App) -> None:
    reply = post(app, {"token": "tok_html"})
    assert (reply.status, reply.headers) == (200, b"content-type: text/html\r\n")
    assert content(post(app, {"token": "tok_html"}))["status"] == "succeeded"


@pytest.mark.parametrize("cache_errors", [True, False])
def test_A4_A5_an_error_after_charging(cache_errors: bool) -> None:  # noqa: FBT001
    app = new_app(cache_errors=cache_errors)
    assert post(app, {"token": "tok_error_after"}).status == 500
    again = post(app, {"token": "tok_error_after"})
    assert again.status == (500 if cache_errors else 201)
    assert (b"idempotent-replayed: true" in again.headers) is cache_errors
    assert app.bank.charge_count == (1 if cache_errors else 2)


def test_an_error_before_charging_comes_once_and_is_not_stored(app: App) -> None:
    assert post(app, {"token": "tok_error_before"}).status == 500
    assert app.bank.charge_count == 0
    assert post(app, {"token": "tok_error_before"}).status == 201
    assert app.bank.charge_count == 1


@pytest.mark.parametrize(
    ("dial", "status", "is_dropped", "charges", "fault"),
    [
        (Dial(rate_limit_share=1, retry_after_s=5), 429, False, 0, "rate_limited"),
        (Dial(error_before_share=1), 500, False, 0, "error_before"),
        (Dial(error_after_share=1), 500, False, 1, "error_after"),
        (Dial(drop_after_charge_share=1), 201, True, 1, "dropped_after_charge"),
        (Dial(slow_share=1, slow_ms=1500), 201, False, 1, "slow"),
    ],
)
def test_a_fault_of_the_dial_is_done_and_counted(
    dial: Dial,
    status: int,
    is_dropped: bool,  # noqa: FBT001
    charges: int,
    fault: str,
) -> None:
    app = new_app(dial=dial)
    reply = post(app)
    assert (reply.status, reply.is_dropped, app.bank.charge_count) == (status, is_dropped, charges)
    assert content(ask(app, "GET", "/admin/books"))["faults"] == {fault: 1}
    assert reply.delay_s == (1.5 if fault == "slow" else 0)
    assert (b"retry-after: 5\r\n" in reply.headers) is (status == 429)


def test_replays_meet_faults_too() -> None:
    app = new_app(dial=Dial(drop_after_charge_share=1, max_faults_per_key=2))
    assert [post(app).is_dropped for _ in range(3)] == [True, True, False]
    assert app.bank.charge_count == 1


def test_a_refusal_is_not_turned_into_an_error_after_charging() -> None:
    app = new_app(dial=Dial(error_after_share=1))
    assert post(app, {"amount": 0}).status == 400
    assert app.bank.charge_count == 0


def test_the_dial_is_read_and_turned(app: App) -> None:
    turned = ask(app, "PUT", "/admin/chaos", b'{"decline_share": 1}')
    assert (turned.status, content(turned)["decline_share"]) == (200, 1)
    assert content(ask(app, "GET", "/admin/chaos")) == content(turned)
    assert content(post(app))["decline_code"] == "card_declined"
    assert ask(app, "PUT", "/admin/chaos", b'{"decline_share": 2}').status == 400
    assert content(ask(app, "GET", "/admin/chaos"))["decline_share"] == 1


def test_all_charges_are_paged(app: App) -> None:
    for number in range(5):
        post(app, {"reference": f"op_{number}"}, key=f"op_{number}")
    seen, cursor = [], "0"
    while cursor:
        page = content(ask(app, "GET", f"/admin/charges?cursor={cursor}&limit=2"))
        seen += [charge["reference"] for charge in page["data"]]
        cursor = page["next_cursor"]
    assert seen == [f"op_{number}" for number in range(5)]


def test_admin_forgets_settles_and_resets(app: App) -> None:
    pending = content(post(app, {"token": "tok_pending"}))
    settled = ask(app, "POST", f"/admin/settle/{pending['id']}", b'{"status":"declined"}')
    assert (content(settled)["status"], content(settled)["decline_code"]) == ("declined", "card_declined")
    assert ask(app, "POST", f"/admin/settle/{pending['id']}", b'{"status":"succeeded"}').status == 409
    assert content(ask(app, "POST", "/admin/forget-keys")) == {"forgotten": 1}
    assert content(post(app, {"token": "tok_pending"}))["id"] != pending["id"]
    assert ask(app, "POST", "/admin/reset").status == 200
    assert app.bank.charge_count == 0


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/", 404),
        ("GET", "/v1/charge", 404),
        ("PUT", "/v1/charges", 405),
        ("DELETE", "/v1/charges/ch_1", 405),
        ("POST", "/health", 405),
        ("GET", "/admin/settle/ch_1", 405),
        ("POST", "/admin/settle/ch_1", 400),
        ("GET", "/v1/charges", 400),
        ("GET", "/v1/charges/", 404),
        ("GET", "/v1/charges/%00%ff", 404),
        ("GET", "/admin/charges?cursor=-1", 400),
        ("GET", "/admin/charges?limit=%C2%B2", 400),
        ("GET", "/admin/charges?limit=" + "9" * 40, 400),
        ("GET", "/admin/references?status=odd", 400),
    ],
)
def test_every_address_has_its_answer(app: App, method: str, target: str, status: int) -> None:
    assert ask(app, method, target).status == status


@given(st.binary(max_size=200), st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH"]), st.binary(max_size=60))
def test_nothing_makes_it_fail(raw: bytes, method: bytes, target: bytes) -> None:
    app = new_app()
    for address in (
        b"/v1/charges",
        b"/admin/chaos",
        b"/" + target,
        b"/v1/charges?" + target,
        b"/admin/settle/" + target,
    ):
        assert app.handle(method, address, HEADERS, raw).status < 500
