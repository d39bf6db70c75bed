"""The ledger as one JSON object: accounts with their balances, then every transfer."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from coatcheck.money import format_amount
from coatcheck.reporting.exports.book import Book, BookAccount, Movement


async def write_json(book: Book) -> AsyncIterator[str]:
    """Write a book as JSON. What is debited is above zero."""
    scope = book.scope
    head = {"shop": scope.shop_name, "mode": scope.mode, "from": scope.since, "to": scope.until, "as_of": book.as_of}
    yield _text_of(head)[:-1]
    yield ',\n"accounts": ['
    before = "\n"
    async for account in book.accounts():
        yield before + _text_of(_account(account))
        before = ",\n"
    yield '],\n"transfers": ['
    before = "\n"
    async for movement in book.movements():
        yield before + _text_of(_transfer(movement))
        before = ",\n"
    yield "]}\n"


def _text_of(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _account(account: BookAccount) -> Mapping[str, Any]:
    return {
        "name": account.name,
        "kind": account.kind,
        "currency": account.currency,
        "opening_balance": format_amount(account.opening_minor, account.currency),
        "closing_balance": format_amount(account.closing_minor, account.currency),
    }


def _transfer(movement: Movement) -> Mapping[str, Any]:
    return {
        "at": movement.at,
        "transfer_id": movement.transfer_id,
        "kind": movement.kind,
        "debit_account": movement.debit.name,
        "credit_account": movement.credit.name,
        "amount": format_amount(movement.amount_minor, movement.currency),
        "currency": movement.currency,
        "subject_id": movement.subject_id,
    }
