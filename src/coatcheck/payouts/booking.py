"""The second commit of a payout: what a PSP's decision does to it and to the books, as rows of one statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.events import EventKind
from coatcheck.ids import account_id_of, derive_id, time_ordered_ids
from coatcheck.ledger import AccountName, TransferKind, bank, payouts_in_transit, psp_receivable, seller_available
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import OperationStatus, PayoutStatus

Row = tuple[Any, ...]

_encode = msgspec.json.Encoder().encode
# These pay sellers out of what they owe us, as lines of their settlement files; others have our bank account debited.
_PAY_FROM_BALANCE = frozenset({"stripe"})
_OPERATION_STATUS = {OutcomeKind.APPROVED: OperationStatus.APPROVED, OutcomeKind.DECLINED: OperationStatus.DECLINED}


class Decided(msgspec.Struct, frozen=True):
    """A decision for one payout's operation, to be booked under the operation's lease."""

    operation: Operation
    outcome: Outcome


class Effect(msgspec.Struct, frozen=True):
    """What one decision changes. `status` None leaves the payout as it is, and moves nothing."""

    event: EventKind
    status: PayoutStatus | None = None
    kinds: tuple[TransferKind, ...] = ()


_NOTHING_NEW = Effect(EventKind.OPERATION_CONFIRMED)
_PAID = Effect(EventKind.PAYOUT_PAID, PayoutStatus.PAID, (TransferKind.PAYOUT_PAID,))
_FAILED = Effect(EventKind.PAYOUT_FAILED, PayoutStatus.FAILED, (TransferKind.PAYOUT_FAILED,))
_RETURNED = Effect(EventKind.PAYOUT_RETURNED, PayoutStatus.RETURNED, (TransferKind.PAYOUT_RETURNED,))
_THERE_AND_BACK = msgspec.structs.replace(_RETURNED, kinds=_PAID.kinds + _RETURNED.kinds)


def effect_of(operation: Operation, outcome: Outcome) -> Effect:
    """Say what a decision (APPROVED or DECLINED) does. Pure. A refusal of what was paid: it came back (D10).

    It may have come back before anybody here heard that it was paid: both are booked, for the PSP's file has both.
    """
    is_approved = outcome.kind is OutcomeKind.APPROVED
    if operation.payout_status is PayoutStatus.PENDING:
        if outcome.came_back and not is_approved:
            return _THERE_AND_BACK
        return _PAID if is_approved else _FAILED
    if operation.payout_status is PayoutStatus.PAID and not is_approved:
        return _RETURNED
    return _NOTHING_NEW


def paid_from(provider: str) -> AccountName:
    """Name the account that a provider's payouts to sellers leave: what it owes us, or ours at a bank."""
    return psp_receivable(provider) if provider in _PAY_FROM_BALANCE else bank(provider)


def accounts_of(kind: TransferKind, provider: str, seller: str) -> tuple[AccountName, AccountName]:
    """Name the debit and the credit account of a payout's transfer."""
    available, transit, source = seller_available(seller), payouts_in_transit(seller), paid_from(provider)
    return {
        TransferKind.PAYOUT: (available, transit),
        TransferKind.PAYOUT_PAID: (transit, source),
        TransferKind.PAYOUT_FAILED: (transit, available),
        TransferKind.PAYOUT_RETURNED: (source, available),
    }[kind]


def transfer_id_of(payout_id: UUID, kind: TransferKind) -> UUID:
    """Name a payout's transfer: of each kind there can be one, whoever books it how often."""
    return derive_id("payout transfer", payout_id.hex, kind)


def ahead_transfer_id_of(payout_id: UUID) -> UUID:
    """Name the transfer of what an adopted payout has taken from the seller's pending account."""
    return derive_id("payout transfer", payout_id.hex, TransferKind.PAYOUT, "ahead")


def decided_rows(items: Sequence[Decided], at: datetime) -> tuple[list[Row], list[Row]]:
    """Write the rows of a batch: one per decision, and one per transfer after the place of its decision (from 1)."""
    decisions: list[Row] = []
    transfers: list[Row] = []
    for place, (item, event_id) in enumerate(zip(items, time_ordered_ids(at, len(items)), strict=True), 1):
        effect = effect_of(item.operation, item.outcome)
        moved = [_transfer_row(item.operation, kind) for kind in effect.kinds]
        decisions.append(_decision_row(item, effect, event_id, moved))
        transfers += [(place, *row) for row in moved]
    return decisions, transfers


def _transfer_row(operation: Operation, kind: TransferKind) -> Row:
    intent = operation.intent
    debit, credit = (
        account_id_of(operation.shop_id, intent.mode, name.name, intent.currency)
        for name in accounts_of(kind, operation.provider, operation.seller_account)
    )
    payout_id = operation.payment_id
    return (
        transfer_id_of(payout_id, kind),
        kind.value,
        debit,
        credit,
        intent.amount_minor,
        intent.currency,
        payout_id,
    )


def _decision_row(item: Decided, effect: Effect, event_id: UUID, transfers: Sequence[Row]) -> Row:
    operation, outcome = item.operation, item.outcome
    return (
        operation.intent.operation_id,
        operation.attempt,
        _OPERATION_STATUS[outcome.kind].value,
        operation.payment_id,
        None if effect.status is None else effect.status.value,
        outcome.provider_reference,
        outcome.decline_code,
        operation.shop_id,
        operation.intent.mode.value,
        event_id,
        effect.event.value,
        _encode(_event_body(item, effect, transfers)).decode(),
    )


def _event_body(item: Decided, effect: Effect, transfers: Sequence[Row]) -> dict[str, Any]:
    """Write what a rebuild needs: the decision, what it changed, and the transfers."""
    operation, outcome = item.operation, item.outcome
    names = ("transfer_id", "kind", "debit_account_id", "credit_account_id", "amount_minor", "currency")
    body: dict[str, Any] = {
        "payout_id": operation.payment_id,
        "operation_id": operation.intent.operation_id,
        "order_id": operation.order_id,
        "attempt": operation.attempt,
        "kind": operation.intent.kind,
        "outcome": outcome.kind,
        "status": effect.status,
        "provider_reference": outcome.provider_reference,
        "decline_code": outcome.decline_code,
        "transfers": [dict(zip(names, row, strict=False)) for row in transfers],
    }
    if outcome.evidence:
        body["evidence"] = outcome.evidence
    if outcome.told_by is not None:
        body["told_by"] = outcome.told_by
    return body
