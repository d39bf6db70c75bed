"""The ledger for beancount: `bean-check` adds every transfer up again and compares each account with our balance."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

from coatcheck.money import format_amount
from coatcheck.reporting.exports.book import Book, BookAccount, Movement, Side
from coatcheck.reporting.exports.names import EQUITY, plain_name


async def write_beancount(book: Book) -> AsyncIterator[str]:
    """Write a book as a beancount file. A debit is above zero.

    Without `~ 0` beancount would let a balance be off by one of its last digit.
    """
    first, last = await book.days()
    scope = book.scope
    yield f"; The {scope.mode} ledger of the shop {scope.shop_name}, as of {book.as_of.isoformat()}.\n"
    yield "; Holds are not in it. Each transfer is a transaction; the balances at the end are the books' own.\n"
    yield f"{first} open {EQUITY}\n"
    async for opening in _openings(book, first):
        yield opening
    if scope.since is not None:
        async for account in book.accounts():
            yield _opening_balance(account, first)
    async for movement in book.movements():
        yield _transaction(movement)
    yield "\n"
    async for account in book.accounts():
        balance = format_amount(account.closing_minor, account.currency)
        yield f"{last + timedelta(days=1)} balance {_name_of(account)}  {balance} ~ 0 {account.currency}\n"


async def _openings(book: Book, first: date) -> AsyncIterator[str]:
    """Open each name once, with all its currencies: they stand together."""
    waiting: list[BookAccount] = []
    async for account in book.accounts():
        if waiting and waiting[0].name != account.name:
            yield _opened(waiting, first)
            waiting = []
        waiting.append(account)
    if waiting:
        yield _opened(waiting, first)


def _opened(accounts: list[BookAccount], first: date) -> str:
    currencies = ",".join(account.currency for account in accounts)
    return f"{first} open {_name_of(accounts[0])}  {currencies}\n  name: {_quoted(accounts[0].name)}\n"


def _name_of(account: BookAccount | Side) -> str:
    return plain_name(account.name, account.kind, account.normal_side)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _opening_balance(account: BookAccount, first: date) -> str:
    if account.opening_minor == 0:
        return ""
    there, here = (format_amount(sign * account.opening_minor, account.currency) for sign in (-1, 1))
    return (
        f'\n{first} * "opening balance"\n'
        f"  {_name_of(account)}  {here} {account.currency}\n"
        f"  {EQUITY}  {there} {account.currency}\n"
    )


def _transaction(movement: Movement) -> str:
    amount = format_amount(movement.amount_minor, movement.currency)
    return (
        f"\n{movement.at.date()} * {_quoted(movement.kind)}\n"
        f'  transfer_id: "{movement.transfer_id}"\n'
        f'  subject_id: "{movement.subject_id}"\n'
        f'  at: "{movement.at.isoformat()}"\n'
        f"  {_name_of(movement.debit)}  {amount} {movement.currency}\n"
        f"  {_name_of(movement.credit)}  -{amount} {movement.currency}\n"
    )
