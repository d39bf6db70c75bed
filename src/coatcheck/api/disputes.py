"""`/v1/disputes`: buyers' claims as the PSPs tell them, and what the shop answers. An answer's key never expires."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.bodies import Keyed, answer_post
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import Answer, encode, headers_of, read_body, refuse_card_numbers, require_json, wait_of
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payment_orders import find_own_order
from coatcheck.api.payments import Amount
from coatcheck.api.questions import NAME_PATTERN, PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.dead_letters import person_of
from coatcheck.disputes import (
    DisputeQuery,
    DisputeView,
    EvidenceRequest,
    EvidenceVerdict,
    EvidenceView,
    Movement,
)
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import DISPUTE, EVIDENCE, PAYMENT, order_id_of, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.pan import contains_card_number_in, redact_card_numbers
from coatcheck.providers.disputes import FILE_PARTS, TEXT_PARTS, EvidenceBody, EvidenceFile
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller
from coatcheck.states import DisputeStatus, EvidenceKind, EvidenceStatus
from coatcheck.strict_json import decode_strict
from coatcheck.validation import IdempotencyKey, parse_idempotency_key

_POLL_FIRST_S, _POLL_CAP_S = 0.05, 0.5

_Shape = TypeVar("_Shape", bound=Keyed)
Signed = Annotated[str, Meta(description="Decimal text in the currency; below zero was taken.", examples=["-129.95"])]


class DisputeMovementBody(msgspec.Struct, frozen=True):
    """Money that the provider took or gave back, as it is booked. `is_settled`: a settlement file has it, too."""

    gross: Signed
    fee: Annotated[str, Meta(description="What the provider keeps; below zero it came back.", examples=["15.00"])]
    currency: Annotated[str, Meta(description="The provider's balance: not always the order's.", examples=["EUR"])]
    moved_at: datetime
    is_settled: bool


class EvidencePartBody(msgspec.Struct, frozen=True):
    """One thing that was said. Its content was passed on and is not kept: its SHA-256 names it."""

    part: Annotated[str, Meta(examples=["receipt"])]
    size_bytes: int
    sha256: str
    name: str | None
    content_type: str | None


class DisputeEvidenceBody(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a dispute. PENDING: it is being passed on until the provider has it."""

    evidence_id: Annotated[str, Meta(examples=["evd_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    dispute_id: Annotated[str, Meta(examples=["dsp_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    kind: EvidenceKind
    parts: list[EvidencePartBody]
    submit: Annotated[bool, Meta(description="Whether the provider was asked to decide: nothing can follow.")]
    status: EvidenceStatus
    refusal_code: Annotated[str | None, Meta(description="Why the provider did not take it.")]
    cause: Annotated[str | None, Meta(description="Why it has not arrived yet.")]
    created_at: datetime
    decided_at: datetime | None


class DisputeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A buyer's claim against a charge, as the provider tells it. An order may have several."""

    dispute_id: Annotated[str, Meta(examples=["dsp_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    payment_order_id: Annotated[str, Meta(examples=["order-7001-a"])]
    payment_id: Annotated[str, Meta(examples=["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    seller_account: str
    provider: str
    provider_reference: Annotated[str, Meta(description="The provider's own id of the dispute.")]
    amount: Annotated[Amount, Meta(description="In the provider's word: it need not be the order's.")]
    currency: Annotated[str, Meta(examples=["EUR"])]
    reason: Annotated[str | None, Meta(description="The provider's word for it.", examples=["fraudulent"])]
    status: DisputeStatus
    evidence_due_at: Annotated[datetime | None, Meta(description="Until when it can be answered.")]
    movements: list[DisputeMovementBody]
    evidence: list[DisputeEvidenceBody]
    opened_at: datetime
    changed_at: datetime


class DisputeListBody(msgspec.Struct, frozen=True):
    """Disputes, newest first."""

    disputes: list[DisputeBody]
    next_cursor: NextCursor


class DisputeListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list; they may be combined."""

    status: Annotated[DisputeStatus, Meta(description="Only disputes that stand so now.")] | None = None
    payment_order_id: (
        Annotated[
            str,
            Meta(min_length=1, max_length=128, pattern=NAME_PATTERN, description="Only disputes of this order."),
        ]
        | None
    ) = None


class EvidenceUpload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document that speaks for the shop."""

    part: Annotated[str, Meta(max_length=50, description="What it is.", examples=["receipt"])]
    name: Annotated[str, Meta(min_length=1, max_length=200, examples=["receipt.pdf"])]
    content_type: Literal["application/pdf", "image/jpeg", "image/png"]
    content: Annotated[
        bytes, Meta(min_length=1, description="The file, in base64.", extra_json_schema={"examples": ["JVBERi0xLjQK"]})
    ]


class AnswerDispute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the shop says to a dispute: texts by part, and documents. It is passed on and not kept."""

    texts: Annotated[
        dict[str, Annotated[str, Meta(min_length=1, max_length=20_000)]],
        Meta(description="What the shop says, by part. No card numbers.", max_length=20),
    ] = {}
    files: Annotated[list[EvidenceUpload], Meta(max_length=20, description="Documents, each part at most once.")] = []
    submit: Annotated[
        bool, Meta(description="Whether the provider is to decide now. Afterwards nothing can be added.")
    ] = True
    idempotency_key: IdempotencyKey | None = None


class AcceptDispute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Giving a dispute up: the buyer keeps the money. It cannot be taken back."""

    idempotency_key: IdempotencyKey | None = None


@get("/v1/disputes")
async def list_disputes(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List disputes, newest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, DisputeListParameters)
    if asked.payment_order_id is not None:
        await find_own_order(gateway, caller, asked.payment_order_id)
    list_name = ("disputes", caller.shop_id.hex, caller.mode, str(asked.status), str(asked.payment_order_id))
    place = parse_cursor(asked.cursor, *list_name)
    order_id = asked.payment_order_id and order_id_of(caller.shop_id, caller.mode, asked.payment_order_id)
    found = await gateway.disputes.find(
        DisputeQuery(shop_id=caller.shop_id, mode=caller.mode, status=asked.status, order_id=order_id or None),
        after=None if place is None else (place.at, place.row_id),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    last = None
    if len(found) > asked.limit:
        last = print_cursor(Place(shown[-1].opened_at, shown[-1].dispute_id), *list_name)
    return answer(DisputeListBody([dispute_body(each) for each in shown], last))


@get("/v1/disputes/{dispute_id:str}")
async def get_dispute(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one dispute as it stands now, with the money that moved and what was answered."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return answer(dispute_body(await _find(gateway, caller, request)))


@post("/v1/disputes/{dispute_id:str}/evidence", status_code=201)
async def answer_dispute(request: Request[Any, Any, Any]) -> Answer:
    """Answer a dispute with texts and documents, which are passed on to the provider.

    Ask again under the same key as often as you like: it arrives once. Moves no money.
    """
    gateway, caller = await caller_of(request)
    body, key = await _take(request, gateway, AnswerDispute, gateway.settings.evidence_limit_bytes)
    asked = EvidenceRequest(kind=EvidenceKind.EVIDENCE, body=_checked(body), ends_it=body.submit)
    return await _answer(request, gateway, caller, asked, key)


@post("/v1/disputes/{dispute_id:str}/accept", status_code=201)
async def accept_dispute(request: Request[Any, Any, Any]) -> Answer:
    """Give a dispute up: the buyer keeps the money. It cannot be taken back."""
    gateway, caller = await caller_of(request)
    _, key = await _take(request, gateway, AcceptDispute, gateway.settings.body_limit_bytes)
    return await _answer(request, gateway, caller, EvidenceRequest(kind=EvidenceKind.ACCEPTANCE), key)


async def _answer(
    request: Request[Any, Any, Any], gateway: Gateway, caller: Caller, asked: EvidenceRequest, key: str
) -> Answer:
    """Commit an answer, begin to pass it on, and say what has become of it by now."""
    view = await _find(gateway, caller, request)
    if not gateway.correspondence.can_answer(view.provider):
        raise CoatcheckError(
            ErrorCode.DISPUTE_NOT_ANSWERABLE,
            f"This gateway has no way to answer disputes at {view.provider}: answer in the provider's dashboard.",
        )
    verdict, evidence_id = await gateway.correspondence.answer(view.dispute_id, asked, key=key, by=person_of(caller))
    if not verdict.is_good:
        raise _refused(verdict, view)
    prefer = wait_of(headers_of(request.scope, b"prefer")[0])
    patience_s = gateway.settings.response_wait_s if prefer is None else prefer
    shown = await _poll(gateway, view.dispute_id, evidence_id, patience_s)
    is_decided = shown.status is not EvidenceStatus.PENDING
    is_replay = verdict is EvidenceVerdict.EXISTS
    return answer_post(gateway, _evidence_body(view.dispute_id, shown), is_decided=is_decided, is_replay=is_replay)


def _refused(verdict: EvidenceVerdict, view: DisputeView) -> CoatcheckError:
    """Put into words why there is no such answer."""
    if verdict is EvidenceVerdict.KEY_REUSED:
        return CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This key stands for another answer to this dispute, for ever. Use a new key for a new answer; to ask "
            "again, send the first request unchanged.",
        )
    if verdict is EvidenceVerdict.BUSY:
        why = "Another answer, which asks the provider to decide, is on its way. Look at the dispute in a minute."
    else:
        why = f"It is {view.status}: only an INQUIRY or one that NEEDS_RESPONSE takes an answer."
    return CoatcheckError(ErrorCode.DISPUTE_NOT_ANSWERABLE, why)


async def _poll(gateway: Gateway, dispute_id: UUID, evidence_id: UUID, patience_s: int) -> EvidenceView:
    """Read until the provider has the answer or refuses it, as long as the caller has patience."""
    pause_s = _POLL_FIRST_S
    try:
        async with asyncio.timeout(patience_s):
            while True:
                shown = await _read(gateway, dispute_id, evidence_id)
                if shown.status is not EvidenceStatus.PENDING or shown.cause or gateway.stopping.is_set():
                    return shown
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _POLL_CAP_S)
    except TimeoutError:
        return await _read(gateway, dispute_id, evidence_id)


async def _read(gateway: Gateway, dispute_id: UUID, evidence_id: UUID) -> EvidenceView:
    for view in await gateway.disputes.read([dispute_id]):
        for each in view.evidence:
            if each.evidence_id == evidence_id:
                return each
    # committed a moment ago: only a lost database can take it away
    raise CoatcheckError(ErrorCode.INTERNAL, "The answer's row is gone. Check the database.")


async def _find(gateway: Gateway, caller: Caller, request: Request[Any, Any, Any]) -> DisputeView:
    """Find a dispute of the caller's own. Raises CoatcheckError NOT_FOUND."""
    printed_id = request.path_params["dispute_id"]
    dispute_id = parse_id(DISPUTE, printed_id)
    for view in [] if dispute_id is None else await gateway.disputes.read([dispute_id]):
        if (view.shop_id, view.mode) == (caller.shop_id, caller.mode):
            return view
    raise CoatcheckError(
        ErrorCode.NOT_FOUND, f"No dispute {printed_id} in shop {caller.shop_name}, {caller.mode} mode."
    )


async def _take(
    request: Request[Any, Any, Any], gateway: Gateway, shape: type[_Shape], limit_bytes: int
) -> tuple[_Shape, str]:
    """Read a body strictly, and its key. Documents are not looked into; in all the rest a card number is refused."""
    parameters_of(request, Parameters)
    content_type, header_key = headers_of(request.scope, b"content-type", b"idempotency-key")
    require_json(content_type)
    refuse_card_numbers(request.scope, header_key)
    settings = gateway.settings
    raw = await read_body(request.receive, limit_bytes=limit_bytes, deadline_s=settings.body_deadline_s)
    try:
        document = decode_strict(raw, depth=settings.body_depth)
    except CoatcheckError as error:  # its detail may show a name out of the body
        raise CoatcheckError(error.error, redact_card_numbers(error.detail)) from None
    if contains_card_number_in(encode(_without_documents(document))):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers. Nothing of the request was kept.")
    try:
        body = msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"{error}.", [Problem("", f"{error}.")]) from None
    return body, parse_idempotency_key(header_key, body.idempotency_key)


def _without_documents(document: dict[str, Any]) -> dict[str, Any]:
    files = document.get("files")
    if not isinstance(files, list):
        return document
    bare = [{**each, "content": None} if isinstance(each, dict) else each for each in files]
    return {**document, "files": bare}


def _checked(body: AnswerDispute) -> EvidenceBody:
    """Check the names of the parts. Raises CoatcheckError INVALID_REQUEST with every problem."""
    problems = [
        Problem(f"/texts/{part[:64]}", f"Write one of {', '.join(sorted(TEXT_PARTS))}.")
        for part in body.texts
        if part not in TEXT_PARTS
    ]
    seen: set[str] = set()
    for place, each in enumerate(body.files):
        if each.part not in FILE_PARTS:
            problems.append(Problem(f"/files/{place}/part", f"Write one of {', '.join(sorted(FILE_PARTS))}."))
        elif each.part in seen:
            problems.append(Problem(f"/files/{place}/part", "Send each part once; put several documents into one PDF."))
        seen.add(each.part)
    if not body.texts and not body.files:
        problems.append(Problem("/texts", "Say something, in texts or in files."))
    if problems:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"{problems[0].pointer}: {problems[0].detail}", problems)
    files = tuple(
        EvidenceFile(part=each.part, name=each.name, content_type=each.content_type, content=each.content)
        for each in body.files
    )
    return EvidenceBody(texts=body.texts, files=files)


def dispute_body(view: DisputeView) -> DisputeBody:
    """Put a dispute into the API's words."""
    return DisputeBody(
        dispute_id=print_id(DISPUTE, view.dispute_id),
        payment_order_id=view.payment_order_id,
        payment_id=print_id(PAYMENT, view.payment_id),
        seller_account=view.seller_account,
        provider=view.provider,
        provider_reference=view.provider_reference,
        amount=format_amount(view.amount_minor, view.currency),
        currency=view.currency,
        reason=view.reason,
        status=view.status,
        evidence_due_at=view.evidence_due_at,
        movements=[_movement_body(each) for each in view.movements],
        evidence=[_evidence_body(view.dispute_id, each) for each in view.evidence],
        opened_at=view.opened_at,
        changed_at=view.changed_at,
    )


def _movement_body(moved: Movement) -> DisputeMovementBody:
    return DisputeMovementBody(
        format_amount(moved.gross_minor, moved.currency),
        format_amount(moved.fee_minor, moved.currency),
        moved.currency,
        moved.moved_at,
        moved.is_settled,
    )


def _evidence_body(dispute_id: UUID, view: EvidenceView) -> DisputeEvidenceBody:
    return DisputeEvidenceBody(
        evidence_id=print_id(EVIDENCE, view.evidence_id),
        dispute_id=print_id(DISPUTE, dispute_id),
        kind=view.kind,
        parts=[
            EvidencePartBody(each.part, each.size_bytes, each.digest, each.name, each.content_type)
            for each in view.parts
        ],
        submit=view.ends_it,
        status=view.status,
        refusal_code=view.refusal_code,
        cause=view.cause,
        created_at=view.created_at,
        decided_at=view.decided_at,
    )
