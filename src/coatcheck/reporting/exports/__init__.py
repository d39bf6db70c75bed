"""Exports: the whole ledger of a shop as CSV, as JSON, or for two programs of plain-text accounting that judge it."""

from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum

from coatcheck.reporting.exports.beancount import write_beancount
from coatcheck.reporting.exports.book import Book, Scope, open_book
from coatcheck.reporting.exports.csv_text import write_csv
from coatcheck.reporting.exports.hledger import write_hledger
from coatcheck.reporting.exports.json_text import write_json

__all__ = ["Book", "Format", "Scope", "open_book", "write"]


class Format(StrEnum):
    """What an export is written as."""

    CSV = "csv"
    JSON = "json"
    HLEDGER = "hledger"
    BEANCOUNT = "beancount"


_WRITERS: Mapping[Format, Callable[[Book], AsyncIterator[str]]] = {
    Format.CSV: write_csv,
    Format.JSON: write_json,
    Format.HLEDGER: write_hledger,
    Format.BEANCOUNT: write_beancount,
}


def write(book: Book, form: Format) -> AsyncIterator[str]:
    """Write a book, piece by piece, however long it is."""
    return _WRITERS[form](book)
