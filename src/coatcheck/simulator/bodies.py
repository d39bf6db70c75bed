"""What callers send to the simulated PSP, and what of it is refused with a 400 before anything is done."""

import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from coatcheck.simulator.currencies import CURRENCIES
from coatcheck.simulator.payouts import PayoutBody, destination_of
from coatcheck.simulator.records import ChargeBody, Item, Refusal
from coatcheck.simulator.tokens import Behaviour, behaviour_of

MAX_AMOUNT = 10**15 - 1  # minor units; far below 2^53, so that any JSON reader gets it exactly
MAX_ITEMS = 100
MAX_DUE_S = 10**8

_REFERENCE = re.compile(r"[\x21-\x7e]{1,64}")
_ADDRESS = re.compile(r"https?://[\x21-\x7e]{1,2000}")
_MAX_DESCRIPTION = 500
_MAX_METADATA = 20

Query = Mapping[str, list[str]]
_T = TypeVar("_T")


class CaptureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a capture; after a `final` one nothing more can be captured."""

    amount: int
    reference: str
    final: bool = True
    metadata: dict[str, str] | None = None


class VoidBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a void."""

    reference: str
    metadata: dict[str, str] | None = None


class RefundBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a refund."""

    amount: int
    reference: str
    metadata: dict[str, str] | None = None


class ItemBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to pay on a hosted page."""

    reference: str
    amount: int
    currency: str
    description: str | None = None
    capture: bool = True
    metadata: dict[str, str] | None = None


class SessionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a session."""

    reference: str
    return_url: str
    charges: list[ItemBody]


class ExpireBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ending a session."""

    reference: str


class Settlement(msgspec.Struct, forbid_unknown_fields=True):
    """How an admin decides what is pending: a charge (or declined), a refund or payout (or failed)."""

    status: Literal["succeeded", "declined", "failed"]
    decline_code: str | None = None


class PayBody(msgspec.Struct, forbid_unknown_fields=True):
    """With which card an admin pays a session."""

    token: str = "tok_approve"  # noqa: S105 - the name of a test card


class WebhookBody(msgspec.Struct, forbid_unknown_fields=True):
    """Where events go; no `url` turns them off, no `secret` leaves it as it is."""

    url: str | None
    secret: str | None = None


_decode_charge = msgspec.json.Decoder(ChargeBody).decode
_decode_capture = msgspec.json.Decoder(CaptureBody).decode
_decode_void = msgspec.json.Decoder(VoidBody).decode
_decode_refund = msgspec.json.Decoder(RefundBody).decode
_decode_session = msgspec.json.Decoder(SessionBody).decode
_decode_payout = msgspec.json.Decoder(PayoutBody).decode
_decode_expire = msgspec.json.Decoder(ExpireBody).decode


def read(decode: Callable[[bytes], _T], body: bytes) -> _T:
    """Read a body. Raises Refusal when it is not JSON, or not this JSON."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_request", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "malformed_json", f"The body is not JSON that can be read: {error}") from None


def read_charge(raw_body: bytes) -> tuple[ChargeBody, Behaviour]:
    """Read a charge and what its token does. Raises Refusal."""
    body = read(_decode_charge, raw_body)
    _check_money(body)
    return body, read_token(body.token)


def read_capture(raw_body: bytes) -> CaptureBody:
    """Read a capture. Raises Refusal."""
    body = read(_decode_capture, raw_body)
    _check_metadata(body.metadata or {})
    _check_amount(body.amount)
    _check_reference(body.reference)
    return body


def read_void(raw_body: bytes) -> VoidBody:
    """Read a void. Raises Refusal."""
    body = read(_decode_void, raw_body)
    _check_metadata(body.metadata or {})
    _check_reference(body.reference)
    return body


def read_refund(raw_body: bytes) -> RefundBody:
    """Read a refund. Raises Refusal."""
    body = read(_decode_refund, raw_body)
    _check_metadata(body.metadata or {})
    _check_amount(body.amount)
    _check_reference(body.reference)
    return body


def read_session(raw_body: bytes) -> tuple[SessionBody, tuple[Item, ...]]:
    """Read a session and what it charges: each reference once, or paying would charge it twice. Raises Refusal."""
    body = read(_decode_session, raw_body)
    _check_reference(body.reference)
    check_address(body.return_url, "return_url")
    if not 0 < len(body.charges) <= MAX_ITEMS:
        raise Refusal(400, "invalid_request", f"A session has 1 to {MAX_ITEMS} charges.")
    for item in body.charges:
        _check_money(item)
    if len({item.reference for item in body.charges}) < len(body.charges):
        raise Refusal(400, "invalid_reference", "Each charge of a session has a reference of its own.")
    items = tuple(
        Item(item.reference, item.amount, item.currency, item.description, item.capture, metadata=item.metadata)
        for item in body.charges
    )
    return body, items


def read_expire(raw_body: bytes) -> ExpireBody:
    """Read the wish to end a session. Raises Refusal."""
    body = read(_decode_expire, raw_body)
    _check_reference(body.reference)
    return body


def read_payout(raw_body: bytes) -> PayoutBody:
    """Read a payout. Raises Refusal."""
    body = read(_decode_payout, raw_body)
    _check_money(body)
    destination_of(body.destination)
    return body


def read_token(token: str) -> Behaviour:
    """Read what a payment token does. Raises Refusal."""
    behaviour = behaviour_of(token)
    if behaviour is None:
        raise Refusal(400, "invalid_token", "This payment token is not known.")
    return behaviour


def is_address(text: str) -> bool:
    """Whether this is an http or https address."""
    try:
        return bool(_ADDRESS.fullmatch(text) and urlsplit(text).hostname)
    except ValueError:
        return False


def check_address(text: str, name: str) -> None:
    """Raise Refusal when this is not an http or https address."""
    if not is_address(text):
        raise Refusal(400, "invalid_request", f"{name} is an http or https address.")


def whole_number(query: Query, name: str, default: int) -> int:
    """Read a number of a query. Raises Refusal."""
    text = query.get(name, [""])[0]
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - fits 64 bits
        raise Refusal(400, "invalid_request", f"{name} is a whole number.")
    return int(text)


def read_acceptance(raw_body: bytes) -> ExpireBody:
    """Read the wish to give a dispute up. Raises Refusal."""
    return read_expire(raw_body)


def check_dispute(amount: int, currency: str, fee: int, due_s: int) -> None:
    """Raise Refusal when this is no dispute that could be."""
    _check_amount(amount)
    if currency not in CURRENCIES:
        raise Refusal(400, "invalid_currency", "currency is an ISO 4217 code in capitals.")
    if not (0 <= fee <= MAX_AMOUNT and 0 <= due_s <= MAX_DUE_S):
        raise Refusal(400, "invalid_request", f"fee is from 0 to {MAX_AMOUNT}, due_s from 0 to {MAX_DUE_S}.")


def _check_money(body: ChargeBody | ItemBody | PayoutBody) -> None:
    if not 0 < body.amount <= MAX_AMOUNT:
        _check_amount(body.amount)
    if body.currency not in CURRENCIES:
        raise Refusal(400, "invalid_currency", "currency is an ISO 4217 code in capitals.")
    if _REFERENCE.fullmatch(body.reference) is None:
        _check_reference(body.reference)
    if not isinstance(body, PayoutBody) and body.description is not None and len(body.description) > _MAX_DESCRIPTION:
        raise Refusal(400, "invalid_request", f"description has at most {_MAX_DESCRIPTION} characters.")
    if body.metadata:
        _check_metadata(body.metadata)


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > _MAX_METADATA or any(len(text) > _MAX_DESCRIPTION for text in (*metadata, *metadata.values())):
        message = f"metadata has at most {_MAX_METADATA} texts of at most {_MAX_DESCRIPTION} characters."
        raise Refusal(400, "invalid_request", message)


def _check_amount(amount: int) -> None:
    if not 0 < amount <= MAX_AMOUNT:
        raise Refusal(400, "invalid_amount", f"amount is a whole number of minor units from 1 to {MAX_AMOUNT}.")


def _check_reference(reference: str) -> None:
    if _REFERENCE.fullmatch(reference) is None:
        raise Refusal(400, "invalid_reference", "reference is 1 to 64 visible ASCII characters.")
