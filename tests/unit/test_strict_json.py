import pytest

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.strict_json import MAX_WHOLE_NUMBER, decode_strict, is_nested_at_most, names_are_unique

DEPTH = 8


def refusal_of(raw: bytes, depth: int = DEPTH) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        decode_strict(raw, depth=depth)
    assert caught.value.error is ErrorCode.MALFORMED_BODY
    return caught.value


@pytest.mark.parametrize(
    ("raw", "document"),
    [
        (b"{}", {}),
        (b' \n{"a": [1, -2.5, true, null, {"b": "c"}]}\t ', {"a": [1, -2.5, True, None, {"b": "c"}]}),
        (b'{"a":{"x":1},"b":{"x":1}}', {"a": {"x": 1}, "b": {"x": 1}}),
        (b'{"a":"a","a ":"a"}', {"a": "a", "a ": "a"}),
        (rb'{"\u0061\n":"\ud83d\ude00\/\\"}', {"a\n": "\U0001f600/\\"}),
        ('{"name":"Zoë"}'.encode(), {"name": "Zoë"}),
        (b'{"n":9007199254740991}', {"n": MAX_WHOLE_NUMBER}),
        (b'{"n":-9007199254740991}', {"n": -MAX_WHOLE_NUMBER}),
        (b'{"n":"9007199254740993"}', {"n": "9007199254740993"}),
        (b'{"n":1e2}', {"n": 100.0}),
        (rb'{"text":"\\u0000"}', {"text": "\\u0000"}),
    ],
)
def test_a_body_with_one_meaning_is_read(raw: bytes, document: dict[str, object]) -> None:
    assert decode_strict(raw, depth=DEPTH) == document


@pytest.mark.parametrize(
    ("raw", "pointer", "says"),
    [
        (b'{"a":1,"a":1}', "/a", 'The name "a" is given twice'),
        (b'{"a":{"b":[0,{"c":1, "c" :2}]}}', "/a/b/1/c", "given twice"),
        (rb'{"a":1,"\u0061":2}', "/a", "given twice"),
        (b'{"a":1,"a":2,"b" :"3"}', "/a", "given twice"),
        (b'{"x/y~":1,"x/y~":1}', "/x~1y~0", "given twice"),
        (b'{"":1,"":1}', "/", "given twice"),
        (b'{"a":[NaN]}', "/a/0", "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "/a", "-Infinity is not"),
        (b'{"a":9007199254740992}', "/a", "beyond 2^53-1"),
        (b'{"a":-9007199254740993}', "/a", "beyond 2^53-1"),
        (b'{"a":' + b"9" * 5000 + b"}", "/a", "beyond 2^53-1"),
        (b'{"a":1e400}', "/a", "send it as a string"),
        (b'{"a":[0,-1e400]}', "/a/1", "send it as a string"),
        (b'{"a":1e16}', "/a", "beyond 2^53-1"),
        (rb'{"a":"\u0000"}', "/a", "NUL"),
        (rb'{"a":{"\u0000":1}}', "/a", "A name contains NUL"),
        (rb'{"a":"\ud800"}', "/a", "surrogate"),
        (rb'{"a":"\ude00\ud83d"}', "/a", "surrogate"),
        (rb'{"\udfff":"x"}', "", "A name contains half of a surrogate pair"),
        (rb'{"\ud800":1,"\ud800":1}', "/?", "given twice"),
    ],
)
def test_C16_what_two_readers_may_read_differently_is_refused_with_its_place(
    raw: bytes, pointer: str, says: str
) -> None:
    refusal = refusal_of(raw)
    assert [problem.pointer for problem in refusal.problems] == [pointer]
    assert says in refusal.problems[0].detail
    assert says in refusal.detail


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "The body is empty; send a JSON object."),
        (b" \n", "empty"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"NaN", "must be a JSON object"),
        (b'{"a":1}{"b":2}', "line 1, column 8: extra data"),
        (b'{"a":1}\x00', "Byte 7 of the body is NUL"),
        (b'{"a":"\x00"}', "Byte 6 of the body is NUL"),
        (b'{"a":"\xff"}', "byte 6 (0xff)"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\xc0\x80"}', "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        (b'{\n "a": 1,\n}', "not JSON: line"),
        (b"{'a': 1}", "not JSON: line 1, column 2"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":"x\ny"}', "line 1, column 8: invalid control character"),
        (b'{"a":"', "unterminated string"),
        (rb'{"a":"\x41"}', "not JSON"),
    ],
)
def test_C16_what_is_not_json_is_refused_in_words(raw: bytes, says: str) -> None:
    assert says in refusal_of(raw).detail


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_C17_depth_is_limited(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + opening * (levels - 1) + b"0" + closing * (levels - 1) + b"}"

    assert decode_strict(nested(DEPTH), depth=DEPTH)
    assert "more than 8 levels" in refusal_of(nested(DEPTH + 1)).detail
    assert "more than 8 levels" in refusal_of(opening * 100_000).detail


def test_C17_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    wide = b'{"a":"' + b"[{" * 50 + b'","b":[' + b",".join([b"{}"] * 50) + rb'],"c":"\"[[[[[[[[["}'
    assert decode_strict(wide, depth=3)
    assert not is_nested_at_most(wide, 2)


def test_unique_names_are_never_claimed_wrongly() -> None:
    assert names_are_unique(b'{"a":"b"}', {"a": "b"})
    assert not names_are_unique(b'{"a":"b","a":"b"}', {"a": "b"})
    assert not names_are_unique(rb'{"a":"\"","a":1}', {"a": 1})
    # As many quotes as the document that is left, since each escape is written as a quote again.
    assert not names_are_unique(rb'{"a":"x","a":"\u0022\u0022\u0022\u0022"}', {"a": '""""'})


def test_a_long_name_is_not_repeated_in_full() -> None:
    name = b"n" * 10_000
    assert len(refusal_of(b'{"' + name + b'":1,"' + name + b'":1}').detail) < 300
