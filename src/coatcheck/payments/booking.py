"""The second commit's rows: what a PSP's decision does to an order and to the books."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.events import EventKind
from coatcheck.ids import time_ordered_ids
from coatcheck.ledger import Transfer, charge_transfers
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import OperationStatus, OrderStatus

ORDER_STATUS = {OutcomeKind.APPROVED: OrderStatus.SUCCESS, OutcomeKind.DECLINED: OrderStatus.FAILED}
_OPERATION_STATUS = {OutcomeKind.APPROVED: OperationStatus.APPROVED, OutcomeKind.DECLINED: OperationStatus.DECLINED}
_EVENT_KIND = {OutcomeKind.APPROVED: EventKind.ORDER_SUCCEEDED, OutcomeKind.DECLINED: EventKind.ORDER_FAILED}

_LEGS = 2  # a charge moves the seller's share and the platform's commission

_encode = msgspec.json.Encoder().encode


class Booking(msgspec.Struct, frozen=True):
    """A decision for one operation, to be booked under the operation's lease."""

    operation: Operation
    outcome: Outcome


def booking_rows(items: Sequence[Booking], at: datetime) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Write the rows of apply_outcomes: one per decision, and one per transfer after the place of its decision."""
    event_ids = time_ordered_ids(at, len(items))
    transfer_ids = time_ordered_ids(at, _LEGS * len(items))
    outcomes: list[tuple[Any, ...]] = []
    transfers: list[tuple[Any, ...]] = []
    for place, (item, event_id) in enumerate(zip(items, event_ids, strict=True), 1):
        legs = _transfers_of(item, transfer_ids[_LEGS * (place - 1) : _LEGS * place])
        outcomes.append(_outcome_row(item, event_id, legs))
        transfers.extend([(place, *_transfer_row(leg)) for leg in legs])
    return outcomes, transfers


def _transfers_of(item: Booking, transfer_ids: Sequence[UUID]) -> list[Transfer]:
    """Say what a decision moves: an approved charge its gross, a decline nothing."""
    operation, charge = item.operation, item.operation.charge
    if item.outcome.kind is not OutcomeKind.APPROVED:
        return []
    return charge_transfers(
        transfer_ids=transfer_ids,
        shop_id=operation.shop_id,
        mode=charge.mode,
        provider=operation.provider,
        seller=operation.seller_account,
        gross_minor=charge.amount_minor,
        commission_minor=operation.commission_minor,
        currency=charge.currency,
        subject_id=operation.payment_id,
    )


def _transfer_row(leg: Transfer) -> tuple[Any, ...]:
    return (
        leg.transfer_id,
        leg.kind,
        leg.debit_account_id,
        leg.credit_account_id,
        leg.amount_minor,
        leg.currency,
        leg.subject_id,
    )


def _outcome_row(item: Booking, event_id: UUID, legs: Sequence[Transfer]) -> tuple[Any, ...]:
    operation, outcome = item.operation, item.outcome
    body = {
        "operation_id": operation.charge.operation_id,
        "order_id": operation.order_id,
        "attempt": operation.attempt,
        "outcome": outcome.kind,
        "status": ORDER_STATUS[outcome.kind],
        "provider_reference": outcome.provider_reference,
        "decline_code": outcome.decline_code,
        "transfers": [
            {
                "transfer_id": leg.transfer_id,
                "kind": leg.kind,
                "debit_account_id": leg.debit_account_id,
                "credit_account_id": leg.credit_account_id,
                "amount_minor": leg.amount_minor,
                "currency": leg.currency,
            }
            for leg in legs
        ],
    }
    return (
        operation.charge.operation_id,
        operation.attempt,
        _OPERATION_STATUS[outcome.kind].value,
        operation.order_id,
        ORDER_STATUS[outcome.kind].value,
        outcome.provider_reference,
        outcome.decline_code,
        operation.payment_id,
        operation.shop_id,
        operation.charge.mode.value,
        event_id,
        _EVENT_KIND[outcome.kind].value,
        _encode(body).decode(),
    )
