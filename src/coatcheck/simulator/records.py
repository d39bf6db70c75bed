"""What the simulated PSP writes down: charges, actions on them, sessions, and every change as an Entry of the journal.

Amounts are whole minor units; `created` and `expires_at` are Unix seconds. Fields with a default were not always there:
a journal of an earlier version is still read.
"""

from bisect import bisect_left
from collections.abc import Mapping

import msgspec

SUCCEEDED, DECLINED, PENDING = "succeeded", "declined", "pending"
AUTHORIZED, VOIDED, EXPIRED = "authorized", "voided", "expired"
CHARGE_STATUSES = (SUCCEEDED, DECLINED, PENDING, AUTHORIZED, VOIDED, EXPIRED)
FAILED = "failed"
OPEN, COMPLETED, CANCELLED = "open", "completed", "cancelled"
PAID, RETURNED = "paid", "returned"
PAYOUT_STATUSES = (PENDING, PAID, FAILED, RETURNED)

CAPTURE, VOID, REFUND = "capture", "void", "refund"


class Refusal(Exception):  # noqa: N818 - a refusal is an answer of the PSP, not a fault of it
    """A request the PSP turns down: HTTP status, stable code, and what to change."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ChargeBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of a charge; without `capture` the amount is only authorized."""

    amount: int
    currency: str
    token: str
    reference: str
    description: str | None = None
    capture: bool = True
    metadata: dict[str, str] | None = None


class Charge(msgspec.Struct, frozen=True, gc=False):
    """One charge, as it is answered. `amount_refunded` holds pending refunds too."""

    id: str
    status: str
    amount: int
    currency: str
    reference: str
    decline_code: str | None
    livemode: bool
    created: int
    amount_captured: int = 0
    amount_refunded: int = 0
    expires_at: int | None = None
    disputed: bool = False


class Action(msgspec.Struct, frozen=True, gc=False):
    """A capture, void or refund of a charge, as it is answered."""

    id: str
    object: str
    charge: str
    amount: int
    currency: str
    reference: str
    status: str
    failure_code: str | None
    livemode: bool
    created: int


class Note(msgspec.Struct, frozen=True, gc=False):
    """What a merchant wrote on a charge, for itself."""

    description: str | None = None
    metadata: dict[str, str] | None = None


class Made(msgspec.Struct, frozen=True, gc=False):
    """One entry of a list of charges, with what the merchant wrote on it."""

    charge: Charge
    description: str | None
    metadata: dict[str, str] | None


class Done(msgspec.Struct, frozen=True, gc=False):
    """One entry of a list of actions. `final`: nothing can be captured after this capture."""

    action: Action
    final: bool
    metadata: dict[str, str] | None


class Payout(msgspec.Struct, frozen=True, gc=False, tag_field="object", tag="payout"):
    """A payout to a bank account that a token names, as it is answered."""

    id: str
    amount: int
    currency: str
    destination: str
    reference: str
    status: str
    failure_code: str | None
    livemode: bool
    created: int


class Remitted(msgspec.Struct, frozen=True, gc=False):
    """One entry of a list of payouts, with what the merchant wrote on it."""

    payout: Payout
    metadata: dict[str, str] | None


class Item(msgspec.Struct, frozen=True, gc=False):
    """What a session charges when it is paid; `charge` is the id of what was made of it."""

    reference: str
    amount: int
    currency: str
    description: str | None
    capture: bool
    charge: str | None = None
    metadata: dict[str, str] | None = None


class Session(msgspec.Struct, frozen=True, gc=False):
    """A hosted page. `decline_code`: of the last try that was declined. `is_challenged`: 3-D Secure is being asked."""

    id: str
    account: str
    reference: str
    status: str
    url: str
    return_url: str
    expires_at: int
    livemode: bool
    items: tuple[Item, ...]
    decline_code: str | None = None
    is_challenged: bool = False


class SessionCharge(msgspec.Struct, frozen=True, gc=False):
    """One entry of a session, as it is answered."""

    reference: str
    amount: int
    currency: str
    charge: Charge | None


class SessionView(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A session, as it is answered."""

    id: str
    object: str = "session"
    reference: str
    status: str
    url: str
    return_url: str
    expires_at: int
    livemode: bool
    charges: tuple[SessionCharge, ...]


class Funds(msgspec.Struct, frozen=True, gc=False):
    """Money that moved for a dispute: below zero it was taken from the merchant, who also pays the fee above zero."""

    id: str
    amount: int
    fee: int
    currency: str
    created: int


class Dispute(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A cardholder's claim against a charge, as it is answered. `version` counts its changes from 1.

    `evidence`: the references of what the merchant has said. `reference` is the charge's.
    """

    id: str
    object: str = "dispute"
    charge: str
    reference: str
    amount: int
    currency: str
    fee: int
    reason: str
    status: str
    evidence_due: int | None
    livemode: bool
    created: int
    version: int
    evidence: tuple[str, ...] = ()
    movements: tuple[Funds, ...] = ()


class Batch(msgspec.Struct, frozen=True, gc=False):
    """A settlement: movements of one currency and the payout of what they come to. Minor units; net = gross - fee."""

    id: str
    currency: str
    created: int
    lines: int
    gross: int
    fee: int
    net: int


Answer = Charge | Action | SessionView | Dispute | Payout


class Sending(msgspec.Struct, frozen=True, gc=False):
    """How a request came: `key` is None where the PSP will not remember it, `is_error` where it answers a 500."""

    key: str | None
    digest: str
    is_error: bool
    busy_s: float
    metadata: dict[str, str] | None = None


class Keyed(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What entries have that came under an idempotency key. `key` is None where the PSP did not remember it."""

    account: str
    at: float
    key: str | None = None
    digest: str = ""
    is_error: bool = False
    busy_s: float = 0.0


class Booked(Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="charge"):
    """A charge was made. `answer` is what the key replays; `manner` names a token that decides later behaviour."""

    charge: Charge
    answer: Charge
    capture: bool = True
    manner: str | None = None
    note: Note | None = None


class Settled(msgspec.Struct, frozen=True, tag_field="entry", tag="settle"):
    """A pending charge was decided."""

    id: str
    status: str
    decline_code: str | None
    at: float = 0.0
    expires_at: int | None = None


class Acted(Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="action"):
    """A charge was captured, voided or refunded, or that failed. `due_at`: when the action's status changes by itself.

    `is_final`: no capture may follow.
    """

    action: Action
    is_final: bool = False
    due_at: float | None = None
    metadata: dict[str, str] | None = None


class ActionDecided(msgspec.Struct, frozen=True, tag_field="entry", tag="decide"):
    """A refund that was pending was decided, or one that had succeeded came back."""

    id: str
    status: str
    failure_code: str | None
    at: float


class ChargeExpired(msgspec.Struct, frozen=True, tag_field="entry", tag="expire"):
    """An authorization ran out."""

    id: str
    at: float


class DisputeChanged(Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="disputed"):
    """A dispute was opened or has changed: how it is now, what moved with it, and what is told of it."""

    dispute: Dispute
    moved: Funds | None = None
    told: tuple[str, ...] = ()


class SessionOpened(Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="session"):
    """A hosted page was opened."""

    session: Session


class SessionTried(msgspec.Struct, frozen=True, tag_field="entry", tag="try"):
    """A card was declined on a hosted page (`decline_code`), or 3-D Secure was asked for."""

    id: str
    decline_code: str | None
    is_challenged: bool


class SessionEnded(
    Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="session_end"
):
    """A hosted page was paid, cancelled or expired, with what that charged; or was to expire when it had ended."""

    id: str
    status: str
    charges: tuple[Booked, ...] = ()


class PaidOut(Keyed, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="entry", tag="payout"):
    """Money was paid out, or that failed. `due_at`: when the payout's status changes by itself."""

    payout: Payout
    due_at: float | None = None
    metadata: dict[str, str] | None = None


class PayoutDecided(msgspec.Struct, frozen=True, tag_field="entry", tag="payout_decide"):
    """A payout that was pending was decided, or one that was paid came back."""

    id: str
    status: str
    failure_code: str | None
    at: float


class BatchClosed(msgspec.Struct, frozen=True, tag_field="entry", tag="batch"):
    """What a merchant was owed was closed into settlements, and paid out."""

    account: str
    livemode: bool
    at: float


class KeysForgotten(msgspec.Struct, frozen=True, tag_field="entry", tag="forget_keys"):
    """All idempotency keys were forgotten."""


class Reset(msgspec.Struct, frozen=True, tag_field="entry", tag="reset"):
    """Everything was forgotten."""


PayoutEntry = PaidOut | PayoutDecided
SessionEntry = SessionOpened | SessionTried | SessionEnded
Entry = (
    Booked
    | Settled
    | Acted
    | ActionDecided
    | ChargeExpired
    | DisputeChanged
    | SessionOpened
    | SessionTried
    | SessionEnded
    | PaidOut
    | PayoutDecided
    | BatchClosed
    | KeysForgotten
    | Reset
)


class Happening(msgspec.Struct, frozen=True, gc=False):
    """Something the PSP tells its merchants; `serial` sets two happenings of one type to one object apart."""

    type: str
    account: str
    at: float
    thing: Answer
    serial: int


class RememberedKey(msgspec.Struct, frozen=True, gc=False):
    """What an idempotency key replays; until `busy_until` its first request counts as still running."""

    digest: str
    created_at: float
    busy_until: float
    answer: Answer
    is_error: bool


class Merchant:
    """One merchant account in one mode, as its API key names it; what it owns, by reference."""

    __slots__ = ("account", "actions", "by_reference", "is_live", "keys", "payouts", "sessions")

    def __init__(self, account: str, *, is_live: bool) -> None:
        self.account = account
        self.is_live = is_live
        self.keys: dict[str, RememberedKey] = {}
        self.by_reference: dict[str, tuple[int, ...]] = {}
        self.actions: dict[str, tuple[int, ...]] = {}
        self.sessions: dict[str, tuple[int, ...]] = {}
        self.payouts: dict[str, tuple[int, ...]] = {}


def add_position(positions: dict[str, tuple[int, ...]], reference: str, position: int) -> None:
    """Note one more position under a reference."""
    known = positions.get(reference)
    positions[reference] = (position,) if known is None else (*known, position)


def newest_first(
    positions: Mapping[str, tuple[int, ...]], reference: str, made_at: list[float], visible_at: float
) -> list[int]:
    """List the positions of a reference, leaving out what was made after `visible_at`."""
    return [position for position in reversed(positions.get(reference, ())) if made_at[position] <= visible_at]


def positions_since(made_at: list[float], since: float, after: int) -> range:
    """List the places of what was made at or after a time; what is made is put behind what was made before."""
    return range(max(bisect_left(made_at, since), after), len(made_at))


def in_todays_words(entry: Entry) -> Entry:
    """Read a charge of an earlier version, which did not say what was captured: it was all of it."""
    if not isinstance(entry, Booked) or entry.charge.status != SUCCEEDED or entry.charge.amount_captured:
        return entry
    captured = entry.charge.amount
    return msgspec.structs.replace(
        entry,
        charge=msgspec.structs.replace(entry.charge, amount_captured=captured),
        answer=msgspec.structs.replace(entry.answer, amount_captured=captured),
    )
