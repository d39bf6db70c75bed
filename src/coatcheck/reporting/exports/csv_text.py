"""The ledger as CSV: one line for each transfer."""

from collections.abc import AsyncIterator

from coatcheck.money import format_amount
from coatcheck.reporting.exports.book import Book
from coatcheck.reporting.exports.cells import csv_line

_NAMES = ("at", "transfer_id", "kind", "debit_account", "credit_account", "amount", "currency", "subject_id")


async def write_csv(book: Book) -> AsyncIterator[str]:
    """Write the transfers of a book, oldest first."""
    yield csv_line(_NAMES)
    async for each in book.movements():
        yield csv_line(
            (
                *(each.at.isoformat(), str(each.transfer_id), each.kind, each.debit.name, each.credit.name),
                *(format_amount(each.amount_minor, each.currency), each.currency, str(each.subject_id)),
            )
        )
