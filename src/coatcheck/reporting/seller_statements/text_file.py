"""A statement as CSV: one line per movement between an opening and a closing one, for each currency.

RFC 4180. A cell of text that a spreadsheet would take for a formula is written behind an apostrophe (hazard H8);
amounts are our own and stay numbers.
"""

import csv
import io

from coatcheck.money import format_amount
from coatcheck.reporting.seller_statements.reading import Balances, Statement

_HEADER = (
    *("seller_account", "currency", "at", "kind", "about", "transfer_id"),
    *("pending", "available", "in_payout", "reserved", "total", "balance"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_of(statement: Statement) -> str:
    """Write a statement. The amounts of a movement are what it changed; `balance` is all there was after it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_HEADER)
    seller = neutral(statement.seller_account)
    for part in statement.currencies:
        currency = part.currency
        opening = ("opening", "", "", *_amounts(part.opening, currency), _total(part.opening, currency))
        closing = ("closing", "", "", *_amounts(part.closing, currency), _total(part.closing, currency))
        writer.writerow((seller, currency, statement.begins_at.isoformat(), *opening))
        for each in part.movements:
            named = (neutral(each.kind), each.about, each.transfer_id)
            amounts = (*_amounts(each.change, currency), _total(each.balance, currency))
            writer.writerow((seller, currency, each.at.isoformat(), *named, *amounts))
        writer.writerow((seller, currency, statement.ends_at.isoformat(), *closing))
    return text.getvalue()


def neutral(text: str) -> str:
    """Write a text so that no spreadsheet runs it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _amounts(balances: Balances, currency: str) -> tuple[str, ...]:
    return (
        format_amount(balances.pending_minor, currency),
        format_amount(balances.available_minor, currency),
        format_amount(balances.in_payout_minor, currency),
        format_amount(balances.reserved_minor, currency),
        _total(balances, currency),
    )


def _total(balances: Balances, currency: str) -> str:
    return format_amount(balances.total_minor, currency)
