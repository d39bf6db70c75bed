from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from coatcheck.money import EXPONENTS, MAX_AMOUNT_MINOR, AmountError, format_amount, parse_amount, parse_share

currencies = st.sampled_from(sorted(EXPONENTS))
minors = st.one_of(st.integers(1, MAX_AMOUNT_MINOR), st.integers(1, 2000), st.just(MAX_AMOUNT_MINOR))


@given(minors, currencies)
def test_what_is_written_reads_back_as_itself(minor: int, currency: str) -> None:
    assert parse_amount(format_amount(minor, currency), currency) == minor


@given(st.integers(-(10**15), 10**15), currencies)
def test_E2_written_amounts_are_the_minor_units_shifted_by_the_exponent(minor: int, currency: str) -> None:
    text = format_amount(minor, currency)
    assert Decimal(text) == Decimal(minor).scaleb(-EXPONENTS[currency])
    assert len(text.partition(".")[2]) == EXPONENTS[currency]


@given(st.one_of(st.text(), st.from_regex(r"[0-9+\-., eE]{1,18}", fullmatch=True)), currencies)
def test_whatever_is_accepted_is_exactly_the_decimal_it_says(text: str, currency: str) -> None:
    try:
        minor = parse_share(text, currency)
    except AmountError:
        return
    assert 0 <= minor <= MAX_AMOUNT_MINOR
    assert Decimal(text).scaleb(EXPONENTS[currency]) == minor
