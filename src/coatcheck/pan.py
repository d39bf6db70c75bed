"""The card-number guard: whatever looks like a primary account number (PAN) is refused before it is stored or logged.

A PAN here is 13 to 19 digits, single spaces, hyphens or dots between them allowed, in a range that a card scheme
issues, with a valid check digit (ISO/IEC 7812). One random number in ten passes the check digit, so a shop's own id
of that length and range can be refused by mistake; amounts are bounded to twelve digits so that they never are, and
UUIDs and hexadecimal digests are recognised as what they are.
"""

import re
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate
from urllib.parse import unquote

_REPLACEMENT = "[card number removed]"
_SHORTEST = 13

# Where a card scheme issues numbers: how they begin, and how many digits they have.
_ISSUED = (
    ("4", (13, 16, 19)),  # Visa
    ("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
    ("3[47]", (15,)),  # American Express
    ("30[0-59]|3[689]", range(14, 20)),  # Diners Club
    ("35(?:2[89]|[3-8])", range(16, 20)),  # JCB
    ("50|5[6-8]|6", range(13, 20)),  # Maestro, Discover, UnionPay 62, RuPay 60 and 65
    ("8[12]", range(16, 20)),  # UnionPay 81, RuPay 81 and 82
    ("220[0-4]", range(16, 20)),  # Mir
    ("9792", (16,)),  # Troy
)
_PREFIX = re.compile("|".join(f"({prefixes})" for prefixes, _ in _ISSUED))
# The longest first, so that a number is found whole.
_LENGTHS = ((), *(tuple(sorted(lengths, reverse=True)) for _, lengths in _ISSUED))
_RUN = re.compile(r"[0-9](?:[ .\-]?[0-9]){12,}")
# No scheme's numbers begin with 0, 1 or 7; a time stamp's digits do, and are told apart here at little cost.
_CANDIDATE = re.compile(rb"(?<![0-9])[2-689](?:[ .\-]?[0-9]){12,}")
_GROUP = re.compile("[0-9]+")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+").fullmatch
_TWICE = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # doubled, the digits of the double added up

# A UUID or a hexadecimal digest may hold a long run of digits by chance; it is not a card number.
_IDENTIFIER = re.compile(
    "(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{24,})(?![0-9A-Fa-f])"
)
_LONGEST_IDENTIFIER = 128

# The cheap refusal of the usual body: after deleting separators and writing 0 for every digit, are there thirteen?
_DIGITS_AS_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x78 for byte in range(256))  # noqa: PLR2004
_SEPARATORS = b" -."
_THIRTEEN_DIGITS = b"0" * _SHORTEST

# Base64 writes three bytes as four letters, and the letters that digits and separators can become are few at each of
# the four places. Thirteen such bytes, however they are aligned, hold three whole groups of four.
_B64_GROUPS = re.compile("(?:[ILMNO][CSiyDTjz][AEIMQUYcgk04][gtuw-z0-5]){3}")
_B64_TOKEN = re.compile("[A-Za-z0-9+/_-]+")
_B64_LETTERS = frozenset(b"ILMNOCSiyDTjzAEIMQUYcgk04gtuwxyz012345")
_LIKELY_B64 = bytes(0x62 if byte in _B64_LETTERS else 0x78 for byte in range(256))
_TWELVE_LIKELY = b"b" * 12

_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")


def contains_card_number_in(raw: bytes) -> bool:
    """Whether a request holds a card number: as sent, behind JSON escapes, URL-encoded once or in base64 once.

    Made for the edge: about two microseconds for the usual body, in which nothing comes near.
    """
    if not raw.isascii() or b"\\" in raw:
        raw = _with_plain_digits(_unescape_json(raw.decode("utf-8", "replace"))).encode("ascii", "replace")
    if _has_card_number(raw) or (_TWELVE_LIKELY in raw.translate(_LIKELY_B64) and _in_base64(raw.decode())):
        return True
    if b"%" in raw and contains_card_number(unquote(raw.decode())):
        return True
    return b"+" in raw and _has_card_number(raw.replace(b"+", b" "))


def contains_card_number(text: str) -> bool:
    """Whether a text holds a card number as a person would write it, in whichever decimal digits."""
    return _has_card_number((text if text.isascii() else _with_plain_digits(text)).encode("ascii", "replace"))


def redact_card_numbers(text: str) -> str:
    """Take card numbers out of a text that is about to be logged."""
    kept, last = [], 0
    for start, end in _spans(text if text.isascii() else _with_plain_digits(text)):
        kept += [text[last:start], _REPLACEMENT]
        last = end
    return "".join([*kept, text[last:]]) if last else text


def _has_card_number(plain: bytes) -> bool:
    if _THIRTEEN_DIGITS not in plain.translate(_DIGITS_AS_ZERO, _SEPARATORS) or _CANDIDATE.search(plain) is None:
        return False
    return next(_spans(plain.decode()), None) is not None


def _unescape_json(text: str) -> str:
    if "\\" not in text:
        return text
    units = _JSON_ESCAPE.sub(lambda match: match[2] or chr(int(match[1], 16)), text)
    # Escapes beyond the basic plane come as two surrogates; joined, they may be a digit.
    return units.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _in_base64(text: str) -> bool:
    for token in _B64_TOKEN.findall(text):
        if _B64_GROUPS.search(token) is None:
            continue
        letters = token.replace("+", "-").replace("/", "_")
        # The base64 text may begin anywhere in the token: one of four alignments is the right one.
        if any(contains_card_number(_decode_base64(letters[begin:])) for begin in range(4)):
            return True
    return False


def _decode_base64(letters: str) -> str:
    """Decode what a token stands for; a single letter left over at its end stands for nothing."""
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return urlsafe_b64decode(letters + "=" * (-len(letters) % 4)).decode("utf-8", "replace")


def _spans(plain: str) -> Iterator[tuple[int, int]]:
    """Find where card numbers stand, left to right and never overlapping."""
    for run in _RUN.finditer(plain):
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}
        digits = ""
        for group in _GROUP.finditer(plain, *run.span()):
            starts[len(digits)] = group.start()
            digits += group[0]
            ends[len(digits)] = group.end()
        passed = 0
        for first, last in _card_numbers(digits, starts, ends):
            start, end = starts[first], ends[last]
            # One dot and nothing else between the digits makes a decimal number: a coordinate, a measure.
            if start >= passed and not _DECIMAL(plain, start, end) and not _is_identifier(plain, start, end):
                passed = end
                yield start, end


def _card_numbers(digits: str, starts: Iterable[int], ends: Container[int]) -> Iterator[tuple[int, int]]:
    """Find stretches from one of `starts` to one of `ends` that a scheme issues and whose Luhn sum is right.

    The sums up to each place are taken once, so a hostile megabyte of digits costs no more than reading it; and only
    where a stretch begins as a scheme's numbers do, so the usual order number costs nothing.
    """
    sums: tuple[Sequence[int], Sequence[int]] | None = None
    for first in starts:
        prefix = _PREFIX.match(digits, first)
        if prefix is None:
            continue
        even, odd = sums = sums or _luhn_sums(digits)
        for length in _LENGTHS[prefix.lastindex or 0]:
            last = first + length
            upto = odd if last % 2 == 0 else even
            if last in ends and (upto[last] - upto[first]) % 10 == 0:
                yield first, last


def _luhn_sums(digits: str) -> tuple[Sequence[int], Sequence[int]]:
    """Sum up the digits before each place, every second one doubled (ISO/IEC 7812-1, annex B).

    In the first of the two the digits at even places count once, in the other those at odd places.
    """
    once, twice = [int(digit) for digit in digits], [_TWICE[int(digit)] for digit in digits]
    even, odd = once.copy(), twice.copy()
    even[1::2], odd[1::2] = twice[1::2], once[1::2]
    return list(accumulate(even, initial=0)), list(accumulate(odd, initial=0))


def _is_identifier(plain: str, start: int, end: int) -> bool:
    """Whether the digits stand inside a UUID or a hexadecimal digest."""
    nearby = _IDENTIFIER.finditer(plain, max(0, start - _LONGEST_IDENTIFIER), end + _LONGEST_IDENTIFIER)
    return any(match.start() <= start and end <= match.end() for match in nearby)


def _with_plain_digits(text: str) -> str:
    """Write any script's digits as 0-9 and its spaces and dashes as hyphens, one character for one."""
    for character in set(_NON_ASCII.findall(text)):
        plain = _plain(character)
        if plain != character:
            text = text.replace(character, plain)
    return text


def _plain(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return "-" if unicodedata.category(character) in {"Zs", "Pd", "Cf"} else character
