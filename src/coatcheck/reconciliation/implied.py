"""Payouts that a file tells of without a line: where a batch is a payout, its lines come to what was paid out.

Stripe's own payout reconciliation and most of Checkout.com's breakdowns have no rows of payouts. Without one in the
books nobody would wait for the money at the bank, and the receivable would never return to zero.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

import msgspec

from coatcheck.reconciliation.lines import Format, Item, LineKind, SettlementLine

# By the format's name, which of its batches are payouts. Stripe's report of activity has days for batches.
_ARE_PAYOUTS: Final[Mapping[str, Callable[[str], bool]]] = {
    "stripe_itemized": lambda batch: not batch.startswith("activity "),
    "checkout_settlement_breakdown": lambda _: True,
}
IMPLIED: Final = "the sum of its batch"


class _Batch(msgspec.Struct):
    """What the lines of a batch and currency have come to, and when the last of them was."""

    net_minor: int
    told_at: datetime


def with_implied_payouts(form: Format, items: Iterator[Item]) -> Iterator[Item]:
    """Give a file's items, and after them the payouts that have no line of their own, in the order of their names.

    A file that has a line for one payout has one for each: where it lacks some, its control totals say so.
    """
    is_payout = _ARE_PAYOUTS.get(form.name)
    return items if is_payout is None else _with_payouts(items, is_payout)


def _with_payouts(items: Iterator[Item], is_payout: Callable[[str], bool]) -> Iterator[Item]:
    batches: dict[tuple[str, str], _Batch] = {}
    last_no, are_told = 0, False
    for item in items:
        yield item
        if not isinstance(item, SettlementLine):
            continue
        last_no, are_told = max(last_no, item.line_no), are_told or item.kind is LineKind.PAYOUT
        batch = batches.get((item.batch, item.currency))
        if batch is None:
            batches[item.batch, item.currency] = _Batch(item.net_minor, item.occurred_at)
        else:
            batch.net_minor += item.net_minor
            batch.told_at = max(batch.told_at, item.occurred_at)
    if not are_told:
        due = [(name, batch) for name, batch in sorted(batches.items()) if is_payout(name[0]) and batch.net_minor]
        for line_no, ((name, currency), batch) in enumerate(due, start=last_no + 1):
            yield _payout_of(name, currency, batch, line_no)


def _payout_of(name: str, currency: str, batch: _Batch, line_no: int) -> SettlementLine:
    return SettlementLine(
        line_no=line_no,
        kind=LineKind.PAYOUT,
        batch=name,
        reference=None,
        provider_reference=name,
        charge_reference=None,
        occurred_at=batch.told_at,
        currency=currency,
        gross_minor=-batch.net_minor,
        fee_minor=0,
        net_minor=-batch.net_minor,
        description=IMPLIED,
    )
