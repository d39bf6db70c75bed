"""Payouts of the simulated PSP: money from a merchant to a bank account that a token names, and what comes back.

What a destination does is its token's business, like a card's; docs/simulator.md has the list.
"""

import re
from collections import Counter
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from coatcheck.simulator.records import (
    FAILED,
    PAID,
    PENDING,
    RETURNED,
    Merchant,
    PaidOut,
    Payout,
    PayoutDecided,
    PayoutEntry,
    Refusal,
    Remitted,
    Sending,
    add_position,
    newest_first,
    positions_since,
)

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank


class Destination(StrEnum):
    """What becomes of money that is sent there."""

    OK = "dest_ok"
    PENDING = "dest_pending"
    CLOSED = "dest_closed"
    RETURNS = "dest_returns"
    WRONG_AMOUNT = "dest_wrong_amount"


_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KNOWN = {each.value: each for each in Destination}


class PayoutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a payout."""

    amount: int
    currency: str
    destination: str
    reference: str
    metadata: dict[str, str] | None = None


def destination_of(token: str) -> Destination:
    """Read what a destination does; what follows the first dot only names the bank account. Raises Refusal."""
    name, dot, account = token.partition(".")
    known = _KNOWN.get(name)
    if known is None or (dot and _ACCOUNT.fullmatch(account) is None):
        raise Refusal(400, "invalid_destination", "This destination is not known.")
    return known


class Payouts:
    """The payouts of a bank, its books of them, and what the time does to them."""

    def __init__(self, bank: "Bank") -> None:
        self._bank = bank
        self._payouts: list[Payout] = []
        self._made_at: list[float] = []
        self._position_of: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._notes: dict[str, dict[str, str]] = {}  # what merchants wrote, by the payout's id
        self._live: Counter[str] = Counter()  # payouts that paid or may still pay, by reference
        self._paid_twice: dict[str, None] = {}

    def pay(
        self,
        merchant: Merchant,
        body: PayoutBody,
        sending: Sending,
        *,
        declines: bool,
        settle_s: float,
        return_s: float,
    ) -> Payout:
        """Pay out now and return what is answered. `settle_s`, `return_s`: when a token's doing comes, 0 never."""
        bank, kind, now = self._bank, destination_of(body.destination), self._bank.now()
        status, code, due_s = PAID, None, 0.0
        if kind is Destination.CLOSED or declines:
            status, code = FAILED, "account_closed" if kind is Destination.CLOSED else "payout_declined"
        elif kind is Destination.PENDING:
            status, due_s = PENDING, settle_s
        elif kind is Destination.RETURNS:
            due_s = return_s
        payout = Payout(
            bank.new_id("po"),
            body.amount,
            body.currency,
            body.destination,
            body.reference,
            status,
            code,
            merchant.is_live,
            int(now),
        )
        entry = PaidOut(
            account=merchant.account,
            at=now,
            key=sending.key,
            digest=sending.digest,
            is_error=sending.is_error,
            busy_s=sending.busy_s,
            payout=payout,
            due_at=now + due_s if due_s else None,
            metadata=body.metadata,
        )
        bank.enter(entry)
        if kind is Destination.WRONG_AMOUNT:  # a lie; the books keep the truth
            return msgspec.structs.replace(payout, amount=payout.amount + 1)
        return payout

    def settle(self, payout_id: str, status: str) -> Payout:
        """Decide a pending payout: paid or failed. Raises Refusal."""
        now, payout = self._bank.now(), self.get(payout_id)
        if payout.status != PENDING:
            raise Refusal(409, "not_pending", f"The payout is already {payout.status}.")
        self._bank.enter(PayoutDecided(payout_id, status, "account_closed" if status == FAILED else None, now))
        return self.get(payout_id)

    def send_back(self, payout_id: str) -> Payout:
        """Let a payout that was paid come back from the seller's bank. Raises Refusal."""
        now, payout = self._bank.now(), self.get(payout_id)
        if payout.status != PAID:
            raise Refusal(409, "payout_not_paid", f"The payout is {payout.status}.")
        self._bank.enter(PayoutDecided(payout_id, RETURNED, "bank_returned", now))
        return self.get(payout_id)

    def run_out(self, payout_id: str, status: str, at: float) -> None:
        """Let the time decide: what was pending is paid, what was paid comes back."""
        position = self._position_of.get(payout_id)
        if position is None or self._payouts[position].status != status:
            return
        if status == PENDING:
            self._bank.enter(PayoutDecided(payout_id, PAID, None, at))
        else:
            self._bank.enter(PayoutDecided(payout_id, RETURNED, "bank_returned", at))

    def get(self, payout_id: str) -> Payout:
        """Find any merchant's payout. Raises Refusal."""
        position = self._position_of.get(payout_id)
        if position is None:
            raise Refusal(404, "not_found", f"There is no payout {payout_id}.")
        return self._payouts[position]

    def find(self, merchant: Merchant, payout_id: str) -> Payout | None:
        """Find a merchant's payout by its id; it is visible at once."""
        self._bank.now()
        position = self._position_of.get(payout_id)
        return self._payouts[position] if position is not None and self._is_of(position, merchant) else None

    def _is_of(self, position: int, merchant: Merchant) -> bool:
        return position in merchant.payouts.get(self._payouts[position].reference, ())

    def made_since(self, merchant: Merchant, since: float, after: int, limit: int) -> tuple[list[Remitted], int | None]:
        """List a merchant's payouts made at or after a time, oldest first, from a place; the next page's place."""
        self._bank.now()
        positions = positions_since(self._made_at, since, after)
        mine = list(islice((each for each in positions if self._is_of(each, merchant)), limit + 1))
        return [self._remitted(self._payouts[each]) for each in mine[:limit]], mine[limit] if len(
            mine
        ) > limit else None

    def made(self, merchant: Merchant, payout_id: str) -> Remitted | None:
        """Find a merchant's payout with what the merchant wrote on it."""
        payout = self.find(merchant, payout_id)
        return None if payout is None else self._remitted(payout)

    def _remitted(self, payout: Payout) -> Remitted:
        return Remitted(payout, self._notes.get(payout.id))

    def search(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[Payout]:
        """List a merchant's payouts with a reference, newest first, leaving out those younger than the lag."""
        visible_at = self._bank.now() - lag_s
        positions = newest_first(merchant.payouts, reference, self._made_at, visible_at)
        return [self._payouts[position] for position in positions]

    def page(self, start: int, limit: int) -> list[Payout]:
        """List payouts of all merchants, oldest first, from a position."""
        self._bank.now()
        return self._payouts[start : start + limit]

    @property
    def count(self) -> int:
        """How many payouts there are, of any status."""
        return len(self._payouts)

    def report(self) -> dict[str, object]:
        """Sum up what sellers really have, and name every reference under which they were paid twice."""
        paid: Counter[str] = Counter()
        for payout in self._payouts:
            if payout.status == PAID:
                paid[payout.currency] += payout.amount
        return {"paid_out": dict(sorted(paid.items())), "paid_out_twice": list(self._paid_twice)}

    # changes

    def apply(self, entry: PayoutEntry) -> None:
        """Let a change take effect: a new one, or one read back from the journal."""
        if isinstance(entry, PaidOut):
            self._apply_paid(entry)
        else:
            self._apply_decided(entry)

    def _apply_paid(self, entry: PaidOut) -> None:
        bank, payout = self._bank, entry.payout
        merchant = bank.merchant(entry.account, is_live=payout.livemode)
        position = len(self._payouts)
        self._payouts.append(payout)
        self._made_at.append(entry.at)
        self._position_of[payout.id] = position
        self._owners[payout.id] = entry.account
        if entry.metadata is not None:
            self._notes[payout.id] = entry.metadata
        add_position(merchant.payouts, payout.reference, position)
        bank.number()
        bank.remember(merchant, entry, payout)
        if entry.due_at is not None:
            bank.set_due(entry.due_at, payout.id, payout.status)
        if payout.status != FAILED:
            self._live[payout.reference] += 1
            if self._live[payout.reference] > 1:
                self._paid_twice[payout.reference] = None
        bank.announce(f"payout.{payout.status}", entry.account, entry.at, payout)

    def _apply_decided(self, entry: PayoutDecided) -> None:
        position = self._position_of[entry.id]
        before = self._payouts[position]
        decided = msgspec.structs.replace(before, status=entry.status, failure_code=entry.failure_code)
        self._payouts[position] = decided
        if entry.status in (FAILED, RETURNED):
            self._live[decided.reference] -= 1
        self._bank.announce(f"payout.{entry.status}", self._owners[entry.id], entry.at, decided)
