"""What can go wrong, as the API says it: one stable code each, with its HTTP status and what to do about it.

docs/errors.md describes every code; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class ErrorCode(Enum):
    """A stable `code` of a problem body: (HTTP status, title)."""

    INVALID_REQUEST = (422, "The request is not valid")
    MALFORMED_BODY = (400, "The body is not acceptable JSON")
    BODY_TOO_LARGE = (413, "The body is too large")
    BODY_TOO_SLOW = (408, "The body did not arrive in time")
    UNSUPPORTED_MEDIA_TYPE = (415, "The body must be application/json")
    IDEMPOTENCY_KEY_MISSING = (400, "An idempotency key is required")
    IDEMPOTENCY_KEY_MISMATCH = (400, "The two idempotency keys differ")
    IDEMPOTENCY_KEY_INVALID = (400, "The idempotency key is not valid")
    IDEMPOTENCY_KEY_REUSED = (422, "The idempotency key was used for another request")
    REQUEST_IN_PROGRESS = (409, "The first request with this key is still running")
    CHECKOUT_CONFLICT = (409, "This checkout_id belongs to a payment with other content")
    PAYMENT_ORDER_CONFLICT = (409, "A payment_order_id belongs to another payment")
    CAPTURE_NOT_POSSIBLE = (409, "What was asked for cannot be captured")
    PAYMENT_ALREADY_CHARGED = (409, "The payment is charged already and cannot be cancelled")
    OPERATION_IN_PROGRESS = (409, "Something else is being done with this payment")
    REFUND_NOT_POSSIBLE = (409, "This amount cannot be refunded")
    DISPUTE_NOT_ANSWERABLE = (409, "The dispute takes no answer")
    PAYOUT_NOT_POSSIBLE = (409, "This cannot be paid out now")
    APPROVAL_NOT_POSSIBLE = (409, "The run of payouts cannot be approved that way")
    BANK_DETAILS_REFUSED = (422, "The request contains what looks like bank details")
    RESOLUTION_NOT_POSSIBLE = (409, "The dead letter cannot be resolved that way")
    BREAK_RESOLUTION_NOT_POSSIBLE = (409, "The break cannot be resolved that way")
    CARD_NUMBER_REFUSED = (422, "The request contains what looks like a card number")
    FILE_REFUSED = (422, "The file was refused, and nothing of it was taken")
    UNAUTHENTICATED = (401, "No valid API key")
    WEBHOOK_REFUSED = (400, "The webhook is not proven to come from the provider")
    NOT_FOUND = (404, "There is no such thing in this shop and mode")
    METHOD_NOT_ALLOWED = (405, "This address does not take that method")
    INVALID_CURSOR = (400, "The cursor is not one of ours")
    OVERLOADED = (503, "The gateway is busy or shutting down")
    RECOVERING = (503, "The gateway is being made whole after a restore")
    INTERNAL = (500, "The gateway failed; nothing was guessed")

    @property
    def status(self) -> int:
        """The HTTP status that carries this problem."""
        return self.value[0]

    @property
    def title(self) -> str:
        """The short summary, the same in every occurrence (RFC 9457)."""
        return self.value[1]

    @property
    def code(self) -> str:
        """The stable word in the body's `code`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: where (a JSON pointer, RFC 6901) and what to do."""

    pointer: str
    detail: str


@dataclass(slots=True)
class CoatcheckError(Exception):
    """A refusal that the API can put into words; `detail` says what to do next."""

    error: ErrorCode
    detail: str
    problems: Sequence[Problem] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.error.code}: {self.detail}"
