"""What the clients asked and what they were told, written down as it happens; and how long each recovery took."""

from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from coatcheck.drill.plan import Checkout, Dispute, Order

FINAL: Final = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
_SHOWN: Final = 20


@dataclass(slots=True)
class Told:
    """What the clients were told of one order, in turn: its final statuses, each different one once."""

    statuses: list[str] = field(default_factory=list)

    def hear(self, status: str) -> None:
        """Keep a final status, unless it is the last one heard."""
        if status in FINAL and (not self.statuses or self.statuses[-1] != status):
            self.statuses.append(status)


@dataclass(slots=True)
class Asked:
    """One checkout and what came of it, as its client knows. `refunds`: the last status told, by refund id.

    `acts`: what was asked for besides the payment, by idempotency key: the path and the body.
    """

    checkout_id: str
    orders: tuple[Order, ...]
    payment_id: str | None = None
    told: dict[str, Told] = field(default_factory=dict)
    refunds: dict[str, str] = field(default_factory=dict)
    acts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    is_answered: bool = False


@dataclass(slots=True)
class AskedPayout:
    """One payout that was asked for, under one key; `told`: the ids that its answers had."""

    seller_account: str
    currency: str
    told: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Flight:
    """A payment on its way: which gateways have its request at this moment, and whose deaths it has lived through."""

    checkout_id: str
    at_gateways: Counter[str] = field(default_factory=Counter)
    recoveries: "list[Recovery]" = field(default_factory=list)


@dataclass(slots=True)
class Recovery:
    """After a kill: when the first payment that was in flight there succeeded, and when each was decided."""

    what: str
    began: float
    waiting: int
    first_s: float | None = None
    last_s: float | None = None
    last: str | None = None
    decided_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """The clients' memory of one installation."""

    asked: dict[str, Asked] = field(default_factory=dict)
    payouts: dict[str, AskedPayout] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    complaints_in_all: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    flights: set[Flight] = field(default_factory=set)

    def ask(self, checkout: Checkout) -> Asked:
        """Write down a new checkout."""
        asked = self.asked[checkout.checkout_id] = Asked(checkout.checkout_id, checkout.orders)
        self.manners[checkout.manner] += 1
        return asked

    def hear(self, asked: Asked, payment: dict[str, Any]) -> None:
        """Write down what an answer says of a payment."""
        if asked.payment_id not in (None, payment["payment_id"]):
            self.complain(f"{asked.checkout_id} was given two payments: {payment['payment_id']}")
        asked.payment_id = payment["payment_id"]
        for order in payment["payment_orders"]:
            asked.told.setdefault(order["payment_order_id"], Told()).hear(order["status"])

    def hear_payout(self, key: str, seller_account: str, currency: str, told: set[str]) -> None:
        """Write down a payout that was asked for, and which ids it was given."""
        payout = self.payouts.setdefault(key, AskedPayout(seller_account, currency))
        payout.told |= told
        if len(payout.told) > 1:
            self.complain(f"{key} was given several payouts: {sorted(payout.told)}")

    def complain(self, what: str) -> None:
        """Keep an answer that no client should get."""
        self.complaints_in_all += 1
        if len(self.complaints) < _SHOWN:
            self.complaints.append(what)

    def killed(self, what: str, gateway: str | None) -> None:
        """Note a kill, with the payments whose request was there; `gateway` None: with every payment in flight."""
        hit = [flight for flight in self.flights if gateway is None or flight.at_gateways[gateway] > 0]
        if hit:
            recovery = Recovery(what, monotonic(), len(hit))
            self.recoveries.append(recovery)
            for flight in hit:
                flight.recoveries.append(recovery)

    def landed(self, flight: Flight, *, has_succeeded: bool) -> None:
        """Note that a payment in flight was answered for good."""
        self.flights.discard(flight)
        for recovery in flight.recoveries:
            took_s = monotonic() - recovery.began
            recovery.waiting -= 1
            recovery.decided_s.append(took_s)
            if has_succeeded and recovery.first_s is None:
                recovery.first_s = took_s
            if recovery.waiting == 0:
                recovery.last_s, recovery.last = took_s, flight.checkout_id
