"""Payouts at Stripe, as Transfers through the real SDK: what is sent, and what each answer and refusal means."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import pytest
from tests.unit.test_stripe_outcomes import Answer, Wire, ok, refused

from coatcheck.executor import mismatch_of
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.providers.stripe import StripeProvider
from coatcheck.providers.webhooks_stripe import StripeWebhooks
from coatcheck.states import Mode, OperationKind

OPERATION_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
REFERENCE = "op_aerukz4jvpg66ajdivtytk6n54"
ACCOUNT = "acct_1NvdFGQ9RKHgCVdK"


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def payout(**fields: Any) -> Intent:
    return Intent(
        **{
            "operation_id": OPERATION_ID,
            "amount_minor": 1000,
            "currency": "USD",
            "mode": Mode.TEST,
            "body": b"",
            "kind": OperationKind.PAYOUT,
            "first_sent_at": datetime(2026, 11, 21, 10, tzinfo=UTC),
            "target_reference": ACCOUNT,
            **fields,
        }
    )


def transfer(**fields: Any) -> dict[str, Any]:
    return {
        "id": "tr_1",
        "object": "transfer",
        "amount": 1000,
        "amount_reversed": 0,
        "currency": "usd",
        "destination": ACCOUNT,
        "livemode": False,
        "reversed": False,
        "transfer_group": REFERENCE,
        "metadata": {"coatcheck_operation": REFERENCE},
        **fields,
    }


def listed(*transfers: dict[str, Any]) -> Answer:
    return ok({"object": "list", "data": transfers, "has_more": False, "url": "/v1/transfers"})


REVERSED = {"reversed": True, "amount_reversed": 1000}


async def test_A16_what_is_sent_is_the_same_every_time_under_the_operations_key(
    provider: StripeProvider, wire: Wire
) -> None:
    for _ in range(2):
        wire.answers.append(ok(transfer()))
        outcome = await provider.send(payout())
        assert (outcome.kind, outcome.provider_reference, outcome.amount_minor) == (OutcomeKind.APPROVED, "tr_1", 1000)
        assert mismatch_of(payout(), outcome) is None
    for method, url, headers, body in wire.sent:
        assert (method, urlsplit(url).path) == ("post", "/v1/transfers")
        assert headers["Idempotency-Key"] == REFERENCE
        assert parse_qs(body if isinstance(body, str) else body.decode()) == {
            "amount": ["1000"],
            "currency": ["usd"],
            "destination": [ACCOUNT],
            "transfer_group": [REFERENCE],
            "metadata[coatcheck_operation]": [REFERENCE],
        }


@pytest.mark.parametrize(
    ("found", "kind", "code"),
    [
        (transfer(), OutcomeKind.APPROVED, None),
        (transfer(**REVERSED), OutcomeKind.DECLINED, "reversed"),
        (transfer(destination="acct_another1234567"), OutcomeKind.UNKNOWN, None),
    ],
)
async def test_what_a_transfer_says_when_it_is_asked_about(
    provider: StripeProvider, wire: Wire, found: dict[str, Any], kind: OutcomeKind, code: str | None
) -> None:
    for intent, answer in ((payout(), listed(found)), (payout(provider_reference="tr_1"), ok(found))):
        wire.answers.append(answer)
        outcome = await provider.look_up(intent)
        assert (outcome.kind, outcome.decline_code) == (kind, code)
    assert parse_qs(urlsplit(wire.sent[0][1]).query) == {"limit": ["100"], "transfer_group": [REFERENCE]}


async def test_A15_a_transfer_that_is_reversed_in_part_is_an_incident(provider: StripeProvider, wire: Wire) -> None:
    wire.answers.append(ok(transfer(amount_reversed=300)))
    outcome = await provider.look_up(payout(provider_reference="tr_1"))
    assert mismatch_of(payout(), outcome) == "amount_minor 700 instead of 1000"


async def test_no_transfer_of_ours_is_not_found(provider: StripeProvider, wire: Wire) -> None:
    wire.answers.append(listed(transfer(metadata={})))
    assert (await provider.look_up(payout())).kind is OutcomeKind.NOT_FOUND


async def test_A5_a_refusal_is_believed_after_asking_that_nothing_was_done(
    provider: StripeProvider, wire: Wire
) -> None:
    refusal = refused(400, type="invalid_request_error", code="balance_insufficient")
    wire.answers += [refusal, listed()]
    outcome = await provider.send(payout())
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "balance_insufficient")
    wire.answers += [refusal, listed(transfer())]
    assert (await provider.send(payout())).kind is OutcomeKind.APPROVED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), OutcomeKind.UNKNOWN),
        (aiohttp.ServerDisconnectedError(), OutcomeKind.UNKNOWN),
        (aiohttp.ConnectionTimeoutError(), OutcomeKind.NOT_SENT),
    ],
)
async def test_A12_silence_before_the_first_byte_is_not_sent_and_after_it_unknown(
    provider: StripeProvider, wire: Wire, error: Exception, kind: OutcomeKind
) -> None:
    wire.answers.append(error)
    assert (await provider.send(payout())).kind is kind


async def test_an_amount_that_stripe_cannot_express_is_refused_and_not_sent(
    provider: StripeProvider, wire: Wire
) -> None:
    outcome = await provider.send(payout(amount_minor=1, currency="BHD"))
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, "invalid_amount")
    assert wire.sent == []


@pytest.mark.parametrize(
    ("event", "fields", "kind"),
    [
        ("transfer.created", {}, OutcomeKind.APPROVED),
        ("transfer.updated", {}, OutcomeKind.APPROVED),
        ("transfer.reversed", REVERSED, OutcomeKind.DECLINED),
    ],
)
def test_D10_events_of_transfers_speak_of_our_payout(event: str, fields: dict[str, Any], kind: OutcomeKind) -> None:
    raw = json.dumps(
        {
            "id": "evt_1",
            "object": "event",
            "type": event,
            "created": 1,
            "livemode": False,
            "data": {"object": transfer(**fields)},
        }
    ).encode()
    (notice,) = StripeWebhooks(["whsec_x"], Mode.TEST).parse(raw)
    assert notice.reference == REFERENCE
    assert isinstance(notice.outcome, Outcome)
    assert notice.outcome.kind is kind


def test_a_server_without_keys_pays_nobody_out() -> None:
    assert StripeProvider("sk_test_key", idempotency_window=timedelta(0)).capabilities.payout_token is None
