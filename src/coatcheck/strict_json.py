"""Read a request body as JSON that means one thing only.

RFC 8259 leaves holes where two readers may see two documents: names given twice, numbers that do not fit, halves of
surrogate pairs, NUL. Whatever is in one of them is refused, with the place and the reason. The usual body is read
and proved at C speed; only when that proof fails is it read slowly, to be accepted after all or to say what is wrong.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from coatcheck.errors import CoatcheckError, ErrorCode, Problem

MAX_WHOLE_NUMBER = 2**53 - 1  # beyond this a reader that uses doubles sees another number

_LONGEST_SURE_DIGITS = 15
_TOO_MANY_DIGITS = b"0" * (_LONGEST_SURE_DIGITS + 1)
_DIGITS_AS_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x78 for byte in range(256))  # noqa: PLR2004
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_LONGEST_NAME_SHOWN = 64


class _Repeated(dict[str, Any]):
    """An object that gave a name twice; it stays in the tree until its place is known."""

    name = ""


class _Refused:
    """A number that cannot be used; it stays in the tree until its place is known."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def decode_strict(raw: bytes, *, depth: int) -> dict[str, Any]:
    """Read a JSON object nested at most `depth` deep. Raises CoatcheckError (malformed_body) with where and what.

    The message may show names out of the body: look for card numbers first.
    """
    if b"\\" not in raw and _TOO_MANY_DIGITS not in raw.translate(_DIGITS_AS_ZERO):
        document = _read_fast(raw)
        if document is not None and is_nested_at_most(raw, depth):
            return document
    return _read_slowly(raw, depth)


def is_nested_at_most(raw: bytes, depth: int) -> bool:
    """Whether objects and lists stand at most `depth` deep; well-formed or not, strings are left out."""
    if raw.count(b"{") + raw.count(b"[") <= depth:
        return True
    level = 0
    for bracket in _BRACKET.findall(_STRING.sub("", raw.decode("utf-8", "replace"))):
        level += 1 if bracket in "[{" else -1
        if level > depth:
            return False
    return True


def names_are_unique(raw: bytes, document: Any) -> bool:
    """Whether a document read from `raw` lost nothing to names given twice; never wrong when it says yes.

    Without a backslash, every quote in the text begins or ends one string. A decoder that keeps the last of two
    equal names drops a string, and writing the document again then takes fewer quotes.
    """
    return b"\\" not in raw and raw.count(b'"') == _encode(document).count(b'"')


def pointer_step(name: str) -> str:
    """Write a name as a step of a JSON pointer (RFC 6901), cut short where it is long.

    Half a surrogate pair, which cannot be sent back, is shown as a question mark.
    """
    readable = name[:_LONGEST_NAME_SHOWN].encode("utf-8", "replace").decode("utf-8")
    return readable.replace("~", "~0").replace("/", "~1")


def _checked_fraction(text: str) -> float:
    number = float(text)
    if not -MAX_WHOLE_NUMBER <= number <= MAX_WHOLE_NUMBER:
        raise ValueError
    return number


_decode = msgspec.json.Decoder(float_hook=_checked_fraction).decode
_encode = msgspec.json.Encoder().encode


def _read_fast(raw: bytes) -> dict[str, Any] | None:
    """Read a body in which a whole number cannot be too large; None when it needs the slow look."""
    try:
        document = _decode(raw)
    except (ValueError, RecursionError):
        return None
    return document if type(document) is dict and names_are_unique(raw, document) else None


def _read_slowly(raw: bytes, depth: int) -> dict[str, Any]:
    text = _text_of(raw)
    if not is_nested_at_most(raw, depth):
        _refuse(f"The body is nested more than {depth} levels deep; send a flatter object.")
    try:
        document = _slow_decoder.decode(text)
    except json.JSONDecodeError as error:
        _refuse(f"The body is not JSON: line {error.lineno}, column {error.colno}: {_in_words(error.msg)}.")
    if not isinstance(document, dict):
        _refuse("The body must be a JSON object: put it in { and }.")
    for problem in _problems_in(document, ""):
        where = problem.pointer or "The body"
        raise CoatcheckError(ErrorCode.MALFORMED_BODY, f"{where}: {problem.detail}", [problem])
    return document


def _text_of(raw: bytes) -> str:
    """Decode a body's bytes, or say which byte is wrong."""
    if not raw.strip(b" \t\r\n"):
        _refuse("The body is empty; send a JSON object.")
    if raw.startswith(b"\xef\xbb\xbf"):
        _refuse("The body begins with a byte order mark; send UTF-8 without it.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"The body is not UTF-8: byte {error.start} (0x{raw[error.start]:02x}) is out of place; send UTF-8.")
    if b"\0" in raw:
        _refuse(f"Byte {raw.index(0)} of the body is NUL; send UTF-8 text without it.")
    return text


def _in_words(message: str) -> str:
    """Reword what the standard library says of a syntax error, which shows nothing of the body."""
    return message[:1].lower() + message[1:].removesuffix(" at").removesuffix(" starting at")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) == len(pairs):
        return document
    repeated = _Repeated(document)
    seen: set[str] = set()
    repeated.name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return repeated


def _whole(text: str) -> int | _Refused:
    # int() itself refuses thousands of digits, so the length is looked at first.
    if len(text) > _LONGEST_SURE_DIGITS + 2 or abs(int(text)) > MAX_WHOLE_NUMBER:
        return _Refused("The number is beyond 2^53-1 and would not be read exactly; send it as a string.")
    return int(text)


def _fraction(text: str) -> float | _Refused:
    try:
        return _checked_fraction(text)
    except ValueError:
        return _Refused("The number is beyond 2^53-1 and would not be read exactly; send it as a string.")


def _constant(text: str) -> _Refused:
    return _Refused(f"{text} is not a JSON number; leave the field out or send null.")


_slow_decoder = json.JSONDecoder(
    object_pairs_hook=_object_of, parse_int=_whole, parse_float=_fraction, parse_constant=_constant
)


def _problems_in(value: Any, pointer: str) -> Iterator[Problem]:
    """Walk the document and yield what may not be in it, in document order."""
    if isinstance(value, dict):
        if isinstance(value, _Repeated):
            detail = f"The name {_shown(value.name)} is given twice in one object; send it once."
            yield Problem(f"{pointer}/{pointer_step(value.name)}", detail)
        for name, member in value.items():
            if reason := _reason_against(name):
                yield Problem(pointer, f"A name {reason}")
            else:
                yield from _problems_in(member, f"{pointer}/{pointer_step(name)}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _problems_in(member, f"{pointer}/{index}")
    elif isinstance(value, _Refused):
        yield Problem(pointer, value.reason)
    elif isinstance(value, str) and (reason := _reason_against(value)):
        yield Problem(pointer, f"The text {reason}")


def _reason_against(text: str) -> str | None:
    if "\0" in text:
        return "contains NUL (\\u0000); leave it out."
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "contains half of a surrogate pair; send whole characters."
    return None


def _shown(name: str) -> str:
    return json.dumps(name[:_LONGEST_NAME_SHOWN])


def _refuse(detail: str) -> NoReturn:
    raise CoatcheckError(ErrorCode.MALFORMED_BODY, detail)
