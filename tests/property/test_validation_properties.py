import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.strict_json import decode_strict
from coatcheck.validation import PaymentRequest, _checked, _read_document, find_problems, parse_payment_request

LIMIT = 4


def mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 15).flatmap(lambda dice: wrong if dice == 0 else right)


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.just([]), st.just({}), st.just(["a"])
)
ids = mostly(
    st.text("abc-:1", min_size=1, max_size=4),
    anything | st.sampled_from(["", "a b", "x\n", "x" * 128, "x" * 129, "é", "\x7f"]),
)
amounts = mostly(
    st.sampled_from(["1", "1.5", "12.34", "0.001", "0", "999999999999"]),
    anything | st.sampled_from(["-1", "01", "1.", "1e3", "9" * 40]),
)
currencies = mostly(st.sampled_from(["EUR", "JPY", "KWD"]), anything | st.sampled_from(["eur", "HRK", "XAU", "ABCD"]))


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects that mostly have the right fields, and now and then lack one or have one too many."""
    whole = st.fixed_dictionaries(required, optional=optional)
    torn = st.fixed_dictionaries({}, optional={**required, **optional, "amonut": anything})
    return mostly(whole, anything | torn)


orders = objects(
    {"payment_order_id": ids, "seller_account": ids, "amount": amounts, "currency": currencies},
    {"commission": amounts},
)
buyers = objects(
    {"reference": ids},
    {
        "email": mostly(st.just("a@b.c"), anything),
        "name": mostly(st.text(min_size=1, max_size=5), anything | st.just("n" * 201)),
        "country": mostly(st.just("GB"), anything | st.just("gb")),
        "ip": mostly(st.sampled_from(["192.0.2.1", "2001:db8::1"]), anything | st.just("fe80::1%1")),
    },
)
metadata = mostly(st.dictionaries(st.text(max_size=41), st.text(max_size=5), max_size=3), anything)
requests = objects(
    {
        "buyer": buyers,
        "checkout_id": ids,
        "payment_method": objects({"token": ids}, {}),
        "payment_orders": mostly(st.lists(orders, min_size=1, max_size=LIMIT + 1), anything),
    },
    {
        "capture": mostly(st.just("automatic"), anything),
        "on_failure": mostly(st.just("keep"), anything),
        "metadata": metadata,
        "idempotency_key": ids,
    },
)


@settings(max_examples=600)
@given(requests, st.booleans())
def test_the_fast_and_the_thorough_reading_agree(document: Any, escaped: Any) -> None:
    raw = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    answer = answer_to(raw)
    if isinstance(answer, CoatcheckError) and answer.error is not ErrorCode.INVALID_REQUEST:
        assert answer.error in {ErrorCode.MALFORMED_BODY, ErrorCode.CARD_NUMBER_REFUSED}
        return
    read = decode_strict(raw, depth=16)
    found = find_problems(read, LIMIT)
    if isinstance(answer, PaymentRequest):
        assert found == []
        body = _read_document(read)
        assert body is not None
        assert _checked(body, LIMIT, []) == answer
    else:
        assert list(answer.problems) == found
        assert all(problem.pointer.startswith("/") and problem.detail.endswith((".", "?")) for problem in found)


def answer_to(raw: bytes) -> PaymentRequest | CoatcheckError:
    try:
        return parse_payment_request(raw, body_depth=16, orders_limit=LIMIT)
    except CoatcheckError as refusal:
        return refusal


@given(requests)
def test_every_pointer_points_at_something_or_at_what_is_missing(document: Any) -> None:
    if not isinstance(document, dict):
        return
    for problem in find_problems(document, LIMIT):
        part: Any = document
        *steps, last = problem.pointer.split("/")[1:]
        for step in steps:
            part = part[int(step)] if isinstance(part, list) else part[step]
        if problem.detail == "Send this field: it is required.":
            assert last not in part
