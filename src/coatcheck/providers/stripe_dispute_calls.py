"""What is asked of Stripe about a dispute, through its official SDK: read it, add evidence, or give it up."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec
import stripe

from coatcheck.providers.disputes import DisputeAnswer, DisputeNews, DisputePage, EvidenceFile, Parcel
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.stripe_answers import BEFORE_ANY_BYTE, ERRORS, evidence_of, problem_of
from coatcheck.providers.stripe_disputes import PROVIDER, Dispute, answer_of, news_of, update_of
from coatcheck.states import EvidenceKind, Mode

_WITH_ITS_PAYMENT: Mapping[str, Any] = {"expand": ["payment_intent"]}
_NOT_FOUND = 404
_PAGE_SIZE = 100
_Shape = TypeVar("_Shape")


class _Page(msgspec.Struct):
    data: list[Dispute]
    has_more: bool


class _Upload(io.BytesIO):
    """A file as the SDK wants it: to be read, with a name."""

    def __init__(self, file: EvidenceFile) -> None:
        super().__init__(file.content)
        self.name = file.name


async def read_dispute(client: stripe.StripeClient, dispute_id: str, at: datetime) -> DisputeAnswer:
    """Read a Dispute with its PaymentIntent. Raises what the SDK raises, and ValueError for another shape."""
    return answer_of(await _dispute(client, dispute_id), at)


async def list_disputes(client: stripe.StripeClient, since: datetime, at: datetime, after: str | None) -> DisputePage:
    """List Disputes made since a time, newest first, each with its PaymentIntent. Raises as `read_dispute` does."""
    asked: dict[str, Any] = {
        "limit": _PAGE_SIZE,
        "created": {"gte": int(since.timestamp())},
        "expand": ["data.payment_intent"],
    }
    if after is not None:
        asked["starting_after"] = after
    page = _read(await client.v1.disputes.list_async(cast("Any", asked)), _Page)
    return DisputePage([_news_of(each, at) for each in page.data], page.data[-1].id if page.has_more else None)


def _news_of(dispute: Dispute, at: datetime) -> DisputeNews:
    """Put a listed Dispute into our words; of one that has no place in them only which it is: one must not hide all."""
    try:
        return news_of(dispute, at)
    except ValueError:
        mode = Mode.LIVE if dispute.livemode else Mode.TEST
        return DisputeNews(
            provider=PROVIDER, mode=mode, provider_reference=dispute.id, type=dispute.status, is_hint=True
        )


async def pass_on(client: stripe.StripeClient, parcel: Parcel, at: datetime) -> DisputeAnswer:
    """Upload the files, then update the Dispute; or close it. Each request has a key of the parcel's.

    Raises what the SDK raises, and ValueError for another shape.
    """
    dispute_id = parcel.provider_reference
    if parcel.kind is EvidenceKind.ACCEPTANCE:
        given_up = await client.v1.disputes.close_async(
            dispute_id, cast("Any", dict(_WITH_ITS_PAYMENT)), {"idempotency_key": parcel.reference}
        )
        return answer_of(_read(given_up, Dispute), at)
    known = (await _dispute(client, dispute_id)).evidence
    files = {each.part: await _upload(client, parcel, each) for each in parcel.body.files}
    updated = await client.v1.disputes.update_async(
        dispute_id, cast("Any", update_of(parcel, files, known)), {"idempotency_key": parcel.reference}
    )
    return answer_of(_read(updated, Dispute), at)


def answer_of_error(error: stripe.StripeError, *, is_question: bool) -> DisputeAnswer:
    """Say what an error of the SDK's means: a refusal is believed of a request that asked for something."""
    kind, cause = ERRORS.get(type(error), (OutcomeKind.UNKNOWN, f"unmapped error {type(error).__name__}"))
    told = f"{cause}: {evidence_of(error)}"
    if isinstance(error, stripe.APIConnectionError) and isinstance(error.__cause__, BEFORE_ANY_BYTE):
        return DisputeAnswer(kind=OutcomeKind.NOT_SENT, cause="not connected")
    if type(error) is stripe.InvalidRequestError:
        if is_question:
            found = OutcomeKind.NOT_FOUND if error.http_status == _NOT_FOUND else OutcomeKind.UNKNOWN
            return DisputeAnswer(kind=found, cause=told)
        code = problem_of(error).code or "invalid_request"
        return DisputeAnswer(kind=OutcomeKind.DECLINED, refusal_code=code, cause=told)
    return DisputeAnswer(kind=kind if kind is OutcomeKind.NOT_SENT else OutcomeKind.UNKNOWN, cause=told)


async def _dispute(client: stripe.StripeClient, dispute_id: str) -> Dispute:
    return _read(await client.v1.disputes.retrieve_async(dispute_id, cast("Any", dict(_WITH_ITS_PAYMENT))), Dispute)


async def _upload(client: stripe.StripeClient, parcel: Parcel, file: EvidenceFile) -> str:
    made = await client.v1.files.create_async(
        cast("Any", {"purpose": "dispute_evidence", "file": _Upload(file)}),
        {"idempotency_key": f"{parcel.reference}-{file.part}"},
    )
    return made.id


def _read(answer: stripe.StripeObject, shape: type[_Shape]) -> _Shape:
    """Read an answer from its own bytes, not from the package's reading of them."""
    response = answer.last_response
    if response is None:
        raise ValueError("an answer without a response")
    return msgspec.json.decode(response.body, type=shape)
