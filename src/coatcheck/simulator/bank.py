"""What the simulated PSP keeps: charges, idempotency keys and the books. In memory, no I/O, time injected.

Idempotency keys belong to a merchant account and live for `key_window_s`. After that a key is really forgotten: the
same key charges again, as at real PSPs.
"""

from collections import Counter
from collections.abc import Callable

import msgspec

SUCCEEDED, DECLINED, PENDING = "succeeded", "declined", "pending"


class Refusal(Exception):  # noqa: N818 - a refusal is an answer of the PSP, not a fault of it
    """A request the PSP turns down: HTTP status, stable code, and what to change."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ChargeBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of a charge; `amount` in minor units of `currency`."""

    amount: int
    currency: str
    token: str
    reference: str
    description: str | None = None


class Charge(msgspec.Struct, frozen=True, gc=False):
    """One charge, as it is answered; `created` in Unix seconds."""

    id: str
    status: str
    amount: int
    currency: str
    reference: str
    decline_code: str | None
    livemode: bool
    created: int


class Booked(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="entry", tag="charge"):
    """A charge was made. `key` is None where the PSP did not remember it; `answer` is what the key replays."""

    account: str
    at: float
    charge: Charge
    key: str | None
    digest: str
    answer: Charge
    is_error: bool
    busy_s: float


class Settled(msgspec.Struct, frozen=True, tag_field="entry", tag="settle"):
    """A pending charge was decided."""

    id: str
    status: str
    decline_code: str | None


class KeysForgotten(msgspec.Struct, frozen=True, tag_field="entry", tag="forget_keys"):
    """All idempotency keys were forgotten."""


class Reset(msgspec.Struct, frozen=True, tag_field="entry", tag="reset"):
    """Everything was forgotten."""


Entry = Booked | Settled | KeysForgotten | Reset


class RememberedKey(msgspec.Struct, frozen=True, gc=False):
    """What an idempotency key replays; until `busy_until` its first request counts as still running."""

    digest: str
    created_at: float
    busy_until: float
    answer: Charge
    is_error: bool


class Merchant:
    """One merchant account in one mode, as its API key names it."""

    __slots__ = ("account", "by_reference", "is_live", "keys")

    def __init__(self, account: str, *, is_live: bool) -> None:
        self.account = account
        self.is_live = is_live
        self.keys: dict[str, RememberedKey] = {}
        self.by_reference: dict[str, tuple[int, ...]] = {}


class Bank:
    """Charges cards, remembers keys and keeps the books. Every change is an Entry, so a journal can rebuild it."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        key_window_s: float,
        series: str = "",
        record: Callable[[Entry], None] | None = None,
    ) -> None:
        self.key_window_s = key_window_s
        self.record = record
        self._clock = clock
        self._series = series
        self._serial = 0
        self._clear()

    def _clear(self) -> None:
        self.faults: Counter[str] = Counter()
        self._merchants: dict[tuple[str, bool], Merchant] = {}
        self._charges: list[Charge] = []
        self._booked_at: list[float] = []
        self._position_of: dict[str, int] = {}
        self._statuses: Counter[str] = Counter()
        self._totals: dict[str, tuple[int, int]] = {}
        self._succeeded: dict[str, int] = {}
        self._charged_twice: dict[str, None] = {}

    def merchant(self, account: str, *, is_live: bool) -> Merchant:
        """Find a merchant account, opening it on first use."""
        found = self._merchants.get((account, is_live))
        if found is None:
            found = self._merchants[account, is_live] = Merchant(account, is_live=is_live)
        return found

    def recall(self, merchant: Merchant, key: str, digest: str) -> RememberedKey | None:
        """Find what a key replays; None when it is new or its window is over. Raises Refusal on misuse of the key."""
        remembered = merchant.keys.get(key)
        if remembered is None:
            return None
        now = self._clock()
        if now - remembered.created_at >= self.key_window_s:
            del merchant.keys[key]
            return None
        if remembered.digest != digest:
            raise Refusal(422, "idempotency_key_reused", "This key was used for a request with another body.")
        if now < remembered.busy_until:
            raise Refusal(409, "idempotency_key_in_use", "The first request with this key is still running.")
        return remembered

    def charge(
        self,
        merchant: Merchant,
        body: ChargeBody,
        *,
        status: str,
        decline_code: str | None,
        key: str | None,
        digest: str,
        is_error: bool,
        busy_s: float,
        answer_as: Callable[[Charge], Charge] | None = None,
    ) -> Charge:
        """Charge a card now and return what is answered: the charge, or what `answer_as` makes of it.

        The key, unless None, replays that answer; `is_error` makes it replay a server error instead.
        """
        now = self._clock()
        self._serial += 1
        charge = Charge(
            f"ch_{self._series}{self._serial:08d}",
            status,
            body.amount,
            body.currency,
            body.reference,
            decline_code,
            merchant.is_live,
            int(now),
        )
        answer = answer_as(charge) if answer_as else charge
        self._enter(
            Booked(
                account=merchant.account,
                at=now,
                charge=charge,
                key=key,
                digest=digest,
                answer=answer,
                is_error=is_error,
                busy_s=busy_s,
            )
        )
        return answer

    def settle(self, charge_id: str, status: str, decline_code: str | None = None) -> Charge:
        """Decide a pending charge. Raises Refusal when it is unknown or already decided."""
        position = self._position_of.get(charge_id)
        if position is None:
            raise Refusal(404, "not_found", f"There is no charge {charge_id}.")
        if self._charges[position].status != PENDING:
            raise Refusal(409, "not_pending", f"The charge is already {self._charges[position].status}.")
        self._enter(Settled(charge_id, status, decline_code))
        return self._charges[position]

    def forget_keys(self) -> int:
        """Forget all idempotency keys at once; returns how many there were."""
        count = sum(len(merchant.keys) for merchant in self._merchants.values())
        self._enter(KeysForgotten())
        return count

    def reset(self) -> None:
        """Forget everything: charges, keys and books."""
        self._enter(Reset())

    def find(self, merchant: Merchant, charge_id: str) -> Charge | None:
        """Find a merchant's charge by its id; it is visible at once."""
        position = self._position_of.get(charge_id)
        if position is None:
            return None
        charge = self._charges[position]
        return charge if position in merchant.by_reference.get(charge.reference, ()) else None

    def search(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[Charge]:
        """List a merchant's charges with a reference, newest first, leaving out those younger than the lag."""
        visible_at = self._clock() - lag_s
        positions = merchant.by_reference.get(reference, ())
        return [self._charges[position] for position in reversed(positions) if self._booked_at[position] <= visible_at]

    def page(self, start: int, limit: int) -> list[Charge]:
        """List charges of all merchants, oldest first, from a position."""
        return self._charges[start : start + limit]

    @property
    def charge_count(self) -> int:
        """How many charges there are, of any status."""
        return len(self._charges)

    def books(self) -> dict[str, object]:
        """Sum up what was really charged: succeeded charges per currency, and every reference charged twice."""
        return {
            "charges": len(self._charges),
            "statuses": dict(self._statuses),
            "totals": {
                currency: {"count": count, "amount": amount}
                for currency, (count, amount) in sorted(self._totals.items())
            },
            "charged_twice": list(self._charged_twice),
            "faults": dict(self.faults),
        }

    def references(self, status: str | None) -> dict[str, tuple[int, int, str]]:
        """Map each reference to [count, amount, currency] of its charges, of one status or of all."""
        found: dict[str, tuple[int, int, str]] = {}
        for charge in self._charges:
            if status is None or charge.status == status:
                count, amount, currency = found.get(charge.reference, (0, 0, charge.currency))
                same = currency if currency == charge.currency else "mixed"
                found[charge.reference] = (count + 1, amount + charge.amount, same)
        return found

    def _enter(self, entry: Entry) -> None:
        if self.record is not None:
            self.record(entry)
        self.apply(entry)

    def apply(self, entry: Entry) -> None:
        """Let a change take effect: a new one, or one read back from the journal."""
        match entry:
            case Booked():
                self._apply_charge(entry)
            case Settled():
                position = self._position_of[entry.id]
                pending = self._charges[position]
                self._statuses[pending.status] -= 1
                decided = msgspec.structs.replace(pending, status=entry.status, decline_code=entry.decline_code)
                self._charges[position] = decided
                self._count(decided)
            case KeysForgotten():
                for merchant in self._merchants.values():
                    merchant.keys.clear()
            case Reset():
                self._clear()

    def _apply_charge(self, entry: Booked) -> None:
        charge = entry.charge
        merchant = self.merchant(entry.account, is_live=charge.livemode)
        position = len(self._charges)
        self._charges.append(charge)
        self._booked_at.append(entry.at)
        self._position_of[charge.id] = position
        merchant.by_reference[charge.reference] = (*merchant.by_reference.get(charge.reference, ()), position)
        self._serial = max(self._serial, position + 1)
        if entry.key is not None:
            merchant.keys[entry.key] = RememberedKey(
                entry.digest, entry.at, entry.at + entry.busy_s, entry.answer, entry.is_error
            )
        self._count(charge)

    def _count(self, charge: Charge) -> None:
        self._statuses[charge.status] += 1
        if charge.status != SUCCEEDED:
            return
        count, amount = self._totals.get(charge.currency, (0, 0))
        self._totals[charge.currency] = (count + 1, amount + charge.amount)
        times = self._succeeded[charge.reference] = self._succeeded.get(charge.reference, 0) + 1
        if times > 1:
            self._charged_twice[charge.reference] = None
