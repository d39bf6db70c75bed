"""The hosted page of a session: what is paid, a card form, a 3-D Secure challenge, a way out. HTML without scripts.

A card number is compared with the test cards and forgotten: it is neither stored nor shown again.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from coatcheck.simulator.currencies import in_words
from coatcheck.simulator.records import CANCELLED, COMPLETED, OPEN, Refusal, Session
from coatcheck.simulator.replies import Reply
from coatcheck.simulator.tokens import APPROVE, Behaviour, Manner

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank

APPROVED_CARD: Final = "4242424242424242"
DECLINED_CARD: Final = "4000000000000002"
CHALLENGED_CARD: Final = "4000000000003220"
_DECLINED = Behaviour(Manner.DECLINE, "card_declined")
_NOT_CONFIRMED = Behaviour(Manner.DECLINE, "authentication_required")

_EXPIRY = re.compile(r"(0[1-9]|1[0-2]) ?/ ?([0-9]{2})")
_CVC = re.compile(r"[0-9]{3,4}")
_MAX_FIELDS = 20

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 26rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
table { width: 100%; border-collapse: collapse; margin: 0 0 1.5rem; }
th, td { padding: .4rem 0; text-align: left; font-weight: normal; border-bottom: 1px solid #8886;
  overflow-wrap: anywhere; }
td { text-align: right; white-space: nowrap; padding-left: 1rem; font-variant-numeric: tabular-nums; }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0; }
label { display: block; margin: 0 0 1rem; }
input { display: block; box-sizing: border-box; width: 100%; margin-top: .2rem; padding: .6rem; font: inherit;
  border: 1px solid #888; border-radius: .4rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
button { box-sizing: border-box; width: 100%; min-height: 2.9rem; margin: 0 0 .8rem; padding: .6rem; font: inherit;
  font-weight: 600; border: 1px solid #1b5e9e; border-radius: .4rem; background: #1b5e9e; color: #fff;
  cursor: pointer; }
button.quiet { background: none; color: inherit; border-color: #888; }
.said { padding: .7rem .9rem; margin: 0 0 1.2rem; border-left: .3rem solid #b3261e; background: #b3261e1a; }
.note { font-size: .875rem; }
.note code { white-space: nowrap; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# Browsers hold the redirect after a form to form-action, and a return address may redirect once more: so to any site.
_HEADERS: Final = (
    "content-type: text/html; charset=utf-8\r\n"
    f"content-security-policy: default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self' http: https:; "
    "base-uri 'none'; frame-ancestors 'none'\r\n"
    "cache-control: no-store\r\n"
    "referrer-policy: no-referrer\r\n"
    "x-content-type-options: nosniff\r\n"
).encode()

_CARD_FORM = """
<form method="post" autocomplete="off">
<input type="hidden" name="do" value="pay">
<label>Card number
<input name="number" inputmode="numeric" required maxlength="23" placeholder="4242 4242 4242 4242"></label>
<div class="pair">
<label>Expiry <input name="expiry" inputmode="numeric" required maxlength="7" placeholder="MM/YY"></label>
<label>CVC <input name="cvc" inputmode="numeric" required maxlength="4" placeholder="123"></label>
</div>
<button>Pay</button>
</form>
<form method="post"><input type="hidden" name="do" value="cancel"><button class="quiet">Cancel</button></form>
<p class="note">This is a simulated payment page: no money moves, and real cards are not taken. Test cards:
<code>4242 4242 4242 4242</code> is approved, <code>4000 0000 0000 0002</code> is declined,
<code>4000 0000 0000 3220</code> asks for 3-D Secure. Any date to come, any CVC.</p>
"""

_CHALLENGE_FORM = """
<p>Your bank asks whether it is you who pays.</p>
<form method="post"><input type="hidden" name="do" value="confirm"><button>Confirm</button></form>
<form method="post"><input type="hidden" name="do" value="fail"><button class="quiet">Fail</button></form>
<p class="note">This is a simulated 3-D Secure challenge.</p>
"""

_ENDINGS = {
    COMPLETED: ("This is paid", "The payment was made. Nothing more will be charged."),
    CANCELLED: ("This payment was cancelled", "Nothing was charged. The shop can open a new payment page."),
}
_EXPIRED = ("This page has expired", "Nothing was charged. The shop can open a new payment page.")


class Pages:
    """Shows the pages of a bank's sessions and takes what their forms send."""

    def __init__(self, bank: "Bank") -> None:
        self._bank = bank

    def handle(self, method: bytes, session_id: str, body: bytes) -> Reply:
        """Answer a browser."""
        try:
            session = self._bank.sessions.get(session_id)
        except Refusal:
            return _html(404, "There is no such page", "<p>The address is wrong, or the payment page is long gone.</p>")
        if method == b"GET":
            return _show(session)
        if method != b"POST":
            raise Refusal(405, "method_not_allowed", "This address does not take that method.")
        if session.status == COMPLETED:  # a double click, or the way back in the browser
            return _go_back(session)
        if session.status != OPEN:
            return _show(session)
        return self._take(session, _fields(body))

    def _take(self, session: Session, fields: dict[str, str]) -> Reply:
        match fields.get("do"):
            case "cancel":
                return _go_back(self._bank.sessions.cancel(session.id))
            case "confirm" if session.is_challenged:
                return self._pay(session, APPROVE)
            case "fail" if session.is_challenged:
                return self._pay(session, _NOT_CONFIRMED)
            case "pay":
                return self._take_card(session, fields)
            case _:
                return _show(session)

    def _take_card(self, session: Session, fields: dict[str, str]) -> Reply:
        said = self._problem_of(fields)
        if said is not None:
            return _show(session, said, status=422)
        match re.sub(r"[ -]", "", fields.get("number", "")):
            case n if n == APPROVED_CARD:
                return self._pay(session, APPROVE)
            case n if n == DECLINED_CARD:
                return self._pay(session, _DECLINED)
            case n if n == CHALLENGED_CARD:
                return _show(self._bank.sessions.challenge(session.id))
            case _:
                return _show(session, "This page takes only the test cards named below.", status=422)

    def _problem_of(self, fields: dict[str, str]) -> str | None:
        """Say what is wrong with the date or the CVC; None when both can be."""
        date = _EXPIRY.fullmatch(fields.get("expiry", "").strip())
        if date is None:
            return "Write the expiry date as MM/YY."
        year, month = _month_of(self._bank.now())
        if (2000 + int(date[2]), int(date[1])) < (year, month):
            return "This card has expired."
        if _CVC.fullmatch(fields.get("cvc", "").strip()) is None:
            return "The CVC has three or four digits."
        return None

    def _pay(self, session: Session, behaviour: Behaviour) -> Reply:
        paid = self._bank.sessions.pay(session.id, behaviour)
        if paid.status == COMPLETED:
            return _go_back(paid)
        said = "The payment was not confirmed." if behaviour is _NOT_CONFIRMED else "The card was declined."
        return _show(paid, f"{said} Nothing was charged: try again, or take another card.")


def _month_of(unix_s: float) -> tuple[int, int]:
    at = datetime.fromtimestamp(unix_s, UTC)
    return at.year, at.month


def _fields(body: bytes) -> dict[str, str]:
    try:
        read = parse_qs(body.decode("ascii"), max_num_fields=_MAX_FIELDS)
    except ValueError:  # not ASCII, or too many fields: no form of ours
        return {}
    return {name: values[0] for name, values in read.items()}


def _go_back(session: Session) -> Reply:
    location = return_address(session)
    headers = f"location: {location}\r\ncontent-type: text/plain\r\ncache-control: no-store\r\n".encode("ascii")
    return Reply(303, b"", headers)


def return_address(session: Session) -> str:
    """Say where the buyer goes from here: the merchant's address, with the session added to its query."""
    parts = urlsplit(session.return_url)
    query = "&".join(part for part in (parts.query, urlencode({"session": session.id})) if part)
    return urlunsplit(parts._replace(query=query))


def _show(session: Session, said: str | None = None, *, status: int = 200) -> Reply:
    if session.status != OPEN:
        title, words = _ENDINGS.get(session.status, _EXPIRED)
        link = escape(return_address(session))
        return _html(status, title, f'<p>{words}</p>\n<p><a href="{link}">Back to the shop</a></p>')
    shown = "" if said is None else f'<p class="said" role="alert">{escape(said)}</p>'
    if session.is_challenged and said is None:
        return _html(status, "Confirm the payment", _basket(session) + _CHALLENGE_FORM)
    return _html(status, "Pay", _basket(session) + shown + _CARD_FORM)


def _basket(session: Session) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(item.description or item.reference)}</th>"
        f"<td>{in_words(item.amount, item.currency)}</td></tr>\n"
        for item in session.items
    )
    sums: dict[str, int] = {}
    for item in session.items:
        sums[item.currency] = sums.get(item.currency, 0) + item.amount
    total = "<br>".join(in_words(amount, currency) for currency, amount in sums.items())
    return f"<table><tbody>\n{rows}</tbody><tfoot><tr><th scope=row>To pay</th><td>{total}</td></tr></tfoot></table>\n"


def _html(status: int, title: str, content: str) -> Reply:
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{content}\n</main>\n</body>\n</html>\n"
    )
    return Reply(status, page.encode(), _HEADERS)
