"""Account names for plain-text accounting: safe for hledger and beancount, always the same, and no two alike.

The first words say where an account belongs; the last is what somebody named (a seller, a bank account, a provider).
Nothing stands below it, so no account is the parent of another, and a balance is always one account's own.
"""

import re
from collections.abc import Mapping

from coatcheck.ledger import AccountKind

EQUITY = "Equity:Opening-balances"
_ROOTS = {"debit": "Assets", "credit": "Liabilities"}

# Of each kind: the words, and what of our name stands around the part that was named by somebody.
_NAMED: Mapping[str, tuple[str, str, str]] = {
    AccountKind.PSP_RECEIVABLE: ("Assets:PSP:Receivable", "psp:", ":receivable"),
    AccountKind.PSP_PAYOUTS_IN_TRANSIT: ("Assets:PSP:Payouts-in-transit", "psp:", ":payouts_in_transit"),
    AccountKind.BANK: ("Assets:Bank", "bank:", ""),
    AccountKind.SUSPENSE: ("Assets:Suspense", "suspense:", ""),
    AccountKind.FX: ("Equity:Conversion", "fx:", ""),
    AccountKind.SELLER_PENDING: ("Liabilities:Seller:Pending", "seller:", ":pending"),
    AccountKind.SELLER_AVAILABLE: ("Liabilities:Seller:Available", "seller:", ":available"),
    AccountKind.SELLER_RESERVE: ("Liabilities:Seller:Reserve", "seller:", ":reserve"),
    AccountKind.PAYOUTS_IN_TRANSIT: ("Liabilities:Seller:Payouts-in-transit", "payouts:in_transit:", ""),
}
_FIXED: Mapping[tuple[str, str], str] = {
    (AccountKind.PLATFORM_COMMISSION, "platform:commission"): "Income:Platform:Commission",
    (AccountKind.PLATFORM_PSP_FEES, "platform:psp_fees"): "Expenses:Platform:PSP-fees",
    (AccountKind.PLATFORM_DISPUTE_FEES, "platform:dispute_fees"): "Expenses:Platform:Dispute-fees",
}
_PLAIN = re.compile("[A-Za-z0-9]")


def plain_name(name: str, kind: str, normal_side: str) -> str:
    """Name an account for plain-text accounting."""
    fixed = _FIXED.get((kind, name))
    if fixed is not None:
        return fixed
    words, before, after = _NAMED.get(kind, ("", "", ""))
    middle = name[len(before) : len(name) - len(after)]
    if words and name == before + middle + after:
        return f"{words}:{component(middle)}"
    return f"{_ROOTS[normal_side]}:Other:{component(kind)}:{component(name)}"


def component(text: str) -> str:
    """Write any text as one part of an account's name: a capital or digit first, then letters, digits and dashes.

    A small first letter becomes a capital. A dash before a letter or digit stays; every other sign becomes `--` and the
    hexadecimal number of its bytes. What does not begin with a small letter or a digit has `X-` before it. So no two
    texts become the same.
    """
    if re.match("[a-z]", text):
        return text[0].upper() + _escaped(text[1:])
    if re.match("[0-9]", text):
        return _escaped(text)
    return "X-" + _escaped(text, is_start=True)


def _escaped(text: str, *, is_start: bool = False) -> str:
    written = []
    for place, sign in enumerate(text):
        follower = text[place + 1 : place + 2]
        is_inner_dash = sign == "-" and _PLAIN.match(follower) is not None
        is_kept = _PLAIN.match(sign) is not None or is_inner_dash
        if is_kept and not (is_start and place == 0):
            written.append(sign)
        else:
            written += [f"--{byte:02X}" for byte in sign.encode()]
    return "".join(written)
