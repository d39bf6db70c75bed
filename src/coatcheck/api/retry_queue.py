"""`/v1/retry_queue`: what is not decided and goes on by itself. Looking is all that can be done about it."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from coatcheck.api.dead_letters import EvidenceBody, UndecidedBody, undecided_fields, undecided_page, undecided_query
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.executor import Step
from coatcheck.ids import OPERATION, parse_id
from coatcheck.retry_queue import Outlook, Retry, RetryQueue
from coatcheck.states import OperationStatus


class OutlookBody(msgspec.Struct, frozen=True, kw_only=True):
    """What happens next when nobody does anything, and the provider's window that decides it."""

    at: Annotated[datetime, Meta(description="When; while it is running: when another gateway takes over, if need be.")]
    is_running: Annotated[bool, Meta(description="Whether a gateway is asking the provider at this moment.")]
    would: Annotated[Step | None, Meta(description="What the provider is asked for then; null: nothing.")]
    text: str
    age_s: Annotated[int | None, Meta(description="Since it was first sent; null when nothing ever left.")]
    window_s: Annotated[int | None, Meta(description="How long the provider remembers our key.")]
    safe_until: Annotated[datetime | None, Meta(description="Until when sending again cannot charge twice.")]
    safe_for_s: Annotated[int | None, Meta(description="How long that still is; 0 when it is over.")]


class RetryBody(UndecidedBody, frozen=True, kw_only=True):
    """One operation that goes on by itself."""

    status: Annotated[
        OperationStatus, Meta(description="OPEN, or PENDING where the provider has it: that costs no try.")
    ]
    next: OutlookBody


class RetryDetailBody(RetryBody, frozen=True, kw_only=True):
    """The same with the last things that happened to it, newest first."""

    evidence: list[EvidenceBody]


class RetryQueueBody(msgspec.Struct, frozen=True):
    """Operations that go on by themselves, oldest first."""

    operations: list[RetryBody]
    next_cursor: NextCursor


def retry_queue_of(gateway: Gateway) -> RetryQueue:
    """Put together what shows a gateway's retry queue."""
    return RetryQueue(
        gateway.store,
        gateway.clock,
        operations=gateway.operations,
        capabilities={name: provider.capabilities for name, provider in gateway.providers.items()},
        retry_budget=gateway.settings.retry_budget_attempts,
    )


@get("/v1/retry_queue")
async def list_retry_queue(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List what is not decided and goes on by itself, oldest first, page by page."""
    gateway, caller = await caller_of(request)
    shown, last = await undecided_page(request, gateway, caller, "retry_queue", retry_queue_of(gateway).find)
    return answer(RetryQueueBody([RetryBody(**_fields_of(each)) for each in shown], last))


@get("/v1/retry_queue/{operation_id:str}")
async def get_retry(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one operation that goes on by itself, with the evidence and what happens next."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    named = request.path_params["operation_id"]
    operation_id, queue = parse_id(OPERATION, named), retry_queue_of(gateway)
    retry = None if operation_id is None else await queue.read(operation_id, undecided_query(gateway, caller))
    if retry is None:
        raise CoatcheckError(
            ErrorCode.NOT_FOUND,
            f"No operation {named} goes on by itself here: it is unknown, at its first attempt, decided by now, or a "
            f"dead letter, shown by GET /v1/dead_letters/{named}.",
        )
    evidence = [EvidenceBody(each.kind, each.at, each.body) for each in await queue.evidence(retry)]
    return answer(RetryDetailBody(**_fields_of(retry), evidence=evidence))


def _fields_of(retry: Retry) -> dict[str, Any]:
    fields = undecided_fields(retry.operation, retry.payment_order_id, retry.created_at, retry.retry_budget)
    return {**fields, "status": retry.operation.status, "next": _outlook_body(retry.outlook)}


def _outlook_body(outlook: Outlook) -> OutlookBody:
    second = timedelta(seconds=1)
    left = outlook.safe_for
    return OutlookBody(
        at=outlook.at,
        is_running=outlook.is_running,
        would=outlook.step,
        text=outlook.text,
        age_s=None if outlook.age is None else outlook.age // second,
        window_s=None if outlook.window is None else outlook.window // second,
        safe_until=outlook.safe_until,
        safe_for_s=None if left is None else left // second,
    )
