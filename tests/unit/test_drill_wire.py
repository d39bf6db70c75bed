"""What the fault proxies read on the wire: messages, statements, commits, and the ends of HTTP requests."""

import random

import pytest

from coatcheck.drill.proxy import DATABASE_FAULTS, Fault, HttpLine
from coatcheck.drill.wire import Answers, Framer, Message, Request, Requests, request_size

STARTUP = (8).to_bytes(4, "big") + (196608).to_bytes(4, "big")
TLS_QUESTION = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
APPLY = b"SELECT place, outcome\n  FROM apply_outcomes($1,\n $2)"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def parse(name: bytes, text: bytes) -> bytes:
    return message(b"P", name + b"\0" + text + b"\0\0\0")


def bind(name: bytes) -> bytes:
    return message(b"B", b"\0" + name + b"\0" + b"\0\0\0\0\0\0")


RUN = message(b"E", b"\0\0\0\0\0") + message(b"S")


def test_messages_are_the_same_however_the_bytes_arrive() -> None:
    stream = STARTUP + parse(b"s1", b"SELECT 1") + bind(b"s1") + RUN
    whole = Framer(begins_untyped=True).feed(stream)
    dice = random.Random(1)
    for _ in range(30):
        framer, found, left = Framer(begins_untyped=True), [], stream
        while left:
            size = dice.randint(1, 9)
            found += framer.feed(left[:size])
            left = left[size:]
        assert found == whole
    assert [each.kind for each in whole] == [b"", b"P", b"B", b"E", b"S"]


def test_a_question_about_tls_comes_before_the_session_and_is_no_startup() -> None:
    kinds = [each.kind for each in Framer(begins_untyped=True).feed(TLS_QUESTION + STARTUP + message(b"Q", b"x\0"))]
    assert kinds == [b"", b"", b"Q"]


def test_an_impossible_length_is_no_message() -> None:
    with pytest.raises(ValueError, match="a message of 3 bytes"):
        Framer(begins_untyped=False).feed(b"Z" + (3).to_bytes(4, "big"))


def test_an_empty_message_is_a_message() -> None:
    assert Framer(begins_untyped=False).feed(message(b"S")) == [Message(b"S", b"")]


def test_a_request_is_known_by_its_prepared_statement_and_complete_with_its_sync() -> None:
    requests = Requests()
    assert requests.feed(STARTUP + parse(b"s1", APPLY) + message(b"H")) is None
    assert requests.feed(bind(b"s1") + message(b"E", b"\0\0\0\0\0")) is None
    assert requests.feed(message(b"S")) == Request(APPLY, is_write=True)


def test_a_sync_without_an_execute_asks_for_nothing() -> None:
    assert Requests().feed(STARTUP + parse(b"s1", APPLY) + message(b"S")) is None


def test_a_simple_query_is_a_request() -> None:
    assert Requests().feed(STARTUP + message(b"Q", b"COMMIT;\0")) == Request(b"COMMIT;", is_write=True)


@pytest.mark.parametrize(
    ("text", "is_write"),
    [
        ("SELECT mark_sending($1, $2, $3, $4)", True),
        ("SELECT * FROM claim_operations($1, $2, $3, $4)", True),
        ("SELECT request_refund($1, $2)", True),
        ("  insert into event values ($1)", True),
        ("SELECT place, outcome FROM accept_payments($1, $2)", True),
        ("SELECT 1", False),
        ("SELECT p.* FROM payment AS p WHERE p.payment_id = ANY ($1)", False),
        ("SELECT o.* FROM unnest($1::uuid[]) AS w (id) JOIN operation AS o ON o.operation_id = w.id", False),
        ("BEGIN;", False),
    ],
)
def test_only_what_changes_something_is_a_write(text: str, is_write: bool) -> None:  # noqa: FBT001
    found = Requests().feed(STARTUP + message(b"Q", text.encode() + b"\0"))
    assert found is not None
    assert found.is_write is is_write


def test_G6_an_answer_is_committed_only_after_ready_outside_a_transaction() -> None:
    answers = Answers()
    answers.begin()
    answers.feed(message(b"2") + message(b"C", b"SELECT 1\0"))
    assert not answers.is_over
    answers.feed(message(b"Z", b"I"))
    assert answers.is_over
    assert answers.is_committed


@pytest.mark.parametrize(
    "answer",
    [
        message(b"E", b"SERROR\0\0") + message(b"Z", b"I"),
        message(b"C", b"SELECT 1\0") + message(b"Z", b"T"),
        message(b"C", b"INSERT 0 1\0") + message(b"E", b"SERROR\0\0") + message(b"Z", b"I"),
    ],
)
def test_G6_an_error_or_an_open_transaction_is_no_commit(answer: bytes) -> None:
    answers = Answers()
    answers.begin()
    answers.feed(answer)
    assert answers.is_over
    assert not answers.is_committed


def test_a_new_request_forgets_the_answer_before() -> None:
    answers = Answers()
    answers.feed(message(b"C", b"SELECT 1\0") + message(b"Z", b"I"))
    answers.begin()
    assert not answers.is_over
    assert not answers.is_committed


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"POST /v1/charges HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET", 57 + 3),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n", None),
        (b"POST / HTTP/1.1\r\ncontent-length:2\r\nX: 1\r\n\r\n", 43 + 2),
        (b"GET / HTTP/1.1\r\n\r\ncontent-length: 9\r\n", 18),
    ],
)
def test_an_http_request_ends_where_its_length_says(data: bytes, size: int | None) -> None:
    assert request_size(data) == size


def line(seed: int = 1) -> HttpLine:
    made = HttpLine("gateway psp", seed, DATABASE_FAULTS, lambda: None, 0.1)
    made.is_calm = False
    return made


def test_a_lines_fates_come_from_its_seed() -> None:
    first, again, other = line(1), line(1), line(2)
    fates = [first.draw() for _ in range(3_000)]
    assert fates == [again.draw() for _ in range(3_000)]
    assert fates != [other.draw() for _ in range(3_000)]
    assert set(fates) == {Fault.NONE, *DATABASE_FAULTS}


def test_a_short_drill_too_has_every_fault_on_every_line() -> None:
    made = line(3)
    assert {made.draw() for _ in range(20 * len(DATABASE_FAULTS) + 20)} == {Fault.NONE, *DATABASE_FAULTS}


def test_a_calm_line_does_nothing_and_an_answer_is_dropped_only_of_a_write() -> None:
    calm, reading = line(), line()
    calm.is_calm = True
    assert {calm.draw() for _ in range(3_000)} == {Fault.NONE}
    assert Fault.ANSWER_DROPPED not in {reading.draw(is_write=False) for _ in range(3_000)}
