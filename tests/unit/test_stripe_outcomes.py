"""What each answer, error and silence of Stripe means, through the real SDK on a scripted wire."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import pytest
import stripe

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.providers.stripe import API_VERSION, StripeProvider, _SingleRequestClient
from coatcheck.providers.stripe_answers import BEFORE_ANY_BYTE, ERRORS, outcome_of_search
from coatcheck.states import Mode

OPERATION_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
REFERENCE = "op_aerukz4jvpg66ajdivtytk6n54"

Answer = tuple[bytes, int, Mapping[str, str]]


class Wire(_SingleRequestClient):
    """Answers what the test wrote down, in turn, and keeps what was sent."""

    def __init__(self) -> None:
        stripe.AIOHTTPClient.__init__(self)
        self.answers: list[Answer | Exception] = []
        self.sent: list[tuple[str, str, Mapping[str, str], Any]] = []

    async def request_async(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None) -> Answer:
        self.sent.append((method, url, headers, post_data))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            self._handle_request_error(answer)
        return answer

    async def close_async(self) -> None:
        self.answers.clear()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def charge(*, registered: bool = True, mode: Mode = Mode.TEST) -> Intent:
    return Intent(
        operation_id=OPERATION_ID,
        amount_minor=1234,
        currency="USD",
        mode=mode,
        body=b'{"amount":1234,"confirm":false,"currency":"usd"}',
        first_sent_at=datetime(2026, 11, 21, 10, tzinfo=UTC),
        provider_reference="pi_1" if registered else None,
    )


def intent(status: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": status,
        "amount": 1234,
        "currency": "usd",
        "livemode": False,
        "metadata": {"coatcheck_operation": REFERENCE},
        **fields,
    }


def ok(body: Any) -> Answer:
    return json.dumps(body).encode(), 200, {"request-id": "req_1"}


def refused(status: int, headers: Mapping[str, str] | None = None, **error: Any) -> Answer:
    return json.dumps({"error": error}).encode(), status, {"request-id": "req_1", **(headers or {})}


def family(of: type[BaseException]) -> Iterator[type[BaseException]]:
    yield of
    for child in of.__subclasses__():
        yield from family(child)


def test_A8_two_payments_under_one_reference_are_told_and_none_is_taken() -> None:
    made = [
        Outcome(kind=kind, provider_reference=name)
        for name, kind in (
            ("pi_0", OutcomeKind.DECLINED),
            ("pi_1", OutcomeKind.APPROVED),
            ("pi_2", OutcomeKind.APPROVED),
        )
    ]
    found = outcome_of_search(made, "PaymentIntent")
    assert (found.kind, found.several, found.evidence) == (OutcomeKind.UNKNOWN, ("pi_1", "pi_2"), "pi_1 pi_2")
    assert outcome_of_search(made[:2], "PaymentIntent").provider_reference == "pi_1"


def test_every_error_of_the_sdk_is_mapped() -> None:
    assert set(family(stripe.StripeError)) == set(ERRORS)


def test_only_a_refused_card_is_a_decline_among_the_errors() -> None:
    kinds = {kind: {cls for cls, (meaning, _) in ERRORS.items() if meaning is kind} for kind in OutcomeKind}
    assert kinds[OutcomeKind.DECLINED] == {stripe.CardError}
    assert kinds[OutcomeKind.NOT_SENT] == {stripe.AuthenticationError, stripe.PermissionError}
    assert not kinds[OutcomeKind.APPROVED] | kinds[OutcomeKind.PENDING] | kinds[OutcomeKind.NOT_FOUND]


def test_A12_every_error_of_the_http_client_is_placed() -> None:
    before = {
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ClientProxyConnectionError",
        "UnixClientConnectorError",
        "ClientSSLError",
        "ClientConnectorSSLError",
        "ClientConnectorCertificateError",
        "ConnectionTimeoutError",
    }
    after = {
        "ClientError",
        "ClientResponseError",
        "ContentTypeError",
        "WSServerHandshakeError",
        "ClientHttpProxyError",
        "TooManyRedirects",
        "ClientConnectionError",
        "ClientConnectionResetError",
        "ClientOSError",
        "ServerConnectionError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
        "SocketTimeoutError",
        "ServerFingerprintMismatch",
        "ClientPayloadError",
        "UploadAbortedError",
        "InvalidURL",
        "InvalidUrlClientError",
        "RedirectClientError",
        "NonHttpUrlClientError",
        "InvalidUrlRedirectClientError",
        "NonHttpUrlRedirectClientError",
    }
    tree = {cls for cls in family(aiohttp.ClientError) if cls.__module__.startswith("aiohttp")}
    assert {cls.__name__ for cls in tree} == before | after
    assert {cls.__name__ for cls in tree if issubclass(cls, BEFORE_ANY_BYTE)} == before


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ConnectionTimeoutError("connecting"), OutcomeKind.NOT_SENT),
        (aiohttp.SocketTimeoutError("reading"), OutcomeKind.UNKNOWN),
        (aiohttp.ServerDisconnectedError(), OutcomeKind.UNKNOWN),
        (aiohttp.ClientOSError(104, "reset"), OutcomeKind.UNKNOWN),
        (aiohttp.ClientPayloadError("cut"), OutcomeKind.UNKNOWN),
        (TimeoutError(), OutcomeKind.UNKNOWN),
        (OSError(), OutcomeKind.UNKNOWN),
    ],
)
async def test_A1_A12_silence_after_the_first_byte_is_unknown(
    provider: StripeProvider, wire: Wire, error: Exception, kind: OutcomeKind
) -> None:
    wire.answers = [error]
    outcome = await provider.send(charge())
    assert (outcome.kind, outcome.provider_reference) == (kind, "pi_1")
    assert len(wire.sent) == 1


async def test_A11_nothing_is_sent_twice_though_the_sdk_thinks_it_should_be(
    provider: StripeProvider, wire: Wire
) -> None:
    wire.answers = [refused(503, {"stripe-should-retry": "true"}, type="api_error"), ok(intent("succeeded"))]
    outcome = await provider.send(charge())
    assert (outcome.kind, outcome.is_server_error) == (OutcomeKind.UNKNOWN, True)
    assert "should_retry true" in (outcome.evidence or "")
    assert len(wire.sent) == 1


async def test_what_is_sent_to_create_and_to_confirm(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(intent("requires_confirmation")), ok(intent("succeeded", amount_received=1234))]
    registered = await provider.register(charge(registered=False))
    charged = await provider.send(charge())
    assert registered == Outcome(
        kind=OutcomeKind.NOT_SENT,
        provider_reference="pi_1",
        reference=REFERENCE,
        amount_minor=1234,
        currency="USD",
        is_live=False,
        cause="registered, not confirmed",
        evidence="PaymentIntent pi_1 requires_confirmation, request req_1",
    )
    assert (charged.kind, charged.amount_minor, charged.currency) == (OutcomeKind.APPROVED, 1234, "USD")
    (_, create_url, create_headers, create_body), (_, confirm_url, confirm_headers, confirm_body) = wire.sent
    assert create_url == "https://api.stripe.com/v1/payment_intents"
    assert confirm_url == "https://api.stripe.com/v1/payment_intents/pi_1/confirm"
    assert create_headers["Idempotency-Key"] == f"{REFERENCE}-create"
    assert confirm_headers["Idempotency-Key"] == f"{REFERENCE}-confirm"
    assert parse_qs(create_body) == {"amount": ["1234"], "confirm": ["false"], "currency": ["usd"]}
    assert parse_qs(confirm_body) == {"error_on_requires_action": ["true"]}
    for headers in (create_headers, confirm_headers):
        assert headers["Authorization"] == "Bearer sk_test_key"
        assert headers["Stripe-Version"] == API_VERSION
        assert "X-Stripe-Client-Telemetry" not in headers
        assert "telemetry_id" not in headers["X-Stripe-Client-User-Agent"]
        assert "Stripe-Account" not in headers


async def test_a_connected_account_is_named_in_every_call(wire: Wire) -> None:
    wire.answers = [ok(intent("succeeded")), ok(intent("succeeded"))]
    provider = StripeProvider("sk_test_key", account="acct_1")
    await provider.send(charge())
    await provider.look_up(charge())
    assert [headers["Stripe-Account"] for _, _, headers, _ in wire.sent] == ["acct_1", "acct_1"]


async def test_the_pinned_version_is_sent_and_is_the_one_the_sdk_was_made_for(
    provider: StripeProvider, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stripe.api_version == API_VERSION
    monkeypatch.setattr("coatcheck.providers.stripe.API_VERSION", "2020-01-01")
    wire.answers = [ok(intent("succeeded"))]
    await provider.look_up(charge())
    assert wire.sent[0][2]["Stripe-Version"] == "2020-01-01"


async def test_nothing_is_confirmed_that_was_not_registered(provider: StripeProvider, wire: Wire) -> None:
    outcome = await provider.send(charge(registered=False))
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert wire.sent == []


@pytest.mark.parametrize("key", ["sk_live_key", "rk_live_key"])
async def test_I2_a_test_order_never_meets_a_live_key(wire: Wire, key: str) -> None:
    provider = StripeProvider(key)
    assert (await provider.register(charge())).kind is OutcomeKind.NOT_SENT
    assert (await provider.send(charge())).kind is OutcomeKind.NOT_SENT
    assert (await provider.look_up(charge())).kind is OutcomeKind.UNKNOWN
    assert wire.sent == []


@pytest.mark.parametrize(
    ("status", "failure", "expected"),
    [
        ("succeeded", None, (OutcomeKind.APPROVED, None)),
        ("processing", None, (OutcomeKind.PENDING, None)),
        ("requires_action", None, (OutcomeKind.PENDING, None)),
        ("requires_confirmation", None, (OutcomeKind.NOT_SENT, None)),
        ("requires_payment_method", None, (OutcomeKind.NOT_SENT, None)),
        (
            "requires_payment_method",
            {"code": "card_declined", "decline_code": "lost_card"},
            (OutcomeKind.DECLINED, "lost_card"),
        ),
        ("requires_payment_method", {}, (OutcomeKind.DECLINED, "card_declined")),
        ("canceled", None, (OutcomeKind.DECLINED, "canceled")),
        ("requires_capture", None, (OutcomeKind.UNKNOWN, None)),
        ("something_new", None, (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_each_status_of_a_payment_intent(
    provider: StripeProvider,
    wire: Wire,
    status: str,
    failure: dict[str, str] | None,
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [ok(intent(status, last_payment_error=failure))] * 2
    for outcome in (await provider.send(charge()), await provider.look_up(charge())):
        assert (outcome.kind, outcome.decline_code) == expected
        assert (outcome.reference, outcome.provider_reference, outcome.is_live) == (REFERENCE, "pi_1", False)
        assert (outcome.amount_minor, outcome.currency) == (1234, "USD")
        assert outcome.is_cancelled is (status == "canceled")


async def test_A15_what_was_received_counts_not_what_was_asked(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(intent("succeeded", amount_received=1200, livemode=True, metadata={}))]
    outcome = await provider.send(charge())
    assert (outcome.amount_minor, outcome.is_live, outcome.reference) == (1200, True, None)


async def test_A15_an_amount_without_an_iso_equal_is_not_approved(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(intent("succeeded", amount=150, currency="isk"))]
    assert (await provider.send(charge())).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("answer", "kind", "decline_code"),
    [
        (
            refused(402, type="card_error", code="card_declined", decline_code="insufficient_funds"),
            OutcomeKind.DECLINED,
            "insufficient_funds",
        ),
        (refused(402, type="card_error", code="expired_card"), OutcomeKind.DECLINED, "expired_card"),
        (
            refused(402, type="card_error", code="requires_action_not_handled"),
            OutcomeKind.DECLINED,
            "authentication_required",
        ),
        (refused(401, type="invalid_request_error"), OutcomeKind.NOT_SENT, None),
        (refused(403, type="invalid_request_error"), OutcomeKind.NOT_SENT, None),
        (refused(400, type="idempotency_error"), OutcomeKind.UNKNOWN, None),
        (refused(409, type="idempotency_error", code="idempotency_key_in_use"), OutcomeKind.UNKNOWN, None),
        (refused(429, type="invalid_request_error", code="rate_limit"), OutcomeKind.UNKNOWN, None),
        (refused(429, type="invalid_request_error", code="lock_timeout"), OutcomeKind.UNKNOWN, None),
        (refused(500, type="api_error"), OutcomeKind.UNKNOWN, None),
        (refused(503, type="api_error"), OutcomeKind.UNKNOWN, None),
    ],
)
async def test_A4_each_refusal_of_a_confirmation(
    provider: StripeProvider, wire: Wire, answer: Answer, kind: OutcomeKind, decline_code: str | None
) -> None:
    wire.answers = [answer]
    outcome = await provider.send(charge())
    assert (outcome.kind, outcome.decline_code) == (kind, decline_code)
    assert outcome.provider_reference == "pi_1"
    assert outcome.is_server_error is (answer[1] >= 500)
    assert f"HTTP {answer[1]}" in (outcome.evidence or "")
    assert "req_1" in (outcome.evidence or "")


async def test_a_decline_carries_stripes_own_words_about_the_intent(provider: StripeProvider, wire: Wire) -> None:
    declined = intent("requires_payment_method", last_payment_error={"code": "card_declined"})
    wire.answers = [refused(402, type="card_error", code="card_declined", payment_intent=declined)]
    outcome = await provider.send(charge())
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "card_declined")
    assert (outcome.amount_minor, outcome.currency, outcome.reference) == (1234, "USD", REFERENCE)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("0", 0), ("soon", None), ("-1", None), (None, None)])
async def test_F5_retry_after_is_handed_on(
    provider: StripeProvider, wire: Wire, header: str | None, seconds: int | None
) -> None:
    wire.answers = [refused(429, {"retry-after": header} if header else None, type="invalid_request_error")]
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert (await provider.send(charge())).retry_after == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"1",
        b'"succeeded"',
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"id":"pi_1","object":"payment_intent","status":"succeeded"',
        b'{"id":"pi_1","object":"charge","status":"succeeded","amount":1,"currency":"usd","livemode":false}',
        b'{"id":"pi_1","object":"payment_intent","status":"succeeded","amount":"1","currency":"usd","livemode":false}',
        b'{"id":"pi_1","object":"payment_intent","status":"succeeded","amount":1.5,"currency":"usd","livemode":false}',
        b'{"id":"pi_1","object":"payment_intent","status":"succeeded","amount":NaN,"currency":"usd","livemode":false}',
    ],
)
@pytest.mark.parametrize("status", [200, 302, 402, 500])
async def test_A10_what_cannot_be_read_is_silence(
    provider: StripeProvider, wire: Wire, body: bytes, status: int
) -> None:
    wire.answers = [(body, status, {})] * 3
    assert (await provider.send(charge())).kind is OutcomeKind.UNKNOWN
    assert (await provider.look_up(charge())).kind is OutcomeKind.UNKNOWN
    assert (await provider.look_up(charge(registered=False))).kind is OutcomeKind.UNKNOWN


UNEXPECTED_STATE = refused(400, type="invalid_request_error", code="payment_intent_unexpected_state")
USED_METHOD = refused(400, type="invalid_request_error")


@pytest.mark.parametrize(
    ("refusal", "then", "expected"),
    [
        (UNEXPECTED_STATE, ok(intent("succeeded")), (OutcomeKind.APPROVED, None)),
        (UNEXPECTED_STATE, ok(intent("processing")), (OutcomeKind.PENDING, None)),
        (UNEXPECTED_STATE, ok(intent("canceled")), (OutcomeKind.DECLINED, "canceled")),
        (UNEXPECTED_STATE, ok(intent("requires_confirmation")), (OutcomeKind.UNKNOWN, None)),
        (UNEXPECTED_STATE, refused(404, type="invalid_request_error"), (OutcomeKind.UNKNOWN, None)),
        (UNEXPECTED_STATE, aiohttp.ConnectionTimeoutError(), (OutcomeKind.UNKNOWN, None)),
        (UNEXPECTED_STATE, refused(401, type="invalid_request_error"), (OutcomeKind.UNKNOWN, None)),
        (USED_METHOD, ok(intent("succeeded")), (OutcomeKind.APPROVED, None)),
        (USED_METHOD, ok(intent("requires_confirmation")), (OutcomeKind.DECLINED, "invalid_request")),
        (USED_METHOD, aiohttp.ServerDisconnectedError(), (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_A1_a_refused_confirmation_is_looked_up_before_it_is_believed(
    provider: StripeProvider,
    wire: Wire,
    refusal: Answer,
    then: Answer | Exception,
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [refusal, then]
    outcome = await provider.send(charge())
    assert (outcome.kind, outcome.decline_code) == expected
    assert [method for method, *_ in wire.sent] == ["post", "get"]


@pytest.mark.parametrize(
    ("answer", "kind", "decline_code"),
    [
        (refused(400, type="invalid_request_error", param="currency"), OutcomeKind.DECLINED, "invalid_request"),
        (refused(404, type="invalid_request_error", code="resource_missing"), OutcomeKind.DECLINED, "invalid_request"),
        (refused(400, type="idempotency_error"), OutcomeKind.NOT_SENT, None),
        (refused(401, type="invalid_request_error"), OutcomeKind.NOT_SENT, None),
        (refused(409, type="idempotency_error"), OutcomeKind.NOT_SENT, None),
        (refused(429, type="invalid_request_error"), OutcomeKind.NOT_SENT, None),
        (refused(500, type="api_error"), OutcomeKind.NOT_SENT, None),
        ((b"<html>", 200, {}), OutcomeKind.NOT_SENT, None),
        (aiohttp.ServerDisconnectedError(), OutcomeKind.NOT_SENT, None),
    ],
)
async def test_creating_moves_no_money_so_only_a_refusal_ends_it(
    provider: StripeProvider,
    wire: Wire,
    answer: Answer | Exception,
    kind: OutcomeKind,
    decline_code: str | None,
) -> None:
    wire.answers = [answer]
    outcome = await provider.register(charge(registered=False))
    assert (outcome.kind, outcome.decline_code, outcome.provider_reference) == (kind, decline_code, None)


@pytest.mark.parametrize(
    "answer",
    [
        aiohttp.ConnectionTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        refused(401, type="invalid_request_error"),
        refused(404, type="invalid_request_error", code="resource_missing"),
        refused(402, type="card_error", code="card_declined"),
        refused(429, type="invalid_request_error"),
        refused(500, type="api_error"),
    ],
)
async def test_A14_a_question_that_failed_proves_nothing(
    provider: StripeProvider, wire: Wire, answer: Answer | Exception
) -> None:
    wire.answers = [answer] * 2
    for registered in (True, False):
        outcome = await provider.look_up(charge(registered=registered))
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.UNKNOWN, None)


def listed(*intents: dict[str, Any], has_more: bool = False) -> Answer:
    return ok({"object": "list", "data": intents, "has_more": has_more, "url": "/v1/payment_intents"})


async def test_A14_without_an_id_every_page_is_listed(provider: StripeProvider, wire: Wire) -> None:
    other = intent("succeeded", id="pi_0", metadata={"coatcheck_operation": "op_other"})
    wire.answers = [listed(other, has_more=True), listed(other | {"metadata": None}, intent("succeeded"))]
    outcome = await provider.look_up(charge(registered=False))
    assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, "pi_1")
    first, second = (parse_qs(urlsplit(url).query) for _, url, _, _ in wire.sent)
    since = str(int(datetime(2026, 11, 21, 9, tzinfo=UTC).timestamp()))
    assert first == {"limit": ["100"], "created[gte]": [since]}
    assert second == first | {"starting_after": ["pi_0"]}


async def test_A14_not_found_needs_the_whole_list(
    provider: StripeProvider, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.providers.stripe._PAGES_AT_MOST", 2)
    other = intent("succeeded", id="pi_0", metadata={})
    wire.answers = [listed(other), listed(other, has_more=True), listed(other, has_more=True)]
    assert (await provider.look_up(charge(registered=False))).kind is OutcomeKind.NOT_FOUND
    assert (await provider.look_up(charge(registered=False))).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (("requires_confirmation", "succeeded"), OutcomeKind.APPROVED),
        (("canceled", "succeeded"), OutcomeKind.APPROVED),
        (("requires_confirmation", "processing", "canceled"), OutcomeKind.PENDING),
        (("requires_confirmation", "requires_capture"), OutcomeKind.UNKNOWN),
        (("requires_confirmation", "requires_confirmation"), OutcomeKind.NOT_SENT),
        (("succeeded", "succeeded"), OutcomeKind.UNKNOWN),
    ],
)
async def test_of_several_intents_the_one_that_moved_money_speaks(
    provider: StripeProvider, wire: Wire, statuses: tuple[str, ...], kind: OutcomeKind
) -> None:
    wire.answers = [listed(*(intent(status, id=f"pi_{number}") for number, status in enumerate(statuses)))]
    outcome = await provider.look_up(charge(registered=False))
    assert outcome.kind is kind
    if statuses == ("succeeded", "succeeded"):
        assert outcome.evidence == "pi_0 pi_1"


async def test_A17_a_cancelled_call_stays_cancelled(provider: StripeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(Wire, "request_async", never)
    task = asyncio.create_task(provider.send(charge()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_A1_the_deadline_bounds_the_whole_call(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    assert wire.sent == []
    monkeypatch.setattr(Wire, "request_async", never)
    provider = StripeProvider("sk_test_key", call_deadline_s=0)
    assert (await provider.send(charge())).cause == "no answer in time"


def test_each_event_loop_has_its_own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    wires: list[Wire] = []

    def connect(_: StripeProvider) -> Wire:
        wires.append(Wire())
        wires[-1].answers = [ok(intent("succeeded"))] * 2
        return wires[-1]

    monkeypatch.setattr(StripeProvider, "_new_http_client", connect)
    provider = StripeProvider("sk_test_key")

    async def ask_twice() -> None:
        await provider.look_up(charge())
        await provider.look_up(charge())

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(ask_twice())
        other.run(ask_twice())
    assert [len(wire.sent) for wire in wires] == [2, 2]


async def test_a_secret_never_reaches_the_evidence(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [
        refused(401, type="invalid_request_error", message="Invalid API Key provided: sk_test_key"),
        refused(402, type="card_error", code="card_declined", message="4242424242424242 was declined"),
    ]
    for outcome in (await provider.send(charge()), await provider.send(charge())):
        assert "sk_test_key" not in repr(outcome)
        assert "4242" not in repr(outcome)
