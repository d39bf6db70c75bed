"""The state of an installation, rebuilt from its events alone: every order, refund, payout and account. Pure.

It knows what docs/events.md says and shares no code with the gateway. The order of two events does not matter, for
clocks may be wrong: counts are sums, and a status follows from what ever happened.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DECISIONS: Final = frozenset(
    {
        "order.succeeded",
        "order.succeeded_late",
        "order.failed",
        "order.authorized",
        "order.authorized_late",
        "order.captured",
        "order.cancelled",
        "capture.declined",
        "void.declined",
        "refund.succeeded",
        "refund.failed",
        "refund.returned",
        "operation.confirmed",
    }
)
_LATE: Final = frozenset({"order.succeeded_late", "order.authorized_late"})
_BEGINNINGS: Final = frozenset(
    {"payment.accepted", "payment.adopted", "payment.recognised", "payout.requested", "payout.adopted"}
)
_PAYOUT_DECISIONS: Final = frozenset({"payout.paid", "payout.failed", "payout.returned"})
_COUNTS: Final = ("authorized_minor", "captured_minor", "reserved_minor", "refunded_minor", "commission_minor")


@dataclass(slots=True)
class RebuiltOrder:
    """One order, as its events have it; amounts in minor units."""

    amount_minor: int
    first_status: str
    counts: Counter[str] = field(default_factory=Counter)
    statuses: set[str] = field(default_factory=set)
    held_minor: int = 0
    was_pending: bool = False
    is_late: bool = False

    @property
    def status(self) -> str:
        """Where the order stands after all that happened to it."""
        if "SUCCESS" in self.statuses:
            return "SUCCESS"
        if self.held_minor > 0:
            return "AUTHORIZED"
        for ended in ("CANCELLED", "FAILED"):  # a FAILED that is authorized late after all can only be cancelled
            if ended in self.statuses:
                return ended
        return "PENDING" if self.was_pending else self.first_status

    def totals(self) -> tuple[int, ...]:
        """List authorized, captured, reserved for refunds, refunded, commission given back."""
        return tuple(self.counts[name] for name in _COUNTS)


@dataclass(slots=True)
class Rebuilt:
    """All that the events say. Accounts: debits posted, credits posted, debits pending, credits pending."""

    orders: dict[str, RebuiltOrder] = field(default_factory=dict)
    refunds: dict[str, str] = field(default_factory=dict)
    payouts: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))
    orphans: list[str] = field(default_factory=list)
    events: int = 0

    def hear(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take one event; that of a payment or payout before those about it. One about nothing known is an orphan."""
        self.events += 1
        if kind in _BEGINNINGS:
            self._begin(kind, body)
        elif kind.startswith("payout.") or body.get("order_id") in self.payouts:
            self._decide_payout(kind, body)
        elif "order_id" in body and body["order_id"] not in self.orders:
            self.orphans.append(f"{kind} about the order {body['order_id']}")
        elif kind in DECISIONS:
            self._decide(kind, body)
        elif kind == "refund.requested":
            self.refunds.setdefault(body["refund_id"], "PENDING")
            counts = self.orders[body["order_id"]].counts
            counts["reserved_minor"] += body["amount_minor"]
            counts["commission_minor"] += body["commission_minor"]
        elif body.get("order_status") == "PENDING":
            self.orders[body["order_id"]].was_pending = True
        else:  # of a file, a wallet, a dispute, a break: it says what it moved, if anything
            self._move_all(body)

    def _begin(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take what makes orders and payouts. Of a payment that is recognised only its further orders are new."""
        if kind.startswith("payout."):
            self.payouts.setdefault(body["payout_id"], "PENDING")
            self._move_all(body)
            return
        for order in body["orders"]:
            self.orders.setdefault(order["order_id"], RebuiltOrder(order["amount_minor"], order["status"]))

    def _decide_payout(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take what happened to a payout: one that came back was paid before, whichever event is heard first."""
        payout_id = body.get("payout_id") or body["order_id"]
        if payout_id not in self.payouts:
            self.orphans.append(f"{kind} about the payout {payout_id}")
            return
        if kind in _PAYOUT_DECISIONS and self.payouts[payout_id] != "RETURNED":
            self.payouts[payout_id] = body["status"]
        self._move_all(body)

    def _move_all(self, body: Mapping[str, Any]) -> None:
        for transfer in body.get("transfers") or ():
            self._move(transfer)

    def _decide(self, kind: str, body: Mapping[str, Any]) -> None:
        order = self.orders[body["order_id"]]
        order.is_late = order.is_late or kind in _LATE
        if body["status"] is not None:
            order.statuses.add(body["status"])
        if "changes" in body:
            order.counts.update(body["changes"])
        elif body["status"] == "SUCCESS":
            order.counts.update(authorized_minor=order.amount_minor, captured_minor=order.amount_minor)
        refund_id, refund_status = body.get("refund_id"), body.get("refund_status")
        if refund_id is not None and refund_status is not None and self.refunds.get(refund_id) != "FAILED":
            self.refunds[refund_id] = refund_status
        for transfer in body["transfers"]:
            order.held_minor += self._move(transfer)

    def _move(self, transfer: Mapping[str, Any]) -> int:
        """Move one transfer's amount on both accounts; returns by how much it changes what is held."""
        amount: int = transfer["amount_minor"]
        phase = transfer.get("phase", "posted")
        posted = amount if phase in ("posted", "captured") else 0
        pending = {"posted": 0, "held": amount}.get(phase, -amount)
        debit = self.accounts[transfer["debit_account_id"]]
        credit = self.accounts[transfer["credit_account_id"]]
        debit[0] += posted
        credit[1] += posted
        debit[2] += pending
        credit[3] += pending
        return pending
