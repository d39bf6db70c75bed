"""The ledger for hledger: `hledger check` adds every transfer up again and compares each account with our balance."""

from collections.abc import AsyncIterator
from datetime import date

from coatcheck.money import format_amount, readable_exponent_of
from coatcheck.reporting.exports.book import Book, BookAccount, Movement, Side
from coatcheck.reporting.exports.names import EQUITY, plain_name


async def write_hledger(book: Book) -> AsyncIterator[str]:
    """Write a book as an hledger journal. A debit is above zero."""
    first, last = await book.days()
    scope = book.scope
    yield f"; The {scope.mode} ledger of the shop {scope.shop_name}, as of {book.as_of.isoformat()}.\n"
    yield "; Holds are not in it. Each transfer is a transaction; the balances at the end are the books' own.\n"
    yield "decimal-mark .\n"
    for currency in await book.currencies():
        yield f"commodity {_sample_of(currency)} {currency}\n"
    yield f"account {EQUITY}\n"
    known = ""
    async for account in book.accounts():
        name = _name_of(account)
        if name != known:
            yield f"account {name}  ; {account.name}\n"
        known = name
    if scope.since is not None:
        async for account in book.accounts():
            yield _opening(account, first)
    async for movement in book.movements():
        yield _transaction(movement)
    async for account in book.accounts():
        yield _assertion(account, last)


def _sample_of(currency: str) -> str:
    """Write a number with all the decimals of the currency; without decimals it still ends in the point."""
    decimals = readable_exponent_of(currency)
    return "1000." + "0" * decimals


def _name_of(account: BookAccount | Side) -> str:
    return plain_name(account.name, account.kind, account.normal_side)


def _opening(account: BookAccount, first: date) -> str:
    if account.opening_minor == 0:
        return ""
    there, here = (format_amount(sign * account.opening_minor, account.currency) for sign in (-1, 1))
    return (
        f"\n{first} * opening balance\n"
        f"    {_name_of(account)}  {here} {account.currency}\n"
        f"    {EQUITY}  {there} {account.currency}\n"
    )


def _transaction(movement: Movement) -> str:
    amount = format_amount(movement.amount_minor, movement.currency)
    return (
        f"\n{movement.at.date()} * {movement.kind}  ; transfer_id:{movement.transfer_id}, "
        f"subject_id:{movement.subject_id}, at:{movement.at.isoformat()}\n"
        f"    {_name_of(movement.debit)}  {amount} {movement.currency}\n"
        f"    {_name_of(movement.credit)}  -{amount} {movement.currency}\n"
    )


def _assertion(account: BookAccount, last: date) -> str:
    zero, balance = (format_amount(minor, account.currency) for minor in (0, account.closing_minor))
    return (
        f"\n{last} * closing balance\n"
        f"    {_name_of(account)}  {zero} {account.currency} = {balance} {account.currency}\n"
    )
