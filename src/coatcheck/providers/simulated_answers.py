"""What the simulated PSP's answers mean for money: pure functions from an HTTP answer to an Outcome.

Its own documentation is docs/simulator.md. A sending:

| answer | outcome | why |
|---|---|---|
| 201 charge succeeded (authorized, where only that was asked for) | APPROVED | its word |
| 201 charge declined | DECLINED, its decline_code | its word |
| 201 charge pending | PENDING | it decides later |
| 201 capture, void or refund succeeded or pending | APPROVED or PENDING | its word |
| 201 capture, void or refund failed | DECLINED, its failure_code | its word |
| 201 page open | PENDING, where to send the buyer | he has not paid yet |
| 201 page expired or cancelled, where a void asked for it | APPROVED | nobody can pay there any more |
| 400 invalid_token, invalid_amount, invalid_currency, invalid_reference, invalid_request | DECLINED, that code | a \
documented refusal before anything was done; the body is frozen, so every later sending gets it too |
| 201 payout paid or pending | APPROVED or PENDING | its word |
| 201 payout failed or returned | DECLINED, its failure_code | its word |
| 400 invalid_destination, of a payout | DECLINED, that code | a documented refusal before anything was done |
| 409 with a code that it documents for this action (`_REFUSALS_OF`) | DECLINED, that code | decided before anything \
was done; what an earlier sending did, the key replays inside its window, and after it we look before we send |
| 400 with any other code it documents (malformed_json, missing or invalid key) | NOT_SENT | nothing was done, and the \
fault is ours or of what lies between, not the card's |
| 401, 403 with its code | NOT_SENT | nothing was done; the credentials can be put right |
| 429 rate_limited | NOT_SENT, retry_after | it documents that nothing was done |
| 404 not_found | UNKNOWN | we act on a charge that it does not know: a person must look |
| 409 idempotency_key_in_use | UNKNOWN | the first sending is still running |
| 422 idempotency_key_reused | UNKNOWN | something else was sent under this key: a person must look |
| 5xx | UNKNOWN, is_server_error | it may have been done, and this may be its stored answer to an earlier sending |
| 3xx | UNKNOWN | redirects are not followed |
| anything else: other status or code, HTML, truncated, another shape, too large | UNKNOWN | not its documented word |

NOT_SENT speaks of this sending only: an earlier one with the same key may still have been done.

A look-up moves no money, and its NOT_SENT would mean "certainly not done". So whatever keeps a look-up from an
answer is UNKNOWN. It sees later states, too: an authorization that was captured is "succeeded" and still APPROVED; one
that was voided or has expired is DECLINED, and `is_cancelled` says that no card was refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, TypeVar
from uuid import UUID

import msgspec

from coatcheck.providers.outcome import Outcome, OutcomeKind, more_than_one
from coatcheck.providers.protocol import Found, Intent, NotListedError, Origin, PayoutOrigin
from coatcheck.states import OperationKind

_CREATED, _OK, _NOT_FOUND, _FIRST_SERVER_ERROR = 201, 200, 404, 500
_MAX_EVIDENCE: Final = 200
_SECONDS = re.compile(r"[0-9]{1,6}")

_APPROVED, _DECLINED, _PENDING = OutcomeKind.APPROVED, OutcomeKind.DECLINED, OutcomeKind.PENDING
_NOT_SENT, _UNKNOWN = OutcomeKind.NOT_SENT, OutcomeKind.UNKNOWN

_Meanings = Mapping[tuple[int, str], tuple[OutcomeKind, str]]

# (status, code) -> what a request refused in this way means.
_REFUSALS: Final[_Meanings] = {
    (400, "invalid_token"): (_DECLINED, "the token was refused"),
    (400, "invalid_amount"): (_DECLINED, "the amount was refused"),
    (400, "invalid_currency"): (_DECLINED, "the currency was refused"),
    (400, "invalid_reference"): (_DECLINED, "the reference was refused"),
    (400, "invalid_request"): (_DECLINED, "the request was refused"),
    (400, "malformed_json"): (_NOT_SENT, "the body did not arrive as it was sent"),
    (400, "idempotency_key_missing"): (_NOT_SENT, "the idempotency key did not arrive"),
    (400, "idempotency_key_invalid"): (_NOT_SENT, "the idempotency key was refused"),
    (401, "invalid_api_key"): (_NOT_SENT, "the provider refused the API key"),
    (403, "forbidden"): (_NOT_SENT, "the provider does not allow this to the API key"),
    (429, "rate_limited"): (_NOT_SENT, "the provider asks to slow down"),
    (404, "not_found"): (_UNKNOWN, "the provider does not know what this is about"),
    (409, "idempotency_key_in_use"): (_UNKNOWN, "the first sending is still running"),
    (422, "idempotency_key_reused"): (_UNKNOWN, "another body was sent under this key"),
}
_EXPIRED: Final[_Meanings] = {(409, "authorization_expired"): (_DECLINED, "the authorization has expired")}
_REFUSALS_OF: Final[Mapping[OperationKind, _Meanings]] = {
    OperationKind.CAPTURE: {
        **_REFUSALS,
        **_EXPIRED,
        (409, "charge_not_authorized"): (_DECLINED, "nothing is authorized"),
        (409, "amount_too_large"): (_DECLINED, "more than is authorized"),
    },
    OperationKind.VOID: {
        **_REFUSALS,
        **_EXPIRED,
        (409, "charge_not_voidable"): (_DECLINED, "there is nothing left to void"),
    },
    OperationKind.REFUND: {
        **_REFUSALS,
        (409, "refund_exceeds_captured"): (_DECLINED, "more than is left to refund"),
        (409, "charge_disputed"): (_DECLINED, "the charge is disputed"),
        (409, "charge_not_refundable"): (_DECLINED, "the charge cannot be refunded"),
    },
}
_PAYOUT_REFUSALS: Final[_Meanings] = {
    **_REFUSALS,
    (400, "invalid_destination"): (_DECLINED, "the destination was refused"),
}
_PAGE_END_REFUSALS: Final[_Meanings] = {**_REFUSALS, (409, "session_completed"): (_DECLINED, "the page was paid")}
# Codes that refuse no card: the PSP itself ended what was to be acted on.
_CANCELLED_CODES: Final = frozenset({"authorization_expired"})

_UnixTime = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]  # to the end of the year 9999
_WebAddress = Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[\x21-\x7e]{1,2000}\Z")]


class ChargeAnswer(msgspec.Struct, frozen=True, gc=False):
    """A charge or authorization in the PSP's words; minor units, `expires_at` in Unix seconds."""

    id: str
    status: Literal["succeeded", "declined", "pending", "authorized", "voided", "expired"]
    amount: int
    currency: str
    reference: str
    livemode: bool
    decline_code: str | None = None
    amount_captured: int = 0
    expires_at: _UnixTime | None = None
    created: _UnixTime = 0


class ActionAnswer(msgspec.Struct, frozen=True, gc=False):
    """A capture, void or refund in the PSP's words. The amount of a void is what it released."""

    id: str
    object: Literal["capture", "void", "refund"]
    charge: str
    amount: int
    currency: str
    reference: str
    status: Literal["succeeded", "pending", "failed"]
    livemode: bool
    failure_code: str | None = None
    created: _UnixTime = 0


class PayoutAnswer(msgspec.Struct, frozen=True, gc=False):
    """A payout in the PSP's words; minor units."""

    id: str
    object: Literal["payout"]
    amount: int
    currency: str
    destination: str
    reference: str
    status: Literal["pending", "paid", "failed", "returned"]
    livemode: bool
    failure_code: str | None = None
    created: _UnixTime = 0


class PageEntry(msgspec.Struct, frozen=True):
    """One order on a page; `charge` once the buyer has paid or given up."""

    reference: str
    amount: int
    currency: str
    charge: ChargeAnswer | None = None


class PageAnswer(msgspec.Struct, frozen=True):
    """The PSP's page (a session, in its words), on which the buyer pays all orders of a payment."""

    id: str
    object: Literal["session"]
    reference: str
    status: Literal["open", "completed", "cancelled", "expired"]
    url: _WebAddress
    expires_at: _UnixTime
    livemode: bool
    charges: list[PageEntry]


class _Charges(msgspec.Struct, frozen=True):
    data: list[ChargeAnswer]


class _Actions(msgspec.Struct, frozen=True):
    data: list[ActionAnswer]


class _Payouts(msgspec.Struct, frozen=True):
    data: list[PayoutAnswer]


class _Pages(msgspec.Struct, frozen=True):
    data: list[PageAnswer]


class _Problem(msgspec.Struct, frozen=True, gc=False):
    code: str
    message: str = ""


class Raw(msgspec.Struct, frozen=True, gc=False):
    """An HTTP answer that was read to its end, or to the largest size that one may have."""

    status: int
    is_json: bool
    retry_after: str | None
    body: bytes

    @property
    def evidence(self) -> str:
        """What a person would want to see of it."""
        start = self.body[:_MAX_EVIDENCE].decode("utf-8", "backslashreplace")
        return f"HTTP {self.status}: {start}".replace("\x00", "\\x00")


_decode_charge = msgspec.json.Decoder(ChargeAnswer).decode
_decode_charges = msgspec.json.Decoder(_Charges).decode
_decode_action = msgspec.json.Decoder(ActionAnswer).decode
_decode_actions = msgspec.json.Decoder(_Actions).decode
_decode_payout = msgspec.json.Decoder(PayoutAnswer).decode
_decode_payouts = msgspec.json.Decoder(_Payouts).decode
_decode_page = msgspec.json.Decoder(PageAnswer).decode
_decode_pages = msgspec.json.Decoder(_Pages).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_T = TypeVar("_T")

_DECIDED: Final = {"declined": _DECLINED, "pending": _PENDING}
# What a state means in the answer to a sending, where it can only be the first one ...
_MADE_CHARGE: Final[Mapping[str, OutcomeKind]] = {**_DECIDED, "succeeded": _APPROVED}
_MADE_AUTHORIZATION: Final[Mapping[str, OutcomeKind]] = {**_DECIDED, "authorized": _APPROVED}
# ... and when we ask, where it can be any.
_FOUND_CHARGE: Final[Mapping[str, OutcomeKind]] = {**_MADE_CHARGE, "voided": _DECLINED, "expired": _DECLINED}
_FOUND_AUTHORIZATION: Final[Mapping[str, OutcomeKind]] = {**_FOUND_CHARGE, "authorized": _APPROVED}
_ACTED: Final = {"succeeded": _APPROVED, "pending": _PENDING, "failed": _DECLINED}
_CAME_BACK: Final = "bank_returned"
_PAID: Final = {"pending": _PENDING, "paid": _APPROVED, "failed": _DECLINED, "returned": _DECLINED}
_PAGE_WITHOUT_CHARGE: Final[Mapping[str, tuple[OutcomeKind, str]]] = {
    "open": (_PENDING, "waits for the buyer"),
    "completed": (_UNKNOWN, "the page was paid and shows no charge"),
    "cancelled": (_DECLINED, "the buyer left the page"),
    "expired": (_DECLINED, "nobody paid on the page in time"),
}
_CODE_OF_PAGE: Final = {"cancelled": "page_cancelled", "expired": "page_expired"}
# Where several objects carry our reference, the one that says most about money speaks; two that moved it do not.
_BEST_FIRST: Final = (_APPROVED, _PENDING, _UNKNOWN, _DECLINED)


def charge_outcome(raw: Raw, kind: OperationKind = OperationKind.CHARGE) -> Outcome:
    """Read the answer to a charge or authorization that was sent."""
    made = _read(_decode_charge, raw, _CREATED)
    if made is None:
        return _no_or_refused(raw, _REFUSALS)
    return outcome_of_charge(made, _MADE_CHARGE if kind is OperationKind.CHARGE else _MADE_AUTHORIZATION)


def action_outcome(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a capture, void or refund that was sent."""
    made = _read(_decode_action, raw, _CREATED)
    return _no_or_refused(raw, _REFUSALS_OF[intent.kind]) if made is None else outcome_of_action(made, intent)


def payout_outcome(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a payout that was sent."""
    made = _read(_decode_payout, raw, _CREATED)
    return _no_or_refused(raw, _PAYOUT_REFUSALS) if made is None else outcome_of_payout(made, intent.target_reference)


def page_outcome(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a page that was asked for; it speaks of the intent's own order on it."""
    made = _read(_decode_page, raw, _CREATED)
    return _no_or_refused(raw, _REFUSALS) if made is None else outcome_of_page(made, intent)


def page_end_outcome(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a void that ends an open page."""
    ended = _read(_decode_page, raw, _CREATED)
    if ended is None:
        return _no_or_refused(raw, _PAGE_END_REFUSALS)
    if ended.status in ("open", "completed"):
        return no_decision(raw)  # it documents another answer for a page that did not end
    return outcome_of_page_end(ended, intent)


def found_charge(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a look-up of a charge or authorization, by its id or by our reference."""
    if intent.provider_reference is not None:
        found = _read(_decode_charge, raw, _OK)
        if found is None:
            return _absent_or_no_decision(raw, "charge")
        return outcome_of_charge(found, _found_meanings(intent))
    listed = _read(_decode_charges, raw, _OK)
    if listed is None:
        return no_decision(raw)
    ours = [charge for charge in listed.data if charge.reference == intent.reference]
    return _best([outcome_of_charge(charge, _found_meanings(intent)) for charge in ours], "charge")


def found_action(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a look-up of a capture, void or refund, by its id or by our reference."""
    if intent.provider_reference is not None:
        found = _read(_decode_action, raw, _OK)
        return _absent_or_no_decision(raw, intent.kind) if found is None else outcome_of_action(found, intent)
    listed = _read(_decode_actions, raw, _OK)
    if listed is None:
        return no_decision(raw)
    ours = [action for action in listed.data if action.reference == intent.reference]
    return _best([outcome_of_action(action, intent) for action in ours], intent.kind)


def found_payout(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a look-up of a payout, by its id or by our reference."""
    if intent.provider_reference is not None:
        found = _read(_decode_payout, raw, _OK)
        if found is None:
            return _absent_or_no_decision(raw, "payout")
        return outcome_of_payout(found, intent.target_reference)
    listed = _read(_decode_payouts, raw, _OK)
    if listed is None:
        return no_decision(raw)
    ours = [payout for payout in listed.data if payout.reference == intent.reference]
    return _best([outcome_of_payout(payout, intent.target_reference) for payout in ours], "payout")


def found_page(raw: Raw, intent: Intent, page_reference: str) -> Outcome:
    """Read the answer to a look-up of a page, by its id or by the payment's reference."""
    if intent.provider_reference is not None:
        found = _read(_decode_page, raw, _OK)
        return _absent_or_no_decision(raw, "page") if found is None else outcome_of_page(found, intent)
    listed = _read(_decode_pages, raw, _OK)
    if listed is None:
        return no_decision(raw)
    ours = [page for page in listed.data if page.reference == page_reference]
    return _best([outcome_of_page(page, intent) for page in ours], "page")


def found_page_end(raw: Raw, intent: Intent) -> Outcome:
    """Read the answer to a look-up of a void that ends a page: the page itself tells."""
    found = _read(_decode_page, raw, _OK)
    return no_decision(raw) if found is None else outcome_of_page_end(found, intent)


def outcome_of_charge(charge: ChargeAnswer, meanings: Mapping[str, OutcomeKind]) -> Outcome:
    """Say what a charge's state means; a state without a meaning here is UNKNOWN."""
    kind = meanings.get(charge.status, _UNKNOWN)
    outcome = Outcome(
        kind=kind,
        provider_reference=charge.id,
        reference=charge.reference,
        amount_minor=charge.amount,
        currency=charge.currency,
        is_live=charge.livemode,
        decline_code=charge.decline_code,
    )
    if charge.status == "succeeded" and kind is _APPROVED:
        is_over = meanings is _FOUND_AUTHORIZATION and charge.amount_captured < charge.amount
        return as_released(outcome) if is_over else outcome
    return _in_full(outcome, charge)


def as_released(outcome: Outcome) -> Outcome:
    """Say that an authorization is over: a part was captured, and the PSP has let the rest go."""
    return msgspec.structs.replace(outcome, kind=_DECLINED, decline_code="released", is_cancelled=True)


def _in_full(outcome: Outcome, charge: ChargeAnswer) -> Outcome:
    """Add what only some charges have: an end, a cause, a contradiction."""
    if outcome.kind is _UNKNOWN:
        cause = f"the charge is {charge.status}, which was not asked for"
        return msgspec.structs.replace(outcome, cause=cause, decline_code=None)
    if charge.status == "authorized" and charge.expires_at is not None:
        return msgspec.structs.replace(outcome, expires_at=_moment(charge.expires_at))
    if outcome.kind is not _DECLINED:
        return outcome
    if charge.amount_captured:
        cause = f"the charge is {charge.status} and took money all the same"
        return msgspec.structs.replace(outcome, kind=_UNKNOWN, cause=cause, decline_code=None)
    if charge.status in ("voided", "expired"):
        return msgspec.structs.replace(outcome, decline_code=charge.status, is_cancelled=True)
    return outcome


def outcome_of_action(action: ActionAnswer, intent: Intent) -> Outcome:
    """Say what the state of a capture, void or refund means; one of another kind or charge decides nothing."""
    kind = _ACTED[action.status]
    is_ours = action.object == intent.kind and action.charge == intent.target_reference
    if not is_ours:
        kind = _UNKNOWN
    return Outcome(
        kind=kind,
        provider_reference=action.id if is_ours else None,
        reference=action.reference,
        amount_minor=action.amount,
        currency=action.currency,
        is_live=action.livemode,
        decline_code=action.failure_code if kind is _DECLINED else None,
        cause=None if is_ours else f"the answer is about a {action.object} of {action.charge[:_MAX_EVIDENCE]}",
    )


def outcome_of_payout(payout: PayoutAnswer, destination: str | None) -> Outcome:
    """Say what a payout's state means. One that came back is DECLINED, whatever it was before.

    One to another `destination` than ours decides nothing; an event is not asked for it (None).
    """
    is_ours = destination in (None, payout.destination)
    kind = _PAID[payout.status] if is_ours else _UNKNOWN
    return Outcome(
        kind=kind,
        provider_reference=payout.id if is_ours else None,
        reference=payout.reference,
        amount_minor=payout.amount,
        currency=payout.currency,
        is_live=payout.livemode,
        decline_code=(payout.failure_code or f"payout_{payout.status}") if kind is _DECLINED else None,
        cause=None if is_ours else "the answer is about a payout to somewhere else",
        came_back=payout.status == "returned",
    )


def outcome_of_page(page: PageAnswer, intent: Intent) -> Outcome:
    """Say what a page's state means for the one order on it that the intent is about.

    Once the order has a charge, that speaks, under its own id. A page that does not name the order exactly once is
    about something else: then `reference` is the page's, which the comparison refuses.
    """
    entries = [entry for entry in page.charges if entry.reference == intent.reference]
    if len(entries) != 1 or (intent.provider_reference or page.id) != page.id:
        cause = f"the page {page.id[:_MAX_EVIDENCE]} does not name this order once"
        return Outcome(kind=_UNKNOWN, reference=page.reference, is_live=page.livemode, cause=cause)
    (entry,) = entries
    if entry.charge is not None:
        outcome = outcome_of_charge(entry.charge, _found_meanings(intent))
        if page.status != "open" or outcome.kind is not _DECLINED:
            return outcome  # while the page is open, the buyer may try another card
    kind, cause = _PAGE_WITHOUT_CHARGE[page.status]
    return Outcome(
        kind=kind,
        provider_reference=page.id,
        reference=entry.reference,
        amount_minor=entry.amount,
        currency=entry.currency,
        is_live=page.livemode,
        decline_code=_CODE_OF_PAGE.get(page.status),
        cause=cause,
        is_cancelled=kind is _DECLINED,
        redirect_url=page.url if kind is _PENDING else None,
        expires_at=_moment(page.expires_at),
    )


def outcome_of_page_end(page: PageAnswer, intent: Intent) -> Outcome:
    """Say whether a page that a void was to end can still be paid. Open: nothing was done, sending is safe.

    A void names no order of the page, so what is compared is that the page shows one of this amount and currency.
    """
    shown = [(entry.amount, entry.currency) for entry in page.charges]
    if page.id != intent.target_reference or (intent.amount_minor, intent.currency) not in shown:
        cause = "the answer is about another page or other amounts"
        return Outcome(kind=_UNKNOWN, is_live=page.livemode, cause=cause)
    told = Outcome(kind=_NOT_SENT, provider_reference=page.id, is_live=page.livemode, cause="the page is still open")
    if page.status == "open":
        return told
    if page.status == "completed":
        cause = "the page was paid"
        return msgspec.structs.replace(told, kind=_DECLINED, decline_code="session_completed", cause=cause)
    if any(entry.charge is not None and _is_live(entry.charge) for entry in page.charges):
        cause = f"the page is {page.status} and took money all the same"
        return msgspec.structs.replace(told, kind=_UNKNOWN, cause=cause)
    return msgspec.structs.replace(
        told,
        kind=_APPROVED,
        reference=intent.reference,
        amount_minor=intent.amount_minor,
        currency=intent.currency,
        cause=None,
    )


def no_decision(raw: Raw) -> Outcome:
    """Say UNKNOWN: this answer is not one that the PSP documents as a decision."""
    is_server_error = raw.status >= _FIRST_SERVER_ERROR
    return Outcome(
        kind=_UNKNOWN,
        cause="the provider failed" if is_server_error else "the answer is not one the provider documents",
        evidence=raw.evidence,
        is_server_error=is_server_error,
        retry_after=_retry_after(raw),
    )


def unanswered(outcome: Outcome) -> Outcome:
    """Say that a look-up got no answer: a look-up that was not sent tells nothing about what was asked for."""
    return msgspec.structs.replace(outcome, kind=_UNKNOWN)


def _found_meanings(intent: Intent) -> Mapping[str, OutcomeKind]:
    return _FOUND_CHARGE if intent.kind is OperationKind.CHARGE else _FOUND_AUTHORIZATION


def _is_live(charge: ChargeAnswer) -> bool:
    """Whether a charge took money, holds it or still may."""
    return charge.status in ("succeeded", "authorized", "pending") or charge.amount_captured > 0


def _read(decode: Callable[[bytes], _T], raw: Raw, status: int) -> _T | None:
    """Read the object that an answer of this status carries; None when it has another status or cannot be read."""
    if raw.status != status or not raw.is_json:
        return None
    try:
        return decode(raw.body)
    except _UNREADABLE:
        return None


def _no_or_refused(raw: Raw, meanings: _Meanings) -> Outcome:
    code = _problem_code(raw)
    meaning = meanings.get((raw.status, code))
    if meaning is None:
        return no_decision(raw)
    kind, cause = meaning
    return Outcome(
        kind=kind,
        decline_code=code if kind is _DECLINED else None,
        cause=cause,
        evidence=raw.evidence,
        retry_after=_retry_after(raw),
        is_cancelled=code in _CANCELLED_CODES,
    )


def _absent_or_no_decision(raw: Raw, what: str) -> Outcome:
    """Tell the PSP's own word that it has nothing under an id from everything else that is no object."""
    if (raw.status, _problem_code(raw)) == (_NOT_FOUND, "not_found"):
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause=f"the provider has no {what} with this id")
    return no_decision(raw)


def _best(outcomes: Sequence[Outcome], what: str) -> Outcome:
    if not outcomes:
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause=f"the provider lists no {what} with this reference")
    approved = [outcome for outcome in outcomes if outcome.kind is _APPROVED]
    if len(approved) > 1:
        return more_than_one(what, approved)
    return min(outcomes, key=lambda outcome: _BEST_FIRST.index(outcome.kind))


def _problem_code(raw: Raw) -> str:
    """Read the code of a refusal; empty when this is not the PSP's problem body."""
    try:
        return _decode_problem(raw.body).code if raw.is_json else ""
    except _UNREADABLE:
        return ""


def _moment(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)


def _retry_after(raw: Raw) -> timedelta | None:
    if raw.retry_after is None or _SECONDS.fullmatch(raw.retry_after) is None:
        return None
    return timedelta(seconds=int(raw.retry_after))


# What the PSP lists: our own writing on it is read like anything from outside. A charge without it is somebody else's.


class _Listed(msgspec.Struct, frozen=True):
    charge: ChargeAnswer
    description: str | None = None
    metadata: dict[str, str] | None = None


class _ListedAction(msgspec.Struct, frozen=True):
    action: ActionAnswer
    final: bool = False
    metadata: dict[str, str] | None = None


class _ChargeList(msgspec.Struct, frozen=True):
    data: list[_Listed]
    next: str | None = None


class _ActionList(msgspec.Struct, frozen=True):
    data: list[_ListedAction]
    next: str | None = None


class _ListedPayout(msgspec.Struct, frozen=True):
    payout: PayoutAnswer
    metadata: dict[str, str] | None = None


class _PayoutList(msgspec.Struct, frozen=True):
    data: list[_ListedPayout]
    next: str | None = None


_decode_listed_payout = msgspec.json.Decoder(_ListedPayout).decode
_decode_payout_list = msgspec.json.Decoder(_PayoutList).decode
_decode_listed = msgspec.json.Decoder(_Listed).decode
_decode_listed_action = msgspec.json.Decoder(_ListedAction).decode
_decode_charge_list = msgspec.json.Decoder(_ChargeList).decode
_decode_action_list = msgspec.json.Decoder(_ActionList).decode
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_MINOR = re.compile(r"[0-9]{1,16}")
_LONGEST_NAME: Final = 128
_LONGEST_KEY: Final = 255


def listed_charges(raw: Raw) -> tuple[list[Found], str | None]:
    """Read a part of the list of charges, and where the next part begins. Raises NotListedError."""
    listed = _list_of(_decode_charge_list, raw)
    return [_found_charge(each) for each in listed.data], listed.next


def listed_actions(raw: Raw) -> tuple[list[Found], str | None]:
    """Read a part of the list of captures, voids and refunds. Raises NotListedError."""
    listed = _list_of(_decode_action_list, raw)
    return [_found_action(each) for each in listed.data], listed.next


def listed_charge(raw: Raw) -> Found | None:
    """Read one charge with what we wrote on it; None where there is none. Raises NotListedError."""
    return None if raw.status == _NOT_FOUND else _found_charge(_list_of(_decode_listed, raw))


def listed_action(raw: Raw) -> Found | None:
    """Read one capture, void or refund with what we wrote on it. Raises NotListedError."""
    return None if raw.status == _NOT_FOUND else _found_action(_list_of(_decode_listed_action, raw))


def listed_payouts(raw: Raw) -> tuple[list[Found], str | None]:
    """Read a part of the list of payouts. Raises NotListedError."""
    listed = _list_of(_decode_payout_list, raw)
    return [_found_payout_of(each) for each in listed.data], listed.next


def listed_payout(raw: Raw) -> Found | None:
    """Read one payout with what we wrote on it. Raises NotListedError."""
    return None if raw.status == _NOT_FOUND else _found_payout_of(_list_of(_decode_listed_payout, raw))


def _list_of(decode: Callable[[bytes], _T], raw: Raw) -> _T:
    listed = _read(decode, raw, _OK)
    if listed is None:
        raise NotListedError(f"the simulator gave no list: {raw.evidence}")
    return listed


def _found_charge(listed: _Listed) -> Found:
    charge = listed.charge
    return Found(
        kind=None,
        provider_reference=charge.id,
        reference=charge.reference,
        amount_minor=charge.amount,
        currency=charge.currency,
        status=_FOUND_AUTHORIZATION[charge.status],
        is_live=charge.livemode,
        made_at=datetime.fromtimestamp(charge.created, UTC),
        origin=_origin_of(listed.description, listed.metadata or {}),
    )


def _found_action(listed: _ListedAction) -> Found:
    action, refund = listed.action, (listed.metadata or {}).get("refund", "")
    return Found(
        kind=OperationKind(action.object),
        provider_reference=action.id,
        reference=action.reference,
        charge_reference=action.charge,
        amount_minor=action.amount,
        currency=action.currency,
        status=_ACTED[action.status],
        is_live=action.livemode,
        made_at=datetime.fromtimestamp(action.created, UTC),
        refund_id=UUID(refund) if _HEX_ID.fullmatch(refund) else None,
        is_final=listed.final,
        was_paid=action.status == "succeeded" or action.failure_code == _CAME_BACK,
    )


def _origin_of(description: str | None, written: Mapping[str, str]) -> Origin | None:
    """Read what we wrote on a charge; None where it is not whole, or not as we write it."""
    shop, commission = written.get("shop", ""), written.get("commission", "0")
    names = (written.get("checkout", ""), description or "", written.get("seller", ""))
    if not (_HEX_ID.fullmatch(shop) and _MINOR.fullmatch(commission)):
        return None
    if not all(0 < len(name) <= _LONGEST_NAME and name.isprintable() for name in names):
        return None
    checkout_id, payment_order_id, seller_account = names
    return Origin(
        shop_id=UUID(shop),
        checkout_id=checkout_id,
        payment_order_id=payment_order_id,
        seller_account=seller_account,
        commission_minor=int(commission),
    )


def _found_payout_of(listed: _ListedPayout) -> Found:
    payout = listed.payout
    return Found(
        kind=OperationKind.PAYOUT,
        provider_reference=payout.id,
        reference=payout.reference,
        amount_minor=payout.amount,
        currency=payout.currency,
        status=_PAID[payout.status],
        is_live=payout.livemode,
        made_at=datetime.fromtimestamp(payout.created, UTC),
        payout=_payout_origin_of(listed.metadata or {}),
        destination=payout.destination,
        was_paid=payout.status in ("paid", "returned"),
    )


def _payout_origin_of(written: Mapping[str, str]) -> PayoutOrigin | None:
    """Read what we wrote on a payout; None where it is not whole, or not as we write it."""
    shop, run = written.get("shop", ""), written.get("run")
    seller, key = written.get("seller", ""), written.get("key", "")
    if not _HEX_ID.fullmatch(shop) or (run is not None and not _HEX_ID.fullmatch(run)):
        return None
    limits = ((seller, _LONGEST_NAME), (key, _LONGEST_KEY))
    if not all(0 < len(text) <= most and text.isprintable() for text, most in limits):
        return None
    return PayoutOrigin(shop_id=UUID(shop), seller_account=seller, key=key, run_id=None if run is None else UUID(run))
