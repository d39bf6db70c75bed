"""What only the simulated PSP does after a charge: its actions and its page, against the real process and rubbish."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.conformance import (
    AUTHORIZE,
    CAPTURE,
    CHARGE,
    REFUND,
    VOID,
    Position,
    follow_up,
    intent,
    make_first,
    make_page,
    registered_page,
)
from tests.integration.test_provider_conformance import (
    Outside,
    Rubbish,
    adapter,
    answer,
    charge_with,
    outside_of,
    simulator_process,
)

from coatcheck.ids import OPERATION, PAYMENT, print_id
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, HostedOrder, HostedPage, Intent, NotChargeableError
from coatcheck.providers.simulated import MAX_HOSTED_ORDERS, SimulatedProvider
from coatcheck.states import Mode, OperationKind

CALM: dict[str, object] = {}
ONE, TWO, THREE = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture(scope="module")
def simulator_url() -> Iterator[str]:
    with simulator_process() as url:
        yield url


@pytest.fixture
async def bench(simulator_url: str) -> AsyncIterator[Outside]:
    async with outside_of(simulator_url) as outside:
        yield outside


@pytest.fixture
async def provider(simulator_url: str) -> AsyncIterator[SimulatedProvider]:
    async with adapter(simulator_url) as made:
        yield made


def request_with(token: str | None, kind: OperationKind, hosted: HostedPage | None = None) -> ChargeRequest:
    return ChargeRequest(
        operation_id=ONE,
        amount_minor=1234,
        currency="EUR",
        seller_account="seller-1",
        payment_order_id="order-1",
        token=token,
        hosted=hosted,
        kind=kind,
    )


async def first_with(provider: SimulatedProvider, token: str, kind: OperationKind = AUTHORIZE) -> Intent:
    """Send a charge or authorization of a token; what comes back knows its id."""
    first = charge_with(provider, token)
    body = first.body if kind is CHARGE else first.body[:-1] + b',"capture":false}'
    first = msgspec.structs.replace(first, kind=kind, body=body)
    return msgspec.structs.replace(first, provider_reference=(await provider.send(first)).provider_reference)


# What is frozen


def test_A16_a_charge_s_bytes_are_what_they_always_were_and_an_authorization_says_one_thing_more() -> None:
    provider = SimulatedProvider("http://psp.invalid", "sk_sim_test_shop", idempotency_window=timedelta(days=1))
    reference = print_id(OPERATION, ONE)
    charge = (
        f'{{"amount":1234,"currency":"EUR","token":"tok_approve","reference":"{reference}","description":"order-1"}}'
    ).encode()
    assert provider.prepare(request_with("tok_approve", CHARGE)) == charge
    assert provider.prepare(request_with("tok_approve", AUTHORIZE)) == charge[:-1] + b',"capture":false}'


def page_of(*amounts: int) -> HostedPage:
    return HostedPage(
        payment_id=THREE,
        return_url="https://shop.example/thanks",
        orders=tuple(
            HostedOrder(
                operation_id=UUID(int=number),
                amount_minor=amount,
                currency="EUR",
                payment_order_id=f"order-{number}",
            )
            for number, amount in enumerate(amounts, start=1)
        ),
    )


@pytest.mark.parametrize(("kind", "captures"), [(CHARGE, True), (AUTHORIZE, False)])
def test_A16_all_orders_of_a_page_freeze_the_same_bytes(kind: OperationKind, captures: bool) -> None:  # noqa: FBT001
    provider = SimulatedProvider("http://psp.invalid", "sk_sim_test_shop", idempotency_window=timedelta(days=1))
    page = page_of(1234, 99)
    one = request_with(None, kind, page)
    other = msgspec.structs.replace(one, operation_id=TWO, amount_minor=99, payment_order_id="order-2")
    assert provider.prepare(one) == provider.prepare(other)
    orders = [(ONE, 1234, "order-1"), (TWO, 99, "order-2")]
    assert json.loads(provider.prepare(one)) == {
        "reference": print_id(PAYMENT, THREE),
        "return_url": "https://shop.example/thanks",
        "charges": [
            {
                "reference": print_id(OPERATION, operation_id),
                "amount": amount,
                "currency": "EUR",
                "description": name,
                "capture": captures,
            }
            for operation_id, amount, name in orders
        ],
    }


def test_a_page_that_the_psp_would_not_take_is_refused_before_sending() -> None:
    provider = SimulatedProvider("http://psp.invalid", "sk_sim_test_shop", idempotency_window=timedelta(days=1))
    assert provider.capabilities.hosted_orders == MAX_HOSTED_ORDERS == 100
    provider.prepare(request_with(None, CHARGE, page_of(*[1234] * 100)))
    for page, is_about_token in ((page_of(*[1234] * 101), True), (page_of(), True), (page_of(1234, 0), False)):
        with pytest.raises(NotChargeableError) as refusal:
            provider.prepare(request_with(None, CHARGE, page))
        assert refusal.value.is_about_token is is_about_token
    with pytest.raises(NotChargeableError) as refusal:
        provider.prepare(request_with(None, CHARGE))
    assert refusal.value.is_about_token


def act_on(kind: OperationKind, *, target: str | None = "ch_1", is_final: bool = True) -> Intent:
    return Intent(
        operation_id=ONE,
        amount_minor=1234,
        currency="EUR",
        mode=Mode.TEST,
        body=b"",
        kind=kind,
        target_reference=target,
        is_final=is_final,
    )


REFERENCE = print_id(OPERATION, ONE)


@pytest.mark.parametrize(
    ("act", "path", "body"),
    [
        (act_on(CAPTURE), "charges/ch_1/capture", f'{{"amount":1234,"reference":"{REFERENCE}","final":true}}'),
        (
            act_on(CAPTURE, is_final=False),
            "charges/ch_1/capture",
            f'{{"amount":1234,"reference":"{REFERENCE}","final":false}}',
        ),
        (act_on(VOID), "charges/ch_1/void", f'{{"reference":"{REFERENCE}"}}'),
        (act_on(REFUND), "charges/ch_1/refund", f'{{"amount":1234,"reference":"{REFERENCE}"}}'),
        (act_on(VOID, target="cs_1"), "sessions/cs_1/expire", f'{{"reference":"{REFERENCE}"}}'),
    ],
)
async def test_A16_every_attempt_sends_the_same_bytes_under_the_same_key(act: Intent, path: str, body: str) -> None:
    async with Rubbish(b"").running() as psp, adapter(psp.url) as provider:
        for _ in range(2):
            await provider.send(act)
        assert psp.requests == [f"POST /v1/{path} HTTP/1.1"] * 2
        assert psp.sent == [(REFERENCE, body.encode())] * 2


async def test_A16_all_orders_register_their_page_under_one_key() -> None:
    async with Rubbish(b"").running() as psp, adapter(psp.url) as provider:
        orders = make_page(provider)
        for order in orders:
            await provider.register(order)
        reference = json.loads(orders[0].body)["reference"]
        assert psp.requests == ["POST /v1/sessions HTTP/1.1"] * 3
        assert psp.sent == [(f"sess_{reference}", orders[0].body)] * 3


# Actions


async def test_a_refused_capture_is_declined_and_the_money_stays_held(
    provider: SimulatedProvider, bench: Outside
) -> None:
    first = await first_with(provider, "tok_capture_declined")
    capture = follow_up(CAPTURE, first)
    for told in (await provider.send(capture), await provider.look_up(capture)):
        assert (told.kind, told.decline_code) == (OutcomeKind.DECLINED, "capture_declined")
        assert told.is_cancelled is False
    assert await bench.position(first) == Position(held=1234)


async def test_an_authorization_says_how_long_it_lives(provider: SimulatedProvider) -> None:
    first = charge_with(provider, "tok_approve")
    first = msgspec.structs.replace(first, kind=AUTHORIZE, body=first.body[:-1] + b',"capture":false}')
    outcome = await provider.send(first)
    assert outcome.expires_at is not None
    assert timedelta(days=6) < outcome.expires_at - datetime.now(UTC) < timedelta(days=8)
    assert (await provider.look_up(first)).expires_at == outcome.expires_at


async def test_D5_an_expired_authorization_is_cancelled_not_declined(
    provider: SimulatedProvider, bench: Outside
) -> None:
    first = await make_first(provider, bench)
    await bench.ask("POST", f"/admin/expire/{first.provider_reference}")
    ended = await provider.look_up(first)
    assert (ended.kind, ended.is_cancelled, ended.decline_code) == (OutcomeKind.DECLINED, True, "expired")
    for kind in (CAPTURE, VOID):
        told = await provider.send(follow_up(kind, first))
        assert (told.kind, told.decline_code) == (OutcomeKind.DECLINED, "authorization_expired")
        assert told.is_cancelled is True


async def test_D5_an_authorization_that_expires_after_a_capture_has_let_the_rest_go(
    provider: SimulatedProvider, bench: Outside
) -> None:
    first = await make_first(provider, bench)
    await provider.send(follow_up(CAPTURE, first, 1000, is_final=False))
    await bench.ask("POST", f"/admin/expire/{first.provider_reference}")
    ended = await provider.look_up(first)
    assert (ended.kind, ended.is_cancelled, ended.decline_code) == (OutcomeKind.DECLINED, True, "released")
    assert await bench.position(first) == Position(captured=1000)


@pytest.mark.parametrize("kind", [CHARGE, AUTHORIZE])
async def test_a_pending_charge_can_be_voided(provider: SimulatedProvider, bench: Outside, kind: OperationKind) -> None:
    first = await first_with(provider, "tok_pending", kind)
    assert (await provider.look_up(first)).kind is OutcomeKind.PENDING
    assert (await provider.send(follow_up(VOID, first))).kind is OutcomeKind.APPROVED
    ended = await provider.look_up(first)
    assert (ended.kind, ended.is_cancelled, ended.decline_code) == (OutcomeKind.DECLINED, True, "voided")
    assert await bench.position(first) == Position()


async def test_a_pending_authorization_is_decided_later(provider: SimulatedProvider, bench: Outside) -> None:
    first = await first_with(provider, "tok_pending")
    await bench.ask("POST", f"/admin/settle/{first.provider_reference}", {"status": "succeeded"})
    assert (await provider.look_up(first)).kind is OutcomeKind.APPROVED
    assert await bench.position(first) == Position(held=1234)


@pytest.mark.parametrize(
    ("decision", "told", "refunded"),
    [("succeeded", (OutcomeKind.APPROVED, None), 500), ("failed", (OutcomeKind.DECLINED, "refund_declined"), 0)],
)
async def test_a_pending_refund_is_decided_later(
    provider: SimulatedProvider, bench: Outside, decision: str, told: tuple[OutcomeKind, str | None], refunded: int
) -> None:
    first = await first_with(provider, "tok_refund_pending", CHARGE)
    refund = follow_up(REFUND, first, 500)
    outcome = await provider.send(refund)
    known = msgspec.structs.replace(refund, provider_reference=outcome.provider_reference)
    assert outcome.kind is (await provider.look_up(known)).kind is OutcomeKind.PENDING
    await bench.ask("POST", f"/admin/settle/{outcome.provider_reference}", {"status": decision})
    found = await provider.look_up(known)
    assert (found.kind, found.decline_code) == told
    assert await bench.position(first) == Position(captured=1234, refunded=refunded)


async def test_a_refund_that_the_bank_refuses_is_declined(provider: SimulatedProvider, bench: Outside) -> None:
    first = await first_with(provider, "tok_refund_fails", CHARGE)
    outcome = await provider.send(follow_up(REFUND, first))
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "refund_declined")
    assert await bench.position(first) == Position(captured=1234)


async def test_D6_a_refund_that_comes_back_is_seen_by_a_look_up(provider: SimulatedProvider, bench: Outside) -> None:
    first = await first_with(provider, "tok_refund_fails_later", CHARGE)
    refund = follow_up(REFUND, first)
    outcome = await provider.send(refund)
    assert outcome.kind is OutcomeKind.APPROVED
    await bench.ask("POST", f"/admin/fail-refund/{outcome.provider_reference}")
    found = await provider.look_up(refund)
    assert (found.kind, found.decline_code) == (OutcomeKind.DECLINED, "bank_returned")
    assert await bench.position(first) == Position(captured=1234)


async def test_D3_a_disputed_charge_is_not_refunded(provider: SimulatedProvider, bench: Outside) -> None:
    first = await make_first(provider, bench, CHARGE)
    await bench.ask("POST", f"/admin/dispute/{first.provider_reference}")
    outcome = await provider.send(follow_up(REFUND, first))
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "charge_disputed")
    assert await bench.position(first) == Position(captured=1234)


@pytest.mark.parametrize(("kind", "first_kind"), [(CAPTURE, CHARGE), (VOID, CHARGE), (REFUND, AUTHORIZE)])
async def test_D4_what_the_charge_does_not_allow_is_declined(
    provider: SimulatedProvider, bench: Outside, kind: OperationKind, first_kind: OperationKind
) -> None:
    first = await make_first(provider, bench, first_kind)
    before = await bench.position(first)
    outcome = await provider.send(follow_up(kind, first))
    assert outcome.kind is OutcomeKind.DECLINED
    assert outcome.decline_code in ("charge_not_authorized", "charge_not_voidable", "charge_not_refundable")
    assert outcome.is_cancelled is False
    assert await bench.position(first) == before


@pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
async def test_a_charge_that_the_psp_does_not_know_is_for_a_person(
    provider: SimulatedProvider, bench: Outside, kind: OperationKind
) -> None:
    first = await make_first(provider, bench)
    act = msgspec.structs.replace(follow_up(kind, first), target_reference="ch_99999999")
    outcome = await provider.send(act)
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.UNKNOWN, None)


AFTER = [
    (CAPTURE, AUTHORIZE, Position(captured=1234)),
    (VOID, AUTHORIZE, Position()),
    (REFUND, CHARGE, Position(captured=1234, refunded=1234)),
]


@pytest.mark.parametrize(("kind", "first_kind", "after"), AFTER)
async def test_A4_a_stored_500_of_an_action_is_unknown_and_a_look_up_tells(
    provider: SimulatedProvider, bench: Outside, kind: OperationKind, first_kind: OperationKind, after: Position
) -> None:
    first = await make_first(provider, bench, first_kind)
    act = follow_up(kind, first)
    await bench.ask("PUT", "/admin/chaos", {"error_after_share": 1, "max_faults_per_key": 1})
    try:
        for _ in range(2):
            outcome = await provider.send(act)
            assert (outcome.kind, outcome.is_server_error) == (OutcomeKind.UNKNOWN, True)
    finally:
        await bench.ask("PUT", "/admin/chaos", CALM)
    assert (await provider.look_up(act)).kind is OutcomeKind.APPROVED
    assert await bench.position(first) == after


@pytest.mark.parametrize(("kind", "first_kind", "after"), AFTER)
async def test_A1_a_lost_answer_to_an_action_is_unknown_and_its_key_replays_it(
    provider: SimulatedProvider, bench: Outside, kind: OperationKind, first_kind: OperationKind, after: Position
) -> None:
    first = await make_first(provider, bench, first_kind)
    act = follow_up(kind, first)
    await bench.ask("PUT", "/admin/chaos", {"drop_after_charge_share": 1, "max_faults_per_key": 1})
    try:
        assert (await provider.send(act)).kind is OutcomeKind.UNKNOWN
        assert (await provider.send(act)).kind is OutcomeKind.APPROVED
    finally:
        await bench.ask("PUT", "/admin/chaos", CALM)
    assert await bench.position(first) == after


async def test_429_to_an_action_is_not_sent(provider: SimulatedProvider, bench: Outside) -> None:
    refund = follow_up(REFUND, await make_first(provider, bench, CHARGE))
    await bench.ask("PUT", "/admin/chaos", {"rate_limit_share": 1, "retry_after_s": 7})
    try:
        outcome = await provider.send(refund)
    finally:
        await bench.ask("PUT", "/admin/chaos", CALM)
    assert (outcome.kind, outcome.retry_after) == (OutcomeKind.NOT_SENT, timedelta(seconds=7))


async def test_A14_the_search_for_an_action_lags_and_its_id_does_not(
    provider: SimulatedProvider, bench: Outside
) -> None:
    refund = follow_up(REFUND, await make_first(provider, bench, CHARGE))
    outcome = await provider.send(refund)
    known = msgspec.structs.replace(refund, provider_reference=outcome.provider_reference)
    await bench.ask("PUT", "/admin/chaos", {"search_lag_ms": 60_000})
    try:
        assert (await provider.look_up(refund)).kind is OutcomeKind.NOT_FOUND
        assert (await provider.look_up(known)).kind is OutcomeKind.APPROVED
    finally:
        await bench.ask("PUT", "/admin/chaos", CALM)


async def test_B7_another_account_can_neither_act_nor_see(
    simulator_url: str, provider: SimulatedProvider, bench: Outside
) -> None:
    first = await make_first(provider, bench, CHARGE)
    refund = follow_up(REFUND, first)
    sent = await provider.send(refund)
    known = msgspec.structs.replace(refund, provider_reference=sent.provider_reference)
    async with adapter(simulator_url, api_key="sk_sim_test_other") as theirs:
        assert (await theirs.send(follow_up(REFUND, first, 1))).kind is OutcomeKind.UNKNOWN
        for asked in (refund, known):
            assert (await theirs.look_up(asked)).kind is OutcomeKind.NOT_FOUND


@pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
async def test_I2_a_live_action_does_not_go_out_under_a_test_key(
    provider: SimulatedProvider, bench: Outside, kind: OperationKind
) -> None:
    first = await make_first(provider, bench)
    act = msgspec.structs.replace(follow_up(kind, first), mode=Mode.LIVE)
    assert (await provider.send(act)).kind is OutcomeKind.NOT_SENT
    assert (await provider.look_up(act)).kind is OutcomeKind.UNKNOWN
    assert await bench.position(first) == Position(held=1234)


# The page


async def test_a_buyer_who_leaves_the_page_is_no_decline(provider: SimulatedProvider, bench: Outside) -> None:
    orders, page = await registered_page(provider, make_page(provider))
    await bench.ask("POST", f"/admin/sessions/{page.provider_reference}/cancel")
    for order in orders:
        ended = await provider.look_up(order)
        assert (ended.kind, ended.is_cancelled) == (OutcomeKind.DECLINED, True)
        assert ended.decline_code == "page_cancelled"
        assert (ended.reference, ended.redirect_url) == (order.reference, None)
    void = follow_up(VOID, orders[0], orders[0].amount_minor)
    assert (await provider.send(void)).kind is OutcomeKind.APPROVED


async def test_a_declined_card_leaves_the_page_open_until_the_buyer_gives_up(
    provider: SimulatedProvider, bench: Outside
) -> None:
    (order, *_), page = await registered_page(provider, make_page(provider))
    declined = {"token": "tok_decline_insufficient_funds"}
    await bench.ask("POST", f"/admin/sessions/{page.provider_reference}/pay", declined)
    assert (await provider.look_up(order)).kind is OutcomeKind.PENDING
    await bench.ask("POST", f"/admin/sessions/{page.provider_reference}/cancel")
    ended = await provider.look_up(order)
    assert (ended.kind, ended.decline_code) == (OutcomeKind.DECLINED, "insufficient_funds")
    assert ended.is_cancelled is False
    assert await bench.position(order) == Position()


async def test_a_page_paid_by_a_slow_method_is_pending_under_the_charges_id(
    provider: SimulatedProvider, bench: Outside
) -> None:
    (order, *_), page = await registered_page(provider, make_page(provider))
    await bench.ask("POST", f"/admin/sessions/{page.provider_reference}/pay", {"token": "tok_pending"})
    found = await provider.look_up(order)
    assert (found.kind, found.redirect_url) == (OutcomeKind.PENDING, None)
    assert found.provider_reference is not None
    assert found.provider_reference.startswith("ch_")
    known = msgspec.structs.replace(order, provider_reference=found.provider_reference)
    assert (await provider.look_up(known)).kind is OutcomeKind.PENDING
    await bench.ask("POST", f"/admin/settle/{found.provider_reference}", {"status": "succeeded"})
    for asked in (order, known):
        assert (await provider.look_up(asked)).kind is OutcomeKind.APPROVED


async def test_A4_a_stored_500_of_a_page_is_unknown_and_a_look_up_finds_the_page(
    provider: SimulatedProvider, bench: Outside
) -> None:
    (order, *_) = make_page(provider)
    await bench.ask("PUT", "/admin/chaos", {"error_after_share": 1, "max_faults_per_key": 1})
    try:
        outcomes = [await provider.register(order) for _ in range(2)]
    finally:
        await bench.ask("PUT", "/admin/chaos", CALM)
    assert {(outcome.kind, outcome.is_server_error) for outcome in outcomes} == {(OutcomeKind.UNKNOWN, True)}
    found = await provider.look_up(order)
    assert found.kind is OutcomeKind.PENDING
    assert found.redirect_url is not None
    assert found.provider_reference is not None
    assert found.redirect_url.endswith(found.provider_reference)


async def test_A3_of_two_pages_of_a_payment_the_paid_one_speaks(provider: SimulatedProvider, bench: Outside) -> None:
    (order, *_) = make_page(provider)
    first = await provider.register(order)
    await bench.ask("POST", "/admin/forget-keys")
    second = await provider.register(order)
    assert second.provider_reference != first.provider_reference
    await bench.ask("POST", f"/admin/expire/{second.provider_reference}")
    assert (await provider.look_up(order)).kind is OutcomeKind.PENDING
    await bench.pay(first)
    assert (await provider.look_up(order)).kind is OutcomeKind.APPROVED


async def test_what_the_buyer_pays_on_a_page_is_never_sent(provider: SimulatedProvider, bench: Outside) -> None:
    (order, *_), page = await registered_page(provider, make_page(provider))
    outcome = await provider.send(order)
    assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.UNKNOWN, page.provider_reference)
    assert await bench.charges(order) == []


async def test_a_page_s_own_id_is_not_refunded_or_captured(provider: SimulatedProvider) -> None:
    (order, *_), _ = await registered_page(provider, make_page(provider))
    for kind in (CAPTURE, REFUND):
        outcome = await provider.send(follow_up(kind, order, order.amount_minor))
        assert outcome.kind is OutcomeKind.NOT_SENT


async def test_a_page_of_other_amounts_is_not_voided_for_ours(provider: SimulatedProvider) -> None:
    (order, *_), _ = await registered_page(provider, make_page(provider))
    outcome = await provider.send(follow_up(VOID, order, 77))
    assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.UNKNOWN, None)


async def test_I2_a_live_page_is_not_made_under_a_test_key(provider: SimulatedProvider) -> None:
    (order, *_) = make_page(provider)
    live = msgspec.structs.replace(order, mode=Mode.LIVE)
    assert (await provider.register(live)).kind is OutcomeKind.NOT_SENT
    assert (await provider.look_up(live)).kind is OutcomeKind.UNKNOWN
    assert (await provider.look_up(order)).kind is OutcomeKind.NOT_FOUND


# A PSP that answers rubbish

ACTION = {
    "id": "cap_1",
    "object": "capture",
    "charge": "ch_1",
    "amount": 1234,
    "currency": "EUR",
    "reference": REFERENCE,
    "status": "succeeded",
    "failure_code": None,
    "livemode": False,
    "created": 1,
}
AUTHORIZED = {
    "id": "ch_1",
    "status": "authorized",
    "amount": 1234,
    "currency": "EUR",
    "reference": REFERENCE,
    "decline_code": None,
    "livemode": False,
    "created": 1,
    "amount_captured": 0,
    "expires_at": 1_900_000_000,
}
ENTRY = {"reference": REFERENCE, "amount": 1234, "currency": "EUR", "charge": None}
PAGE = {
    "id": "cs_1",
    "object": "session",
    "reference": "pay_x",
    "status": "open",
    "url": "http://psp.example/page/cs_1",
    "return_url": "https://shop.example/",
    "expires_at": 1_900_000_000,
    "livemode": False,
    "charges": [ENTRY],
}
HOSTED = msgspec.structs.replace(
    intent(
        SimulatedProvider("http://psp.invalid", "sk_sim_test_shop", idempotency_window=timedelta(days=1)),
        request_with(None, CHARGE, page_of(1234)),
    ),
    first_sent_at=None,
)
AUTHORIZATION = msgspec.structs.replace(act_on(AUTHORIZE, target=None), body=b"{}")


def said(line: str, body: object, /, **changes: Any) -> bytes:
    """An answer with some of its words changed; a word changed to `...` is left out."""
    if isinstance(body, dict):
        body = {name: word for name, word in {**body, **changes}.items() if word is not ...}
    return answer(line, json.dumps(body).encode())


@pytest.mark.parametrize(
    "rubbish",
    [
        said("201 Created", ACTION, object="refund"),
        said("201 Created", ACTION, object=...),
        said("201 Created", ACTION, charge="ch_2"),
        said("201 Created", ACTION, status="on its way"),
        said("201 Created", ACTION, amount="1234"),
        said("201 Created", ACTION, reference=...),
        said("201 Created", AUTHORIZED),
        said("200 OK", ACTION),
        said("202 Accepted", ACTION),
        answer("201 Created", json.dumps(ACTION).encode(), "text/html"),
        answer("201 Created", json.dumps(ACTION).encode()[:-9]),
        said("404 Not Found", {"code": "not_found"}),
        said("409 Conflict", {"code": "idempotency_key_in_use"}),
        said("409 Conflict", {"code": "something_new"}),
        said("409 Conflict", {"code": "refund_exceeds_captured"}),
        said("409 Conflict", {"code": "charge_not_voidable"}),
        said("409 Conflict", {"code": "session_completed"}),
        answer("409 Conflict", b'{"code":"amount_too_large"}', "text/html"),
        said("400 Bad Request", {"code": "amount_too_large"}),
        said("422 Unprocessable Content", {"code": "idempotency_key_reused"}),
        said("500 Internal Server Error", {"code": "charge_not_authorized"}),
    ],
)
async def test_A10_A15_what_is_not_the_documented_word_about_a_capture_is_unknown(rubbish: bytes) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.send(act_on(CAPTURE))
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.UNKNOWN, None)
        assert outcome.provider_reference is None
        assert outcome.cause
        assert len(psp.requests) == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CAPTURE, "charge_not_authorized"),
        (CAPTURE, "authorization_expired"),
        (CAPTURE, "amount_too_large"),
        (VOID, "charge_not_voidable"),
        (VOID, "authorization_expired"),
        (REFUND, "refund_exceeds_captured"),
        (REFUND, "charge_disputed"),
        (REFUND, "charge_not_refundable"),
    ],
)
async def test_a_documented_refusal_of_an_action_is_declined(kind: OperationKind, code: str) -> None:
    async with Rubbish(said("409 Conflict", {"code": code})).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.send(act_on(kind))
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, code)
        assert outcome.is_cancelled is (code == "authorization_expired")
        assert (await provider.send(act_on(CAPTURE, target="cs_1"))).kind is OutcomeKind.NOT_SENT
        page_end = await provider.send(act_on(VOID, target="cs_1"))
        assert page_end.kind is OutcomeKind.UNKNOWN
        charge = await provider.send(charge_with(provider, "tok_approve"))
        assert charge.kind is OutcomeKind.UNKNOWN


async def test_the_words_of_an_action_reach_the_caller() -> None:
    wrong = said("201 Created", ACTION, amount=1235, currency="USD", reference="op_y", livemode=True)
    async with Rubbish(wrong).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.send(act_on(CAPTURE))
        assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, "cap_1")
        assert (outcome.amount_minor, outcome.currency, outcome.reference) == (1235, "USD", "op_y")
        assert outcome.is_live is True


@pytest.mark.parametrize(
    ("charge", "kind", "status", "outcome"),
    [
        (AUTHORIZED, AUTHORIZE, "authorized", OutcomeKind.APPROVED),
        (AUTHORIZED, AUTHORIZE, "declined", OutcomeKind.DECLINED),
        (AUTHORIZED, AUTHORIZE, "pending", OutcomeKind.PENDING),
        (AUTHORIZED, AUTHORIZE, "succeeded", OutcomeKind.UNKNOWN),  # it took what was only to be held
        (AUTHORIZED, AUTHORIZE, "voided", OutcomeKind.UNKNOWN),
        (AUTHORIZED, CHARGE, "authorized", OutcomeKind.UNKNOWN),  # it holds what was to be taken
        (AUTHORIZED, CHARGE, "expired", OutcomeKind.UNKNOWN),
    ],
)
async def test_a_state_that_was_not_asked_for_is_unknown(
    charge: dict[str, Any], kind: OperationKind, status: str, outcome: OutcomeKind
) -> None:
    rubbish = said("201 Created", charge, status=status)
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        told = await provider.send(msgspec.structs.replace(AUTHORIZATION, kind=kind))
        assert (told.kind, told.is_cancelled) == (outcome, False)
        assert bool(told.cause) is (outcome is OutcomeKind.UNKNOWN)


@pytest.mark.parametrize(
    ("status", "captured", "kind"),
    [
        ("succeeded", 1234, OutcomeKind.APPROVED),
        ("authorized", 100, OutcomeKind.APPROVED),
        ("voided", 0, OutcomeKind.DECLINED),
        ("voided", 100, OutcomeKind.UNKNOWN),
        ("expired", 0, OutcomeKind.DECLINED),
        ("expired", 1, OutcomeKind.UNKNOWN),
        ("declined", 1, OutcomeKind.UNKNOWN),
    ],
)
async def test_an_end_that_took_money_all_the_same_is_unknown(status: str, captured: int, kind: OutcomeKind) -> None:
    found = said("200 OK", AUTHORIZED, status=status, amount_captured=captured)
    async with Rubbish(found).running() as psp, adapter(psp.url) as provider:
        told = await provider.look_up(msgspec.structs.replace(AUTHORIZATION, provider_reference="ch_1"))
        assert told.kind is kind
        assert told.is_cancelled is (kind is OutcomeKind.DECLINED)


@pytest.mark.parametrize("expires_at", [-1, 253_402_300_800, 1.5, "tomorrow"])
async def test_A10_an_expiry_that_is_no_moment_is_unknown(expires_at: object) -> None:
    rubbish = said("201 Created", AUTHORIZED, expires_at=expires_at)
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        assert (await provider.send(AUTHORIZATION)).kind is OutcomeKind.UNKNOWN


async def test_of_several_actions_with_our_reference_the_succeeded_one_speaks() -> None:
    failed = {**ACTION, "id": "cap_2", "status": "failed", "failure_code": "capture_declined"}
    pending = {**ACTION, "id": "cap_3", "status": "pending"}
    listed = said("200 OK", {"data": [failed, pending, ACTION, {**ACTION, "reference": "op_y"}]})
    async with Rubbish(listed).running() as psp, adapter(psp.url) as provider:
        found = await provider.look_up(act_on(CAPTURE))
        assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, "cap_1")
        assert psp.requests == [f"GET /v1/actions?reference={REFERENCE} HTTP/1.1"]


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        (act_on(CAPTURE), {**ACTION, "reference": "op_y"}),
        (HOSTED, PAGE),  # of another payment, though it names our order
        (AUTHORIZATION, {**AUTHORIZED, "reference": "op_y"}),
    ],
)
async def test_A15_a_search_that_lists_something_else_found_nothing(asked: Intent, listed: object) -> None:
    async with Rubbish(said("200 OK", {"data": [listed]})).running() as psp, adapter(psp.url) as provider:
        assert (await provider.look_up(asked)).kind is OutcomeKind.NOT_FOUND


async def test_A15_another_page_than_was_asked_for_names_another_reference() -> None:
    async with Rubbish(said("200 OK", {**PAGE, "id": "cs_2"})).running() as psp, adapter(psp.url) as provider:
        found = await provider.look_up(msgspec.structs.replace(HOSTED, provider_reference="cs_1"))
        assert (found.kind, found.reference, found.provider_reference) == (OutcomeKind.UNKNOWN, "pay_x", None)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        answer("404 Not Found", b'{"code":"not_found"}', "text/html"),
        said("404 Not Found", {"code": "no_such_host"}),
        said("409 Conflict", {"code": "charge_not_authorized"}),
        said("429 Too Many Requests", {"code": "rate_limited"}),
        said("500 Internal Server Error", {"code": "internal_error"}),
        said("201 Created", ACTION),
        said("200 OK", {"data": [{**ACTION, "charge": "ch_2"}]}),
        said("200 OK", {"data": [{**ACTION, "object": "void"}]}),
        said("200 OK", {}),
    ],
)
@pytest.mark.parametrize("known", [None, "cap_1"])
async def test_A14_a_look_up_of_an_action_without_a_proper_answer_is_unknown(rubbish: bytes, known: str | None) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        found = await provider.look_up(msgspec.structs.replace(act_on(CAPTURE), provider_reference=known))
        assert found.kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize("bad", ["../admin/reset", "ch_1/refund", "ch_1?x=1", "", "ch_1\r\nX: y"])
async def test_an_id_that_leads_elsewhere_is_not_asked_for(bad: str) -> None:
    async with Rubbish(said("201 Created", ACTION)).running() as psp, adapter(psp.url) as provider:
        assert (await provider.send(act_on(CAPTURE, target=bad))).kind is OutcomeKind.NOT_SENT
        for asked in (
            act_on(CAPTURE, target=bad),
            msgspec.structs.replace(act_on(CAPTURE), provider_reference=bad),
            msgspec.structs.replace(HOSTED, provider_reference=bad),
        ):
            assert (await provider.look_up(asked)).kind is OutcomeKind.UNKNOWN
        assert psp.requests == []


@pytest.mark.parametrize(
    "rubbish",
    [
        said("200 OK", PAGE),
        said("201 Created", PAGE, object="charge"),
        said("201 Created", PAGE, status="completed"),
        said("201 Created", PAGE, status="closed"),
        said("201 Created", PAGE, url="javascript:alert(1)"),
        said("201 Created", PAGE, url="http://psp.example/page\r\nSet-Cookie: a=b"),
        said("201 Created", PAGE, url="//psp.example/page"),
        said("201 Created", PAGE, url=...),
        said("201 Created", PAGE, expires_at=None),
        said("201 Created", PAGE, charges=None),
        said("409 Conflict", {"code": "idempotency_key_in_use"}),
        said("409 Conflict", {"code": "session_completed"}),
        said("404 Not Found", {"code": "not_found"}),
        said("500 Internal Server Error", {"code": "internal_error"}),
    ],
)
async def test_A10_what_is_no_proper_page_is_unknown(rubbish: bytes) -> None:
    async with Rubbish(rubbish).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.register(HOSTED)
        assert (outcome.kind, outcome.redirect_url) == (OutcomeKind.UNKNOWN, None)
        assert len(psp.requests) == 1


@pytest.mark.parametrize("entries", [[], [{**ENTRY, "reference": "op_y"}], [ENTRY, ENTRY]])
@pytest.mark.parametrize("status", ["open", "completed", "expired"])
async def test_A15_a_page_that_does_not_name_our_order_once_names_another_reference(
    entries: list[object], status: str
) -> None:
    page = {**PAGE, "charges": entries, "status": status}
    async with Rubbish(said("201 Created", page)).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.register(HOSTED)
        assert (outcome.kind, outcome.reference) == (OutcomeKind.UNKNOWN, "pay_x")
    async with Rubbish(said("200 OK", page)).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.look_up(msgspec.structs.replace(HOSTED, provider_reference="cs_1"))
        assert (outcome.kind, outcome.reference) == (OutcomeKind.UNKNOWN, "pay_x")


async def test_A15_the_words_of_a_page_reach_the_caller() -> None:
    wrong = said("201 Created", PAGE, livemode=True, charges=[{**ENTRY, "amount": 1235, "currency": "USD"}])
    async with Rubbish(wrong).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.register(HOSTED)
        assert (outcome.kind, outcome.reference) == (OutcomeKind.PENDING, REFERENCE)
        assert (outcome.amount_minor, outcome.currency, outcome.is_live) == (1235, "USD", True)


CHARGED = {**AUTHORIZED, "status": "succeeded", "amount_captured": 1234, "expires_at": None}
REFUSED = {**CHARGED, "status": "declined", "amount_captured": 0, "decline_code": "card_declined"}


@pytest.mark.parametrize(
    ("status", "charge", "kind", "code"),
    [
        ("open", None, OutcomeKind.PENDING, None),
        ("open", REFUSED, OutcomeKind.PENDING, None),
        ("open", CHARGED, OutcomeKind.APPROVED, None),
        ("completed", None, OutcomeKind.UNKNOWN, None),
        ("completed", CHARGED, OutcomeKind.APPROVED, None),
        ("completed", REFUSED, OutcomeKind.DECLINED, "card_declined"),
        ("cancelled", None, OutcomeKind.DECLINED, "page_cancelled"),
        ("cancelled", REFUSED, OutcomeKind.DECLINED, "card_declined"),
        ("expired", None, OutcomeKind.DECLINED, "page_expired"),
        ("expired", CHARGED, OutcomeKind.APPROVED, None),
    ],
)
async def test_what_a_page_says_of_an_order(status: str, charge: object, kind: OutcomeKind, code: str | None) -> None:
    page = {**PAGE, "status": status, "charges": [{**ENTRY, "charge": charge}]}
    asked = msgspec.structs.replace(HOSTED, provider_reference="cs_1")
    async with Rubbish(said("200 OK", page)).running() as psp, adapter(psp.url) as provider:
        found = await provider.look_up(asked)
        assert (found.kind, found.decline_code) == (kind, code)
        assert found.is_cancelled is (code is not None and code.startswith("page_"))
        assert (found.redirect_url is not None) is (kind is OutcomeKind.PENDING)
        decided = charge is not None and kind is not OutcomeKind.PENDING
        assert found.provider_reference == ("ch_1" if decided else "cs_1")
        assert psp.requests == ["GET /v1/sessions/cs_1 HTTP/1.1"]


@pytest.mark.parametrize(
    ("page", "sent", "found"),
    [
        ({}, OutcomeKind.UNKNOWN, OutcomeKind.NOT_SENT),
        ({"status": "completed"}, OutcomeKind.UNKNOWN, OutcomeKind.DECLINED),
        ({"status": "expired"}, OutcomeKind.APPROVED, OutcomeKind.APPROVED),
        ({"status": "cancelled"}, OutcomeKind.APPROVED, OutcomeKind.APPROVED),
        (
            {"status": "expired", "charges": [{**ENTRY, "charge": REFUSED}]},
            OutcomeKind.APPROVED,
            OutcomeKind.APPROVED,
        ),
        (
            {"status": "expired", "charges": [{**ENTRY, "charge": CHARGED}]},
            OutcomeKind.UNKNOWN,
            OutcomeKind.UNKNOWN,
        ),
        ({"status": "expired", "id": "cs_2"}, OutcomeKind.UNKNOWN, OutcomeKind.UNKNOWN),
        ({"status": "expired", "charges": [{**ENTRY, "amount": 1}]}, OutcomeKind.UNKNOWN, OutcomeKind.UNKNOWN),
        ({"status": "expired", "charges": [{**ENTRY, "currency": "USD"}]}, OutcomeKind.UNKNOWN, OutcomeKind.UNKNOWN),
    ],
)
async def test_when_a_void_has_ended_a_page(page: dict[str, Any], sent: OutcomeKind, found: OutcomeKind) -> None:
    void = act_on(VOID, target="cs_1")
    async with Rubbish(said("201 Created", {**PAGE, **page})).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.send(void)
        assert outcome.kind is sent
        words = (outcome.amount_minor, outcome.currency, outcome.reference)
        assert words == ((1234, "EUR", REFERENCE) if sent is OutcomeKind.APPROVED else (None, None, None))
    async with Rubbish(said("200 OK", {**PAGE, **page})).running() as psp, adapter(psp.url) as provider:
        assert (await provider.look_up(void)).kind is found
        assert psp.requests == ["GET /v1/sessions/cs_1 HTTP/1.1"]


async def test_a_paid_page_refuses_to_end() -> None:
    refusal = said("409 Conflict", {"code": "session_completed"})
    async with Rubbish(refusal).running() as psp, adapter(psp.url) as provider:
        outcome = await provider.send(act_on(VOID, target="cs_1"))
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "session_completed")


def test_A5_a_psp_that_forgets_its_errors_gets_pages_of_one_order_only() -> None:
    forgetful = SimulatedProvider(
        "http://psp.invalid", "sk_sim_test_shop", idempotency_window=timedelta(days=1), replays_errors=False
    )
    forgetful.prepare(request_with(None, CHARGE, page_of(1234)))
    with pytest.raises(NotChargeableError):
        forgetful.prepare(request_with(None, CHARGE, page_of(1234, 1234)))
