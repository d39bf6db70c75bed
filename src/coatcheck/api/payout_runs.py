"""`/v1/payout_runs`: what schedules pay out at once, and the second person's word about what is far off the usual."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.bodies import take_unkeyed
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payments import Amount
from coatcheck.api.questions import PageParameters, Parameters, answer, caller_of, own, parameters_of
from coatcheck.dead_letters import person_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import PAYOUT, PAYOUT_RUN, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.payouts import Decision, PayoutVerdict, Run, RunItem
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller
from coatcheck.states import PayoutRunStatus, PayoutStatus
from coatcheck.validation import parse_payout_decision


class PayoutRunBody(msgspec.Struct, frozen=True):
    """All sellers of one schedule and currency, paid out at one of its times, once."""

    run_id: Annotated[str, Meta(examples=["run_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    schedule: Annotated[str, Meta(examples=["0 6 * * 1"])]
    currency: str
    period: Annotated[datetime, Meta(description="The time of the schedule that it is for.")]
    status: PayoutRunStatus
    items: int
    total: Amount
    usual: Annotated[Amount | None, Meta(description="The median of the runs before; null where there are none.")]
    proposed_by: str
    proposed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    finished_at: datetime | None


class PayoutRunItemBody(msgspec.Struct, frozen=True):
    """What a run pays to one seller: what was planned is the most."""

    seller_account: str
    payout_id: str
    planned: Amount
    outcome: Annotated[PayoutVerdict | None, Meta(description="Null until the item is asked for.")]
    amount: Annotated[Amount | None, Meta(description="What was paid; less than planned where less was there.")]
    status: PayoutStatus | None


class PayoutRunDetailBody(PayoutRunBody, frozen=True):
    """A run with its items."""

    sellers: list[PayoutRunItemBody]


class PayoutRunListBody(msgspec.Struct, frozen=True):
    """Runs, newest first."""

    payout_runs: list[PayoutRunBody]
    next_cursor: NextCursor


class PayoutRunListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list of runs."""

    status: Annotated[PayoutRunStatus, Meta(description="Only runs that stand so now.")] | None = None


def run_fields(run: Run) -> dict[str, Any]:
    """Put a run into the API's words."""
    return {
        "run_id": print_id(PAYOUT_RUN, run.run_id),
        "schedule": run.schedule,
        "currency": run.currency,
        "period": run.period,
        "status": run.status,
        "items": run.items,
        "total": format_amount(run.total_minor, run.currency),
        "usual": None if run.usual_minor is None else format_amount(run.usual_minor, run.currency),
        "proposed_by": run.proposed_by,
        "proposed_at": run.proposed_at,
        "decided_by": run.decided_by,
        "decided_at": run.decided_at,
        "finished_at": run.finished_at,
    }


@get("/v1/payout_runs")
async def list_payout_runs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List runs of payouts, newest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, PayoutRunListParameters)
    list_name = ("payout_runs", caller.shop_id.hex, caller.mode.value, asked.status or "")
    place = parse_cursor(asked.cursor, *list_name)
    found = await gateway.payout_runs.find(
        shop_id=caller.shop_id,
        mode=caller.mode,
        status=asked.status,
        before=None if place is None else (place.at, place.row_id),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    last = Place(shown[-1].proposed_at, shown[-1].run_id) if len(found) > len(shown) else None
    bodies = [PayoutRunBody(**run_fields(run)) for run in shown]
    return answer(PayoutRunListBody(bodies, None if last is None else print_cursor(last, *list_name)))


@get("/v1/payout_runs/{run_id:str}")
async def get_payout_run(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one run of payouts with its items."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    return await _shown(gateway, await _find(gateway, caller, request))


@post("/v1/payout_runs/{run_id:str}/approval", status_code=200)
async def decide_payout_run(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Let a run that waits go, or stop it: with another API key than the one that proposed it."""
    gateway, caller, body = await take_unkeyed(request, parse_payout_decision)
    run = await _find(gateway, caller, request)
    decision = await gateway.payout_runs.decide(run.run_id, person_of(caller), is_approved=body.decision == "approve")
    if not decision.is_good:
        raise CoatcheckError(ErrorCode.APPROVAL_NOT_POSSIBLE, WHY_NOT[decision])
    return await _shown(gateway, await _find(gateway, caller, request))


WHY_NOT = {
    Decision.UNKNOWN: "There is no such run.",
    Decision.SETTLED: "It does not wait any more: somebody has decided it. See how it stands.",
    Decision.SAME_PERSON: "A second person must decide: whoever proposed it cannot. Another API key or another name is "
    "needed.",
}


async def _find(gateway: Gateway, caller: Caller, request: Request[Any, Any, Any]) -> Run:
    printed_id = request.path_params["run_id"]
    run_id = parse_id(PAYOUT_RUN, printed_id)
    run = None if run_id is None else await gateway.payout_runs.read(run_id)
    return own(caller, run, f"run {printed_id}")


async def _shown(gateway: Gateway, run: Run) -> Response[bytes]:
    items = [_item_body(each, run.currency) for each in await gateway.payout_runs.items(run.run_id)]
    return answer(PayoutRunDetailBody(**run_fields(run), sellers=items))


def _item_body(item: RunItem, currency: str) -> PayoutRunItemBody:
    return PayoutRunItemBody(
        seller_account=item.seller_account,
        payout_id=print_id(PAYOUT, item.payout_id),
        planned=format_amount(item.planned_minor, currency),
        outcome=item.outcome,
        amount=None if item.amount_minor is None else format_amount(item.amount_minor, currency),
        status=item.status,
    )
