"""The bank-details guard: what is refused, and which tokens it leaves alone."""

import random
import string

import pytest

from coatcheck.bank_details import bank_details_in


@pytest.mark.parametrize(
    "text",
    [
        "DE89370400440532013000",
        "de89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82-WEST-1234-5698-7654-32",
        "iban:NO9386011117947",
        "tok_MT84MALT011000012345MTLCAST001S",
        "dest_ok.FR1420041010050500013M02606",
        "12345",
        "0532013000",
        "12-34-56 12345678",
        "COBADEFFXXX 0532013000",
        "COBADEFF/370400440532013000",
    ],
)
def test_bank_details_are_seen(text: str) -> None:
    assert bank_details_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "dest_ok",
        "dest_ok.hat-maker-42",
        "acct_1NvdFGQ9RKHgCVdK",
        "ba_1MzPH12eZvKYlo2CiWVX0kgq",
        "DE88370400440532013000",  # one check digit further
        "DE8937040044053201300",  # one too short
        "XX89370400440532013000",
        "1234",
        "",
        "seller-2026",
    ],
)
def test_tokens_are_not(text: str) -> None:
    assert not bank_details_in(text)


def test_random_tokens_of_providers_are_hardly_ever_taken_for_one() -> None:
    dice = random.Random(7)
    letters = string.ascii_letters + string.digits
    tokens = ["acct_" + "".join(dice.choices(letters, k=16)) for _ in range(20_000)]
    assert sum(map(bank_details_in, tokens)) <= 2
