"""Amounts: decimal text at the edge, whole minor units everywhere else, and never a float.

The table is ISO 4217's list one: the currencies that have a minor unit. Codes that were withdrawn keep their date and
their successor, so that a refusal can say what to write instead and books that once used one can still be read.
What a provider does differently from ISO is its adapter's business.
"""

import re
from typing import NamedTuple

# Twelve digits: 9,999,999,999.99 in most currencies, and too short to be taken for a card number.
MAX_AMOUNT_MINOR = 999_999_999_999

_DECIMALS_BY_CODE = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW "
        "CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
        "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK "
        "MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP "
        "SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG "
        "YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}


class Withdrawn(NamedTuple):
    """A code that ISO 4217 no longer lists: its decimals, its last date's morrow, and what took its place."""

    exponent: int
    since: str
    successor: str


EXPONENTS = {code: decimals for decimals, codes in _DECIMALS_BY_CODE.items() for code in codes.split()}

WITHDRAWN = {
    "AFA": Withdrawn(2, "2003-01-01", "AFN"),
    "ANG": Withdrawn(2, "2025-07-01", "XCG"),
    "ATS": Withdrawn(2, "2002-03-01", "EUR"),
    "AZM": Withdrawn(2, "2006-01-01", "AZN"),
    "BEF": Withdrawn(0, "2002-03-01", "EUR"),
    "BGN": Withdrawn(2, "2026-01-01", "EUR"),
    "BYR": Withdrawn(0, "2017-01-01", "BYN"),
    "CSD": Withdrawn(2, "2006-10-01", "RSD"),
    "CUC": Withdrawn(2, "2021-07-01", "CUP"),
    "CYP": Withdrawn(2, "2008-01-01", "EUR"),
    "DEM": Withdrawn(2, "2002-03-01", "EUR"),
    "EEK": Withdrawn(2, "2011-01-01", "EUR"),
    "ESP": Withdrawn(0, "2002-03-01", "EUR"),
    "FIM": Withdrawn(2, "2002-03-01", "EUR"),
    "FRF": Withdrawn(2, "2002-03-01", "EUR"),
    "GHC": Withdrawn(2, "2008-01-01", "GHS"),
    "GRD": Withdrawn(0, "2002-03-01", "EUR"),
    "HRK": Withdrawn(2, "2023-01-01", "EUR"),
    "IEP": Withdrawn(2, "2002-03-01", "EUR"),
    "ITL": Withdrawn(0, "2002-03-01", "EUR"),
    "LTL": Withdrawn(2, "2015-01-01", "EUR"),
    "LUF": Withdrawn(0, "2002-03-01", "EUR"),
    "LVL": Withdrawn(2, "2014-01-01", "EUR"),
    "MRO": Withdrawn(2, "2018-01-01", "MRU"),
    "MTL": Withdrawn(2, "2008-01-01", "EUR"),
    "MZM": Withdrawn(2, "2006-07-01", "MZN"),
    "NLG": Withdrawn(2, "2002-03-01", "EUR"),
    "PTE": Withdrawn(0, "2002-03-01", "EUR"),
    "ROL": Withdrawn(0, "2005-07-01", "RON"),
    "RUR": Withdrawn(2, "1998-01-01", "RUB"),
    "SDD": Withdrawn(2, "2007-07-01", "SDG"),
    "SIT": Withdrawn(2, "2007-01-01", "EUR"),
    "SKK": Withdrawn(2, "2009-01-01", "EUR"),
    "SLL": Withdrawn(2, "2024-01-01", "SLE"),
    "SRG": Withdrawn(2, "2004-01-01", "SRD"),
    "STD": Withdrawn(2, "2018-01-01", "STN"),
    "TMM": Withdrawn(2, "2009-01-01", "TMT"),
    "TRL": Withdrawn(0, "2005-01-01", "TRY"),
    "USS": Withdrawn(2, "2014-03-28", "USN"),
    "VEB": Withdrawn(2, "2008-01-01", "VES"),
    "VEF": Withdrawn(2, "2018-08-20", "VES"),
    "ZMK": Withdrawn(2, "2013-01-01", "ZMW"),
    "ZWL": Withdrawn(2, "2024-09-01", "ZWG"),
}

# Listed by ISO 4217 without a minor unit: bullion, units of account, the test code and "no currency".
_WITHOUT_MINOR_UNIT = frozenset(
    {"XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"}
)

_WHOLE = r"(0|[1-9][0-9]{0,12})"
_SHAPES = {0: re.compile(_WHOLE + "()")} | {
    decimals: re.compile(rf"{_WHOLE}(?:\.([0-9]{{1,{decimals}}}))?") for decimals in (2, 3, 4)
}
# What parsing needs per currency, looked up once: how to read the text, and the zeros that fill the decimals up.
_PARSERS = {
    code: (_SHAPES[decimals].fullmatch, tuple("0" * (decimals - given) for given in range(decimals + 1)))
    for code, decimals in EXPONENTS.items()
}
_READABLE_EXPONENTS = EXPONENTS | {code: withdrawn.exponent for code, withdrawn in WITHDRAWN.items()}


class CurrencyError(ValueError):
    """The currency cannot be used; the text says why and what to write instead."""


class AmountError(ValueError):
    """The amount cannot be read exactly; the text says what to write instead."""


def exponent_of(currency: str) -> int:
    """Say how many decimals a currency has. Raises CurrencyError for one that cannot be charged."""
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise CurrencyError(_refusal_of(currency))
    return exponent


def readable_exponent_of(currency: str) -> int:
    """Say how many decimals a currency has or had: for what others wrote. Raises CurrencyError for an unknown code."""
    exponent = _READABLE_EXPONENTS.get(currency)
    if exponent is None:
        raise CurrencyError(_refusal_of(currency))
    return exponent


def parse_amount(text: str, currency: str) -> int:
    """Read a decimal amount above zero into minor units, exactly. Raises CurrencyError, AmountError."""
    minor = parse_share(text, currency)
    if not minor:
        raise AmountError(f"the amount must be more than zero, at least {format_amount(1, currency)}")
    return minor


def parse_share(text: str, currency: str) -> int:
    """Read a decimal amount that may be zero (a commission) into minor units. Raises CurrencyError, AmountError."""
    parser = _PARSERS.get(currency)
    if parser is None:
        raise CurrencyError(_refusal_of(currency))
    read, filling = parser
    match = read(text)
    if match is None:
        raise AmountError(_explain(text, currency))
    whole, fraction = match.groups("")
    minor = int(whole + fraction + filling[len(fraction)])
    if minor > MAX_AMOUNT_MINOR:
        raise AmountError(f"the amount must be at most {format_amount(MAX_AMOUNT_MINOR, currency)}")
    return minor


def format_amount(minor: int, currency: str) -> str:
    """Write minor units as decimal text with all the decimals of the currency; books may hold negative sums.

    Reads withdrawn codes too: what was once booked stays readable. Raises CurrencyError for anything else.
    """
    exponent = readable_exponent_of(currency)
    if exponent == 0:
        return str(minor)
    if minor < 0:
        return "-" + format_amount(-minor, currency)
    digits = str(minor).zfill(exponent + 1)
    return f"{digits[:-exponent]}.{digits[-exponent:]}"


def _refusal_of(currency: str) -> str:
    withdrawn = WITHDRAWN.get(currency)
    if withdrawn is not None:
        return f"{currency} was withdrawn on {withdrawn.since}; write {withdrawn.successor}"
    if currency in _WITHOUT_MINOR_UNIT:
        return f"{currency} has no minor unit and cannot be charged; write the currency of the sale"
    proper = currency.strip().upper()
    if proper in EXPONENTS:
        return f"currency codes are three capital letters; write {proper}"
    return "this is not an ISO 4217 currency code; write three capital letters, such as EUR"


def _explain(text: str, currency: str) -> str:
    """Say what keeps the text from being an amount, and how to write it."""
    exponent = EXPONENTS[currency]
    example = format_amount(12 * 10**exponent + (34 * 10**exponent) // 100, currency)
    if text.startswith("-"):
        return "the amount must not be negative"
    whole, point, fraction = text.partition(".")
    if not (_is_plain_digits(whole) and (_is_plain_digits(fraction) or not point)):
        return f'write the amount with the digits 0-9 and at most one decimal point, such as "{example}"'
    if len(whole) > 1 and whole[0] == "0":
        return f'the amount must not start with a needless zero; write it like "{example}"'
    if exponent == 0 and point:
        return f'{currency} has no decimals; write the amount like "{example}"'
    if len(fraction) > exponent:
        return f'{currency} has at most {exponent} decimals; write the amount like "{example}"'
    return f"the amount must be at most {format_amount(MAX_AMOUNT_MINOR, currency)}"


def _is_plain_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
