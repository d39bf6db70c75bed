"""The rules of captures, voids and refunds: what a charge allows, and what becomes of it. Pure.

Captured is never more than authorized, refunded never more than captured; a failed refund gives its amount back.
"""

import msgspec

from coatcheck.simulator.records import (
    AUTHORIZED,
    CAPTURE,
    EXPIRED,
    FAILED,
    PENDING,
    REFUND,
    SUCCEEDED,
    VOID,
    VOIDED,
    Action,
    Charge,
    Refusal,
)
from coatcheck.simulator.tokens import Manner

ID_PREFIXES = {CAPTURE: "cap", VOID: "void", REFUND: "re"}


class Decision(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is done to a charge. `due_s`: after so long the action's status changes by itself."""

    kind: str
    amount: int
    status: str = SUCCEEDED
    failure_code: str | None = None
    is_final: bool = False
    due_s: float | None = None


def decide_capture(charge: Charge, manner: str | None, *, amount: int, is_final: bool) -> Decision:
    """Capture a part or all of what was authorized. Raises Refusal."""
    if charge.status == EXPIRED:
        raise Refusal(409, "authorization_expired", "The authorization has run out.")
    if charge.status != AUTHORIZED:
        raise Refusal(409, "charge_not_authorized", f"The charge is {charge.status}: there is nothing to capture.")
    if charge.amount_captured + amount > charge.amount:
        left = charge.amount - charge.amount_captured
        raise Refusal(409, "amount_too_large", f"At most {left} may still be captured.")
    if manner == Manner.CAPTURE_DECLINED:
        return Decision(kind=CAPTURE, amount=amount, status=FAILED, failure_code="capture_declined")
    return Decision(kind=CAPTURE, amount=amount, is_final=is_final)


def decide_void(charge: Charge, manner: str | None) -> Decision:  # noqa: ARG001 - no token decides it
    """Release what is authorized and not captured, or take back a pending charge. Raises Refusal."""
    if charge.status == EXPIRED:
        raise Refusal(409, "authorization_expired", "The authorization has run out: nothing is held any more.")
    if charge.status not in (AUTHORIZED, PENDING):
        raise Refusal(409, "charge_not_voidable", f"The charge is {charge.status}.")
    return Decision(kind=VOID, amount=charge.amount - charge.amount_captured)


def decide_refund(charge: Charge, manner: str | None, *, amount: int, settle_s: float, fail_s: float) -> Decision:
    """Give captured money back. `settle_s`, `fail_s`: when what the token decides comes, 0 never. Raises Refusal."""
    if charge.amount_captured == 0:
        raise Refusal(409, "charge_not_refundable", f"The charge is {charge.status}: nothing was captured.")
    if charge.disputed:
        raise Refusal(409, "charge_disputed", "The cardholder disputes the charge: the money goes back that way.")
    if charge.amount_refunded + amount > charge.amount_captured:
        left = charge.amount_captured - charge.amount_refunded
        raise Refusal(409, "refund_exceeds_captured", f"At most {left} may still be refunded.")
    if manner == Manner.REFUND_FAILS:
        return Decision(kind=REFUND, amount=amount, status=FAILED, failure_code="refund_declined")
    if manner == Manner.REFUND_PENDING:
        return Decision(kind=REFUND, amount=amount, status=PENDING, due_s=settle_s or None)
    if manner == Manner.REFUND_FAILS_LATER:
        return Decision(kind=REFUND, amount=amount, due_s=fail_s or None)
    return Decision(kind=REFUND, amount=amount)


def after_action(charge: Charge, action: Action, *, is_final: bool) -> Charge:
    """Say what a charge is after an action on it."""
    if action.status == FAILED:
        return charge
    if action.object == REFUND:
        return msgspec.structs.replace(charge, amount_refunded=charge.amount_refunded + action.amount)
    if action.object == VOID:
        return msgspec.structs.replace(charge, status=SUCCEEDED if charge.amount_captured else VOIDED)
    captured = charge.amount_captured + action.amount
    is_done = is_final or captured >= charge.amount
    return msgspec.structs.replace(charge, amount_captured=captured, status=SUCCEEDED if is_done else AUTHORIZED)


def after_failure(charge: Charge, refund: Action) -> Charge:
    """Say what a charge is when a refund of it failed after all."""
    return msgspec.structs.replace(charge, amount_refunded=charge.amount_refunded - refund.amount)


def after_expiry(charge: Charge) -> Charge:
    """Say what an authorized charge is when its time is over: what was captured stays, the rest is released."""
    return msgspec.structs.replace(charge, status=SUCCEEDED if charge.amount_captured else EXPIRED)
