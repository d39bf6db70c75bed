"""The simulated PSP's books: sums that are kept while charges change, and what must never be."""

from collections import Counter

from coatcheck.simulator.records import AUTHORIZED, FAILED, REFUND, SUCCEEDED, Action, Charge

_LIVE = (SUCCEEDED, AUTHORIZED)


class Tally:
    """Counts charges and actions as they are made and changed."""

    def __init__(self) -> None:
        self._statuses: Counter[str] = Counter()
        self._totals: dict[str, tuple[int, int]] = {}  # of succeeded charges: how many, and what was captured
        self._captured_early: Counter[str] = Counter()  # of charges that are still authorized
        self._refunded: Counter[str] = Counter()
        self._live: dict[str, int] = {}  # charges that took or hold money, by reference
        self._charged_twice: dict[str, None] = {}
        self._charged_back: Counter[str] = Counter()
        self._acts: Counter[tuple[str, str]] = Counter()
        self._done_twice: dict[str, None] = {}
        self._over_captured: dict[str, None] = {}
        self._over_refunded: dict[str, None] = {}

    def add(self, charge: Charge) -> None:
        """Count a new charge."""
        status = charge.status
        self._statuses[status] += 1
        if status == SUCCEEDED:
            count, amount = self._totals.get(charge.currency, (0, 0))
            self._totals[charge.currency] = (count + 1, amount + charge.amount_captured)
        elif status != AUTHORIZED:
            return
        times = self._live[charge.reference] = self._live.get(charge.reference, 0) + 1
        if times > 1:
            self._charged_twice[charge.reference] = None

    def change(self, before: Charge, after: Charge) -> None:
        """Count a charge as what it has become."""
        self._take_out(before)
        self.add(after)
        if after.status == AUTHORIZED:
            self._captured_early[after.currency] += after.amount_captured
        self._refunded[after.currency] += after.amount_refunded - before.amount_refunded
        if after.amount_captured > after.amount:
            self._over_captured[after.reference] = None
        if not 0 <= after.amount_refunded <= after.amount_captured:
            self._over_refunded[after.reference] = None

    def _take_out(self, charge: Charge) -> None:
        self._statuses[charge.status] -= 1
        if charge.status == SUCCEEDED:
            count, amount = self._totals[charge.currency]
            self._totals[charge.currency] = (count - 1, amount - charge.amount_captured)
        elif charge.status == AUTHORIZED:
            self._captured_early[charge.currency] -= charge.amount_captured
        if charge.status in _LIVE:
            self._live[charge.reference] -= 1

    def act(self, action: Action) -> None:
        """Count a new action; one that failed at once did nothing."""
        if action.status == FAILED:
            return
        self._acts[action.object, action.reference] += 1
        if self._acts[action.object, action.reference] > 1:
            self._done_twice[action.reference] = None

    def undo(self, action: Action) -> None:
        """Count no more a refund that came back."""
        self._acts[REFUND, action.reference] -= 1

    def charge_back(self, currency: str, amount: int) -> None:
        """Count what a dispute took, or gave back where it is below zero."""
        self._charged_back[currency] += amount

    def report(self) -> dict[str, object]:
        """Sum up what was really charged, captured and refunded, and name every reference that went wrong."""
        captured = Counter({currency: amount for currency, (_, amount) in self._totals.items()})
        captured.update(self._captured_early)
        return {
            "statuses": {status: count for status, count in self._statuses.items() if count},
            "totals": {
                currency: {"count": count, "amount": amount}
                for currency, (count, amount) in sorted(self._totals.items())
                if count
            },
            "captured": {currency: amount for currency, amount in sorted(captured.items()) if amount},
            "refunded": {currency: amount for currency, amount in sorted(self._refunded.items()) if amount},
            "charged_back": {currency: amount for currency, amount in sorted(self._charged_back.items()) if amount},
            "charged_twice": list(self._charged_twice),
            "done_twice": list(self._done_twice),
            "over_captured": list(self._over_captured),
            "over_refunded": list(self._over_refunded),
        }
