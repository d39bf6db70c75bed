"""Disputes at Stripe: what a Dispute means, what an event is believed, and how evidence is passed on."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import pytest
from tests.unit.test_stripe_outcomes import Wire, ok, refused

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.disputes import EvidenceBody, EvidenceFile, Parcel
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import NotListedError, WebhookReader
from coatcheck.providers.stripe import StripeProvider
from coatcheck.providers.webhooks_stripe import StripeWebhooks
from coatcheck.states import DisputeStatus, EvidenceKind, Mode

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
REFERENCE = print_id(OPERATION, UUID(int=7))
READER: WebhookReader = StripeWebhooks(["whsec_1"], Mode.TEST)
FILE = EvidenceFile(part="other_file", name="r.pdf", content_type="application/pdf", content=b"%PDF-1.4 worn")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def moved(number: int, amount: int, fee: int, currency: str = "eur") -> dict[str, Any]:
    return {
        "id": f"txn_{number}",
        "object": "balance_transaction",
        "amount": amount,
        "fee": fee,
        "net": amount - fee,
        "currency": currency,
        "created": 1_700_000_000 + number,
    }


def dispute(status: str = "needs_response", **more: Any) -> dict[str, Any]:
    return {
        "id": "dp_1",
        "object": "dispute",
        "amount": 1234,
        "currency": "usd",
        "status": status,
        "reason": "fraudulent",
        "livemode": False,
        "charge": "ch_1",
        "balance_transactions": [moved(1, -1130, 1500)],
        "evidence_details": {"due_by": 1_800_000_000, "has_evidence": False, "submission_count": 0},
        "payment_intent": {"id": "pi_1", "object": "payment_intent", "metadata": {"coatcheck_operation": REFERENCE}},
        "metadata": {},
    } | more


async def test_G16_disputes_are_listed_to_the_end_and_one_in_strange_words_hides_no_other(
    wire: Wire, provider: StripeProvider
) -> None:
    wire.answers = [
        ok({"object": "list", "data": [dispute(), dispute("in_court", id="dp_2")], "has_more": True}),
        ok({"object": "list", "data": [dispute("lost", id="dp_3")], "has_more": False}),
    ]
    first = await provider.list_disputes_since(AT, AT)
    second = await provider.list_disputes_since(AT, AT, first.following)
    assert second.following is None
    known, strange, lost = *first.news, *second.news
    assert (known.status, known.reference, known.amount_minor) == (DisputeStatus.NEEDS_RESPONSE, REFERENCE, 1234)
    assert (strange.provider_reference, strange.is_whole) == ("dp_2", False)
    assert (lost.provider_reference, lost.status) == ("dp_3", DisputeStatus.LOST)
    asked = [(urlsplit(url).path, parse_qs(urlsplit(url).query)) for _, url, _, _ in wire.sent]
    since = {"created[gte]": [str(int(AT.timestamp()))], "limit": ["100"], "expand[0]": ["data.payment_intent"]}
    assert asked == [("/v1/disputes", since), ("/v1/disputes", since | {"starting_after": ["dp_2"]})]


async def test_G16_an_error_is_no_empty_list_of_disputes(wire: Wire, provider: StripeProvider) -> None:
    wire.answers = [refused(500), ok({"object": "list"}), TimeoutError()]
    for _ in range(3):
        with pytest.raises(NotListedError):
            await provider.list_disputes_since(AT, AT)


def parcel(**more: Any) -> Parcel:
    fields: dict[str, Any] = {
        "evidence_id": UUID(int=1),
        "dispute_id": UUID(int=2),
        "order_id": UUID(int=3),
        "kind": EvidenceKind.EVIDENCE,
        "provider": "stripe",
        "provider_reference": "dp_1",
        "mode": Mode.TEST,
        "attempt": 1,
        "first_sent_at": AT,
        "ends_it": True,
        "body": EvidenceBody(texts={"explanation": "worn", "shipping_date": "2026-11-01"}, files=(FILE,)),
    }
    return Parcel(**fields | more)


@pytest.mark.parametrize(
    ("status", "here"),
    [
        ("warning_needs_response", DisputeStatus.INQUIRY),
        ("warning_under_review", DisputeStatus.INQUIRY),
        ("warning_closed", DisputeStatus.CLOSED),
        ("prevented", DisputeStatus.CLOSED),
        ("needs_response", DisputeStatus.NEEDS_RESPONSE),
        ("appeal_needs_response", DisputeStatus.NEEDS_RESPONSE),
        ("under_review", DisputeStatus.UNDER_REVIEW),
        ("appeal_under_review", DisputeStatus.UNDER_REVIEW),
        ("won", DisputeStatus.WON),
        ("lost", DisputeStatus.LOST),
    ],
)
async def test_each_status_of_a_dispute(provider: StripeProvider, wire: Wire, status: str, here: DisputeStatus) -> None:
    wire.answers = [ok(dispute(status))]
    answer = await provider.read_dispute("dp_1", Mode.TEST, AT)
    assert answer.kind is OutcomeKind.APPROVED
    assert answer.news is not None
    assert (answer.news.status, answer.news.is_whole) == (here, True)


async def test_D7_amounts_are_stripe_s_in_the_currency_of_each(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(dispute(balance_transactions=[moved(1, -1130, 1500), moved(2, 1130, -1500)]))]
    news = (await provider.read_dispute("dp_1", Mode.TEST, AT)).news
    assert news is not None
    assert (news.amount_minor, news.currency, news.reference, news.charge_reference) == (1234, "USD", REFERENCE, "pi_1")
    assert [(each.name, each.gross_minor, each.fee_minor, each.currency) for each in news.movements] == [
        ("txn_1", -1130, 1500, "EUR"),
        ("txn_2", 1130, -1500, "EUR"),
    ]
    assert news.evidence_due_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert news.word_no == int(AT.timestamp() * 1_000_000)
    method, url, _, _ = wire.sent[0]
    assert (method, urlsplit(url).path) == ("get", "/v1/disputes/dp_1")
    assert parse_qs(urlsplit(url).query) == {"expand[0]": ["payment_intent"]}


async def test_of_a_page_s_payment_no_charge_is_compared(provider: StripeProvider, wire: Wire) -> None:
    metadata = {"coatcheck_operation": REFERENCE, "coatcheck_page": "pay_1"}
    wire.answers = [ok(dispute(payment_intent={"id": "pi_1", "metadata": metadata}))]
    news = (await provider.read_dispute("dp_1", Mode.TEST, AT)).news
    assert news is not None
    assert (news.reference, news.charge_reference) == (REFERENCE, None)


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        (ok(dispute("dancing")), OutcomeKind.UNKNOWN),
        (ok(dispute(currency="xxx")), OutcomeKind.UNKNOWN),
        (ok(dispute(amount=0)), OutcomeKind.UNKNOWN),
        (ok({"id": "dp_1"}), OutcomeKind.UNKNOWN),
        (refused(404, type="invalid_request_error", code="resource_missing"), OutcomeKind.NOT_FOUND),
        (refused(400, type="invalid_request_error"), OutcomeKind.UNKNOWN),
        (refused(401, type="invalid_request_error"), OutcomeKind.NOT_SENT),
        (refused(500, type="api_error"), OutcomeKind.UNKNOWN),
    ],
    ids=["status", "currency", "amount", "shape", "missing", "refused", "key", "broken"],
)
async def test_A10_what_says_nothing_of_a_dispute(
    provider: StripeProvider, wire: Wire, shown: Any, kind: OutcomeKind
) -> None:
    wire.answers = [shown]
    answer = await provider.read_dispute("dp_1", Mode.TEST, AT)
    assert (answer.kind, answer.news) == (kind, None)


async def test_I2_a_live_dispute_is_never_asked_about_with_a_test_key(provider: StripeProvider, wire: Wire) -> None:
    assert (await provider.read_dispute("dp_1", Mode.LIVE, AT)).kind is OutcomeKind.NOT_SENT
    assert (await provider.submit_evidence(parcel(mode=Mode.LIVE), AT)).kind is OutcomeKind.NOT_SENT
    assert wire.sent == []


async def test_A16_evidence_is_uploaded_then_submitted_each_under_its_own_key(
    provider: StripeProvider, wire: Wire
) -> None:
    known = dispute(metadata={"coatcheck_evidence": "evd_earlier"})
    done = dispute("under_review", metadata={"coatcheck_evidence": f"evd_earlier {parcel().reference}"})
    wire.answers = [ok(known), ok({"id": "file_1", "object": "file"}), ok(done)]
    answer = await provider.submit_evidence(parcel(), AT)
    assert (answer.kind, answer.refusal_code) == (OutcomeKind.APPROVED, None)
    assert answer.evidence == {"evd_earlier", parcel().reference}
    (_, _, _, _), upload, update = wire.sent
    assert urlsplit(upload[1]).path == "/v1/files"
    assert b"%PDF-1.4 worn" in upload[3]
    assert b'filename="r.pdf"' in upload[3]
    assert upload[2]["Idempotency-Key"] == f"{parcel().reference}-other_file"
    assert update[2]["Idempotency-Key"] == parcel().reference
    assert parse_qs(update[3]) == {
        "evidence[uncategorized_file]": ["file_1"],
        "evidence[uncategorized_text]": ["worn"],
        "evidence[shipping_date]": ["2026-11-01"],
        "metadata[coatcheck_evidence]": [f"evd_earlier {parcel().reference}"],
        "submit": ["true"],
        "expand[0]": ["payment_intent"],
    }


async def test_an_acceptance_closes_the_dispute(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(dispute("lost"))]
    answer = await provider.submit_evidence(parcel(kind=EvidenceKind.ACCEPTANCE, body=EvidenceBody()), AT)
    assert answer.news is not None
    assert answer.news.status is DisputeStatus.LOST
    (sent,) = wire.sent
    assert urlsplit(sent[1]).path == "/v1/disputes/dp_1/close"
    assert sent[2]["Idempotency-Key"] == parcel().reference


async def test_what_stripe_does_not_take_is_refused_in_its_word(provider: StripeProvider, wire: Wire) -> None:
    body = EvidenceBody(texts={"explanation": "worn"})
    wire.answers = [ok(dispute()), refused(400, type="invalid_request_error", code="dispute_not_open")]
    answer = await provider.submit_evidence(parcel(body=body), AT)
    assert (answer.kind, answer.refusal_code) == (OutcomeKind.DECLINED, "dispute_not_open")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), OutcomeKind.UNKNOWN),
        (aiohttp.ConnectionTimeoutError(), OutcomeKind.NOT_SENT),
        (TimeoutError(), OutcomeKind.UNKNOWN),
    ],
)
async def test_A1_A12_silence_about_evidence_decides_nothing(
    provider: StripeProvider, wire: Wire, error: Exception, kind: OutcomeKind
) -> None:
    wire.answers = [ok(dispute()), error]
    answer = await provider.submit_evidence(parcel(body=EvidenceBody(texts={"explanation": "worn"})), AT)
    assert (answer.kind, answer.news) == (kind, None)


async def test_the_references_in_the_metadata_never_outgrow_it(provider: StripeProvider, wire: Wire) -> None:
    many = " ".join(f"evd_{number:026d}" for number in range(16))
    wire.answers = [ok(dispute(metadata={"coatcheck_evidence": many})), ok(dispute())]
    await provider.submit_evidence(parcel(body=EvidenceBody(texts={"explanation": "worn"})), AT)
    (kept,) = parse_qs(wire.sent[1][3])["metadata[coatcheck_evidence]"]
    assert len(kept) <= 500
    assert kept.endswith(parcel().reference)


# events


def event(event_type: str, shown: dict[str, Any]) -> bytes:
    whole = {"id": "evt_1", "object": "event", "created": 1, "type": event_type, "livemode": False}
    return json.dumps(whole | {"data": {"object": shown}}).encode()


@pytest.mark.parametrize("verb", ["created", "updated", "funds_withdrawn", "funds_reinstated", "closed"])
def test_C7_an_event_of_a_dispute_is_only_a_hint(verb: str) -> None:
    (notice,) = READER.parse(event(f"charge.dispute.{verb}", dispute("lost", payment_intent="pi_1")))
    news = notice.dispute
    assert news is not None
    assert (news.is_hint, news.is_whole, news.provider_reference, news.mode) == (True, False, "dp_1", Mode.TEST)
    assert (news.status, news.movements, news.type) == (None, (), f"charge.dispute.{verb}")


@pytest.mark.parametrize("shown", [{}, {"id": "dp_1", "object": "charge", "livemode": False}, dispute(id="../dp_1")])
def test_C16_an_event_that_shows_no_dispute_cannot_be_read(shown: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        READER.parse(event("charge.dispute.created", shown))
