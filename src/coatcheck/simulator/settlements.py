"""What the simulated PSP owes its merchants and pays out: movements of money, closed into batches, a file for each.

A batch has one currency. Its file is the movements as they happened, the payout that takes the balance away, and a
last line with the totals, by which a cut file is known.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from coatcheck.simulator.currencies import decimal_text
from coatcheck.simulator.records import Batch, Merchant, Refusal

HEADER: Final = "batch,line,type,id,charge,reference,occurred_at,currency,gross,fee,net\n"
_FEE_PER_MILLE, _FEE_FIXED = 15, 10
_CHARGES: Final = frozenset({"charge", "capture"})


class Movement(NamedTuple):
    """Money that moved for a merchant: `amount` in minor units, above zero where it is the merchant's."""

    kind: str
    id: str
    charge: str
    reference: str
    at: float
    currency: str
    amount: int
    own_fee: int = 0  # of a dispute

    @property
    def fee(self) -> int:
        """What the PSP keeps of it."""
        return self.amount * _FEE_PER_MILLE // 1_000 + _FEE_FIXED if self.kind in _CHARGES else self.own_fee


class Settlements:
    """The movements that are not paid out yet, and the batches of those that are."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, bool], list[Movement]] = {}
        self._batches: dict[tuple[str, bool], dict[str, tuple[Batch, list[Movement]]]] = {}

    def move(self, merchant: Merchant, movement: Movement) -> None:
        """Note that money moved."""
        self._open.setdefault((merchant.account, merchant.is_live), []).append(movement)

    def has_open(self, merchant: Merchant) -> bool:
        """Say whether anything is to be paid out, or owed."""
        return bool(self._open.get((merchant.account, merchant.is_live)))

    def close(self, account: str, at: float, *, is_live: bool) -> None:
        """Close what is open into one batch for each currency."""
        world = account, is_live
        moved: dict[str, list[Movement]] = {}
        for movement in self._open.pop(world, []):
            moved.setdefault(movement.currency, []).append(movement)
        batches = self._batches.setdefault(world, {})
        for currency in sorted(moved):
            movements = moved[currency]
            gross, fee = sum(each.amount for each in movements), sum(each.fee for each in movements)
            batch_id = f"st_{len(batches) + 1:06d}"
            batch = Batch(batch_id, currency, int(at), len(movements), gross, fee, gross - fee)
            batches[batch_id] = batch, movements

    def batches(self, merchant: Merchant) -> list[Batch]:
        """List a merchant's batches, oldest first."""
        return [batch for batch, _ in self._batches.get((merchant.account, merchant.is_live), {}).values()]

    def file(self, merchant: Merchant, batch_id: str) -> Iterator[str]:
        """Write a batch's file, line by line. Raises Refusal."""
        found = self._batches.get((merchant.account, merchant.is_live), {}).get(batch_id)
        if found is None:
            raise Refusal(404, "not_found", f"There is no settlement {batch_id}.")
        return _lines(*found)


def _lines(batch: Batch, movements: list[Movement]) -> Iterator[str]:
    yield HEADER
    for number, each in enumerate(movements, start=1):
        about = f"{each.kind},{each.id},{each.charge},{each.reference},{_time_text(each.at)}"
        yield f"{batch.id},{number},{about},{_sums(batch.currency, each.amount, each.fee)}\n"
    payout = f"payout,po_{batch.id.removeprefix('st_')},,,{_time_text(batch.created)}"
    yield f"{batch.id},{len(movements) + 1},{payout},{_sums(batch.currency, -batch.net, 0)}\n"
    yield f"{batch.id},{len(movements) + 1},end,,,,,{_sums(batch.currency, batch.gross, batch.fee)}\n"


def _sums(currency: str, gross: int, fee: int) -> str:
    return ",".join((currency, *[decimal_text(each, currency) for each in (gross, fee, gross - fee)]))


def _time_text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
