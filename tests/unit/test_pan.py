import base64
import json
from time import process_time
from uuid import UUID

import pytest

from coatcheck.pan import contains_card_number, contains_card_number_in, redact_card_numbers

VISA = "4242424242424242"
# The schemes' published test numbers, and numbers made for the rest of the ranges.
CARD_NUMBERS = [
    "4242424242424242",
    "4222222222222",
    "4000000000000000006",
    "5555555555554444",
    "2223003122003222",
    "2720992593319364",
    "378282246310005",
    "371449635398431",
    "36227206271667",
    "3056930009020004",
    "6011111111111117",
    "6445644564456445",
    "3566002020360505",
    "6200000000000005",
    "6759649826438453",
    "5018000000000009",
    "8171999927660000",
    "2200000000000004",
    "6521111111111110",
    "9792030000000000",
]


@pytest.mark.parametrize("number", CARD_NUMBERS)
def test_numbers_of_every_scheme_are_found(number: str) -> None:
    assert contains_card_number(number)
    assert contains_card_number_in(json.dumps({"note": number}).encode())


@pytest.mark.parametrize("number", CARD_NUMBERS)
def test_a_wrong_check_digit_is_no_card_number(number: str) -> None:
    assert not contains_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


@pytest.mark.parametrize(
    "text",
    [
        "4242 4242 4242 4242",
        "4242-4242-4242-4242",
        "4242.4242.4242.4242",
        "4242-4242 4242.4242",
        "4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2",
        "3782 822463 10005",
        "card4242424242424242.",
        "2026-10-03 4242424242424242",
        "4242424242424242 12 2031",
        "1234 4242 4242 4242 4242 99",
        "4242\u00a04242\u20094242\u20114242",
        "4242\u200b4242\u200b4242\u200b4242",
        "\uff14\uff12" * 8,
        "\u0664\u0662" * 8,
        "\U0001d7d2\U0001d7d0" * 8,
    ],
)
def test_a_card_number_is_found_as_people_write_it(text: str) -> None:
    assert contains_card_number(text)
    assert contains_card_number_in(json.dumps({"note": text}, ensure_ascii=False).encode())
    assert contains_card_number_in(json.dumps({"note": text}).encode())


@pytest.mark.parametrize(
    "text",
    [
        "424242424242424",  # too short for its range
        "42424242424242424242",  # twenty digits in one piece
        "1767225600000",  # milliseconds
        "1767225600000000",  # microseconds
        "1767225600000000000",  # nanoseconds
        "4242  4242  4242  4242  x",  # more than one separator
        "4242,4242,4242,4242",
        "51.50735091234565",  # a coordinate that passes the check digit
        "999999999999",  # the greatest amount
        "9999999999.99",
        "+49 30 901820",
        "2026-10-03T12:30:45.123456Z",
        "",
    ],
)
def test_what_is_no_card_number_passes(text: str) -> None:
    assert not contains_card_number(text)
    assert not contains_card_number_in(json.dumps({"note": text}).encode())


def test_the_coordinate_would_be_a_card_number_without_its_dot() -> None:
    assert contains_card_number("5150735091234565")


@pytest.mark.parametrize(
    "identifier",
    [
        "a2424242-4242-4242-8242-42424242424a",
        str(UUID("42424242-4242-4242-4242-424242424242")),
        "f00d4242424242424242beef",
        "order-42424242-4242-4242-4242-424242424242",
        "sha256:" + "ab" * 16 + "4242424242424242" + "cd" * 8,
    ],
)
def test_uuids_and_digests_are_not_taken_for_card_numbers(identifier: str) -> None:
    assert not contains_card_number(identifier)
    assert contains_card_number(identifier + " " + VISA)


def test_a_few_letters_before_a_card_number_do_not_hide_it() -> None:
    assert contains_card_number("abc4242424242424242")


def as_escapes(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def as_percents(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def as_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "hidden",
    [
        as_escapes(VISA),
        "4242\\u00204242\\u00204242\\u00204242",
        as_escapes("\uff14\uff12" * 8),
        "\\ud835\\udfd2\\ud835\\udfd0" * 8,
        as_percents(VISA),
        "4242%204242%204242%204242",
        as_percents("\uff14\uff12" * 8),
        "4242+4242+4242+4242",
        as_base64(VISA),
        as_base64(VISA).rstrip("="),
        as_base64("4222222222222"),
        as_base64("x4222222222222"),
        as_base64("xy4222222222222"),
        as_base64("4242 4242 4242 4242"),
        as_base64("3782-822463-10005"),
        as_base64('{"number": "4242.4242.4242.4242"}'),
        base64.urlsafe_b64encode(b"\xff\xfe\xfb " + VISA.encode()).decode(),
        base64.b64encode(b"\xff\xff\xff " + VISA.encode()).decode().replace("/", "\\/"),
        "key-" + as_base64(VISA),
        "t-" + as_base64(VISA),
        "my_token-" + as_base64("4222222222222"),
    ],
)
def test_a_card_number_is_found_behind_one_encoding(hidden: str) -> None:
    assert contains_card_number_in(f'{{"metadata": {{"note": "{hidden}"}}}}'.encode())


def test_a_card_number_is_found_as_a_json_number_and_as_a_name() -> None:
    assert contains_card_number_in(b'{"number": 4242424242424242}')
    assert contains_card_number_in(b'{"4242424242424242": true}')


def test_a_card_number_in_a_body_that_is_not_text_is_found() -> None:
    assert contains_card_number_in(b"\xff\xfe" + VISA.encode() + b"\x00")


def test_an_encoding_without_a_card_number_passes() -> None:
    for text in ("café \\u0041", "100%", "a+b@example.com", as_base64("the order 1234567890 of 2026-10-03"), "C:\\\\x"):
        assert not contains_card_number_in(f'{{"note": "{text}"}}'.encode())


@pytest.mark.parametrize("piece", [b"4 ", b"4-", b"%34+", b"MDAw", b"\\u0034 ", b"4242424242424243 "])
def test_a_large_hostile_body_is_read_in_linear_time(piece: bytes) -> None:
    def cost_of(size: int) -> float:
        body = piece * (size // len(piece))
        started = process_time()
        assert not contains_card_number_in(body)
        return process_time() - started

    # Eight times the body in eight times the time; were it quadratic, 64 times.
    assert min(cost_of(262_144) for _ in range(3)) < 24 * min(cost_of(32_768) for _ in range(3))


def test_a_log_line_loses_its_card_numbers_and_keeps_the_rest() -> None:
    line = f"pay {VISA}, then 3782-822463-10005; order 1234567890123 at 12:00"
    assert redact_card_numbers(line) == (
        "pay [card number removed], then [card number removed]; order 1234567890123 at 12:00"
    )
    assert redact_card_numbers("caf\u00e9 " + "\uff14\uff12" * 8) == "caf\u00e9 [card number removed]"
    assert redact_card_numbers("4242 4242 4242 4242 4242") == "[card number removed] 4242"
    assert redact_card_numbers("nothing to see") == "nothing to see"
