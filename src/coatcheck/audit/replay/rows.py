"""The rows that a replay makes: a structure for each table, its fields named as the columns that are compared."""

from datetime import datetime
from uuid import UUID

import msgspec

from coatcheck.states import OperationStatus, PayoutStatus, RefundStatus


class PaymentRow(msgspec.Struct, frozen=True):
    """A checkout. `metadata` and `risk_signals` are JSON as it was written."""

    payment_id: UUID
    shop_id: UUID
    mode: str
    checkout_id: str
    request_digest: bytes
    buyer_id: UUID
    order_ids: list[UUID]
    metadata: str | None
    risk_decision: str
    risk_signals: str
    risk_subjects: list[UUID]
    capture: str
    on_failure: str
    return_url: str | None
    created_at: datetime


class OrderRow(msgspec.Struct):
    """One seller's part of a payment. Amounts in minor units."""

    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: str
    payment_order_id: str
    seller_account: str
    amount_minor: int
    commission_minor: int
    currency: str
    provider: str
    status: str
    decline_code: str | None
    created_at: datetime
    decided_at: datetime | None = None
    provider_reference: str | None = None
    redirect_url: str | None = None
    authorized_minor: int = 0
    captured_minor: int = 0
    refund_reserved_minor: int = 0
    refunded_minor: int = 0
    refund_commission_minor: int = 0
    acting: UUID | None = None
    is_disputed: bool = False
    expires_at: datetime | None = None


class OperationRow(msgspec.Struct, kw_only=True):
    """One thing asked of a PSP. `was_decided` (at any time) is no column of the table."""

    operation_id: UUID
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: str
    kind: str
    provider: str
    amount_minor: int
    currency: str
    body: bytes = b""
    target_reference: str | None = None
    refund_id: UUID | None = None
    is_final: bool = True
    is_hosted: bool = False
    status: str = OperationStatus.OPEN.value
    attempt: int = 1
    tries: int = 0
    first_sent_at: datetime | None
    provider_reference: str | None = None
    decline_code: str | None = None
    cause: str | None = None
    created_at: datetime
    decided_at: datetime | None = None
    was_decided: bool = False


class RefundRow(msgspec.Struct, kw_only=True):
    """Money that goes back to a buyer. Amounts in minor units."""

    refund_id: UUID
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    mode: str
    key: str
    request_digest: bytes
    amount_minor: int
    commission_minor: int
    currency: str
    reason: str | None
    status: str = RefundStatus.PENDING.value
    decline_code: str | None = None
    provider_reference: str | None = None
    created_at: datetime
    decided_at: datetime | None = None


class CheckoutDecisionRow(msgspec.Struct, frozen=True):
    """What was decided of an all-or-nothing checkout."""

    payment_id: UUID
    decision: str
    decided_at: datetime


class AdoptedPaymentRow(msgspec.Struct, frozen=True):
    """A payment that was made of what a PSP has."""

    payment_id: UUID
    adopted_at: datetime
    adopted_by: str
    completed_at: datetime | None


class PayoutRow(msgspec.Struct, kw_only=True):
    """Money on its way to a seller, in minor units."""

    payout_id: UUID
    shop_id: UUID
    mode: str
    seller_account: str
    currency: str
    amount_minor: int
    provider: str
    destination: str
    key: str
    request_digest: bytes
    run_id: UUID | None
    status: str = PayoutStatus.PENDING.value
    decline_code: str | None = None
    provider_reference: str | None = None
    created_at: datetime
    decided_at: datetime | None = None


class TransferRow(msgspec.Struct, frozen=True):
    """A movement of money between two ledger accounts."""

    transfer_id: UUID
    kind: str
    phase: str
    hold_id: UUID | None
    debit_account_id: UUID
    credit_account_id: UUID
    amount_minor: int
    currency: str
    subject_id: UUID
    at: datetime


class AccountRow(msgspec.Struct, frozen=True):
    """A ledger account as it was opened; its counters are sums of transfers."""

    account_id: UUID
    shop_id: UUID
    mode: str
    name: str
    kind: str
    currency: str
    opened_at: datetime
