"""Mistakes planted in a PSP's settlement file: what reconciliation must find, each on its line. Pure.

The file stays whole: its own totals are made to agree again, except where a wrong total is the mistake.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from coatcheck.demo.evening import amount_text, minor_units

_STRANGER: Final = "op_" + "q" * 25 + "a"  # printed like one of ours, and nobody's
_GROSS, _FEE, _NET = 8, 9, 10
_MORE: Final = 100  # minor units that a wrong amount or fee is off by


class Mistake(NamedTuple):
    """One thing that is wrong: the kind of break it must be, and its line in the file, from 1; 0 is the whole file."""

    kind: str
    line: int


class Unpaid(NamedTuple):
    """A charge that the PSP declined, which a file may wrongly pay out."""

    charge_id: str
    reference: str
    amount_minor: int


@dataclass(slots=True)
class _File:
    header: list[str]
    rows: list[list[str]]
    payout: list[str]
    end: list[str]

    @property
    def currency(self) -> str:
        return self.payout[7]

    def charges(self) -> list[list[str]]:
        """List the lines of charges that a mistake may be made of."""
        return [row for row in self.rows if row[2] == "charge"]


def plant(text: str, seed: int, unpaid: Sequence[Unpaid]) -> tuple[str, list[Mistake]]:
    """Plant one mistake of each kind that this file has room for; returns the file and what was planted."""
    file = _read(text)
    dice = random.Random(f"mistakes {seed} {file.currency}")  # noqa: S311 - planted again by the same seed
    spoiled = _mistakes_in(file, dice, unpaid)
    _make_agree(file)
    file.end[_GROSS] = _more(file.end[_GROSS], file.currency, 1)
    file.end[_NET] = _more(file.end[_NET], file.currency, 1)
    lines = [file.header, *file.rows, file.payout, file.end]
    numbers = {id(row): place for place, row in enumerate(lines, 1)}
    planted = [Mistake(kind, numbers[id(row)]) for kind, row in spoiled]
    return "".join([",".join(row) + "\n" for row in lines]), [*planted, Mistake("control_total", 0)]


def _mistakes_in(file: _File, dice: random.Random, unpaid: Sequence[Unpaid]) -> list[tuple[str, list[str]]]:
    """Change and add lines; a line has one mistake at most, so that a short file has fewer."""
    charges = file.charges()
    picked = iter(dice.sample(charges, min(len(charges), 4)))
    changed: list[tuple[str, list[str]]] = []
    added: list[tuple[str, list[str]]] = []
    for row in islice(picked, 1):
        added.append(("missing_here", [*row[:3], "ch_nobody", "ch_nobody", _STRANGER, *row[6:]]))
        added.append(("duplicate_line", list(row)))
        added += [("status", _paid_out(charge, row, file.currency)) for charge in unpaid[:1]]
    for row in islice(picked, 1):
        added.append(("duplicate_charge", [*row[:3], "ch_stranger", "ch_stranger", *row[5:]]))
    for row, kind in zip(picked, ("amount", "fee"), strict=False):
        _add(row, file.currency, **({"gross": _MORE} if kind == "amount" else {"fee": _MORE}))
        changed.append((kind, row))
    file.rows += [row for _, row in added]
    return changed + added


def _paid_out(charge: Unpaid, like: list[str], currency: str) -> list[str]:
    fee = charge.amount_minor * 15 // 1_000 + 10
    amounts = [amount_text(each, currency) for each in (charge.amount_minor, fee, charge.amount_minor - fee)]
    return [*like[:3], charge.charge_id, charge.charge_id, charge.reference, *like[6:8], *amounts]


def _make_agree(file: _File) -> None:
    """Let payout and totals be those of the lines, and number them."""
    for number, row in enumerate([*file.rows, file.payout], 1):
        row[1] = str(number)
    gross, fee = (sum(minor_units(row[place], file.currency) for row in file.rows) for place in (_GROSS, _FEE))
    file.payout[_GROSS:] = [amount_text(each, file.currency) for each in (fee - gross, 0, fee - gross)]
    file.end[1] = str(len(file.rows) + 1)
    file.end[_GROSS:] = [amount_text(each, file.currency) for each in (gross, fee, gross - fee)]


def _add(row: list[str], currency: str, *, gross: int = 0, fee: int = 0) -> None:
    for place, more in ((_GROSS, gross), (_FEE, fee), (_NET, gross - fee)):
        row[place] = _more(row[place], currency, more)


def _more(text: str, currency: str, more: int) -> str:
    return amount_text(minor_units(text, currency) + more, currency)


def _read(text: str) -> _File:
    rows = [line.split(",") for line in text.splitlines()]
    header, *lines, payout, end = rows
    return _File(header, lines, payout, end)


def lines_of(text: str) -> Iterator[tuple[str, str]]:
    """Give type and reference of each line of a file that tells of a movement."""
    for row in _read(text).rows:
        yield row[2], row[5]
