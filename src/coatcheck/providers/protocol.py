"""What a payment service provider must be able to do for Coatcheck, and what it says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable
from uuid import UUID

import msgspec

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.disputes import DisputeNews
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import Mode, OperationKind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The facts of a PSP that decide whether a retry would charge twice, and what it can do.

    `idempotency_window`: how long the PSP remembers a key, planned with the cautious figure; zero where it has no
    keys. `window_margin`: how long before the end we stop trusting it. `registers_first`: the PSP has a two-step
    object, made by `register` and stored before money moves. `look_up_before_resend`: the PSP may have charged and
    forgotten the key all the same (it keeps only 2xx), so never send again before asking. `look_up_lag`: how long a
    charge may stay invisible to a look-up; only a second "not found" this much later is believed.
    `replays_errors`: a 5xx may be the PSP's cached answer, so ask instead of reading it again.
    `hosted_orders`: how many payment orders one page of the PSP's can take; zero where it has none.
    `several_captures`: an authorization may be captured in more than one part. `disputes`: it can be asked about
    disputes and be sent evidence (providers/disputes.py). `authorization_life`: how long an
    authorization lives where the PSP does not say it with each.
    `payout_token`: what the token of a seller's bank account looks like there, as a regular expression; None where the
    PSP pays nobody out for us.
    """

    idempotency_window: timedelta
    window_margin: timedelta = timedelta(minutes=5)
    registers_first: bool = False
    look_up_before_resend: bool = False
    look_up_lag: timedelta = timedelta(minutes=1)
    replays_errors: bool = False
    hosted_orders: int = 0
    several_captures: bool = False
    disputes: bool = False
    authorization_life: timedelta = timedelta(days=7)
    payout_token: str | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A committed intent, as a provider sees it: all that decides what is sent, frozen before the first sending.

    `body`: of a charge or an authorization, made once by `prepare` and sent unchanged at every attempt; empty for what
    acts on an earlier one, whose request is made of the fields here alone. `provider_reference` is the PSP's own id of
    this operation's object, where `register` or an earlier answer gave one. `target_reference` is the PSP's id of the
    charge that a capture, void or refund acts on; of a payout, the token of where the money goes.
    `is_final`: nothing will be captured after this capture.
    `is_hosted`: the buyer pays on the PSP's page; we register the page and then only ask.
    `refund_id`: of a refund, which the PSP keeps for us. `payout`: of a payout, whose it is; the PSP keeps that, too.
    """

    operation_id: UUID
    amount_minor: int
    currency: str
    mode: Mode
    body: bytes
    kind: OperationKind = OperationKind.CHARGE
    first_sent_at: datetime | None = None
    provider_reference: str | None = None
    target_reference: str | None = None
    is_final: bool = True
    is_hosted: bool = False
    refund_id: UUID | None = None
    payout: "PayoutOrigin | None" = None

    @property
    def reference(self) -> str:
        """Our reference at the PSP, and the idempotency key: the operation's printed id."""
        return print_id(OPERATION, self.operation_id)


class HostedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One payment order as the PSP's page shows it; `operation_id` is its reference there. Minor units."""

    operation_id: UUID
    amount_minor: int
    currency: str
    payment_order_id: str
    origin: "Origin | None" = None


class HostedPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the PSP's on which the buyer pays all orders of a payment; afterwards he is sent to `return_url`.

    All orders of a payment register the same page, under a key of the payment's: the PSP makes it once.
    """

    payment_id: UUID
    return_url: str
    orders: tuple[HostedOrder, ...]


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider needs to know to freeze the body of a charge or authorization. ISO 4217 minor units.

    Either `token` (the buyer's card at the PSP) or `hosted` (the page where he gives it) is there.
    `origin` is written on the charge at the PSP, where one is given.
    """

    operation_id: UUID
    amount_minor: int
    currency: str
    seller_account: str
    payment_order_id: str
    token: str | None = None
    hosted: HostedPage | None = None
    kind: OperationKind = OperationKind.CHARGE
    origin: "Origin | None" = None


class NotChargeableError(Exception):
    """The provider cannot take this amount, currency or token; the text tells the shop what to change.

    `is_about_token`: the whole payment's payment method is at fault, not this order.
    """

    def __init__(self, what_to_change: str, *, is_about_token: bool = False) -> None:
        super().__init__(what_to_change)
        self.is_about_token = is_about_token


class Provider(Protocol):
    """One PSP. Calls never raise for what the outside world does: every answer, error and silence is an Outcome."""

    name: str
    capabilities: Capabilities

    def prepare(self, request: ChargeRequest) -> bytes:
        """Freeze the body of a charge or authorization: pure, and the same bytes for the same request.

        Raises NotChargeableError.
        """
        ...

    async def register(self, intent: Intent) -> Outcome:
        """Make the PSP's object without moving money (where `registers_first`, and for every hosted page).

        NOT_SENT with a `provider_reference` means: registered, nothing charged yet. PENDING with a `redirect_url`: the
        page is there and waits for the buyer.
        """
        ...

    async def send(self, intent: Intent) -> Outcome:
        """Ask for what the intent says. Idempotent at the PSP on `intent.reference` inside its window."""
        ...

    async def look_up(self, intent: Intent) -> Outcome:
        """Ask what became of an intent, by the PSP's id or by our reference; moves no money.

        NOT_SENT means the PSP shows the object and says that nothing was done: sending is safe at any age. Of an
        authorization: APPROVED while it lives or has been captured, DECLINED with `is_cancelled` once it has lapsed.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Whose charge it is: what a PSP keeps with it for us, so that it can be taken back into books that forgot it.

    Nothing about the buyer is in it. `commission_minor` in minor units of the charge's currency.
    """

    shop_id: UUID
    checkout_id: str
    payment_order_id: str
    seller_account: str
    commission_minor: int = 0


class PayoutOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Whose payout it is: the key it was asked for under proves it, for the payout's id is made of shop, mode and key.

    `run_id`: of an item of a run, whose key names the run.
    """

    shop_id: UUID
    seller_account: str
    key: str
    run_id: UUID | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One object of a PSP's, as its list shows it: a charge or authorization, what was done with one, or a payout.

    `kind` None: a charge or an authorization, which its reference tells apart. `reference` is ours, None where it has
    none. `charge_reference`: the PSP's id of the charge that a capture, void or refund acted on. `status`: what a
    look-up would say now. `origin`, `refund_id` and `payout`: what we wrote on it. `destination`: the token of where a
    payout went. `was_paid`: the money of a payout or refund went, also if it came back since. Minor units.
    """

    kind: OperationKind | None
    provider_reference: str
    reference: str | None
    charge_reference: str | None = None
    amount_minor: int
    currency: str
    status: OutcomeKind
    is_live: bool | None
    made_at: datetime
    origin: Origin | None = None
    refund_id: UUID | None = None
    is_final: bool = True
    payout: PayoutOrigin | None = None
    destination: str | None = None
    was_paid: bool = False

    @property
    def is_first(self) -> bool:
        """Whether it is an order's charge or authorization."""
        return self.kind is None


class FoundPage(msgspec.Struct, frozen=True):
    """A part of a PSP's list; `following` asks for the next part, None at the end."""

    found: list[Found]
    following: str | None


class NotListedError(Exception):
    """The PSP gave no list, or none that can be read; the text says why. Nothing was concluded from it."""


@runtime_checkable
class Registry(Protocol):
    """What a PSP can also do: list what it has, so that books which were restored from a backup can be made whole."""

    async def list_since(self, since: datetime, following: str | None = None) -> FoundPage:
        """List what was made at or after a time, with what we wrote on it. Moves no money. Raises NotListedError."""
        ...

    async def find(self, provider_reference: str, kind: OperationKind | None) -> Found | None:
        """Find one object by the PSP's id, with what we wrote on it; None when the PSP has none of that kind.

        Raises NotListedError.
        """
        ...


class WebhookRefusedError(Exception):
    """A webhook that is not proven to come from the PSP, or is too old or from the future; the text says why."""


class ReceivedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One authentic event, as it is stored: unique by provider, account and `event_id`. `raw` is what `parse` reads."""

    account: str
    event_id: str
    raw: bytes


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What an authentic event says about one of our operations. Authentic is not valid: it is compared like an answer.

    `reference` is our operation's printed id, None where the event names none. `outcome` is what a look-up of the
    operation would bring now; None for a type that nobody here acts on. `type` is the PSP's own word. `dispute`: what
    the event says of a dispute, in which case it says nothing of an operation.
    """

    type: str
    reference: str | None = None
    outcome: Outcome | None = None
    dispute: DisputeNews | None = None


class WebhookReader(Protocol):
    """Reads the webhooks of one account of one PSP, in one mode."""

    name: str

    def receive(self, headers: Mapping[str, str], body: bytes, at: datetime) -> list[ReceivedEvent]:
        """Prove where a webhook comes from, on its raw bytes and before anything else; returns its events.

        `headers` have lower-case names. An authentic body that nobody can read is one event, named by its digest.
        Raises WebhookRefusedError.
        """
        ...

    def parse(self, raw: bytes) -> list[Notice]:
        """Read a stored event; none or several notices. Raises ValueError when it cannot be read."""
        ...
