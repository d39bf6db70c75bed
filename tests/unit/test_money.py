import ast
from pathlib import Path

import pytest

import coatcheck
from coatcheck.money import (
    EXPONENTS,
    MAX_AMOUNT_MINOR,
    WITHDRAWN,
    AmountError,
    CurrencyError,
    exponent_of,
    format_amount,
    parse_amount,
    parse_share,
)

MONEY_MODULES = [
    *(
        "money.py",
        "validation.py",
        "ledger.py",
        "wallets.py",
        "maturing.py",
        "seller_terms.py",
        "refunds.py",
        "risk/rules.py",
    ),
    *("payments/effects.py", "payments/booking.py", "payments/commits.py", "payments/intake.py", "payments/acts.py"),
]


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("12.34", "EUR", 1234),
        ("12.3", "EUR", 1230),
        ("12", "EUR", 1200),
        ("0.01", "USD", 1),
        ("12", "JPY", 12),
        ("1.005", "KWD", 1005),
        ("1.5", "BHD", 1500),
        ("1.0001", "CLF", 10001),
        ("9999999999.99", "EUR", MAX_AMOUNT_MINOR),
        ("999999999999", "JPY", MAX_AMOUNT_MINOR),
    ],
)
def test_an_amount_is_read_exactly(text: str, currency: str, minor: int) -> None:
    assert parse_amount(text, currency) == minor


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1 ", " 1", "1\n", "+1", "-1", "1e3", "0x1", "1_000", "1,000", "1,5", ".5", "5.", "1.2.3", "NaN"),
        *(
            "Infinity",
            "01",
            "00",
            "00.5",
            "\uff11\uff12",
            "1\uff12",
            "\u0967\u0968",
            "1.2\u0969",
            "1\x00",
            "--1",
            "\xbd",
        ),
    ],
)
def test_text_that_is_not_plainly_an_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        parse_share(text, "EUR")


@pytest.mark.parametrize(
    ("text", "currency", "says"),
    [
        ("1.005", "EUR", "EUR has at most 2 decimals"),
        ("1.0", "JPY", 'JPY has no decimals; write the amount like "12"'),
        ("1.00055", "CLF", "CLF has at most 4 decimals"),
        ("-5", "EUR", "must not be negative"),
        ("05", "EUR", "needless zero"),
        ("1,50", "EUR", 'such as "12.34"'),
        ("0", "EUR", "more than zero, at least 0.01"),
        ("0.000", "KWD", "more than zero, at least 0.001"),
        ("10000000000", "EUR", "at most 9999999999.99"),
        ("1" * 5000, "EUR", "at most 9999999999.99"),
        ("1000000000000", "JPY", "at most 999999999999"),
    ],
)
def test_a_refusal_says_what_to_write(text: str, currency: str, says: str) -> None:
    with pytest.raises(AmountError, match=says.replace(".", r"\.")):
        parse_amount(text, currency)


def test_a_share_may_be_zero() -> None:
    assert parse_share("0", "EUR") == 0
    assert parse_share("0.00", "EUR") == 0
    assert parse_share("0", "JPY") == 0


def test_the_exponents_are_those_of_iso_4217() -> None:
    assert [exponent_of(code) for code in ("EUR", "JPY", "KWD", "CLF", "ISK", "UGX", "CLP", "IDR", "MGA")] == [
        *(2, 0, 3, 4, 0, 0, 0, 2, 2)
    ]
    assert sorted(code for code, exponent in EXPONENTS.items() if exponent == 3) == [
        *("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
    ]
    assert len(EXPONENTS) == 165
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in EXPONENTS)


@pytest.mark.parametrize(
    ("code", "successor"), [("HRK", "EUR"), ("SLL", "SLE"), ("ANG", "XCG"), ("BGN", "EUR"), ("ZWL", "ZWG")]
)
def test_E6_a_withdrawn_currency_is_refused_with_its_successor(code: str, successor: str) -> None:
    with pytest.raises(CurrencyError, match=f"{code} was withdrawn on [0-9-]+; write {successor}"):
        parse_amount("1", code)
    with pytest.raises(CurrencyError, match=f"write {successor}"):
        exponent_of(code)


def test_E6_every_successor_can_be_charged_and_no_withdrawn_code_can() -> None:
    assert {withdrawn.successor for withdrawn in WITHDRAWN.values()} <= EXPONENTS.keys()
    assert not WITHDRAWN.keys() & EXPONENTS.keys()


def test_E6_books_in_a_withdrawn_currency_stay_readable() -> None:
    assert format_amount(1234, "HRK") == "12.34"
    assert format_amount(1234, "BYR") == "1234"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("eur", "write EUR"),
        (" EUR", "write EUR"),
        ("XAU", "no minor unit"),
        ("XXX", "no minor unit"),
        ("ABC", "not an ISO 4217"),
        ("", "not an ISO 4217"),
        ("€", "not an ISO 4217"),
    ],
)
def test_a_currency_that_cannot_be_charged_is_refused_in_words(code: str, says: str) -> None:
    with pytest.raises(CurrencyError, match=says):
        parse_amount("1", code)
    with pytest.raises(CurrencyError, match=says):
        format_amount(1, code)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (1, "EUR", "0.01"),
        (0, "EUR", "0.00"),
        (1200, "EUR", "12.00"),
        (-1, "EUR", "-0.01"),
        (-1234, "KWD", "-1.234"),
        (-7, "JPY", "-7"),
        (0, "KWD", "0.000"),
        (10**15, "EUR", "10000000000000.00"),
    ],
)
def test_an_amount_is_written_with_all_decimals_of_its_currency(minor: int, currency: str, text: str) -> None:
    assert format_amount(minor, currency) == text


@pytest.mark.parametrize("name", MONEY_MODULES)
def test_E1_no_float_touches_money(name: str) -> None:
    assert floats_in((Path(coatcheck.__file__).parent / name).read_text("utf-8")) == []


def floats_in(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(f"line {node.lineno}: the literal {node.value}")
        if isinstance(node, ast.Name) and node.id in {"float", "complex"}:
            found.append(f"line {node.lineno}: {node.id}")
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append(f"line {node.lineno}: a true division")
    return found


@pytest.mark.parametrize("line", ["x = 0.5", "x = float('1')", "x = a / b", "x /= 2", "x: float = y"])
def test_E1_the_check_for_floats_finds_them(line: str) -> None:
    assert floats_in(line)


def test_E1_the_check_for_floats_lets_whole_numbers_pass() -> None:
    assert floats_in("x = a // b + 100 * 2 % 7; y = '0.5'") == []
