"""The payment tokens and what each makes the PSP do. docs/simulator.md lists them."""

import re
from enum import StrEnum
from typing import Annotated

import msgspec

DECLINE_CODES = frozenset(
    {
        "authentication_required",
        "card_declined",
        "card_velocity_exceeded",
        "currency_not_supported",
        "do_not_honor",
        "expired_card",
        "fraudulent",
        "incorrect_cvc",
        "insufficient_funds",
        "lost_card",
        "pickup_card",
        "processing_error",
        "stolen_card",
    }
)


class Manner(StrEnum):
    """How a token is charged and answered."""

    APPROVE = "tok_approve"
    SLOW = "tok_slow"
    DROP = "tok_drop"
    ERROR_BEFORE = "tok_error_before"
    ERROR_AFTER = "tok_error_after"
    PENDING = "tok_pending"
    HTML = "tok_html"
    WRONG_AMOUNT = "tok_wrong_amount"
    WRONG_CURRENCY = "tok_wrong_currency"
    WRONG_REFERENCE = "tok_wrong_reference"
    WRONG_MODE = "tok_wrong_mode"
    CAPTURE_DECLINED = "tok_capture_declined"
    REFUND_PENDING = "tok_refund_pending"
    REFUND_FAILS = "tok_refund_fails"
    REFUND_FAILS_LATER = "tok_refund_fails_later"
    AUTHORIZATION_EXPIRES = "tok_authorization_expires"
    DECLINE = "tok_decline"


_LATER = frozenset(
    {
        Manner.CAPTURE_DECLINED,
        Manner.REFUND_PENDING,
        Manner.REFUND_FAILS,
        Manner.REFUND_FAILS_LATER,
        Manner.AUTHORIZATION_EXPIRES,
    }
)


class Behaviour(msgspec.Struct, frozen=True, gc=False):
    """What one token does; `decline_code` is set for declines only. `is_later`: it decides what happens afterwards."""

    manner: Manner
    decline_code: str | None = None
    is_later: bool = False


APPROVE = Behaviour(Manner.APPROVE)


Token = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]

_CARD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BEHAVIOURS = {
    manner.value: Behaviour(manner, None, manner in _LATER) for manner in Manner if manner is not Manner.DECLINE
} | {f"tok_decline_{code}": Behaviour(Manner.DECLINE, code) for code in DECLINE_CODES}


def behaviour_of(token: str) -> Behaviour | None:
    """Read a token; None when it is not one of ours. What follows the first dot only names the card."""
    name, dot, card = token.partition(".")
    if dot and not _CARD.fullmatch(card):
        return None
    return _BEHAVIOURS.get(name)
