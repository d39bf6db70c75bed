import base64
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.pan import contains_card_number, contains_card_number_in, redact_card_numbers

RANGES = [("4", 13), ("4", 16), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15)]
RANGES += [("36", 14), ("3528", 16), ("3589", 19), ("6011", 16), ("65", 16), ("62", 19), ("50", 13), ("2204", 16)]


def check_digit(payload: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(payload)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    prefix, length = draw(st.sampled_from(RANGES))
    body = prefix + draw(st.text("0123456789", min_size=length - len(prefix) - 1, max_size=length - len(prefix) - 1))
    return body + check_digit(body)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A card number in groups of at least two digits, one separator between them; never as a decimal number."""
    number, separator = draw(card_numbers()), draw(st.sampled_from(["", " ", "-"]))
    size = draw(st.integers(2, 6))
    return separator.join(number[at : at + size] for at in range(0, len(number), size))


@given(written(), st.text(" ,:;xyz\n\t_/", max_size=6), st.text(",:;xyz\n\t_/", min_size=1, max_size=6))
def test_a_card_number_is_found_and_removed_wherever_it_stands(number: str, before: str, after: str) -> None:
    text = before + number + after
    assert contains_card_number(text)
    assert contains_card_number_in(text.encode())
    assert not contains_card_number(redact_card_numbers(text))


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: quote(text).encode(),
        lambda text: "".join(f"%{byte:02X}" for byte in text.encode()).encode(),
        lambda text: "".join(f"\\u{ord(character):04X}" for character in text).encode(),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.urlsafe_b64encode(b'{"n":"' + text.encode() + b'"}').rstrip(b"="),
    ],
    ids=["url", "url, every byte", "json escapes", "base64", "base64url inside json"],
)
@given(number=written(), shift=st.integers(0, 3))
def test_one_encoding_does_not_hide_it(encode: Callable[[str], bytes], number: str, shift: int) -> None:
    assert contains_card_number_in(b'{"a":"' + encode("~" * shift + number) + b'"}')


@given(st.text())
def test_removing_finds_just_what_refusing_finds(text: str) -> None:
    assert (redact_card_numbers(text) != text) == contains_card_number(text)


@given(st.binary())
def test_any_bytes_can_be_asked_about(raw: bytes) -> None:
    assert contains_card_number_in(raw) in {True, False}


@given(st.uuids())
def test_uuids_always_pass(identifier: object) -> None:
    assert not contains_card_number_in(f'{{"id": "{identifier}", "key": "order_{identifier}"}}'.encode())
