"""What a settlement file or a bank statement says, in our words: lines and control totals. No input or output."""

from collections.abc import Iterator
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol

import msgspec


class LineKind(StrEnum):
    """What a line of a settlement file is about. Signs are those of the PSP's balance with us: + is for us."""

    CHARGE = "charge"  # a charge, or a capture of an authorization
    REFUND = "refund"
    REFUND_RETURNED = "refund_returned"
    SELLER_PAYOUT = "seller_payout"  # to a seller, out of the PSP's balance with us
    SELLER_PAYOUT_RETURNED = "seller_payout_returned"
    CHARGEBACK = "chargeback"
    CHARGEBACK_REVERSED = "chargeback_reversed"
    FEE = "fee"  # of its own, not of an operation
    CONVERSION = "conversion"  # one side of it: money of this currency was taken, or given for that of another
    ADJUSTMENT = "adjustment"  # anything else that moves the balance
    PAYOUT = "payout"  # the batch's sum, on its way to the platform's bank account


class SettlementLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of a PSP's settlement file. Amounts in minor units of `currency`, that of the PSP's balance.

    `line_no` counts the file's lines from 1, headers too. `batch`: the PSP's name for the payout that the line belongs
    to. `reference`: ours, as the PSP gives it back (the operation's). `provider_reference`: the PSP's id of the thing
    itself, `charge_reference`: of the charge it is about. `net_minor` = `gross_minor` - `fee_minor`, always.
    `asked_minor`, `asked_currency`: what the buyer was charged, where the PSP has converted it.
    """

    line_no: int
    kind: LineKind
    batch: str
    reference: str | None
    provider_reference: str | None
    charge_reference: str | None
    occurred_at: datetime
    currency: str
    gross_minor: int
    fee_minor: int
    net_minor: int
    asked_minor: int | None = None
    asked_currency: str | None = None
    description: str | None = None


class BankLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One booked entry of a bank statement. `amount_minor` > 0 came in, < 0 went out.

    `statement`: the bank's name for the statement; `opening_minor`: its opening balance in `currency`, where it is
    stated before the entries: banks give several statements of a day one name, and each opens where another closed.
    `references`: every text that may name a payout (end-to-end id, remittance lines, the bank's own reference), as it
    stands there.
    """

    line_no: int
    statement: str
    account: str
    booked_on: date
    currency: str
    amount_minor: int
    bank_reference: str | None
    references: tuple[str, ...]
    opening_minor: int | None = None


class ControlTotal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A total that a file states of itself, and what its lines add up to: a difference is a break.

    `what` says which, in words ("net of payout po_1", "closing balance", "rows of section 2"). Minor units of
    `currency`, or a plain count where that is None.
    """

    what: str
    batch: str | None
    currency: str | None
    stated: int
    counted: int

    @property
    def holds(self) -> bool:
        """Whether the file agrees with itself."""
        return self.stated == self.counted


class FileRefusedError(Exception):
    """The file cannot be read as a whole, so nothing of it is taken. Says which line, what is wrong, what to do."""

    def __init__(self, problem: str, line_no: int | None = None) -> None:
        super().__init__(problem if line_no is None else f"line {line_no}: {problem}")
        self.line_no = line_no
        self.problem = problem


Item = SettlementLine | BankLine | ControlTotal


class Format(Protocol):
    """One file format."""

    @property
    def name(self) -> str:
        """What people call the format."""
        ...

    @property
    def provider(self) -> str | None:
        """Whose settlement it is; None for a bank's statement."""
        ...

    def recognises(self, head: str) -> bool:
        """Say whether a file that begins like this (some thousand characters, decoded, no BOM) is of this format."""
        ...

    def read(self, chunks: Iterator[str]) -> Iterator[Item]:
        """Read the file's text as it comes, yielding lines and control totals in the file's order.

        Holds no more in memory than a line and what control totals need. Raises FileRefusedError for anything that is
        not exactly as the format says: nothing is skipped and nothing is guessed.
        """
        ...
