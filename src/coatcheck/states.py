"""What an order, a payment and an operation can be, and the only ways from one state to another."""

from collections.abc import Iterable
from enum import StrEnum


class Mode(StrEnum):
    """Test and live are separate worlds: no row, key or account is shared between them."""

    TEST = "test"
    LIVE = "live"


class OrderStatus(StrEnum):
    """Where one seller's part of a payment stands."""

    NOT_STARTED = "NOT_STARTED"
    EXECUTING = "EXECUTING"
    PENDING = "PENDING"
    AUTHORIZED = "AUTHORIZED"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether nothing that can still happen to this order's charge would change the status."""
        return self in FINAL_ORDER_STATUSES


class PaymentStatus(StrEnum):
    """Where a whole checkout stands: derived from its orders, never stored on its own."""

    NOT_STARTED = "NOT_STARTED"
    EXECUTING = "EXECUTING"
    PENDING = "PENDING"
    AUTHORIZED = "AUTHORIZED"
    SUCCESS = "SUCCESS"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class RefundStatus(StrEnum):
    """Where a refund stands. SUCCEEDED may still become FAILED, days later: the buyer's bank sends money back."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class DisputeStatus(StrEnum):
    """Where a buyer's claim stands, in the PSP's word. WON and LOST may be reopened; an inquiry takes no money."""

    INQUIRY = "INQUIRY"
    NEEDS_RESPONSE = "NEEDS_RESPONSE"
    UNDER_REVIEW = "UNDER_REVIEW"
    WON = "WON"
    LOST = "LOST"
    CLOSED = "CLOSED"

    @property
    def freezes_refunds(self) -> bool:
        """Whether the money may go, or has gone, back to the buyer this way: a refund would give it back twice."""
        return self in FREEZING_DISPUTE_STATUSES

    @property
    def takes_evidence(self) -> bool:
        """Whether the shop may still answer."""
        return self in (DisputeStatus.INQUIRY, DisputeStatus.NEEDS_RESPONSE)


class EvidenceStatus(StrEnum):
    """What became of an answer to a dispute. PENDING: committed, and passed on until the PSP has it."""

    PENDING = "PENDING"
    SENT = "SENT"
    REFUSED = "REFUSED"


class EvidenceKind(StrEnum):
    """What a shop may say to a dispute: here is evidence, or the buyer is right."""

    EVIDENCE = "evidence"
    ACCEPTANCE = "acceptance"


class PayoutStatus(StrEnum):
    """Where a payout stands. PAID may still become RETURNED, days later: the seller's bank sends the money back."""

    PENDING = "PENDING"
    PAID = "PAID"
    FAILED = "FAILED"
    RETURNED = "RETURNED"


class PayoutRunStatus(StrEnum):
    """Where a run of payouts stands. WAITING: its total is far off the usual, and a second person must look."""

    WAITING = "WAITING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    FINISHED = "FINISHED"


class Capture(StrEnum):
    """When the money is taken: at once, or when the shop asks for it."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class OnFailure(StrEnum):
    """What becomes of a checkout's other orders when one fails: kept, or none of them is captured."""

    KEEP = "keep"
    ALL_OR_NOTHING = "all_or_nothing"


class OperationKind(StrEnum):
    """What can be asked of a PSP. A charge takes the money at once; an authorization only reserves it."""

    CHARGE = "charge"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    PAYOUT = "payout"

    @property
    def starts_an_order(self) -> bool:
        """Whether this is an order's first operation, whose outcome is the order's."""
        return self in (OperationKind.CHARGE, OperationKind.AUTHORIZE)


class OperationStatus(StrEnum):
    """What is known of one thing asked of a PSP.

    OPEN: not decided yet, a lease says who works on it. PENDING: the PSP has it and decides later; it is asked, never
    sent again. UNRESOLVED: the retry budget or the provider's window is
    used up and only a look-up, a settlement file or a person may decide it; it never becomes a failure by age.
    """

    OPEN = "OPEN"
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    UNRESOLVED = "UNRESOLVED"

    @property
    def is_decided(self) -> bool:
        """Whether an answer is booked. Later news may have the PSP asked again."""
        return self in (OperationStatus.APPROVED, OperationStatus.DECLINED)


FINAL_ORDER_STATUSES = frozenset({OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED})

ORDER_TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.NOT_STARTED: frozenset({OrderStatus.EXECUTING, OrderStatus.FAILED, OrderStatus.CANCELLED}),
    OrderStatus.EXECUTING: frozenset(
        {
            OrderStatus.PENDING,
            OrderStatus.AUTHORIZED,
            OrderStatus.SUCCESS,
            OrderStatus.FAILED,
            OrderStatus.CANCELLED,
        }
    ),
    OrderStatus.PENDING: frozenset(
        {OrderStatus.AUTHORIZED, OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED}
    ),
    OrderStatus.AUTHORIZED: frozenset({OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED}),
    OrderStatus.SUCCESS: frozenset(),
    # Final for us; only the PSP's later word that the money was taken after all moves it on (hazard A9).
    OrderStatus.FAILED: frozenset({OrderStatus.SUCCESS, OrderStatus.AUTHORIZED}),
    OrderStatus.CANCELLED: frozenset({OrderStatus.SUCCESS, OrderStatus.AUTHORIZED}),
}

OPERATION_TRANSITIONS: dict[OperationStatus, frozenset[OperationStatus]] = {
    OperationStatus.OPEN: frozenset(
        {OperationStatus.PENDING, OperationStatus.APPROVED, OperationStatus.DECLINED, OperationStatus.UNRESOLVED}
    ),
    OperationStatus.PENDING: frozenset(
        {OperationStatus.APPROVED, OperationStatus.DECLINED, OperationStatus.UNRESOLVED}
    ),
    OperationStatus.UNRESOLVED: frozenset(
        {OperationStatus.OPEN, OperationStatus.PENDING, OperationStatus.APPROVED, OperationStatus.DECLINED}
    ),
    # Asked about again after the PSP's later word: a success after the end, an authorization that lapsed, a refund
    # that came back. PENDING is never sent, so this asks and cannot charge.
    OperationStatus.APPROVED: frozenset({OperationStatus.PENDING}),
    OperationStatus.DECLINED: frozenset({OperationStatus.PENDING}),
}

REFUND_TRANSITIONS: dict[RefundStatus, frozenset[RefundStatus]] = {
    RefundStatus.PENDING: frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED}),
    RefundStatus.SUCCEEDED: frozenset({RefundStatus.FAILED}),
    RefundStatus.FAILED: frozenset(),
}

EVIDENCE_TRANSITIONS: dict[EvidenceStatus, frozenset[EvidenceStatus]] = {
    EvidenceStatus.PENDING: frozenset({EvidenceStatus.SENT, EvidenceStatus.REFUSED}),
    EvidenceStatus.SENT: frozenset(),
    EvidenceStatus.REFUSED: frozenset(),
}

FREEZING_DISPUTE_STATUSES = frozenset({DisputeStatus.NEEDS_RESPONSE, DisputeStatus.UNDER_REVIEW, DisputeStatus.LOST})

# Words of the PSP may be missed on the way, so whatever can follow in several steps may follow in one: the one thing
# that cannot be is that a dispute becomes an inquiry again.
DISPUTE_TRANSITIONS: dict[DisputeStatus, frozenset[DisputeStatus]] = {
    before: frozenset(DisputeStatus) - {before, DisputeStatus.INQUIRY} for before in DisputeStatus
}

PAYOUT_TRANSITIONS: dict[PayoutStatus, frozenset[PayoutStatus]] = {
    PayoutStatus.PENDING: frozenset({PayoutStatus.PAID, PayoutStatus.FAILED, PayoutStatus.RETURNED}),
    PayoutStatus.PAID: frozenset({PayoutStatus.RETURNED}),
    PayoutStatus.FAILED: frozenset(),
    PayoutStatus.RETURNED: frozenset(),
}

PAYOUT_RUN_TRANSITIONS: dict[PayoutRunStatus, frozenset[PayoutRunStatus]] = {
    PayoutRunStatus.WAITING: frozenset({PayoutRunStatus.APPROVED, PayoutRunStatus.REJECTED}),
    PayoutRunStatus.APPROVED: frozenset({PayoutRunStatus.FINISHED}),
    PayoutRunStatus.REJECTED: frozenset(),
    PayoutRunStatus.FINISHED: frozenset(),
}

# The first of these that any order has is what the payment waits for.
_WAITING = (OrderStatus.EXECUTING, OrderStatus.PENDING, OrderStatus.NOT_STARTED, OrderStatus.AUTHORIZED)


def payment_status_of(orders: Iterable[OrderStatus]) -> PaymentStatus:
    """Derive a payment's status from its orders'.

    Any unfinished order decides; when all are final: all alike gives that status, some SUCCESS gives PARTIAL, and
    failures mixed with cancellations are FAILED.
    """
    statuses = set(orders)
    for waiting in _WAITING:
        if waiting in statuses:
            return PaymentStatus(waiting.value)
    if len(statuses) == 1:
        return PaymentStatus(statuses.pop().value)
    return PaymentStatus.PARTIAL if OrderStatus.SUCCESS in statuses else PaymentStatus.FAILED
