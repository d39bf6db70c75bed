"""What an event says, kind by kind: those fields of docs/events.md that a rebuild needs. Pure."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from coatcheck.events import EventKind
from coatcheck.ledger import MAX_AMOUNT_MINOR
from coatcheck.states import OperationStatus, OrderStatus, PayoutStatus, RefundStatus

Minor = Annotated[int, msgspec.Meta(ge=-MAX_AMOUNT_MINOR, le=MAX_AMOUNT_MINOR)]
Attempt = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Hexadecimal = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})*$")]


class Event(NamedTuple):
    """One audit event as it is stored; `body` is JSON."""

    subject_id: UUID
    event_id: UUID
    kind: str
    shop_id: UUID
    mode: str
    at: datetime
    body: str


class Moved(msgspec.Struct, frozen=True, gc=False):
    """One of an event's `transfers`. Without `subject_id` it is about what the event is about."""

    transfer_id: UUID
    kind: str
    debit_account_id: UUID
    credit_account_id: UUID
    amount_minor: Minor
    currency: str
    phase: str = "posted"
    hold_id: UUID | None = None
    subject_id: UUID | None = None


class Said(msgspec.Struct, frozen=True):
    """What any event may say: that money moved. Whatever kind it is, its transfers are the books'."""

    transfers: list[Moved] = []


class AcceptedOperation(msgspec.Struct, frozen=True):
    """The first operation of an order, with its frozen body."""

    operation_id: UUID
    body: bytes


class AcceptedOrder(msgspec.Struct, frozen=True):
    """An order of an accepted checkout; one that was blocked has no operation."""

    order_id: UUID
    payment_order_id: str
    seller_account: str
    amount_minor: Minor
    commission_minor: Minor
    currency: str
    provider: str
    status: OrderStatus
    decline_code: str | None
    operation: AcceptedOperation | None


class AcceptedRisk(msgspec.Struct, frozen=True):
    """What the risk rules said of a checkout."""

    decision: str
    signals: msgspec.Raw
    subjects: list[UUID]


class Accepted(Said, frozen=True, kw_only=True):
    """A checkout was accepted."""

    payment_id: UUID
    checkout_id: str
    request_digest: bytes
    buyer_id: UUID
    metadata: msgspec.Raw
    capture: str
    on_failure: str
    return_url: str | None
    risk: AcceptedRisk
    orders: list[AcceptedOrder]


class AdoptedOperation(msgspec.Struct, frozen=True):
    """A charge or authorization that a PSP had and the books had not."""

    operation_id: UUID
    kind: str
    provider_reference: str
    first_sent_at: datetime | None


class AdoptedOrder(msgspec.Struct, frozen=True):
    """The order of such a charge."""

    order_id: UUID
    payment_order_id: str
    seller_account: str
    amount_minor: Minor
    commission_minor: Minor
    currency: str
    provider: str
    status: OrderStatus
    created_at: datetime
    operation: AdoptedOperation


class Adopted(Said, frozen=True, kw_only=True):
    """Charges that a PSP had were taken over. `order_ids`: all of the payment by then, in the order of its row."""

    payment_id: UUID
    checkout_id: str
    by: str
    why: str
    capture: str
    on_failure: str
    created_at: datetime
    order_ids: list[UUID]
    orders: list[AdoptedOrder]


class Recognised(Accepted, frozen=True, kw_only=True):
    """The shop came again with an adopted checkout. `made`: the orders that are new."""

    made: list[UUID]


class OperationAdopted(Said, frozen=True, kw_only=True):
    """A capture, void or refund that a PSP had was taken over."""

    operation_id: UUID
    order_id: UUID
    kind: str
    amount_minor: Minor
    is_final: bool
    target_reference: str | None
    provider_reference: str | None
    first_sent_at: datetime | None
    why: str


class Doubted(Said, frozen=True, kw_only=True):
    """After a restore: an operation that had not been sent may have been sent since."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    first_sent_at: datetime


class RefundRecognised(Said, frozen=True, kw_only=True):
    """The shop asked again for an adopted refund."""

    refund_id: UUID
    key: str
    request_digest: Hexadecimal
    reason: str | None


class PayoutRequested(Said, frozen=True, kw_only=True):
    """A payout was taken out of a seller's balance, with its operation."""

    payout_id: UUID
    operation_id: UUID
    seller_account: str
    amount_minor: Minor
    currency: str
    provider: str
    destination: str
    key: str
    request_digest: Hexadecimal
    run_id: UUID | None
    first_sent_at: datetime | None


class PayoutAdopted(PayoutRequested, frozen=True, kw_only=True):
    """A payout that a PSP had was taken over, with its operation."""

    provider_reference: str
    created_at: datetime
    why: str


class PayoutRecognised(Said, frozen=True, kw_only=True):
    """The shop asked again for an adopted payout."""

    payout_id: UUID
    request_digest: Hexadecimal


class PayoutDecided(Said, frozen=True, kw_only=True):
    """A PSP's decision of a payout. `status` is its new one."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    outcome: OperationStatus
    status: PayoutStatus | None
    provider_reference: str | None
    decline_code: str | None


class Changes(msgspec.Struct, frozen=True, gc=False):
    """What a decision added to its order's counts, in minor units."""

    authorized_minor: Minor
    captured_minor: Minor
    reserved_minor: Minor
    refunded_minor: Minor
    commission_minor: Minor


class Decided(Said, frozen=True, kw_only=True):
    """A PSP's decision. `status` is the order's new one; `changes` are missing of a usual charge.

    `ends`: the charge or authorization that a void is to end. `ended_attempt`: at which attempt it has; missing where
    that was decided already.
    """

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    outcome: OperationStatus
    status: OrderStatus | None
    provider_reference: str | None
    decline_code: str | None
    changes: Changes | None = None
    refund_id: UUID | None = None
    refund_status: RefundStatus | None = None
    ends: UUID | None = None
    ended_attempt: Attempt | None = None
    expires_at: datetime | None = None


class Postponed(Said, frozen=True, kw_only=True):
    """An attempt that brought no decision. `first_sent_at` is when the window began, as it was kept."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    status: OperationStatus
    order_status: OrderStatus | None
    costs: bool
    provider_reference: str | None
    redirect_url: str | None
    cause: str | None
    first_sent_at: datetime | None


class Registered(Said, frozen=True, kw_only=True):
    """The PSP made its object; no money moved."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    provider_reference: str


class Claimed(Said, frozen=True, kw_only=True):
    """A gateway took an operation over."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    forgets_cause: bool
    first_sent_at: datetime | None


class Sending(Said, frozen=True, kw_only=True):
    """An attempt is about to send it. `first_sent_at` is when its window began; what was found before is forgotten."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    first_sent_at: datetime


class Reopened(Said, frozen=True, kw_only=True):
    """The PSP is asked again about what was decided."""

    operation_id: UUID
    order_id: UUID
    attempt: Attempt
    why: str
    first_sent_at: datetime | None


class MadeOperation(msgspec.Struct, frozen=True):
    """An operation that was made together with an event."""

    operation_id: UUID
    order_id: UUID
    kind: str
    amount_minor: Minor
    is_final: bool
    target_reference: str | None
    first_sent_at: datetime | None


class ActRequested(Said, frozen=True, kw_only=True):
    """A capture or a cancel was asked for."""

    operations: list[MadeOperation]


class CheckoutDecided(Said, frozen=True, kw_only=True):
    """An all-or-nothing checkout was decided, or its decision reached another order."""

    decision: str
    decided_at: datetime
    operations: list[MadeOperation]


class RefundRequested(Said, frozen=True, kw_only=True):
    """A refund was reserved on its order."""

    refund_id: UUID
    order_id: UUID
    operation_id: UUID
    key: str
    request_digest: Hexadecimal
    amount_minor: Minor
    commission_minor: Minor
    currency: str
    reason: str | None
    target_reference: str | None
    first_sent_at: datetime | None


class Disputed(Said, frozen=True, kw_only=True):
    """The buyer disputes an order's charge."""

    order_id: UUID


class Undisputed(Said, frozen=True, kw_only=True):
    """No dispute of an order is open or lost any more."""

    order_id: UUID


class AccountOpened(Said, frozen=True, kw_only=True):
    """A ledger account was opened."""

    name: str
    kind: str
    currency: str


Attempted = (
    Claimed | Reopened | Registered | Sending | Postponed | Decided | PayoutDecided | Doubted
)  # what belongs to one attempt of one operation

_DECISIONS = (
    EventKind.ORDER_SUCCEEDED,
    EventKind.ORDER_SUCCEEDED_LATE,
    EventKind.ORDER_AUTHORIZED,
    EventKind.ORDER_AUTHORIZED_LATE,
    EventKind.ORDER_CAPTURED,
    EventKind.ORDER_FAILED,
    EventKind.ORDER_CANCELLED,
    EventKind.CAPTURE_DECLINED,
    EventKind.VOID_DECLINED,
    EventKind.REFUND_SUCCEEDED,
    EventKind.REFUND_FAILED,
    EventKind.REFUND_RETURNED,
    EventKind.OPERATION_CONFIRMED,
)
_PAYOUT_DECISIONS = (EventKind.PAYOUT_PAID, EventKind.PAYOUT_FAILED, EventKind.PAYOUT_RETURNED)
_POSTPONEMENTS = (
    EventKind.ORDER_PENDING,
    EventKind.OPERATION_PENDING,
    EventKind.OPERATION_RESCHEDULED,
    EventKind.OPERATION_UNRESOLVED,
    EventKind.OPERATION_ANSWER_REFUSED,
)

# What is told of kinds that are not here, nor in a module of `subjects` (alerts, dead letters, stored webhooks ...),
# stands in no row that is replayed, or moves money and nothing else.
KINDS: Mapping[str, type[Said]] = MappingProxyType(
    {
        EventKind.PAYMENT_ACCEPTED.value: Accepted,
        EventKind.OPERATION_REGISTERED.value: Registered,
        EventKind.OPERATION_CLAIMED.value: Claimed,
        EventKind.OPERATION_SENDING.value: Sending,
        EventKind.OPERATION_REOPENED.value: Reopened,
        EventKind.CAPTURE_REQUESTED.value: ActRequested,
        EventKind.CANCEL_REQUESTED.value: ActRequested,
        EventKind.CHECKOUT_DECIDED.value: CheckoutDecided,
        EventKind.REFUND_REQUESTED.value: RefundRequested,
        EventKind.ORDER_DISPUTED.value: Disputed,
        EventKind.ORDER_UNDISPUTED.value: Undisputed,
        EventKind.PAYMENT_ADOPTED.value: Adopted,
        EventKind.PAYMENT_RECOGNISED.value: Recognised,
        EventKind.OPERATION_ADOPTED.value: OperationAdopted,
        EventKind.OPERATION_DOUBTED.value: Doubted,
        EventKind.REFUND_RECOGNISED.value: RefundRecognised,
        EventKind.PAYOUT_REQUESTED.value: PayoutRequested,
        EventKind.PAYOUT_ADOPTED.value: PayoutAdopted,
        EventKind.PAYOUT_RECOGNISED.value: PayoutRecognised,
        EventKind.ACCOUNT_OPENED.value: AccountOpened,
        **{kind.value: Decided for kind in _DECISIONS},
        **{kind.value: PayoutDecided for kind in _PAYOUT_DECISIONS},
        **{kind.value: Postponed for kind in _POSTPONEMENTS},
    }
)
