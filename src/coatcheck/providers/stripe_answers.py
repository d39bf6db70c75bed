"""What Stripe's objects, errors and silences mean for one of our operations.

docs/providers/stripe.md has the tables and their sources. Nothing here talks to Stripe.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, Generic, Literal, TypeVar

import aiohttp
import msgspec
import stripe
from stripe import oauth_error

from coatcheck.providers.outcome import Outcome, OutcomeKind, more_than_one
from coatcheck.providers.protocol import Intent, NotChargeableError
from coatcheck.providers.stripe_words import CAPTURE_KEY, PAGE_KEY, REFERENCE_KEY, from_stripe_amount
from coatcheck.states import OperationKind


class Stage(Enum):
    """What was being asked when something went wrong: the same silence means different things."""

    REGISTER = auto()
    FIND_TARGET = auto()
    SEND = auto()
    LOOK_UP = auto()


class Failure(msgspec.Struct):
    """Why Stripe refused something, in its codes."""

    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None


class _Object(msgspec.Struct, kw_only=True):
    """An object of Stripe's, and the id of the request that brought it, which is not part of it."""

    id: str
    metadata: dict[str, str] | None = None
    request_id: str | None = None
    created: int = 0

    @property
    def reference(self) -> str | None:
        return (self.metadata or {}).get(REFERENCE_KEY)


class _CardDetails(msgspec.Struct):
    capture_before: int | None = None


class _MethodDetails(msgspec.Struct):
    card: _CardDetails | None = None


class _Charge(msgspec.Struct):
    amount: int
    amount_refunded: int = 0
    payment_method_details: _MethodDetails | None = None


class PaymentIntent(_Object, kw_only=True):
    """One payment of a buyer's, from its making to its capture; refunds are objects of their own."""

    object: Literal["payment_intent"]
    status: str
    amount: int
    currency: str
    livemode: bool
    amount_received: int | None = None
    amount_capturable: int | None = None
    capture_method: str | None = None
    cancellation_reason: str | None = None
    last_payment_error: Failure | None = None
    latest_charge: str | _Charge | None = None

    @property
    def captured(self) -> int:
        """What was taken, in Stripe's units; a stand-in says it only as what is left after releasing the rest."""
        if self.amount_received is not None:
            return self.amount_received
        charge = self.latest_charge
        return charge.amount - charge.amount_refunded if isinstance(charge, _Charge) else self.amount

    @property
    def capture_before(self) -> datetime | None:
        """Until when an authorization lives; only where the charge was sent along."""
        details = self.latest_charge.payment_method_details if isinstance(self.latest_charge, _Charge) else None
        before = details.card.capture_before if details is not None and details.card is not None else None
        return datetime.fromtimestamp(before, UTC) if before is not None else None

    @property
    def evidence(self) -> str:
        """What a person needs to find it at Stripe."""
        reason = f" ({self.cancellation_reason})" if self.cancellation_reason else ""
        return f"PaymentIntent {self.id} {self.status}{reason}, request {self.request_id}"


class CheckoutSession(_Object, kw_only=True):
    """A page of Stripe's for one payment order."""

    object: Literal["checkout.session"]
    status: str
    amount_total: int
    currency: str
    livemode: bool
    url: str | None = None
    expires_at: int | None = None
    payment_intent: str | PaymentIntent | None = None

    @property
    def payment(self) -> PaymentIntent | None:
        """The PaymentIntent that decides about the page's money; needs to have been sent along.

        That is the one of a page that was completed, and of any other page only one in which money has moved.
        """
        made = self.payment_intent
        if not isinstance(made, PaymentIntent):
            return None
        made.request_id = self.request_id
        has_moved = made.status in ("succeeded", "requires_capture", "processing")
        return made if self.status == "complete" or (self.status == "expired" and has_moved) else None

    @property
    def evidence(self) -> str:
        """What a person needs to find it at Stripe."""
        return f"Checkout Session {self.id} {self.status}, request {self.request_id}"


class Refund(_Object, kw_only=True):
    """Money on its way back to the buyer. Stripe does not say here whether it is live."""

    object: Literal["refund"]
    amount: int
    currency: str
    status: str | None = None
    payment_intent: str | None = None
    failure_reason: str | None = None
    failure_balance_transaction: str | None = None
    livemode: bool | None = None

    @property
    def was_paid(self) -> bool:
        """Whether its money left our balance there, also if it came back since."""
        return self.status == "succeeded" or self.failure_balance_transaction is not None

    @property
    def evidence(self) -> str:
        """What a person needs to find it at Stripe."""
        return f"Refund {self.id} {self.status}, request {self.request_id}"


class Transfer(_Object, kw_only=True):
    """Money from the platform's balance to a connected account's: what a payout is at Stripe."""

    object: Literal["transfer"]
    amount: int
    currency: str
    livemode: bool
    destination: str | None = None
    amount_reversed: int = 0
    reversed: bool = False

    @property
    def evidence(self) -> str:
        """What a person needs to find it at Stripe."""
        return f"Transfer {self.id}, {self.amount_reversed} reversed, request {self.request_id}"


Made = TypeVar("Made", bound=_Object)


class Page(msgspec.Struct, Generic[Made]):
    """One page of a list, newest first."""

    data: list[Made]
    has_more: bool


class _Problem(Failure):
    payment_intent: PaymentIntent | None = None


class _ProblemBody(msgspec.Struct):
    error: _Problem


_decode_problem = msgspec.json.Decoder(_ProblemBody).decode


STATUSES: Mapping[str, tuple[OutcomeKind, str | None]] = {
    "succeeded": (OutcomeKind.APPROVED, None),
    "processing": (OutcomeKind.PENDING, "processing"),
    "requires_action": (OutcomeKind.PENDING, "waits for the buyer"),
    "requires_confirmation": (OutcomeKind.NOT_SENT, "registered, not confirmed"),
    "requires_payment_method": (OutcomeKind.NOT_SENT, "registered, not charged"),
    "canceled": (OutcomeKind.DECLINED, None),
    "requires_capture": (OutcomeKind.UNKNOWN, "authorized only, which was not asked for"),
}

REFUND_STATUSES: Mapping[str | None, tuple[OutcomeKind, str | None]] = {
    "succeeded": (OutcomeKind.APPROVED, None),
    "pending": (OutcomeKind.PENDING, "on its way"),
    "requires_action": (OutcomeKind.PENDING, "waits for the buyer"),
    "failed": (OutcomeKind.DECLINED, None),
    "canceled": (OutcomeKind.DECLINED, None),
}

_NOT_CAPTURED: Mapping[str, tuple[OutcomeKind, str]] = {
    "requires_capture": (OutcomeKind.NOT_SENT, "authorized, not captured"),
    "processing": (OutcomeKind.PENDING, "processing"),
}

# Of these Stripe says that they can be cancelled; "processing" it says only of rare cases.
_VOIDABLE = frozenset({"requires_capture", "requires_payment_method", "requires_confirmation", "requires_action"})

# Refusals that say the opposite of an object that was just seen untouched: one of the two is out of date.
_CONTRADICTIONS = frozenset({"payment_intent_unexpected_state", "charge_already_captured"})

# When two objects carry our reference, the one that says most about money speaks for the operation.
_PRECEDENCE = (
    OutcomeKind.APPROVED,
    OutcomeKind.PENDING,
    OutcomeKind.UNKNOWN,
    OutcomeKind.DECLINED,
    OutcomeKind.NOT_SENT,
)

# Exact classes, never base classes: a class that a new SDK brings is UNKNOWN until somebody has thought about it.
# Of these, InvalidRequestError and APIConnectionError are looked at more closely below.
ERRORS: Mapping[type[stripe.StripeError], tuple[OutcomeKind, str]] = {
    stripe.CardError: (OutcomeKind.DECLINED, "refused"),
    stripe.InvalidRequestError: (OutcomeKind.UNKNOWN, "request refused"),
    stripe.AuthenticationError: (OutcomeKind.NOT_SENT, "API key refused"),
    stripe.PermissionError: (OutcomeKind.NOT_SENT, "API key not permitted"),
    stripe.RateLimitError: (OutcomeKind.UNKNOWN, "rate limited"),
    stripe.IdempotencyError: (OutcomeKind.UNKNOWN, "idempotency key used for another request"),
    stripe.APIError: (OutcomeKind.UNKNOWN, "error at Stripe"),
    stripe.APIConnectionError: (OutcomeKind.UNKNOWN, "no answer"),
    # What the SDK raises elsewhere (webhooks, OAuth, version 2 of the API). None of it is a word about a charge.
    **dict.fromkeys(
        (
            stripe.StripeError,
            stripe.StripeErrorWithParamCode,
            stripe.SignatureVerificationError,
            stripe.AlreadyCanceledError,
            stripe.BlockedByStripeError,
            stripe.CannotProceedError,
            stripe.CapabilityNotEnabledError,
            stripe.ControlledByAlternateResourceError,
            stripe.FeatureNotEnabledError,
            stripe.FinancialAccountNotOpenError,
            stripe.FxQuoteNeedsRefreshError,
            stripe.InsufficientFundsError,
            stripe.InvalidPaymentMethodError,
            stripe.InvalidPayoutMethodError,
            stripe.InvalidVaultedCredentialError,
            stripe.NotCancelableError,
            stripe.QuotaExceededError,
            stripe.RecipientNotNotifiableError,
            stripe.TemporarySessionExpiredError,
            stripe.VerificationAttemptFailedError,
            stripe.VerificationExpiredError,
            stripe.VerificationNotInitiatedError,
            oauth_error.OAuthError,
            oauth_error.InvalidClientError,
            oauth_error.InvalidGrantError,
            oauth_error.InvalidRequestError,
            oauth_error.InvalidScopeError,
            oauth_error.UnsupportedGrantTypeError,
            oauth_error.UnsupportedResponseTypeError,
        ),
        (OutcomeKind.UNKNOWN, "unexpected error"),
    ),
}

# What aiohttp raises before a byte of the request has left: name resolution, connecting, TLS, no free connection.
BEFORE_ANY_BYTE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


Read = TypeVar("Read", bound=_Object | Page[Any])


def read(answer: stripe.StripeObject, shape: type[Read]) -> Read:
    """Read an answer from its own bytes, not from the package's reading of them. Raises for any other shape."""
    response = answer.last_response
    if response is None:
        raise ValueError("an answer without a response")
    made: Read = msgspec.json.decode(response.body, type=shape)
    for each in made.data if isinstance(made, Page) else [made]:
        each.request_id = response.request_id
    return made


def outcome_of_payment(payment: PaymentIntent, kind: OperationKind) -> Outcome:
    """Say what a PaymentIntent means for the charge or authorization that made it."""
    is_authorization = kind is OperationKind.AUTHORIZE
    outcome, cause = (_meaning_of_authorization if is_authorization else _meaning_of_charge)(payment)
    amount, decline_code = payment.amount, None
    if outcome is OutcomeKind.APPROVED and payment.amount_received is not None and not is_authorization:
        amount = payment.amount_received
    if payment.status == "canceled":
        decline_code = "canceled"
    elif payment.status == "requires_payment_method" and payment.last_payment_error is not None:
        outcome, cause, decline_code = OutcomeKind.DECLINED, None, decline_code_of(payment.last_payment_error)
    words = Outcome(
        kind=outcome,
        # The page is what we registered and stored; its PaymentIntent only speaks for it.
        provider_reference=None if PAGE_KEY in (payment.metadata or {}) else payment.id,
        reference=payment.reference,
        is_live=payment.livemode,
        decline_code=decline_code,
        cause=cause,
        evidence=payment.evidence,
        is_cancelled=payment.status == "canceled",
        expires_at=payment.capture_before if is_authorization else None,
    )
    return _with_amount(words, amount, payment.currency)


def _meaning_of_charge(payment: PaymentIntent) -> tuple[OutcomeKind, str | None]:
    return STATUSES.get(payment.status, (OutcomeKind.UNKNOWN, "unknown status"))


def _meaning_of_authorization(payment: PaymentIntent) -> tuple[OutcomeKind, str | None]:
    """Say that an authorization is good while it lives and after its capture, unless it was never held for one."""
    if payment.status == "requires_capture":
        return OutcomeKind.APPROVED, None
    if payment.status == "succeeded" and payment.capture_method not in (None, "manual"):
        return OutcomeKind.UNKNOWN, "taken at once, which was not asked for"
    return _meaning_of_charge(payment)


def outcome_of_page(session: CheckoutSession, kind: OperationKind) -> Outcome:
    """Say what a Checkout Session means for the charge or authorization that registered it.

    Never NOT_SENT: it is the buyer who sends, and he may do so at any time.
    """
    if session.payment is not None:
        told = outcome_of_payment(session.payment, kind)
        waits = told.kind is OutcomeKind.NOT_SENT
        return msgspec.structs.replace(
            told,
            kind=OutcomeKind.PENDING if waits else told.kind,
            provider_reference=session.id,
            reference=told.reference or session.reference,
        )
    if session.status == "expired":
        return _words_of_page(session, OutcomeKind.DECLINED, decline_code="page_expired", is_cancelled=True)
    if session.status == "open":
        expires_at = datetime.fromtimestamp(session.expires_at, UTC) if session.expires_at is not None else None
        words = _words_of_page(session, OutcomeKind.PENDING, cause="waits for the buyer")
        return msgspec.structs.replace(words, redirect_url=session.url, expires_at=expires_at)
    return _words_of_page(session, OutcomeKind.UNKNOWN, cause="unknown status")


def _words_of_page(
    session: CheckoutSession,
    kind: OutcomeKind,
    *,
    reference: str | None = None,
    cause: str | None = None,
    decline_code: str | None = None,
    is_cancelled: bool = False,
) -> Outcome:
    words = Outcome(
        kind=kind,
        provider_reference=session.id,
        reference=reference or session.reference,
        is_live=session.livemode,
        cause=cause,
        decline_code=decline_code,
        evidence=session.evidence,
        is_cancelled=is_cancelled,
    )
    return _with_amount(words, session.amount_total, session.currency)


def outcome_of_capture(payment: PaymentIntent, intent: Intent, *, was_refused: bool = False) -> Outcome:
    """Say what the PaymentIntent that a capture is aimed at means for the capture.

    An authorization is captured once. What carries the mark of another capture was not taken by this one; what carries
    none (captured at a stand-in or in the dashboard) is taken for this one where the amount is the same. `was_refused`:
    Stripe has just refused this capture, so another amount without our mark is another's.
    """
    words = _words_of_target(intent, payment)
    if payment.status == "succeeded":
        return _outcome_of_captured(payment, intent, words, was_refused=was_refused)
    if payment.status == "canceled":
        return _declined(words, "canceled", is_cancelled=True)
    kind, cause = _NOT_CAPTURED.get(payment.status, (OutcomeKind.UNKNOWN, f"no authorization: {payment.status}"))
    return msgspec.structs.replace(words, kind=kind, cause=cause)


def _outcome_of_captured(payment: PaymentIntent, intent: Intent, words: Outcome, *, was_refused: bool) -> Outcome:
    mark = (payment.metadata or {}).get(CAPTURE_KEY)
    if mark not in (None, intent.reference):
        return _declined(words, "charge_already_captured", evidence=f"{payment.evidence}, captured by {mark}")
    taken = _with_amount(words, payment.captured, payment.currency)
    if taken.amount_minor == intent.amount_minor:
        return msgspec.structs.replace(taken, kind=OutcomeKind.APPROVED)
    if was_refused and mark is None:
        return _declined(words, "charge_already_captured", evidence=f"{payment.evidence}, not by this capture")
    return msgspec.structs.replace(taken, cause=taken.cause or "captured with another amount")


def outcome_of_void(payment: PaymentIntent, intent: Intent) -> Outcome:
    """Say what the PaymentIntent that a void is aimed at means for the void.

    Stripe keeps no trace of ours on a cancellation, so the state speaks: cancelled is voided, whoever did it.
    """
    words = _words_of_target(intent, payment)
    if payment.status == "canceled":
        voided = msgspec.structs.replace(words, kind=OutcomeKind.APPROVED)
        return _with_amount(voided, payment.amount, payment.currency)
    if payment.status == "succeeded":
        return _declined(words, "charge_already_captured")
    if payment.status in _VOIDABLE:
        return msgspec.structs.replace(words, kind=OutcomeKind.NOT_SENT, cause="not cancelled")
    return msgspec.structs.replace(words, cause=f"cannot be told from {payment.status}")


def outcome_of_page_void(session: CheckoutSession, intent: Intent) -> Outcome:
    """Say what the Checkout Session that a void is aimed at means for the void: expired is voided."""
    if session.payment is not None:
        return outcome_of_void(session.payment, intent)
    if session.status == "expired":
        return _words_of_page(session, OutcomeKind.APPROVED, reference=intent.reference)
    kind = OutcomeKind.NOT_SENT if session.status == "open" else OutcomeKind.UNKNOWN
    return _words_of_page(session, kind, reference=intent.reference, cause=f"the page is {session.status}")


def outcome_of_unpaid_page(session: CheckoutSession, intent: Intent) -> Outcome:
    """Say what a Checkout Session without a payment means for a capture or refund: there is nothing to act on."""
    words = Outcome(
        kind=OutcomeKind.NOT_SENT, reference=intent.reference, is_live=session.livemode, evidence=session.evidence
    )
    if session.status == "expired":
        return _declined(words, "page_expired", is_cancelled=True)
    return msgspec.structs.replace(words, cause=f"the page is {session.status}")


def _words_of_target(intent: Intent, payment: PaymentIntent) -> Outcome:
    return Outcome(
        kind=OutcomeKind.UNKNOWN,
        # As the operation knows it: the page's id stays the page's, also after the buyer has paid there.
        provider_reference=intent.target_reference,
        reference=intent.reference,
        is_live=payment.livemode,
        evidence=payment.evidence,
    )


def _declined(words: Outcome, code: str, *, evidence: str | None = None, is_cancelled: bool = False) -> Outcome:
    return msgspec.structs.replace(
        words,
        kind=OutcomeKind.DECLINED,
        cause=None,
        decline_code=code,
        evidence=evidence or words.evidence,
        is_cancelled=is_cancelled,
    )


def outcome_of_refund(refund: Refund, payment_id: str | None = None) -> Outcome:
    """Say what a Refund means for the refund that made it; `payment_id` is whose money it must be, where known."""
    kind, cause = REFUND_STATUSES.get(refund.status, (OutcomeKind.UNKNOWN, "unknown status"))
    if payment_id is not None and refund.payment_intent not in (None, payment_id):
        kind, cause = OutcomeKind.UNKNOWN, f"a refund of another payment: {refund.payment_intent}"
    is_declined = kind is OutcomeKind.DECLINED
    words = Outcome(
        kind=kind,
        provider_reference=refund.id,
        reference=refund.reference,
        is_live=refund.livemode,
        decline_code=(refund.failure_reason or refund.status) if is_declined else None,
        cause=cause,
        evidence=refund.evidence,
    )
    return _with_amount(words, refund.amount, refund.currency)


def outcome_of_transfer(transfer: Transfer, destination: str | None) -> Outcome:
    """Say what a Transfer means for the payout that made it; `destination` is whose it must be, where known.

    Reversed as a whole, the payout came back. Reversed in part, what is left is another amount than ours: an incident.
    """
    is_ours = destination in (None, transfer.destination)
    kind = OutcomeKind.DECLINED if transfer.reversed else OutcomeKind.APPROVED
    words = Outcome(
        kind=kind if is_ours else OutcomeKind.UNKNOWN,
        provider_reference=transfer.id,
        reference=transfer.reference,
        is_live=transfer.livemode,
        decline_code="reversed" if transfer.reversed and is_ours else None,
        cause=None if is_ours else f"a transfer to another account: {transfer.destination}",
        evidence=transfer.evidence,
        came_back=transfer.reversed,
    )
    left = transfer.amount if transfer.reversed else transfer.amount - transfer.amount_reversed
    return _with_amount(words, left, transfer.currency)


def _with_amount(words: Outcome, amount: int, currency: str) -> Outcome:
    currency = currency.upper()
    try:
        amount_minor = from_stripe_amount(amount, currency)
    except NotChargeableError as error:
        # An amount that ISO units cannot express is not the one that was asked for: nothing to post, but to look into.
        return Outcome(
            kind=OutcomeKind.UNKNOWN,
            provider_reference=words.provider_reference,
            cause="unreadable amount",
            evidence=str(error),
        )
    return msgspec.structs.replace(words, amount_minor=amount_minor, currency=currency)


def outcome_of_search(outcomes: Sequence[Outcome], what: str) -> Outcome:
    """Let one of the objects that carry our reference speak for all; two that moved money are a matter for a person."""
    if not outcomes:
        return Outcome(kind=OutcomeKind.NOT_FOUND, cause=f"no {what} carries our reference")
    approved = [outcome for outcome in outcomes if outcome.kind is OutcomeKind.APPROVED]
    if len(approved) > 1:
        return more_than_one(what, approved)
    return min(outcomes, key=lambda outcome: _PRECEDENCE.index(outcome.kind))


def outcome_of_refusal(refusal: stripe.StripeError, found: Outcome, kind: OperationKind) -> Outcome | None:
    """Say what a refusal means now that Stripe was asked what is there; None when the two contradict each other.

    It is DECLINED only when nothing was done, by this sending or by one before it.
    """
    if found.kind not in (OutcomeKind.NOT_SENT, OutcomeKind.NOT_FOUND):
        return found
    code = problem_of(refusal).code
    if code in _CONTRADICTIONS and found.kind is OutcomeKind.NOT_SENT:
        return None
    # A charge's decline code is the issuer's word or this one; of the rest Stripe's code says what to do about it.
    decline_code = None if kind.starts_an_order else code
    return _declined(found, decline_code or "invalid_request", evidence=evidence_of(refusal))


def outcome_of_error(error: stripe.StripeError, intent: Intent, stage: Stage) -> Outcome:
    """Say what an error of the package's means: for money, where it is Stripe's answer to a sending."""
    kind, cause = ERRORS.get(type(error), (OutcomeKind.UNKNOWN, f"unmapped error {type(error).__name__}"))
    decline_code = None
    if isinstance(error, stripe.APIConnectionError) and isinstance(error.__cause__, BEFORE_ANY_BYTE):
        kind, cause = OutcomeKind.NOT_SENT, "not connected"
    elif isinstance(error, stripe.CardError) and intent.kind.starts_an_order:
        decline_code = decline_code_of(problem_of(error))
    elif isinstance(error, stripe.InvalidRequestError) and stage is Stage.REGISTER:
        kind, decline_code = OutcomeKind.DECLINED, "invalid_request"
    if decline_code is None and kind is OutcomeKind.DECLINED:
        kind = OutcomeKind.UNKNOWN  # of a capture, void or refund a refusal is believed only after asking
    if stage is Stage.LOOK_UP:
        kind, decline_code = OutcomeKind.UNKNOWN, None  # a question that failed says nothing about the money
    elif kind is OutcomeKind.UNKNOWN:
        kind = unclear(stage)
    status = error.http_status or 0
    told = problem_of(error).payment_intent if intent.kind.starts_an_order else None
    words = outcome_of_payment(told, intent.kind) if told is not None else silence(kind, intent, cause)
    return msgspec.structs.replace(
        words,
        kind=kind,
        decline_code=decline_code,
        cause=cause,
        evidence=evidence_of(error),
        is_server_error=status >= 500,  # noqa: PLR2004 - HTTP's own number
        retry_after=_retry_after_of(error),
    )


def unclear(stage: Stage) -> OutcomeKind:
    """Say what silence means: registering and finding the target move no money, so they are safe to repeat."""
    return OutcomeKind.NOT_SENT if stage in (Stage.REGISTER, Stage.FIND_TARGET) else OutcomeKind.UNKNOWN


def silence(kind: OutcomeKind, intent: Intent, cause: str) -> Outcome:
    """Make the outcome of a call without an answer."""
    return Outcome(kind=kind, provider_reference=intent.provider_reference, cause=cause)


def problem_of(error: stripe.StripeError) -> _Problem:
    """Read an error's body; empty when it is none of Stripe's."""
    try:
        return _decode_problem(error.http_body or "").error
    except msgspec.MsgspecError:
        return _Problem()


def decline_code_of(failure: Failure) -> str:
    """Name why a card was refused, in the issuer's code where there is one."""
    code = failure.decline_code or failure.code or "card_declined"
    # The documents have both words for a bank that wants to see the buyer.
    return "authentication_required" if code == "requires_action_not_handled" else code


def evidence_of(error: stripe.StripeError) -> str:
    """Collect what a person needs to find the call at Stripe; messages are left out, they may repeat what was sent."""
    problem = problem_of(error)
    facts = {
        "HTTP": error.http_status,
        "type": problem.type,
        "code": problem.code,
        "decline_code": problem.decline_code,
        "param": problem.param,
        "request": error.request_id,
        "should_retry": (error.headers or {}).get("stripe-should-retry"),
        "error": type(error.__cause__).__name__ if error.__cause__ is not None else None,
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _retry_after_of(error: stripe.StripeError) -> timedelta | None:
    seconds = (error.headers or {}).get("retry-after", "")
    return timedelta(seconds=int(seconds)) if re.fullmatch(r"[0-9]{1,6}", seconds) else None
