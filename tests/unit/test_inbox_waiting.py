"""What a person sees of a stored event: its type where there is one, and never a card number."""

import base64

import pytest

from coatcheck.inbox.waiting import shown, type_of

CARD = "4111111111111111"
WIDE = "".join(chr(0xFF10 + int(digit)) for digit in CARD)  # the same in another script's digits


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b'{"type": "charge.succeeded", "data": 7}', "charge.succeeded"),
        (b'{"eventCode": "REFUND"}', "REFUND"),
        (b'{"type": 7}', None),
        (b'{"type": "x", "data": NaN}', None),
        (b'{"type": ""}', None),
        (b'{"type": "a\\u001b[2J"}', None),
        (b'{"type": "' + b"x" * 201 + b'"}', None),
        (b'{"type": "4111 1111 1111 1111"}', "[card number removed]"),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_C16_a_type_is_told_only_where_it_can_be_read(raw: bytes, word: str | None) -> None:
    assert type_of(raw) == word


@pytest.mark.parametrize(
    "raw",
    [
        f'{{"n": "{CARD}"}}'.encode(),
        b'{"n": "4111-1111-1111-1111"}',
        f'{{"n": "{WIDE}"}}'.encode(),
        b"\xb4" + CARD.encode() + b"\xff",
    ],
    ids=repr,
)
def test_a_card_number_is_taken_out_and_the_rest_stays(raw: bytes) -> None:
    text = shown(raw + b" and the rest")
    assert "[card number removed]" in text
    assert text.endswith(" and the rest")
    assert "1111" not in text
    assert "\uff11" not in text


@pytest.mark.parametrize(
    "raw",
    [
        b'{"n": "' + base64.b64encode(CARD.encode()) + b'"}',
        b'{"n": "\\u0034111111111111111"}',
        b"n=4111%201111%201111%201111",
    ],
    ids=repr,
)
def test_a_body_that_hides_a_card_number_is_not_shown(raw: bytes) -> None:
    text = shown(raw)
    assert text.startswith("[not shown")
    assert "111" not in text


def test_a_usual_body_is_shown_as_it_came() -> None:
    raw = '{"id": "evt_1", "amount": 1000, "created": 1767225600, "name": "Zo\u00eb"}'
    assert shown(raw.encode()) == raw
