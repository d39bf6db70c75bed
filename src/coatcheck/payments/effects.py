"""What a PSP's decision does: to the order's status and counts, to a refund, and to the books. Pure.

docs/ledger.md has the table of postings; every amount is in minor units of the order's currency.
"""

from uuid import UUID

import msgspec

from coatcheck.events import EventKind
from coatcheck.ids import derive_id
from coatcheck.ledger import Phase, TransferKind
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import OperationKind, OrderStatus, RefundStatus


class Leg(msgspec.Struct, frozen=True, gc=False):
    """One transfer between the PSP's receivable and the seller (or, `is_commission`, the platform's commission).

    Money comes in from the receivable, or, `goes_back`, returns to it.
    """

    kind: TransferKind
    amount_minor: int
    is_commission: bool = False
    goes_back: bool = False
    phase: Phase = Phase.POSTED
    hold_id: UUID | None = None


class Effect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one decision changes. Counts are added to the order's; `order_status` None leaves it as it is.

    `needs_quiet`: worked out from what was left of the reservation, so that must still be so. `ends`: the pending
    charge or authorization that a void has ended. `is_late`: the order had been given up.
    """

    event: EventKind
    order_status: OrderStatus | None = None
    authorized_minor: int = 0
    captured_minor: int = 0
    reserved_minor: int = 0
    refunded_minor: int = 0
    commission_minor: int = 0
    needs_quiet: bool = False
    refund_status: RefundStatus | None = None
    ends: UUID | None = None
    is_late: bool = False
    legs: tuple[Leg, ...] = ()


_GIVEN_UP = frozenset({OrderStatus.FAILED, OrderStatus.CANCELLED})


def hold_id_of(order_id: UUID, kind: TransferKind) -> UUID:
    """Name an order's hold: of the seller's share, or of the commission."""
    return derive_id("hold", order_id.hex, kind)


def commission_of(commission_minor: int, whole_minor: int, part_minor: int) -> int:
    """Give the part of a commission that belongs to a part of its amount: rounded down, the whole's is the whole."""
    return commission_minor * part_minor // whole_minor


def effect_of(operation: Operation, outcome: Outcome) -> Effect:
    """Say what a decision (APPROVED or DECLINED) does. Pure."""
    return _EFFECTS[operation.intent.kind](operation, outcome)


def _of_charge(operation: Operation, outcome: Outcome) -> Effect:
    if operation.captured_minor:  # it was booked before: whoever asked again had old news
        return Effect(event=EventKind.OPERATION_CONFIRMED)
    is_late = operation.order_status in _GIVEN_UP
    if outcome.kind is not OutcomeKind.APPROVED:
        return _of_first_refused(outcome, is_known=is_late)
    gross, commission = operation.intent.amount_minor, operation.commission_minor
    return Effect(
        event=EventKind.ORDER_SUCCEEDED_LATE if is_late else EventKind.ORDER_SUCCEEDED,
        order_status=OrderStatus.SUCCESS,
        authorized_minor=gross,
        captured_minor=gross,
        is_late=is_late,
        legs=_legs(gross - commission, commission),
    )


def _of_authorization(operation: Operation, outcome: Outcome) -> Effect:
    is_late = operation.order_status in _GIVEN_UP
    if operation.authorized_minor:  # it was approved before: the question is whether it still lives
        if outcome.kind is OutcomeKind.APPROVED or operation.order_status is not OrderStatus.AUTHORIZED:
            return Effect(event=EventKind.OPERATION_CONFIRMED)
        return _ended(operation, EventKind.ORDER_CANCELLED)
    if outcome.kind is not OutcomeKind.APPROVED:
        return _of_first_refused(outcome, is_known=is_late)
    gross, commission = operation.intent.amount_minor, operation.commission_minor
    return Effect(
        event=EventKind.ORDER_AUTHORIZED_LATE if is_late else EventKind.ORDER_AUTHORIZED,
        order_status=OrderStatus.AUTHORIZED,
        authorized_minor=gross,
        is_late=is_late,
        legs=_hold_legs(operation, gross - commission, commission, Phase.HELD),
    )


def _of_first_refused(outcome: Outcome, *, is_known: bool) -> Effect:
    """Take an order's own operation as refused, or as ended by the PSP; `is_known`: the order says so already."""
    if is_known:
        return Effect(event=EventKind.OPERATION_CONFIRMED)
    if outcome.is_cancelled:
        return Effect(event=EventKind.ORDER_CANCELLED, order_status=OrderStatus.CANCELLED)
    return Effect(event=EventKind.ORDER_FAILED, order_status=OrderStatus.FAILED)


def _of_capture(operation: Operation, outcome: Outcome) -> Effect:
    intent = operation.intent
    if outcome.kind is not OutcomeKind.APPROVED:
        if outcome.is_cancelled:  # there is nothing left to capture: the PSP has let the authorization go
            return _ended(operation, EventKind.ORDER_CANCELLED)
        return Effect(event=EventKind.CAPTURE_DECLINED)
    before, after = operation.captured_minor, operation.captured_minor + intent.amount_minor
    commission = _commission_up_to(operation, after) - _commission_up_to(operation, before)
    legs = _hold_legs(operation, intent.amount_minor - commission, commission, Phase.CAPTURED)
    is_over = intent.is_final or after == operation.authorized_minor
    return Effect(
        event=EventKind.ORDER_SUCCEEDED if is_over else EventKind.ORDER_CAPTURED,
        order_status=OrderStatus.SUCCESS if is_over else None,
        captured_minor=intent.amount_minor,
        needs_quiet=True,
        legs=legs + (_release_legs(operation, after) if is_over else ()),
    )


def _of_void(operation: Operation, outcome: Outcome) -> Effect:
    if outcome.kind is not OutcomeKind.APPROVED and not outcome.is_cancelled:
        return Effect(event=EventKind.VOID_DECLINED)
    if operation.authorized_minor:
        return _ended(operation, EventKind.ORDER_CANCELLED)
    return Effect(
        event=EventKind.ORDER_CANCELLED,
        order_status=OrderStatus.CANCELLED,
        needs_quiet=True,
        ends=operation.first_operation_id,
    )


def _ended(operation: Operation, event: EventKind) -> Effect:
    """End an authorization: what was not captured is released, what was captured stays."""
    captured = operation.captured_minor
    return Effect(
        event=EventKind.ORDER_SUCCEEDED if captured else event,
        order_status=OrderStatus.SUCCESS if captured else OrderStatus.CANCELLED,
        needs_quiet=True,
        legs=_release_legs(operation, captured),
    )


def _of_refund(operation: Operation, outcome: Outcome) -> Effect:
    amount, commission = operation.intent.amount_minor, operation.refund_commission_minor
    came_back = operation.refund_status is RefundStatus.SUCCEEDED
    if outcome.kind is OutcomeKind.APPROVED:
        if came_back:
            return Effect(event=EventKind.OPERATION_CONFIRMED)
        return Effect(
            event=EventKind.REFUND_SUCCEEDED,
            refunded_minor=amount,
            refund_status=RefundStatus.SUCCEEDED,
            legs=_refund_legs(amount - commission, commission),
        )
    if operation.refund_status is RefundStatus.FAILED:  # asked again after it had failed: nothing is reserved for it
        return Effect(event=EventKind.OPERATION_CONFIRMED)
    return Effect(
        event=EventKind.REFUND_RETURNED if came_back else EventKind.REFUND_FAILED,
        refunded_minor=-amount if came_back else 0,
        reserved_minor=-amount,
        commission_minor=-commission,
        refund_status=RefundStatus.FAILED,
        legs=_refund_legs(amount - commission, commission, returns=True) if came_back else (),
    )


_EFFECTS = {
    OperationKind.CHARGE: _of_charge,
    OperationKind.AUTHORIZE: _of_authorization,
    OperationKind.CAPTURE: _of_capture,
    OperationKind.VOID: _of_void,
    OperationKind.REFUND: _of_refund,
}


def _commission_up_to(operation: Operation, captured_minor: int) -> int:
    return commission_of(operation.commission_minor, operation.authorized_minor, captured_minor)


def _legs(seller_minor: int, commission_minor: int) -> tuple[Leg, ...]:
    return _some(
        Leg(TransferKind.CHARGE, seller_minor),
        Leg(TransferKind.COMMISSION, commission_minor, is_commission=True),
    )


def _hold_legs(operation: Operation, seller_minor: int, commission_minor: int, phase: Phase) -> tuple[Leg, ...]:
    charge, commission = TransferKind.CHARGE, TransferKind.COMMISSION
    return _some(
        Leg(charge, seller_minor, phase=phase, hold_id=hold_id_of(operation.order_id, charge)),
        Leg(
            commission,
            commission_minor,
            is_commission=True,
            phase=phase,
            hold_id=hold_id_of(operation.order_id, commission),
        ),
    )


def _release_legs(operation: Operation, captured_minor: int) -> tuple[Leg, ...]:
    rest = operation.authorized_minor - captured_minor
    commission = operation.commission_minor - _commission_up_to(operation, captured_minor)
    return _hold_legs(operation, rest - commission, commission, Phase.RELEASED)


def _refund_legs(seller_minor: int, commission_minor: int, *, returns: bool = False) -> tuple[Leg, ...]:
    seller_kind = TransferKind.REFUND_RETURN if returns else TransferKind.REFUND
    commission_kind = TransferKind.COMMISSION_REFUND_RETURN if returns else TransferKind.COMMISSION_REFUND
    return _some(
        Leg(seller_kind, seller_minor, goes_back=not returns),
        Leg(commission_kind, commission_minor, is_commission=True, goes_back=not returns),
    )


def _some(*legs: Leg) -> tuple[Leg, ...]:
    return tuple([leg for leg in legs if leg.amount_minor])
