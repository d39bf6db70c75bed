"""`/v1/webhooks`: PSPs' events that wait for a person.

They belong to no shop, and what a PSP says of one shop's buyers is nobody else's to read: so only the keys of the shop
that the setting `webhooks_shop` names see them, each those of its own mode (hazard B7). None of it moves money of its
own accord, so one person is enough.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck import inbox
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.dead_letters import Cause, EvidenceBody, OlderThan, ProviderName, take_body
from coatcheck.api.edge import JSON, encode
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.questions import PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.dead_letters import person_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import INBOX, parse_id, print_id
from coatcheck.inbox import EventOutcome, EventQuery, Prospect, StoredEvent
from coatcheck.reporting.read_models import Place
from coatcheck.shops import Caller, shop_id_of


class WebhookListParameters(PageParameters, frozen=True, kw_only=True):
    """The filters of the list; they may be combined."""

    provider: ProviderName | None = None
    cause: Cause | None = None
    older_than_s: OlderThan | None = None


class ReplayWebhooks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events are to be handled again, the oldest first. A dry run says which, and handles none."""

    dry_run: bool
    provider: ProviderName | None = None
    cause: Cause | None = None
    older_than_s: OlderThan | None = None
    limit: Annotated[int, Meta(ge=1, le=inbox.REPLAY_MOST, description="The most at once.")] = 20


class DismissWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why nothing is to be done about an event."""

    reason: Annotated[str, Meta(min_length=1, max_length=500, description="How you know.")]


class WebhookBody(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP's event that was stored. `is_waiting`: for a person."""

    inbox_id: Annotated[str, Meta(examples=["in_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    provider: str
    account: str
    event_id: Annotated[str, Meta(description="The provider's own id of it.")]
    type: Annotated[str | None, Meta(description="The provider's word for it, where it can be read.")]
    received_at: datetime
    is_waiting: bool
    cause: Annotated[str | None, Meta(description="Why the last try brought no outcome.")]
    attempts: Annotated[int | None, Meta(description="How often it was tried; null once it is handled.")]
    due_at: Annotated[datetime | None, Meta(description="When it is tried next by itself.")]
    outcome: EventOutcome | None
    handled_at: datetime | None


class WebhookDetailBody(WebhookBody, frozen=True, kw_only=True):
    """An event with what came; whatever looks like a card number or a secret is taken out."""

    headers: dict[str, str]
    body: Annotated[str, Meta(description="It may say who the buyer is.")]
    evidence: list[EvidenceBody]


class WebhookListBody(msgspec.Struct, frozen=True):
    """Events that wait for a person, oldest first."""

    webhooks: list[WebhookBody]
    next_cursor: NextCursor


class RetriedWebhookBody(WebhookBody, frozen=True, kw_only=True):
    """An event with what one more try of it comes to, as things stand."""

    would: Annotated[Prospect, Meta(description="It is compared like any other event, or waits again.")]
    why: Annotated[str | None, Meta(description="Why it would wait again.")]


class WebhookReplayBody(msgspec.Struct, frozen=True):
    """What is handled again, or as a dry run would be."""

    dry_run: bool
    webhooks: list[RetriedWebhookBody]


@get("/v1/webhooks")
async def list_webhooks(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List the providers' events that wait for a person, oldest first, page by page."""
    gateway, caller = await _keeper_of(request)
    asked = parameters_of(request, WebhookListParameters)
    filters = [str(each) for each in (asked.provider, asked.cause, asked.older_than_s)]
    list_name = ("webhooks", caller.shop_id.hex, caller.mode, *filters)
    place = parse_cursor(asked.cursor, *list_name)
    found = await inbox.find(
        gateway.store,
        _query_of(gateway, caller, asked),
        after=None if place is None else (place.at, place.row_id),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    last = None
    if len(found) > asked.limit:
        last = print_cursor(Place(shown[-1].received_at, shown[-1].inbox_id), *list_name)
    return answer(WebhookListBody([WebhookBody(**_fields_of(each)) for each in shown], last))


@get("/v1/webhooks/{inbox_id:str}")
async def get_webhook(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one event, also when it is handled, with headers, body and what was done about it."""
    gateway, caller = await _keeper_of(request)
    parameters_of(request, Parameters)
    event = await _find(gateway, caller, request)
    evidence = [
        EvidenceBody(each.kind, each.at, each.body) for each in await inbox.evidence(gateway.store, event.inbox_id)
    ]
    return answer(WebhookDetailBody(**_fields_of(event), headers=event.headers, body=event.body, evidence=evidence))


@post("/v1/webhooks/{inbox_id:str}/retry", status_code=202)
async def retry_webhook(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have one event handled again.

    It is compared like any other, so that is safe at any age. Ask as often as you like: while it is due or being
    handled, nothing more happens.
    """
    gateway, caller = await _keeper_of(request)
    parameters_of(request, Parameters)
    event = await _find(gateway, caller, request)
    if event.outcome is not None:
        raise _none(request)
    await inbox.retry(gateway.store, gateway.clock, [event.inbox_id], person_of(caller))
    body = WebhookBody(**_fields_of(await inbox.read(gateway.store, event.inbox_id)))
    return Response(encode(body), status_code=202, media_type=JSON)


@post("/v1/webhooks/{inbox_id:str}/dismiss", status_code=200)
async def dismiss_webhook(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Close an event that needs no handling. It moves no money, loses no byte, and cannot be taken back."""
    gateway, caller = await _keeper_of(request)
    parameters_of(request, Parameters)
    asked = await take_body(request, gateway, DismissWebhook)
    event = await _find(gateway, caller, request)
    await inbox.dismiss(gateway.store, gateway.clock, event.inbox_id, asked.reason, person_of(caller))
    return answer(WebhookBody(**_fields_of(await inbox.read(gateway.store, event.inbox_id))))


@post("/v1/webhooks/retry", status_code=200)
async def replay_webhooks(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have many events handled again, or see beforehand which, and what would come of each.

    At most 100 at once, the oldest first.
    """
    gateway, caller = await _keeper_of(request)
    asked = await take_body(request, gateway, ReplayWebhooks)
    query = _query_of(gateway, caller, asked)
    done = await inbox.replay(
        gateway.store, gateway.clock, query, person_of(caller), most=asked.limit, dry_run=asked.dry_run
    )
    foreseen = await gateway.inbox.foresee([event.inbox_id for event in done.events])
    shown = [(event, foreseen[event.inbox_id]) for event in done.events]  # what is stored is never deleted
    return answer(
        WebhookReplayBody(
            done.is_dry_run,
            [RetriedWebhookBody(**_fields_of(event), would=each.prospect, why=each.why) for event, each in shown],
        )
    )


async def _keeper_of(request: Request[Any, Any, Any]) -> tuple[Gateway, Caller]:
    """Find out who asks. Raises CoatcheckError NOT_FOUND for all but the shop that looks after events."""
    gateway, caller = await caller_of(request)
    named = gateway.settings.webhooks_shop
    if named is None or shop_id_of(named) != caller.shop_id:
        raise CoatcheckError(
            ErrorCode.NOT_FOUND,
            "Providers' events belong to no shop: only keys of the shop that the setting webhooks_shop names see them. "
            "`coatcheck webhooks list` shows them to whoever runs the gateway.",
        )
    return gateway, caller


def _query_of(gateway: Gateway, caller: Caller, asked: WebhookListParameters | ReplayWebhooks) -> EventQuery:
    age = None if asked.older_than_s is None else timedelta(seconds=asked.older_than_s)
    return EventQuery(
        provider=asked.provider,
        cause=asked.cause,
        mode=caller.mode,
        received_until=None if age is None else gateway.clock.now() - age,
    )


async def _find(gateway: Gateway, caller: Caller, request: Request[Any, Any, Any]) -> StoredEvent:
    inbox_id = parse_id(INBOX, request.path_params["inbox_id"])
    if inbox_id is None:
        raise _none(request)
    event = await inbox.read(gateway.store, inbox_id)
    if event.mode is not caller.mode:
        raise _none(request)
    return event


def _none(request: Request[Any, Any, Any]) -> CoatcheckError:
    named = request.path_params["inbox_id"]
    return CoatcheckError(ErrorCode.NOT_FOUND, f"No such event {named}: it is unknown here, or was handled.")


def _fields_of(event: StoredEvent) -> dict[str, Any]:
    return {
        "inbox_id": print_id(INBOX, event.inbox_id),
        "provider": event.provider,
        "account": event.account,
        "event_id": event.event_id,
        "type": event.type,
        "received_at": event.received_at,
        "is_waiting": event.is_dead,
        "cause": event.cause,
        "attempts": event.attempts,
        "due_at": event.due_at,
        "outcome": event.outcome,
        "handled_at": event.handled_at,
    }
