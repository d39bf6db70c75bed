"""`/v1/breaks`: where files and books differ. Looking is anybody's; what a break is takes two keys."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.dead_letters import ProviderName, take_body
from coatcheck.api.edge import JSON, encode
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.dead_letters import person_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import OPERATION, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.reconciliation.adoption import Adoption
from coatcheck.reconciliation.breaks import (
    BREAK,
    PROPOSAL,
    BreakKind,
    BreakProposal,
    BreakQuery,
    Breaks,
    BreakStatus,
    Destination,
    Explanation,
    ListedBreak,
)
from coatcheck.reconciliation.corrections import Corrections
from coatcheck.reconciliation.payout_adoption import PayoutAdoption
from coatcheck.reconciliation.recovery import Recovery
from coatcheck.reporting import Place
from coatcheck.shops import Caller

BreakId = Annotated[str, Meta(examples=["brk_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]


class BreakListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list; they may be combined."""

    status: Annotated[BreakStatus, Meta(description="Only open ones, or only closed ones.")] | None = None
    kind: Annotated[BreakKind, Meta(description="Only those of this kind.")] | None = None
    provider: ProviderName | None = None


class ProposeBreakResolution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a break is, as one person says: where its money belongs, what it is, and how that is known."""

    destination: Destination
    note: Annotated[str, Meta(min_length=1, max_length=500, description="What it is.")]
    evidence: Annotated[str, Meta(min_length=1, max_length=500, description="How you know, and where it can be seen.")]
    account: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                description="Whose: of `seller` the seller's, of `bank` the account at the bank; of a bank's break "
                "that is a `payout` or `receivable`, the provider.",
            ),
        ]
        | None
    ) = None


class ConfirmBreakResolution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proposal that a second person has looked into."""

    proposal_id: Annotated[str, Meta(min_length=1, max_length=40, examples=["prop_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]


class BreakProposalBody(msgspec.Struct, frozen=True, kw_only=True):
    """What one person says a break is, and who has confirmed it."""

    proposal_id: str
    destination: Destination
    account: str | None
    account_name: Annotated[str | None, Meta(description="The ledger's name of where the money goes.")]
    note: str
    evidence: str
    proposed_by: Annotated[str, Meta(examples=["key key_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    proposed_at: datetime
    expires_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None


class BreakBody(msgspec.Struct, frozen=True, kw_only=True):
    """A break: where a file and the books differ. Amounts are null where the file or the books have none."""

    break_id: BreakId
    kind: BreakKind
    status: BreakStatus
    provider: Annotated[str, Meta(description="Whose file it is; `bank` for a bank's statement.")]
    file: Annotated[str | None, Meta(description="The name of the file; null where no file has it.")]
    line: int | None
    batch: str | None
    operation_id: str | None
    currency: str | None
    expected: Annotated[Amount | None, Meta(description="What the books have.")]
    stated: Annotated[Amount | None, Meta(description="What the file says.")]
    in_suspense: Annotated[Amount | None, Meta(description="What of it stands in suspense; null once it is closed.")]
    detail: str
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None
    proposal: BreakProposalBody | None


class BreakListBody(msgspec.Struct, frozen=True):
    """Breaks, oldest first."""

    breaks: list[BreakBody]
    next_cursor: NextCursor


def adoption_of(gateway: Gateway) -> Adoption:
    """Put together what takes over what a gateway's providers have."""
    return Adoption(
        gateway.store,
        gateway.clock,
        payments=gateway.payments,
        operations=gateway.operations,
        executor=gateway.executor,
        providers=gateway.providers,
        returns_commission=gateway.settings.refund_commission == "return",
    )


def corrections_of(gateway: Gateway) -> Corrections:
    """Put together what brings a gateway's books to what files have proven."""
    return Corrections(
        gateway.store,
        gateway.clock,
        gateway.operations,
        gateway.executor,
        adoption=adoption_of(gateway),
        refunds=gateway.refunds,
        unrecorded=gateway.settings.unrecorded_charge,
    )


def recovery_of(gateway: Gateway) -> Recovery:
    """Put together what makes a gateway's restored books whole."""
    adoption = adoption_of(gateway)
    return Recovery(
        gateway.store,
        gateway.clock,
        operations=gateway.operations,
        executor=gateway.executor,
        adoption=adoption,
        payout_adoption=PayoutAdoption(
            gateway.store,
            gateway.clock,
            payouts=gateway.payouts,
            operations=gateway.operations,
            executor=gateway.executor,
            adoption=adoption,
        ),
        provider=gateway.settings.provider,
    )


def breaks_of(gateway: Gateway) -> Breaks:
    """Put together what works on a gateway's breaks."""
    return Breaks(gateway.store, gateway.clock, corrections_of(gateway))


@get("/v1/breaks")
async def list_breaks(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List where files and books differ, oldest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, BreakListParameters)
    list_name = ("breaks", caller.shop_id.hex, caller.mode, str(asked.status), str(asked.kind), str(asked.provider))
    place = parse_cursor(asked.cursor, *list_name)
    query = msgspec.structs.replace(_query_of(caller), status=asked.status, kind=asked.kind, provider=asked.provider)
    found = await breaks_of(gateway).find(
        query, after=None if place is None else (place.at, place.row_id), limit=asked.limit + 1
    )
    shown = found[: asked.limit]
    last = None
    if len(found) > asked.limit:
        last = print_cursor(Place(shown[-1].found.opened_at, shown[-1].found.break_id), *list_name)
    return answer(BreakListBody([break_body(each) for each in shown], last))


@get("/v1/breaks/{break_id:str}")
async def get_break(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one break, with what somebody has said of it."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    listed = await breaks_of(gateway).read(_break_id(request), _query_of(caller))
    if listed is None:
        raise _none(request)
    return answer(break_body(listed))


@post("/v1/breaks/{break_id:str}/resolution", status_code=201)
async def propose_break_resolution(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say what a break is, for a second person to confirm.

    Nothing is booked until another API key of the shop confirms it within 24 hours. Said again it is the same proposal;
    said differently by the same key it replaces the first.
    """
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    break_id = _break_id(request)
    asked = await take_body(request, gateway, ProposeBreakResolution)
    said = Explanation(destination=asked.destination, note=asked.note, evidence=asked.evidence, account=asked.account)
    proposal = await breaks_of(gateway).propose(break_id, _query_of(caller), said, person_of(caller))
    return Response(encode(_proposal_body(proposal)), status_code=201, media_type=JSON)


@post("/v1/breaks/{break_id:str}/confirmation", status_code=200)
async def confirm_break_resolution(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Confirm, with another key than the proposal's, what a break is: it is closed and its money moves.

    The break, the transfer out of suspense and the events are one commit.
    """
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    break_id = _break_id(request)
    asked = await take_body(request, gateway, ConfirmBreakResolution)
    proposal_id = parse_id(PROPOSAL, asked.proposal_id)
    if proposal_id is None:
        raise CoatcheckError(
            ErrorCode.INVALID_REQUEST,
            "The proposal_id is not one of ours.",
            [Problem("/proposal_id", "Send the proposal_id of the break's proposal.")],
        )
    return answer(
        break_body(await breaks_of(gateway).confirm(break_id, proposal_id, _query_of(caller), person_of(caller)))
    )


def _query_of(caller: Caller) -> BreakQuery:
    return BreakQuery(shop_id=caller.shop_id, mode=caller.mode)


def _break_id(request: Request[Any, Any, Any]) -> UUID:
    break_id = parse_id(BREAK, request.path_params["break_id"])
    if break_id is None:
        raise _none(request)
    return break_id


def _none(request: Request[Any, Any, Any]) -> CoatcheckError:
    return CoatcheckError(ErrorCode.NOT_FOUND, f"No break {request.path_params['break_id']}: it is unknown here.")


def break_body(listed: ListedBreak) -> BreakBody:
    """Put a break into the API's words."""
    found = listed.found
    is_open = found.closed_at is None
    return BreakBody(
        break_id=print_id(BREAK, found.break_id),
        kind=BreakKind(found.kind),
        status=BreakStatus.OPEN if is_open else BreakStatus.CLOSED,
        provider=listed.provider,
        file=listed.file_name,
        line=found.line_no,
        batch=found.batch,
        operation_id=None if found.operation_id is None else print_id(OPERATION, found.operation_id),
        currency=found.currency,
        expected=_amount(found.expected_minor, found.currency),
        stated=_amount(found.stated_minor, found.currency),
        in_suspense=_amount(found.suspense_minor, found.currency) if is_open else None,
        detail=found.detail,
        opened_at=found.opened_at,
        closed_at=found.closed_at,
        closed_by=found.closed_by,
        reason=found.reason,
        proposal=None if listed.proposal is None else _proposal_body(listed.proposal),
    )


def _amount(minor: int | None, currency: str | None) -> str | None:
    """Write an amount; a plain count, of a control total without a currency, as it is."""
    if minor is None:
        return None
    return str(minor) if currency is None else format_amount(minor, currency)


def _proposal_body(proposal: BreakProposal) -> BreakProposalBody:
    fields = msgspec.structs.asdict(proposal) | {"proposal_id": print_id(PROPOSAL, proposal.proposal_id)}
    return BreakProposalBody(**fields)
