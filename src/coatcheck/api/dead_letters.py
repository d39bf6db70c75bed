"""`/v1/dead_letters`: what waits for a person. Looking and retrying is anybody's; what became of it takes two keys."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import JSON, encode, headers_of, read_body, require_json
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.dead_letters import (
    PROPOSAL,
    REPLAY,
    REPLAY_MOST,
    DeadLetter,
    DeadLetterKind,
    DeadLetters,
    Finding,
    Proposal,
    Replay,
    SafeAction,
    Word,
    person_of,
)
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.executor import Step
from coatcheck.ids import OPERATION, PAYMENT, PAYOUT, REFUND, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.operations import Evidence, Operation, UndecidedQuery
from coatcheck.pan import contains_card_number_in
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller
from coatcheck.states import OperationKind
from coatcheck.strict_json import decode_strict

_Body = TypeVar("_Body", bound=msgspec.Struct)
_FIELD = re.compile(r"field `(\w+)`")
_PLACE = re.compile(r" - at `\$\.(\w+)`$")

OperationId = Annotated[
    str,
    Meta(description="The operation: our reference at the provider.", examples=["op_dpgs5zdhcp7p3nlvvnjrb7o7cq"]),
]
Cause = Annotated[str, Meta(min_length=1, max_length=200, description="Only those whose cause has this in it.")]
ProviderName = Annotated[str, Meta(min_length=1, max_length=50, description="Only those of this provider.")]
OlderThan = Annotated[
    int, Meta(ge=0, le=999_999_999, description="Only those committed at least so many seconds ago.", examples=[3600])
]


class DeadLetterListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list; they may be combined."""

    provider: ProviderName | None = None
    cause: Cause | None = None
    older_than_s: OlderThan | None = None


class ReplayDeadLetters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters are to be asked about again, the oldest first. A dry run says which, and asks nobody."""

    dry_run: bool
    provider: ProviderName | None = None
    cause: Cause | None = None
    older_than_s: OlderThan | None = None
    limit: Annotated[int, Meta(ge=1, le=REPLAY_MOST, description="The most at once.")] = 20


class ResolveDeadLetter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of it, as one person says. Of a charge `charged` or `not_charged`, of others `done` or `not_done`."""

    word: Word
    reason: Annotated[str, Meta(min_length=1, max_length=500, description="How you know.")]
    provider_reference: (
        Annotated[str, Meta(min_length=1, max_length=255, description="The provider's own id of it.")] | None
    ) = None


class ConfirmResolution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proposal that a second person has looked into."""

    proposal_id: Annotated[str, Meta(min_length=1, max_length=40, examples=["prop_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]


class AdviceBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is safe to do, in a word and a sentence, and the provider's window that decides it."""

    action: SafeAction
    text: str
    would: Annotated[Step | None, Meta(description="What a retry would ask the provider for now; null: nothing.")]
    age_s: Annotated[int | None, Meta(description="Since it was first sent; null when nothing ever left.")]
    window_s: Annotated[int | None, Meta(description="How long the provider remembers our key.")]
    safe_until: Annotated[datetime | None, Meta(description="Until when sending again cannot charge twice.")]


class ProposalBody(msgspec.Struct, frozen=True, kw_only=True):
    """What one person says became of it, and who has confirmed it."""

    proposal_id: str
    word: Word
    provider_reference: str | None
    reason: str
    proposed_by: Annotated[str, Meta(examples=["key key_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    proposed_at: datetime
    expires_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None


class UndecidedBody(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that is not decided: what it is part of, and how often it was tried."""

    operation_id: OperationId
    operation: OperationKind
    payment_id: Annotated[
        str | None, Meta(description="Null of a payout.", examples=["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"])
    ]
    payment_order_id: Annotated[str | None, Meta(description="Null of a payout.", examples=["order-7001-a"])]
    refund_id: str | None
    payout_id: str | None
    amount: Amount
    currency: Annotated[str, Meta(examples=["EUR"])]
    provider: str
    provider_reference: str | None
    cause: Annotated[str | None, Meta(description="Why the last attempt decided nothing.")]
    attempts: Annotated[int, Meta(description="The number of the last attempt; also what costs no try is numbered.")]
    tries: Annotated[int, Meta(description="Attempts that decided nothing and count against the retry budget.")]
    retry_budget: Annotated[int, Meta(description="With so many tries an operation waits for a person.")]
    created_at: datetime
    first_sent_at: datetime | None


class DeadLetterBody(UndecidedBody, frozen=True, kw_only=True):
    """One piece of work that waits for a person."""

    kind: DeadLetterKind
    is_retrying: Annotated[bool, Meta(description="Whether it is being asked about again just now.")]
    advice: AdviceBody
    proposal: ProposalBody | None


class EvidenceBody(msgspec.Struct, frozen=True):
    """One thing that happened to it; docs/events.md describes each kind's `body`."""

    kind: str
    at: datetime
    body: dict[str, Any]


class DeadLetterDetailBody(DeadLetterBody, frozen=True, kw_only=True):
    """A dead letter with the last things that happened to it, newest first."""

    evidence: list[EvidenceBody]


class DeadLetterListBody(msgspec.Struct, frozen=True):
    """Dead letters, oldest first."""

    dead_letters: list[DeadLetterBody]
    next_cursor: NextCursor


class ReplayProposalBody(msgspec.Struct, frozen=True, kw_only=True):
    """A bulk retry that waits for a second person: nobody is asked before another key confirms it."""

    replay_id: Annotated[str, Meta(examples=["rpl_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    proposed_by: Annotated[str, Meta(examples=["key key_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    expires_at: datetime


class ReplayBody(msgspec.Struct, frozen=True):
    """What is asked about again, or would be: as a dry run, or once `proposal` is confirmed; `advice` says how."""

    dry_run: bool
    takes_two: Annotated[bool, Meta(description="Whether so many at once take a second person.")]
    proposal: ReplayProposalBody | None
    dead_letters: list[DeadLetterBody]


class ResolutionBody(msgspec.Struct, frozen=True):
    """What two people together have decided, as it is booked."""

    operation_id: OperationId
    outcome: OutcomeKind
    decline_code: str | None
    provider_reference: str | None


def dead_letters_of(gateway: Gateway) -> DeadLetters:
    """Put together what works on a gateway's dead letters."""
    return DeadLetters(
        gateway.store,
        gateway.clock,
        operations=gateway.operations,
        executor=gateway.executor,
        capabilities={name: provider.capabilities for name, provider in gateway.providers.items()},
        retry_budget=gateway.settings.retry_budget_attempts,
        replay_alone_most=gateway.settings.replay_alone_most,
    )


@get("/v1/dead_letters")
async def list_dead_letters(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List what waits for a person, oldest first, page by page."""
    gateway, caller = await caller_of(request)
    shown, last = await undecided_page(request, gateway, caller, "dead_letters", dead_letters_of(gateway).find)
    return answer(DeadLetterListBody([dead_letter_body(each) for each in shown], last))


class Undecided(Protocol):
    """What a list of undecided operations has, whatever becomes of each."""

    @property
    def operation(self) -> Operation:
        """What is not decided."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was committed."""
        ...


_Listed = TypeVar("_Listed", bound=Undecided)


async def undecided_page(
    request: Request[Any, Any, Any],
    gateway: Gateway,
    caller: Caller,
    name: str,
    find: Callable[..., Awaitable[list[_Listed]]],
) -> tuple[list[_Listed], str | None]:
    """Find the page of a list that was asked for, and the cursor of the next; the cursor has its filters in it."""
    asked = parameters_of(request, DeadLetterListParameters)
    filters = [str(each) for each in (asked.provider, asked.cause, asked.older_than_s)]
    list_name = (name, caller.shop_id.hex, caller.mode, *filters)
    place = parse_cursor(asked.cursor, *list_name)
    found = await find(
        undecided_query(gateway, caller, asked),
        after=None if place is None else (place.at, place.row_id),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    if len(found) <= asked.limit:
        return shown, None
    return shown, print_cursor(Place(shown[-1].created_at, shown[-1].operation.intent.operation_id), *list_name)


def undecided_query(
    gateway: Gateway, caller: Caller, asked: DeadLetterListParameters | ReplayDeadLetters | None = None
) -> UndecidedQuery:
    """Say which undecided operations a caller means: its own."""
    mine = UndecidedQuery(shop_id=caller.shop_id, mode=caller.mode)
    if asked is None:
        return mine
    age = None if asked.older_than_s is None else timedelta(seconds=asked.older_than_s)
    return msgspec.structs.replace(
        mine,
        provider=asked.provider,
        cause=asked.cause,
        made_until=None if age is None else gateway.clock.now() - age,
    )


@get("/v1/dead_letters/{operation_id:str}")
async def get_dead_letter(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one dead letter, with the evidence and what is safe to do."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    letter = await _find(gateway, caller, request)
    evidence = await dead_letters_of(gateway).evidence(letter)
    fields = msgspec.structs.asdict(dead_letter_body(letter))
    return answer(DeadLetterDetailBody(**fields, evidence=[_evidence_body(each) for each in evidence]))


@post("/v1/dead_letters/{operation_id:str}/retry", status_code=202)
async def retry_dead_letter(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have one dead letter asked about again, as far as the provider's window allows.

    The same gate as for every attempt decides whether it is sent or looked up. Ask as often as you like: while it is
    being asked about, nothing more happens.
    """
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    letter = await _find(gateway, caller, request)
    await dead_letters_of(gateway).retry([letter], person_of(caller))
    body = dead_letter_body(msgspec.structs.replace(letter, is_retrying=True))
    return Response(encode(body), status_code=202, media_type=JSON)


@post("/v1/dead_letters/{operation_id:str}/resolve", status_code=201)
async def resolve_dead_letter(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say what became of a dead letter, for a second person to confirm.

    Nothing is booked until another API key of the shop confirms it within 24 hours. Said again it is the same proposal;
    said differently by the same key it replaces the first.
    """
    gateway, caller = await caller_of(request)
    operation_id = _operation_id(request)
    asked = await take_body(request, gateway, ResolveDeadLetter)
    finding = Finding(word=asked.word, reason=asked.reason, provider_reference=asked.provider_reference)
    proposal = await dead_letters_of(gateway).propose(
        operation_id, undecided_query(gateway, caller), finding, person_of(caller)
    )
    return Response(encode(_proposal_body(proposal)), status_code=201, media_type=JSON)


@post("/v1/dead_letters/{operation_id:str}/confirm", status_code=200)
async def confirm_dead_letter(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Confirm, with another key than the proposal's, what became of a dead letter: it is booked.

    The outcome, the order's status, the transfers and the events are one commit, as if the provider had said it.
    """
    gateway, caller = await caller_of(request)
    operation_id = _operation_id(request)
    asked = await take_body(request, gateway, ConfirmResolution)
    proposal_id = parse_id(PROPOSAL, asked.proposal_id)
    if proposal_id is None:
        raise CoatcheckError(
            ErrorCode.INVALID_REQUEST,
            "The proposal_id is not one of ours.",
            [Problem("/proposal_id", "Send the proposal_id of the dead letter's proposal.")],
        )
    outcome = await dead_letters_of(gateway).confirm(
        operation_id, proposal_id, undecided_query(gateway, caller), person_of(caller)
    )
    return answer(
        ResolutionBody(
            print_id(OPERATION, operation_id), outcome.kind, outcome.decline_code, outcome.provider_reference
        )
    )


@post("/v1/dead_letters/retry", status_code=200)
async def replay_dead_letters(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have many dead letters asked about again, or see beforehand which, and how.

    At most 100 at once, the oldest first and a tenth of a second apart. More than the setting `replay_alone_most` are
    only proposed: `proposal` says what another API key of the shop has to confirm within 24 hours.
    """
    gateway, caller = await caller_of(request)
    asked = await take_body(request, gateway, ReplayDeadLetters)
    replay = await dead_letters_of(gateway).replay(
        undecided_query(gateway, caller, asked), person_of(caller), most=asked.limit, dry_run=asked.dry_run
    )
    return answer(_replay_body(replay))


@post("/v1/dead_letters/retry/{replay_id:str}/confirm", status_code=200)
async def confirm_replay(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Confirm, with another key than the proposal's, that many dead letters are asked about again.

    What was asked about since they were looked at is left alone. Said again by the same key it changes nothing.
    """
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    named = request.path_params["replay_id"]
    replay_id = parse_id(REPLAY, named)
    if replay_id is None:
        raise CoatcheckError(ErrorCode.NOT_FOUND, f"No proposal {named}: take the replay_id of the answer before.")
    replay = await dead_letters_of(gateway).confirm_replay(
        replay_id, undecided_query(gateway, caller), person_of(caller)
    )
    return answer(_replay_body(replay))


def _replay_body(replay: Replay) -> ReplayBody:
    made = replay.proposal
    proposal = None
    if made is not None:
        proposal = ReplayProposalBody(
            replay_id=print_id(REPLAY, made.replay_id), proposed_by=made.proposed_by, expires_at=made.expires_at
        )
    letters = [dead_letter_body(letter) for letter in replay.letters]
    return ReplayBody(replay.is_dry_run, replay.takes_two, proposal, letters)


def _operation_id(request: Request[Any, Any, Any]) -> UUID:
    parameters_of(request, Parameters)
    operation_id = parse_id(OPERATION, request.path_params["operation_id"])
    if operation_id is None:
        raise _none(request)
    return operation_id


def _none(request: Request[Any, Any, Any]) -> CoatcheckError:
    named = request.path_params["operation_id"]
    return CoatcheckError(ErrorCode.NOT_FOUND, f"No dead letter {named}: it is unknown here, or decided by now.")


async def _find(gateway: Gateway, caller: Caller, request: Request[Any, Any, Any]) -> DeadLetter:
    letter = await dead_letters_of(gateway).read(_operation_id(request), undecided_query(gateway, caller))
    if letter is None:
        raise _none(request)
    return letter


async def take_body(request: Request[Any, Any, Any], gateway: Gateway, shape: type[_Body]) -> _Body:
    """Read a body strictly. These requests need no key: what they ask for is there once, however often it is asked."""
    require_json(headers_of(request.scope, b"content-type")[0])
    settings = gateway.settings
    raw = await read_body(request.receive, limit_bytes=settings.body_limit_bytes, deadline_s=settings.body_deadline_s)
    if contains_card_number_in(raw):
        raise CoatcheckError(ErrorCode.CARD_NUMBER_REFUSED, "Never send card numbers. Nothing of the request was kept.")
    document = decode_strict(raw, depth=settings.body_depth)
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, f"{error}.", [_problem_of(str(error))]) from None


def _problem_of(message: str) -> Problem:
    found = _PLACE.search(message) or _FIELD.search(message)
    return Problem("" if found is None else f"/{found[1]}", f"{_PLACE.sub('', message)}.")


def dead_letter_body(letter: DeadLetter) -> DeadLetterBody:
    """Put a dead letter into the API's words."""
    return DeadLetterBody(
        **undecided_fields(letter.operation, letter.payment_order_id, letter.created_at, letter.retry_budget),
        kind=letter.kind,
        is_retrying=letter.is_retrying,
        advice=_advice_body(letter),
        proposal=None if letter.proposal is None else _proposal_body(letter.proposal),
    )


def undecided_fields(
    operation: Operation, payment_order_id: str | None, created_at: datetime, retry_budget: int
) -> dict[str, Any]:
    """Put into the API's words what every undecided operation has: the fields of an UndecidedBody."""
    intent, is_payout = operation.intent, operation.intent.kind is OperationKind.PAYOUT
    return {
        "operation_id": intent.reference,
        "operation": intent.kind,
        "payment_id": None if is_payout else print_id(PAYMENT, operation.payment_id),
        "payment_order_id": None if is_payout else payment_order_id,
        "refund_id": None if operation.refund_id is None else print_id(REFUND, operation.refund_id),
        "payout_id": print_id(PAYOUT, operation.order_id) if is_payout else None,
        "amount": format_amount(intent.amount_minor, intent.currency),
        "currency": intent.currency,
        "provider": operation.provider,
        "provider_reference": intent.provider_reference,
        "cause": operation.cause,
        "attempts": operation.attempt,
        "tries": operation.tries,
        "retry_budget": retry_budget,
        "created_at": created_at,
        "first_sent_at": intent.first_sent_at,
    }


def _advice_body(letter: DeadLetter) -> AdviceBody:
    advice = letter.advice
    return AdviceBody(
        action=advice.action,
        text=advice.text,
        would=advice.step,
        age_s=None if advice.age is None else advice.age // timedelta(seconds=1),
        window_s=None if advice.window is None else advice.window // timedelta(seconds=1),
        safe_until=advice.safe_until,
    )


def _proposal_body(proposal: Proposal) -> ProposalBody:
    return ProposalBody(
        proposal_id=print_id(PROPOSAL, proposal.proposal_id),
        word=proposal.word,
        provider_reference=proposal.provider_reference,
        reason=proposal.reason,
        proposed_by=proposal.proposed_by,
        proposed_at=proposal.proposed_at,
        expires_at=proposal.expires_at,
        confirmed_by=proposal.confirmed_by,
        confirmed_at=proposal.confirmed_at,
    )


def _evidence_body(evidence: Evidence) -> EvidenceBody:
    return EvidenceBody(evidence.kind, evidence.at, evidence.body)
