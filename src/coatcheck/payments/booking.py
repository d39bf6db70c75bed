"""The second commit's rows: what a PSP's decision does to an order and to the books, as apply_outcomes takes it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.ids import account_id_of, time_ordered_ids
from coatcheck.ledger import Phase, Transfer, charge_accounts
from coatcheck.operations import Operation
from coatcheck.payments.effects import Effect, Leg, effect_of
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import OperationKind, OperationStatus, OrderStatus

_OPERATION_STATUS = {OutcomeKind.APPROVED: OperationStatus.APPROVED, OutcomeKind.DECLINED: OperationStatus.DECLINED}
_LEGS_OF_A_CHARGE = 2
_LEGS_AT_MOST = 4  # a final capture posts two shares of a hold and releases two

_encode = msgspec.json.Encoder().encode

Row = tuple[Any, ...]


class Booking(msgspec.Struct, frozen=True):
    """A decision for one operation and what it does, to be booked under the operation's lease.

    `refunds_late`: see late_success.
    """

    operation: Operation
    outcome: Outcome
    effect: Effect
    refunds_late: bool


def booking_of(operation: Operation, outcome: Outcome, *, refunds_late: bool = False) -> Booking:
    """Say what a decision for an operation does, to be booked."""
    return Booking(operation, outcome, effect_of(operation, outcome), refunds_late)


class BookingRows(msgspec.Struct, frozen=True):
    """The rows of apply_outcomes: one per decision, and one per transfer after the place of its decision.

    `changes` is None when every decision is about a usual charge, which needs none of those columns.
    """

    outcomes: list[Row]
    changes: list[Row] | None
    transfers: list[Row]
    phases: list[Row] | None


def booking_rows(items: Sequence[Booking], at: datetime) -> BookingRows:
    """Write the rows of a batch of decisions."""
    is_plain = all(_is_plain(item) for item in items)
    event_ids = time_ordered_ids(at, len(items))
    transfer_ids = iter(time_ordered_ids(at, (_LEGS_OF_A_CHARGE if is_plain else _LEGS_AT_MOST) * len(items)))
    rows = BookingRows([], None if is_plain else [], [], None if is_plain else [])
    for place, (item, event_id) in enumerate(zip(items, event_ids, strict=True), 1):
        transfers = [transfer_of(item.operation, leg, next(transfer_ids)) for leg in item.effect.legs]
        rows.outcomes.append(_outcome_row(item, event_id, transfers))
        rows.transfers.extend([(place, *_transfer_row(transfer)) for transfer in transfers])
        if rows.changes is not None and rows.phases is not None:
            rows.changes.append(_change_row(item))
            rows.phases.extend([(transfer.phase.value, transfer.hold_id) for transfer in transfers])
    return rows


def _is_plain(item: Booking) -> bool:
    operation = item.operation
    return (
        operation.intent.kind is OperationKind.CHARGE
        and operation.order_status in (OrderStatus.EXECUTING, OrderStatus.PENDING)
        and not item.outcome.is_cancelled
    )


def transfer_of(operation: Operation, leg: Leg, transfer_id: UUID) -> Transfer:
    """Put a leg into the books' words: which accounts, and which side."""
    intent = operation.intent
    receivable, pending, commission = (
        account_id_of(operation.shop_id, intent.mode, account.name, intent.currency)
        for account in charge_accounts(operation.provider, operation.seller_account)
    )
    other = commission if leg.is_commission else pending
    is_held = leg.phase is Phase.HELD  # a hold is named by the transfer that made it
    return Transfer(
        transfer_id=leg.hold_id if is_held and leg.hold_id is not None else transfer_id,
        kind=leg.kind,
        phase=leg.phase,
        hold_id=None if is_held else leg.hold_id,
        debit_account_id=other if leg.goes_back else receivable,
        credit_account_id=receivable if leg.goes_back else other,
        amount_minor=leg.amount_minor,
        currency=intent.currency,
        subject_id=operation.payment_id,
    )


def _transfer_row(transfer: Transfer) -> Row:
    return (
        transfer.transfer_id,
        transfer.kind,
        transfer.debit_account_id,
        transfer.credit_account_id,
        transfer.amount_minor,
        transfer.currency,
        transfer.subject_id,
    )


def _change_row(item: Booking) -> Row:
    """Write the columns of apply_outcomes that start with x_, in their order."""
    operation, effect = item.operation, item.effect
    return (
        operation.intent.kind.starts_an_order,
        effect.authorized_minor,
        effect.captured_minor,
        effect.reserved_minor,
        effect.refunded_minor,
        effect.commission_minor,
        operation.authorized_minor - operation.captured_minor if effect.needs_quiet else None,
        operation.refund_id,
        None if effect.refund_status is None else effect.refund_status.value,
        effect.ends,
        item.outcome.expires_at if effect.order_status is OrderStatus.AUTHORIZED else None,
        operation.is_joint,
        # All or nothing gives back by its own decision, whatever the policy.
        effect.is_late and item.refunds_late and not operation.is_joint,
    )


def _outcome_row(item: Booking, event_id: UUID, transfers: Sequence[Transfer]) -> Row:
    operation, outcome, effect = item.operation, item.outcome, item.effect
    return (
        operation.intent.operation_id,
        operation.attempt,
        _OPERATION_STATUS[outcome.kind].value,
        operation.order_id,
        None if effect.order_status is None else effect.order_status.value,
        outcome.provider_reference,
        outcome.decline_code,
        operation.payment_id,
        operation.shop_id,
        operation.intent.mode.value,
        event_id,
        effect.event.value,
        _encode(_event_body(item, transfers)).decode(),
    )


def _event_body(item: Booking, transfers: Sequence[Transfer]) -> dict[str, Any]:
    """Write what a rebuild needs: the decision, what it changed, and the transfers."""
    operation, outcome, effect = item.operation, item.outcome, item.effect
    body: dict[str, Any] = {
        "operation_id": operation.intent.operation_id,
        "order_id": operation.order_id,
        "attempt": operation.attempt,
        "outcome": outcome.kind,
        "status": effect.order_status,
        "provider_reference": outcome.provider_reference,
        "decline_code": outcome.decline_code,
        "transfers": [_transfer_body(transfer) for transfer in transfers],
    }
    if outcome.evidence:
        body["evidence"] = outcome.evidence
    if outcome.told_by is not None:
        body["told_by"] = outcome.told_by
    if operation.intent.kind is not OperationKind.CHARGE:
        body["kind"] = operation.intent.kind
        body["changes"] = {
            "authorized_minor": effect.authorized_minor,
            "captured_minor": effect.captured_minor,
            "reserved_minor": effect.reserved_minor,
            "refunded_minor": effect.refunded_minor,
            "commission_minor": effect.commission_minor,
        }
        body["refund_id"] = operation.refund_id
        body["refund_status"] = effect.refund_status
        body["ends"] = effect.ends
        body["expires_at"] = outcome.expires_at
    return body


def _transfer_body(transfer: Transfer) -> dict[str, Any]:
    body: dict[str, Any] = {
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind,
        "debit_account_id": transfer.debit_account_id,
        "credit_account_id": transfer.credit_account_id,
        "amount_minor": transfer.amount_minor,
        "currency": transfer.currency,
    }
    if transfer.phase is not Phase.POSTED:
        body["phase"] = transfer.phase
        body["hold_id"] = transfer.hold_id
    return body
