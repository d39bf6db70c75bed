"""What a payment service provider must be able to do for Coatcheck, and what it says about itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.outcome import Outcome
from coatcheck.states import Mode


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The facts of a PSP that decide whether a retry would charge twice.

    `idempotency_window`: how long the PSP remembers a key, planned with the cautious figure; zero where it has no
    keys. `window_margin`: how long before the end we stop trusting it. `registers_first`: the PSP has a two-step
    object, made by `register` and stored before money moves. `look_up_before_resend`: the PSP may have charged and
    forgotten the key all the same (it keeps only 2xx), so never send again before asking. `look_up_lag`: how long a
    charge may stay invisible to a look-up; only a second "not found" this much later is believed.
    `replays_errors`: a 5xx may be the PSP's cached answer, so ask instead of reading it again.
    """

    idempotency_window: timedelta
    window_margin: timedelta = timedelta(minutes=5)
    registers_first: bool = False
    look_up_before_resend: bool = False
    look_up_lag: timedelta = timedelta(minutes=1)
    replays_errors: bool = False


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """A committed intent to charge, as a provider sees it.

    `body` was made once by `prepare`, is stored with the intent and is sent unchanged at every attempt.
    `provider_reference` is the PSP's own id, where `register` or an earlier answer gave one.
    """

    operation_id: UUID
    amount_minor: int
    currency: str
    mode: Mode
    body: bytes
    first_sent_at: datetime | None = None
    provider_reference: str | None = None

    @property
    def reference(self) -> str:
        """Our reference at the PSP, and the idempotency key: the operation's printed id."""
        return print_id(OPERATION, self.operation_id)


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider needs to know to freeze the body of a charge. Amounts in ISO 4217 minor units."""

    operation_id: UUID
    amount_minor: int
    currency: str
    token: str
    seller_account: str
    payment_order_id: str


class NotChargeableError(Exception):
    """The provider cannot take this amount, currency or token; the text tells the shop what to change.

    `is_about_token`: the whole payment's token is at fault, not this order.
    """

    def __init__(self, what_to_change: str, *, is_about_token: bool = False) -> None:
        super().__init__(what_to_change)
        self.is_about_token = is_about_token


class Provider(Protocol):
    """One PSP. Calls never raise for what the outside world does: every answer, error and silence is an Outcome."""

    name: str
    capabilities: Capabilities

    def prepare(self, request: ChargeRequest) -> bytes:
        """Freeze the body of a charge: pure, and the same bytes for the same request. Raises NotChargeableError."""
        ...

    async def register(self, charge: Charge) -> Outcome:
        """Make the PSP's object without moving money (only where `registers_first`).

        NOT_SENT with a `provider_reference` means: registered, nothing charged yet.
        """
        ...

    async def charge(self, charge: Charge) -> Outcome:
        """Ask for the money. Idempotent at the PSP on `charge.reference` inside its window."""
        ...

    async def look_up(self, charge: Charge) -> Outcome:
        """Ask what became of a charge, by the PSP's id or by our reference; moves no money.

        NOT_SENT means the PSP shows the object and says that nothing was charged: sending is safe at any age.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
