"""The simulated PSP's sessions and their hosted page: paid once, and a declined try charges nothing."""

import re
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from tests.unit.simulator_desk import START, Desk, content

from coatcheck.simulator.app import Reply
from coatcheck.simulator.chaos import Dial

CARD = {"do": "pay", "number": "4242 4242 4242 4242", "expiry": "12/99", "cvc": "123"}
DECLINED = CARD | {"number": "4000000000000002"}
CHALLENGED = CARD | {"number": "4000 0000 0000 3220"}
WAY_BACK = "https://shop.example/back?cart=7&session={}#top"


@pytest.fixture
def desk() -> Desk:
    return Desk()


def send_form(desk: Desk, session: Any, fields: dict[str, str]) -> Reply:
    return desk.app.handle(b"POST", f"/page/{session['id']}".encode(), {}, urlencode(fields).encode())


def page_of(desk: Desk, session: Any) -> str:
    reply = desk.app.handle(b"GET", f"/page/{session['id']}".encode(), {}, b"")
    assert reply.status == 200
    return reply.body.decode()


def statuses(desk: Desk, session: Any) -> tuple[str, list[str | None]]:
    found = desk.get(f"/v1/sessions/{session['id']}")
    return found["status"], [entry["charge"] and entry["charge"]["status"] for entry in found["charges"]]


# the API


def test_a_session_is_opened_and_found_again(desk: Desk) -> None:
    session = desk.session()
    assert session == {
        "id": session["id"],
        "object": "session",
        "reference": "cart_1",
        "status": "open",
        "url": f"http://psp.example:8090/page/{session['id']}",
        "return_url": "https://shop.example/back?cart=7#top",
        "expires_at": START + 1800,
        "livemode": False,
        "charges": [
            {"reference": "cart_1_0", "amount": 1000, "currency": "EUR", "charge": None},
            {"reference": "cart_1_1", "amount": 1001, "currency": "EUR", "charge": None},
        ],
    }
    assert session["id"].startswith("cs_")
    assert desk.get(f"/v1/sessions/{session['id']}") == session
    assert desk.get("/v1/sessions?reference=cart_1") == {"data": [session]}
    assert desk.get("/v1/sessions?reference=other") == {"data": []}
    assert desk.send("GET", f"/v1/sessions/{session['id']}", account="test_other").status == 404
    assert desk.bank.charge_count == 0


def test_a_session_waits_for_the_search_but_not_for_its_id(desk: Desk) -> None:
    desk.app.chaos.set(Dial(search_lag_ms=1000))
    session = desk.session()
    assert desk.get("/v1/sessions?reference=cart_1") == {"data": []}
    assert desk.get(f"/v1/sessions/{session['id']}") == session


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reference": ""}, "invalid_reference"),
        ({"return_url": "javascript:alert(1)"}, "invalid_request"),
        ({"return_url": "https://shop.example/\r\nx: y"}, "invalid_request"),
        ({"return_url": "https://[/"}, "invalid_request"),
        ({"return_url": "https:///path"}, "invalid_request"),
        ({"charges": []}, "invalid_request"),
        ({"charges": [{"reference": "a", "amount": 0, "currency": "EUR"}]}, "invalid_amount"),
        ({"charges": [{"reference": "a", "amount": 1, "currency": "eur"}]}, "invalid_currency"),
        ({"charges": [{"reference": "", "amount": 1, "currency": "EUR"}]}, "invalid_reference"),
        ({"charges": 2 * [{"reference": "a", "amount": 1, "currency": "EUR"}]}, "invalid_reference"),
        ({"charges": 101 * [{"reference": "a", "amount": 1, "currency": "EUR"}]}, "invalid_request"),
        ({"extra": 1}, "invalid_request"),
    ],
)
def test_a_session_that_cannot_be_is_refused(desk: Desk, change: dict[str, object], code: str) -> None:
    charges = [{"reference": "a", "amount": 1, "currency": "EUR"}]
    body = {"reference": "cart", "return_url": "https://shop.example/", "charges": charges}
    assert desk.refusal("/v1/sessions", body | change) == (400, code)
    desk.post("/v1/sessions", body)


def test_a_host_that_is_none_is_refused(desk: Desk) -> None:
    body = {
        "reference": "cart",
        "return_url": "https://shop.example/",
        "charges": [{"reference": "a", "amount": 1, "currency": "EUR"}],
    }
    headers = {
        b"authorization": b"Bearer sk_sim_test_shop",
        b"idempotency-key": b"k",
        b"host": b'x"><script>',
    }
    assert desk.app.handle(b"POST", b"/v1/sessions", headers, msgspec.json.encode(body)).status == 400


def test_opening_and_expiring_are_replayed(desk: Desk) -> None:
    body = {
        "reference": "cart",
        "return_url": "https://shop.example/",
        "charges": [{"reference": "a", "amount": 1, "currency": "EUR"}],
    }
    first, again = (desk.send("POST", "/v1/sessions", body, key="open") for _ in range(2))
    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert b"idempotent-replayed: true" in again.headers
    target = f"/v1/sessions/{content(first)['id']}/expire"
    ended, replayed = (desk.send("POST", target, {"reference": "x"}, key="end") for _ in range(2))
    assert (ended.status, content(ended)["status"], replayed.body) == (201, "expired", ended.body)
    assert b"idempotent-replayed: true" in replayed.headers
    assert len(desk.get("/v1/sessions?reference=cart")["data"]) == 1
    assert desk.send("POST", target, {"reference": "y"}, key="end").status == 422
    assert desk.heard() == ["session.expired"]


def test_a_session_can_be_ended_unless_it_was_paid(desk: Desk) -> None:
    cancelled, ended, done = desk.session(reference="c1"), desk.session(reference="c2"), desk.session(reference="c3")
    desk.post(f"/admin/sessions/{cancelled['id']}/cancel")
    desk.post(f"/v1/sessions/{ended['id']}/expire", {"reference": "x"})
    desk.post(f"/admin/sessions/{done['id']}/pay", {"token": "tok_approve"})
    for session, status in ((cancelled, "cancelled"), (ended, "expired")):
        again = desk.post(f"/v1/sessions/{session['id']}/expire", {"reference": "x"})
        assert again["status"] == status
    assert desk.refusal(f"/v1/sessions/{done['id']}/expire", {"reference": "x"}) == (409, "session_completed")
    assert desk.refusal("/v1/sessions/cs_none/expire", {"reference": "x"}) == (404, "not_found")
    other = desk.send("POST", f"/v1/sessions/{ended['id']}/expire", {"reference": "x"}, account="test_other")
    assert other.status == 404
    assert desk.heard().count("session.expired") == 1


def test_a_session_expires_by_the_clock_or_by_the_admin(desk: Desk) -> None:
    session, early = desk.session(), desk.session(reference="cart_2")
    assert desk.post(f"/admin/expire/{early['id']}")["status"] == "expired"
    desk.time += 1800
    assert statuses(desk, session) == ("expired", [None, None])
    assert desk.refusal(f"/admin/sessions/{session['id']}/pay") == (409, "session_ended")
    assert desk.refusal(f"/admin/sessions/{session['id']}/cancel") == (409, "session_ended")
    assert desk.heard() == ["session.expired", "session.expired"]


# paying, by an admin or on the page


@pytest.mark.parametrize(
    ("token", "capture", "status", "captured"),
    [
        ("tok_approve", True, "succeeded", 1000),
        ("tok_approve", False, "authorized", 0),
        ("tok_pending", True, "pending", 0),
    ],
)
def test_an_admin_pays_each_entry_under_its_reference(
    desk: Desk,
    token: str,
    capture: bool,  # noqa: FBT001
    status: str,
    captured: int,
) -> None:
    session = desk.session(capture=capture)
    for _ in range(2):
        paid = desk.post(f"/admin/sessions/{session['id']}/pay", {"token": token})
        assert paid["status"] == "completed"
    charges = [entry["charge"] for entry in paid["charges"]]
    assert [charge["reference"] for charge in charges] == ["cart_1_0", "cart_1_1"]
    assert [charge["status"] for charge in charges] == [status, status]
    assert charges[0]["amount_captured"] == captured
    assert len({charge["id"] for charge in charges}) == 2
    assert desk.bank.charge_count == 2
    assert desk.heard() == [f"charge.{status}", f"charge.{status}", "session.completed"]
    assert desk.get(f"/v1/charges/{charges[1]['id']}") == charges[1]
    assert desk.refusal(f"/admin/sessions/{session['id']}/cancel") == (409, "session_completed")


def test_a_session_shows_its_charges_as_they_now_are(desk: Desk) -> None:
    session = desk.session(capture=False)
    paid = desk.post(f"/admin/sessions/{session['id']}/pay", {"token": "tok_capture_declined"})
    first, second = (entry["charge"]["id"] for entry in paid["charges"])
    made = desk.post(f"/v1/charges/{first}/capture", {"amount": 1000, "reference": "cap"})
    assert made["failure_code"] == "capture_declined"
    desk.post(f"/v1/charges/{second}/void", {"reference": "v"})
    assert statuses(desk, session) == ("completed", ["authorized", "voided"])


def test_a_page_is_paid_and_leads_back(desk: Desk) -> None:
    session = desk.session()
    reply = send_form(desk, session, CARD)
    assert (reply.status, reply.body) == (303, b"")
    assert f"location: {WAY_BACK.format(session['id'])}\r\n".encode() in reply.headers
    assert statuses(desk, session) == ("completed", ["succeeded", "succeeded"])
    assert desk.get("/admin/books")["totals"] == {"EUR": {"count": 2, "amount": 2001}}


def test_a_double_click_never_charges_twice(desk: Desk) -> None:
    session = desk.session()
    first, second = send_form(desk, session, CARD), send_form(desk, session, CARD)
    assert (second.status, second.headers) == (303, first.headers)
    assert send_form(desk, session, {"do": "cancel"}).status == 303
    assert desk.bank.charge_count == 2
    assert desk.get("/admin/books")["charged_twice"] == []
    assert statuses(desk, session)[0] == "completed"
    assert "This is paid" in page_of(desk, session)


def test_a_declined_try_charges_nothing_and_another_card_pays(desk: Desk) -> None:
    session = desk.session()
    reply = send_form(desk, session, DECLINED)
    assert reply.status == 200
    assert "The card was declined" in reply.body.decode()
    assert 'name="number"' in reply.body.decode()
    assert desk.bank.charge_count == 0
    assert send_form(desk, session, CARD).status == 303
    assert desk.get("/admin/books")["statuses"] == {"succeeded": 2}
    # When its time is over, the page that was paid is not given up as well.
    desk.time += 1800
    assert statuses(desk, session) == ("completed", ["succeeded", "succeeded"])
    assert desk.bank.charge_count == 2


@pytest.mark.parametrize("ending", ["page", "admin", "api", "clock"])
def test_a_page_that_is_given_up_after_a_decline_books_it(desk: Desk, ending: str) -> None:
    session = desk.session()
    send_form(desk, session, DECLINED)
    send_form(desk, session, DECLINED)
    match ending:
        case "page":
            assert send_form(desk, session, {"do": "cancel"}).status == 303
        case "admin":
            desk.post(f"/admin/sessions/{session['id']}/cancel")
        case "api":
            desk.post(f"/v1/sessions/{session['id']}/expire", {"reference": "x"})
        case _:
            desk.time += 1800
    status = "expired" if ending in ("api", "clock") else "cancelled"
    assert statuses(desk, session) == (status, ["declined", "declined"])
    assert desk.heard() == ["charge.declined", "charge.declined", f"session.{status}"]
    found = desk.get("/v1/charges?reference=cart_1_0")["data"]
    assert [charge["decline_code"] for charge in found] == ["card_declined"]


def test_a_page_that_is_cancelled_untried_books_nothing(desk: Desk) -> None:
    session = desk.session()
    for _ in range(2):
        reply = send_form(desk, session, {"do": "cancel"})
        assert reply.status in (200, 303)
    assert statuses(desk, session) == ("cancelled", [None, None])
    assert "was cancelled" in page_of(desk, session)
    assert desk.heard() == ["session.cancelled"]
    assert send_form(desk, session, CARD).status == 200
    assert desk.bank.charge_count == 0


def test_3_d_secure_pays_only_when_it_is_confirmed(desk: Desk) -> None:
    session = desk.session()
    challenge = send_form(desk, session, CHALLENGED).body.decode()
    assert 'value="confirm"' in challenge
    assert 'name="number"' not in challenge
    assert 'value="confirm"' in page_of(desk, session)
    assert desk.bank.charge_count == 0
    assert send_form(desk, session, {"do": "confirm"}).status == 303
    assert statuses(desk, session) == ("completed", ["succeeded", "succeeded"])


def test_a_failed_challenge_is_a_declined_try(desk: Desk) -> None:
    session = desk.session()
    send_form(desk, session, CHALLENGED)
    said = send_form(desk, session, {"do": "fail"}).body.decode()
    assert "was not confirmed" in said
    assert 'name="number"' in page_of(desk, session)
    # The challenge is over: nobody can confirm it any more.
    assert send_form(desk, session, {"do": "confirm"}).status == 200
    assert desk.bank.charge_count == 0
    desk.post(f"/admin/sessions/{session['id']}/cancel")
    found = desk.get("/v1/charges?reference=cart_1_1")["data"]
    assert [charge["decline_code"] for charge in found] == ["authentication_required"]


def test_nobody_confirms_what_was_not_asked(desk: Desk) -> None:
    session = desk.session()
    for fields in ({"do": "confirm"}, {"do": "fail"}, {"do": "steal"}, {}):
        assert send_form(desk, session, fields).status == 200
    assert statuses(desk, session) == ("open", [None, None])
    desk.post(f"/admin/sessions/{session['id']}/cancel")
    assert statuses(desk, session) == ("cancelled", [None, None])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"number": "4111111111111111"}, "only the test cards"),
        ({"number": ""}, "only the test cards"),
        ({"expiry": "13/99"}, "MM/YY"),
        ({"expiry": "12/1969"}, "MM/YY"),
        ({"expiry": "12/69"}, None),
        ({"expiry": "12/00"}, None),
        ({"cvc": "12"}, "CVC"),
        ({"cvc": "abc"}, "CVC"),
        ({"cvc": ""}, "CVC"),
    ],
)
def test_a_card_that_cannot_be_is_told_and_never_shown(desk: Desk, change: dict[str, str], said: str | None) -> None:
    session = desk.session()
    reply = send_form(desk, session, CARD | change)
    if said is None:  # the test's clock stands in January 1970, before all of these
        assert reply.status == 303
        return
    assert reply.status == 422
    assert said in reply.body.decode()
    assert b"4111111111111111" not in reply.body
    assert statuses(desk, session) == ("open", [None, None])


def test_an_expired_card_is_refused(desk: Desk) -> None:
    desk.time = 1_790_000_000.0  # September 2026
    session = desk.session()
    reply = send_form(desk, session, CARD | {"expiry": "08/26"})
    assert (reply.status, b"This card has expired" in reply.body) == (422, True)
    assert send_form(desk, session, CARD | {"expiry": "09/26"}).status == 303


def test_no_card_number_reaches_the_journal(desk: Desk) -> None:
    for number, fields in enumerate((CARD, DECLINED, CHALLENGED, CARD | {"number": "4111 1111 1111 1111"})):
        session = desk.session(reference=f"cart_{number}")
        send_form(desk, session, fields)
    written = msgspec.json.encode(desk.entries).decode()
    for digits in ("4242", "0002", "3220", "4111", "4000", "12/99", '"123"'):
        assert digits not in re.sub(r"(ch|cs)_[0-9]+|\"digest\":\"\w+\"", "", written)


def test_the_page_says_what_is_paid_and_takes_nothing_as_markup(desk: Desk) -> None:
    charges = [
        {"reference": "a", "amount": 1234, "currency": "EUR", "description": '<b>Hats</b> & "more"'},
        {"reference": "b<i>", "amount": 500, "currency": "JPY"},
        {"reference": "c", "amount": 1, "currency": "KWD"},
        {"reference": "d", "amount": 66, "currency": "EUR"},
    ]
    body = {"reference": "cart", "return_url": 'https://shop.example/?a="><script>', "charges": charges}
    session = desk.post("/v1/sessions", body)
    shown = page_of(desk, session)
    for text in ("12.34 EUR", "500 JPY", "0.001 KWD", "13.00 EUR", "&lt;b&gt;Hats&lt;/b&gt; &amp; &quot;more&quot;"):
        assert text in shown
    assert "b&lt;i&gt;" in shown
    desk.post(f"/admin/sessions/{session['id']}/cancel")
    for page in (shown, page_of(desk, session)):
        assert "<script" not in page
        assert "<b>" not in page
        assert "<i>" not in page


def test_the_page_allows_no_scripts_and_fits_a_phone(desk: Desk) -> None:
    session = desk.session()
    reply = desk.app.handle(b"GET", f"/page/{session['id']}".encode(), {}, b"")
    headers = dict(line.split(": ", 1) for line in reply.headers.decode().splitlines())
    policy = headers["content-security-policy"]
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert b'<meta name="viewport" content="width=device-width' in reply.body
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "name", "status"),
    [("GET", "cs_none", 404), ("POST", "cs_none", 404), ("GET", "", 404), ("PUT", "", 404)],
)
def test_a_page_that_is_not_there_says_so(desk: Desk, method: str, name: str, status: int) -> None:
    reply = desk.app.handle(method.encode(), f"/page/{name}".encode(), {}, b"")
    assert (reply.status, reply.headers.startswith(b"content-type: text/html")) == (status, True)


@pytest.mark.parametrize("raw", [b"\xff", b"do=pay&" * 30, b"%ff=%ff", b"do", b""])
def test_a_form_that_is_none_of_ours_does_nothing(desk: Desk, raw: bytes) -> None:
    session = desk.session()
    assert desk.app.handle(b"POST", f"/page/{session['id']}".encode(), {}, raw).status in (200, 422)
    assert desk.app.handle(b"DELETE", f"/page/{session['id']}".encode(), {}, b"").status == 405
    assert statuses(desk, session) == ("open", [None, None])


def test_the_admin_s_ways_refuse_what_is_not_there(desk: Desk) -> None:
    for verb in ("pay", "cancel"):
        assert desk.refusal(f"/admin/sessions/cs_none/{verb}") == (404, "not_found")
    session = desk.session()
    assert desk.refusal(f"/admin/sessions/{session['id']}/pay", {"token": "tok_x"}) == (400, "invalid_token")
    assert desk.send("GET", f"/admin/sessions/{session['id']}/pay").status == 405
    assert desk.refusal("/admin/expire/cs_none") == (404, "not_found")
