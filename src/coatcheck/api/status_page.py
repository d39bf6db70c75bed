"""`GET /pay/{payment_id}?token=...`: the buyer's own view of a payment, and where a shop may let him return to.

No key is asked for: whoever has the link may look. So the token cannot be guessed, and the page shows amounts and
states, never who bought what of whom. There is no script on it; it asks for itself again while anything is open. Of a
payment that waits for the buyer at the provider it has the provider asked how that stands.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from litestar import MediaType, Request, Response, get

from coatcheck.api.edge import headers_of, refuse_card_numbers
from coatcheck.api.gateway import gateway_of
from coatcheck.api.returning import ask_about_page
from coatcheck.ids import PAYMENT, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.payments import OrderView, PaymentView
from coatcheck.states import Mode, OrderStatus, PaymentStatus

_TOKEN_BYTES = 16
_TOKEN_LENGTH = 2 * _TOKEN_BYTES  # hexadecimal, which the card-number guard knows for a digest
_REFRESH_S, _REFRESH_ASKED_S, _REFRESH_RESERVED_S = 5, 2, 60

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 26rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
table { width: 100%; border-collapse: collapse; margin: 0 0 1.5rem; }
th, td { padding: .4rem 0; text-align: left; font-weight: normal; border-bottom: 1px solid #8886; }
td:last-child { text-align: right; white-space: nowrap; padding-left: 1rem; font-variant-numeric: tabular-nums; }
a.act { display: block; padding: .7rem; margin: 0 0 1.5rem; text-align: center; font-weight: 600;
  border-radius: .4rem; background: #1b5e9e; color: #fff; text-decoration: none; }
.note { font-size: .875rem; overflow-wrap: anywhere; }
"""
_STYLE_DIGEST = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address is the secret
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}

_TOLD: dict[PaymentStatus, tuple[str, str]] = {
    PaymentStatus.NOT_STARTED: ("Your payment is being processed", "Please wait. You need not pay again."),
    PaymentStatus.EXECUTING: ("Your payment is being processed", "Please wait. You need not pay again."),
    PaymentStatus.PENDING: (
        "Your payment is being checked",
        "The payment provider has not decided yet. You need not pay again.",
    ),
    PaymentStatus.AUTHORIZED: (
        "Your payment is authorized",
        "The amount is reserved. The shop takes it later, or releases it.",
    ),
    PaymentStatus.SUCCESS: ("Your payment succeeded", "Thank you. You can close this page."),
    PaymentStatus.PARTIAL: ("A part of your payment succeeded", "The shop will tell you about the rest."),
    PaymentStatus.FAILED: ("Your payment did not go through", "No money was taken. You can try again in the shop."),
    PaymentStatus.CANCELLED: ("Your payment was cancelled", "No money was taken."),
}
_TO_PAY = (
    "Your payment waits for you",
    "Pay on the payment provider's page. If you have just paid there, wait a moment: this page tells you.",
)
_OF_ORDER: dict[OrderStatus, str] = {
    OrderStatus.NOT_STARTED: "in progress",
    OrderStatus.EXECUTING: "in progress",
    OrderStatus.PENDING: "not decided yet",
    OrderStatus.AUTHORIZED: "reserved",
    OrderStatus.SUCCESS: "paid",
    OrderStatus.FAILED: "not paid",
    OrderStatus.CANCELLED: "cancelled",
}


def status_url_of(page_key: bytes, shop_id: UUID, mode: Mode, payment_id: UUID) -> str:
    """Give the address of a payment's page, as seen from the gateway's own."""
    return f"/pay/{print_id(PAYMENT, payment_id)}?token={_token_of(page_key, shop_id, mode, payment_id)}"


def _token_of(page_key: bytes, shop_id: UUID, mode: Mode, payment_id: UUID) -> str:
    named = shop_id.bytes + payment_id.bytes + mode.encode()
    return hashlib.blake2b(named, key=page_key, digest_size=_TOKEN_BYTES).hexdigest()


@get("/pay/{payment_id:str}")
async def get_status_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show a buyer how the payment stands; what does not have the right token is not there."""
    gateway = gateway_of(request)
    refuse_card_numbers(request.scope, *headers_of(request.scope, b"idempotency-key"))
    payment_id = parse_id(PAYMENT, request.path_params["payment_id"])
    token = _given_token(request.scope.get("query_string", b""))
    view = None if payment_id is None or token is None else await gateway.payments.read(payment_id)
    if view is None or token is None:
        return _not_there()
    right = _token_of(gateway.page_key, view.shop_id, view.mode, view.payment_id)
    if not hmac.compare_digest(right.encode(), token.encode()):
        return _not_there()
    is_asked = await ask_about_page(gateway, view)
    return Response(_page_of(view, is_asked=is_asked).encode(), media_type=MediaType.HTML, headers=_HEADERS)


def _given_token(query: bytes) -> str | None:
    """Read the token; whatever else a provider has added to the address on the way back is passed over."""
    try:
        given = parse_qs(query.decode("latin-1"), max_num_fields=20).get("token", [])
    except ValueError:
        return None
    return given[0] if len(given) == 1 and len(given[0]) == _TOKEN_LENGTH else None


def _not_there() -> Response[bytes]:
    page = _html("Nothing to see here", "<p>This address is not complete. Follow the link that the shop gave you.</p>")
    return Response(page.encode(), status_code=404, media_type=MediaType.HTML, headers=_HEADERS)


def _page_of(view: PaymentView, *, is_asked: bool = False) -> str:
    url = view.redirect_url
    may_pay = url is not None and url.startswith(("https://", "http://"))
    heading, told = _TO_PAY if may_pay else _TOLD[view.status]
    link = f'<p><a class="act" rel="noreferrer" href="{escape(url or "")}">Go to the payment page</a></p>'
    return _html(
        heading,
        f"<p>{told}</p>{link if may_pay else ''}{_table_of(view.orders)}"
        f'<p class="note">If you ask the shop about it, name {print_id(PAYMENT, view.payment_id)}.</p>',
        refresh_s=_REFRESH_ASKED_S if is_asked else _refresh_of(view),
    )


def _refresh_of(view: PaymentView) -> int | None:
    if view.is_done:
        return None
    return _REFRESH_RESERVED_S if view.status is PaymentStatus.AUTHORIZED and not view.is_settling else _REFRESH_S


def _table_of(orders: Sequence[OrderView]) -> str:
    rows = []
    for number, order in enumerate(orders, 1):
        name = "Amount" if len(orders) == 1 else f"Part {number}"
        rows.append((f"{name}, {_OF_ORDER[order.status]}", _money(order.amount_minor, order.currency)))
        if order.status is OrderStatus.SUCCESS and order.captured_minor != order.amount_minor:
            rows.append(("of which taken", _money(order.captured_minor, order.currency)))
        if order.refunded_minor:
            rows.append(("refunded", _money(order.refunded_minor, order.currency)))
    return "<table>" + "".join([f"<tr><td>{told}</td><td>{amount}</td></tr>" for told, amount in rows]) + "</table>"


def _money(amount_minor: int, currency: str) -> str:
    return f"{format_amount(amount_minor, currency)} {currency}"


def _html(heading: str, content: str, refresh_s: int | None = None) -> str:
    refresh = "" if refresh_s is None else f'<meta http-equiv="refresh" content="{refresh_s}">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"{refresh}<title>{heading}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{heading}</h1>{content}</main></body></html>\n"
    )
