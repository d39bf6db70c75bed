import string
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.reporting.read_models import Place

PLACE = Place(datetime(2026, 5, 1, 12, 0, 0, 123457, tzinfo=UTC), UUID("0190163d-8694-739b-aea5-966c26f8ad91"))
LETTERS = string.ascii_letters + string.digits + "-_"


def is_refused(text: str, *list_name: str) -> bool:
    try:
        parse_cursor(text, *list_name)
    except CoatcheckError as refusal:
        return refusal.error is ErrorCode.INVALID_CURSOR
    return False


@pytest.mark.parametrize("at", [datetime(1970, 1, 1, tzinfo=UTC), PLACE.at, datetime(9999, 12, 31, 23, 59, tzinfo=UTC)])
def test_a_cursor_is_read_back_to_the_microsecond(at: datetime) -> None:
    place = Place(at, uuid4())
    assert parse_cursor(print_cursor(place, "payments", "a"), "payments", "a") == place


def test_no_cursor_is_the_start() -> None:
    assert parse_cursor(None, "payments") is None


def test_every_single_changed_letter_is_noticed() -> None:
    cursor = print_cursor(PLACE, "payments", "a")
    for place in range(len(cursor)):
        for letter in LETTERS:
            if letter != cursor[place]:
                assert is_refused(cursor[:place] + letter + cursor[place + 1 :], "payments", "a"), (place, letter)


def test_a_cursor_belongs_to_its_list() -> None:
    cursor = print_cursor(PLACE, "payments", "ab", "c")
    for other in (("payments", "a", "bc"), ("payments", "ab"), ("events", "ab", "c"), ("payments", "ab", "c", "")):
        assert is_refused(cursor, *other)


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 43, "=" * 43, "*" * 43, "\u00e9" * 43, "\0" * 43, "A" * 44, "A" * 5000]
)
def test_anything_else_is_refused(text: str) -> None:
    assert is_refused(text, "payments")


def test_spaces_and_padding_are_not_passed_over() -> None:
    cursor = print_cursor(PLACE, "payments")
    for text in (cursor + "=", " " + cursor, cursor[:10] + " " + cursor[11:], cursor[:20] + "\n" + cursor[20:]):
        assert is_refused(text, "payments")
