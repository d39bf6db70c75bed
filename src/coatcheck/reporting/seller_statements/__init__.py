"""Sellers' statements: a period of a seller's accounts, as JSON, CSV and PDF (pdf_file). A view of the ledger."""

from coatcheck.reporting.seller_statements.reading import (
    MOVEMENTS_MOST,
    PDF_MOVEMENTS_MOST,
    Balances,
    CurrencyStatement,
    Movement,
    Statement,
    TooLongError,
    read_statement,
)
from coatcheck.reporting.seller_statements.text_file import csv_of

__all__ = [
    "MOVEMENTS_MOST",
    "PDF_MOVEMENTS_MOST",
    "Balances",
    "CurrencyStatement",
    "Movement",
    "Statement",
    "TooLongError",
    "csv_of",
    "read_statement",
]
