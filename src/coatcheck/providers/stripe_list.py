"""What Stripe lists, with what we wrote on it: read back into books that were restored from a backup.

A capture is no object at Stripe. The PaymentIntent carries its reference, so one entry may stand for two of ours.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import Found, Origin, PayoutOrigin
from coatcheck.providers.stripe_answers import (
    PaymentIntent,
    Refund,
    Transfer,
    outcome_of_payment,
    outcome_of_refund,
    outcome_of_transfer,
)
from coatcheck.providers.stripe_words import CAPTURE_KEY, from_stripe_amount
from coatcheck.states import OperationKind

_SHOP, _CHECKOUT, _ORDER = "coatcheck_shop", "coatcheck_checkout", "coatcheck_order"
_SELLER, _COMMISSION, _REFUND = "coatcheck_seller", "coatcheck_commission", "coatcheck_refund"
_KEY, _RUN = "coatcheck_key", "coatcheck_run"
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_MINOR: Final = re.compile(r"[0-9]{1,16}").fullmatch


def written_of(origin: Origin | None) -> dict[str, str]:
    """Write on an object whose it is, as metadata."""
    if origin is None:
        return {}
    written = {
        _SHOP: origin.shop_id.hex,
        _CHECKOUT: origin.checkout_id,
        _ORDER: origin.payment_order_id,
        _SELLER: origin.seller_account,
    }
    return written | {_COMMISSION: str(origin.commission_minor)} if origin.commission_minor else written


def written_on_refund(refund_id: UUID | None) -> dict[str, str]:
    """Write on a refund which it is, as metadata."""
    return {} if refund_id is None else {_REFUND: refund_id.hex}


def written_on_transfer(origin: PayoutOrigin | None) -> dict[str, str]:
    """Write on a transfer whose payout it is, as metadata."""
    if origin is None:
        return {}
    written = {_SHOP: origin.shop_id.hex, _SELLER: origin.seller_account, _KEY: origin.key}
    return written if origin.run_id is None else written | {_RUN: origin.run_id.hex}


def payout_origin_of(metadata: Mapping[str, str] | None) -> PayoutOrigin | None:
    """Read whose payout a transfer is; None where our writing is not there or not whole."""
    written = metadata or {}
    shop, seller, key, run = written.get(_SHOP, ""), written.get(_SELLER), written.get(_KEY), written.get(_RUN)
    if not (_HEX_ID(shop) and seller and key and (run is None or _HEX_ID(run))):
        return None
    return PayoutOrigin(shop_id=UUID(shop), seller_account=seller, key=key, run_id=None if run is None else UUID(run))


def origin_of(metadata: Mapping[str, str] | None) -> Origin | None:
    """Read whose an object is; None where our writing is not there or not whole."""
    written = metadata or {}
    shop, commission = written.get(_SHOP, ""), written.get(_COMMISSION, "0")
    names = [written.get(name, "") for name in (_CHECKOUT, _ORDER, _SELLER)]
    if not (_HEX_ID(shop) and _MINOR(commission) and all(names)):
        return None
    checkout_id, payment_order_id, seller_account = names
    return Origin(
        shop_id=UUID(shop),
        checkout_id=checkout_id,
        payment_order_id=payment_order_id,
        seller_account=seller_account,
        commission_minor=int(commission),
    )


def found_in_payment(payment: PaymentIntent) -> Iterator[Found]:
    """Say what a PaymentIntent is of ours: the charge or authorization, and the capture whose mark it carries.

    What was only registered is nothing yet. Raises NotChargeableError for an amount that has no exact equal.
    """
    is_authorization = payment.capture_method == "manual"
    kind = OperationKind.AUTHORIZE if is_authorization else OperationKind.CHARGE
    status = outcome_of_payment(payment, kind).kind
    if status is OutcomeKind.NOT_SENT:
        return
    currency = payment.currency.upper()
    whole = Found(
        kind=None,
        provider_reference=payment.id,
        reference=payment.reference,
        amount_minor=from_stripe_amount(payment.amount, currency),
        currency=currency,
        status=status,
        is_live=payment.livemode,
        made_at=datetime.fromtimestamp(payment.created, UTC),
        origin=origin_of(payment.metadata),
    )
    yield whole
    mark = (payment.metadata or {}).get(CAPTURE_KEY)
    if mark is not None and payment.status == "succeeded":
        yield Found(
            kind=OperationKind.CAPTURE,
            provider_reference=payment.id,
            reference=mark,
            charge_reference=payment.id,
            amount_minor=from_stripe_amount(payment.captured, currency),
            currency=currency,
            status=OutcomeKind.APPROVED,
            is_live=payment.livemode,
            made_at=whole.made_at,
        )


def found_in_refund(refund: Refund) -> Found:
    """Say what a refund is of ours. Raises NotChargeableError for an amount that has no exact equal."""
    currency, named = refund.currency.upper(), (refund.metadata or {}).get(_REFUND, "")
    return Found(
        kind=OperationKind.REFUND,
        provider_reference=refund.id,
        reference=refund.reference,
        charge_reference=refund.payment_intent,
        amount_minor=from_stripe_amount(refund.amount, currency),
        currency=currency,
        status=outcome_of_refund(refund).kind,
        is_live=refund.livemode,
        made_at=datetime.fromtimestamp(refund.created, UTC),
        refund_id=UUID(named) if _HEX_ID(named) else None,
        was_paid=refund.was_paid,
    )


def found_in_transfer(transfer: Transfer) -> Found:
    """Say what a transfer is of ours: a payout, paid at once. Raises NotChargeableError as the others do."""
    currency = transfer.currency.upper()
    return Found(
        kind=OperationKind.PAYOUT,
        provider_reference=transfer.id,
        reference=transfer.reference,
        amount_minor=from_stripe_amount(transfer.amount, currency),
        currency=currency,
        status=outcome_of_transfer(transfer, None).kind,
        is_live=transfer.livemode,
        made_at=datetime.fromtimestamp(transfer.created, UTC),
        payout=payout_origin_of(transfer.metadata),
        destination=transfer.destination,
        was_paid=True,
    )
