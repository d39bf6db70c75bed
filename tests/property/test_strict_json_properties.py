import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck import strict_json
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.strict_json import MAX_WHOLE_NUMBER, decode_strict

DEPTH = 6
whole = st.integers(-MAX_WHOLE_NUMBER, MAX_WHOLE_NUMBER)
fractions = st.floats(-MAX_WHOLE_NUMBER, MAX_WHOLE_NUMBER)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
documents = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | whole | fractions | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
# Text made of the pieces that decide: far likelier to be nearly JSON than random bytes are.
PIECES = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"',
    "\\",
    "u",
    '"a"',
    '"a":',
    '"b"',
    '""',
    "{}",
    "1",
    "-",
    "0",
    "e400",
    "9999999999999999",
    "NaN",
    "true",
    "null",
    "\\u0000",
    "\\ud800",
    "\\ude00",
    "\\u0061",
    "\ufeff",
    "é",
]
pieces = st.lists(st.sampled_from([*PIECES, " ", "\n", "\0", '"b" :']), max_size=14).map(
    lambda parts: "{" + "".join(parts) + "}"
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def read(raw: bytes) -> dict[str, Any] | None:
    """Read strictly; None for a refusal, which must be the one kind of refusal there is."""
    try:
        return decode_strict(raw, depth=DEPTH)
    except CoatcheckError as refusal:
        if refusal.error is not ErrorCode.MALFORMED_BODY or not refusal.detail:
            raise AssertionError("refused in another way") from refusal
        return None


@given(st.binary() | pieces.map(lambda text: text.encode()))
@example(b'{"a":1,"a":2,"b" :"3"}')
@example(b'{"a":' + b"[" * 100_000)
def test_C16_any_bytes_are_read_or_refused_and_what_is_read_is_what_json_says(raw: bytes) -> None:
    document = read(raw)
    if document is not None:
        assert document == json.loads(raw)
        assert depth_of(document) <= DEPTH
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(documents, st.sampled_from([{"ensure_ascii": False}, {"ensure_ascii": True}, {"indent": 1}]))
def test_what_has_one_meaning_is_read_however_it_is_written(document: dict[str, Any], style: dict[str, Any]) -> None:
    raw = json.dumps(document, **style).encode()
    assert read(raw) == (document if depth_of(document) <= DEPTH else None)


@given(st.binary() | pieces.map(lambda text: text.encode()) | documents.map(lambda value: json.dumps(value).encode()))
def test_the_fast_reading_accepts_only_what_the_slow_one_does(raw: bytes) -> None:
    try:
        slow = strict_json._read_slowly(raw, DEPTH)
    except CoatcheckError:
        slow = None
    assert read(raw) == slow


@given(documents.filter(bool), st.data())
def test_C16_a_name_given_twice_is_never_read(document: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(document)))
    again = json.dumps({name: data.draw(st.none() | texts)}, ensure_ascii=data.draw(st.booleans()))
    raw = json.dumps(document, ensure_ascii=data.draw(st.booleans()))[:-1] + "," + again[1:]
    assert read(raw.encode()) is None
