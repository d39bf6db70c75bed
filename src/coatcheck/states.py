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


class OperationKind(StrEnum):
    """What can be asked of a PSP."""

    CHARGE = "charge"


class OperationStatus(StrEnum):
    """What is known of one thing asked of a PSP.

    OPEN: not decided yet, a lease says who works on it. UNRESOLVED: the retry budget or the provider's window is
    used up and only a look-up, a settlement file or a person may decide it; it never becomes a failure by age.
    """

    OPEN = "OPEN"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    UNRESOLVED = "UNRESOLVED"


FINAL_ORDER_STATUSES = frozenset({OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED})

ORDER_TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.NOT_STARTED: frozenset({OrderStatus.EXECUTING, OrderStatus.FAILED, OrderStatus.CANCELLED}),
    OrderStatus.EXECUTING: frozenset(
        {OrderStatus.PENDING, OrderStatus.AUTHORIZED, OrderStatus.SUCCESS, OrderStatus.FAILED}
    ),
    OrderStatus.PENDING: frozenset(
        {OrderStatus.AUTHORIZED, OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED}
    ),
    OrderStatus.AUTHORIZED: frozenset({OrderStatus.SUCCESS, OrderStatus.FAILED, OrderStatus.CANCELLED}),
    OrderStatus.SUCCESS: frozenset(),
    OrderStatus.FAILED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}

OPERATION_TRANSITIONS: dict[OperationStatus, frozenset[OperationStatus]] = {
    OperationStatus.OPEN: frozenset({OperationStatus.APPROVED, OperationStatus.DECLINED, OperationStatus.UNRESOLVED}),
    OperationStatus.UNRESOLVED: frozenset({OperationStatus.APPROVED, OperationStatus.DECLINED}),
    OperationStatus.APPROVED: frozenset(),
    OperationStatus.DECLINED: frozenset(),
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
