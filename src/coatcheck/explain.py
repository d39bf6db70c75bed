"""The whole story of a payment in plain sentences: what happened when, where it stands and why, what comes next.

Told from the audit events, which hold all of it; only where it stands is read from the rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.events import EventKind
from coatcheck.executor import Step
from coatcheck.ids import (
    DISPUTE,
    OPERATION,
    ORDER,
    PAYMENT,
    PAYOUT,
    REFUND,
    operation_id_of,
    order_id_of,
    parse_id,
    print_id,
)
from coatcheck.money import format_amount
from coatcheck.operations import NOT_AT_PROVIDER, Operation, Operations, Standing
from coatcheck.payments import OrderView, PaymentView
from coatcheck.payments.views import read_payments
from coatcheck.providers.outcome import ToldBy
from coatcheck.shops import shop_id_of
from coatcheck.states import Mode, OperationKind, OperationStatus, OrderStatus
from coatcheck.store import Store

_PAGE = 1_000
_AFTER_ALL = 10**9  # what has no attempt of its own
# What an attempt begins with, in this order; what it brought comes behind.
_BEGINNINGS = (
    EventKind.OPERATION_CLAIMED,
    EventKind.OPERATION_REOPENED,
    EventKind.OPERATION_REGISTERED,
    EventKind.OPERATION_SENDING,
)
# By which way an answer came, behind the attempt's number; nothing where it is the answer to the sending.
_TOLD_BY = {
    ToldBy.LOOK_UP: " (a look-up)",
    ToldBy.WEBHOOK: " (a webhook)",
    ToldBy.FILE: " (a settlement file)",
    ToldBy.PERSON: " (by hand)",
}
_REQUESTS = frozenset({EventKind.PAYMENT_ACCEPTED, EventKind.PAYMENT_ADOPTED})
_GIVEN_UP_KINDS = frozenset({EventKind.ORDER_FAILED, EventKind.CAPTURE_DECLINED, EventKind.REFUND_FAILED})
_JOINT_TICKET = "all-or-nothing"  # of what the gateway itself asks for an all-or-nothing checkout
_JOINT_KINDS = (OperationKind.CAPTURE, OperationKind.VOID, OperationKind.REFUND)


class Advice(Protocol):
    """What a person may do about an undecided operation; dead letters know."""

    @property
    def text(self) -> str:
        """It in a sentence."""
        ...

    @property
    def step(self) -> Step | None:
        """What the gate would ask the provider for now."""
        ...


class Moment(msgspec.Struct, frozen=True):
    """One thing that happened, in a sentence."""

    at: datetime
    text: str


class Story(msgspec.Struct, frozen=True):
    """A payment's story: what it is, what happened in order, and where it stands."""

    title: str
    moments: list[Moment]
    standing: list[str]


class _Event(NamedTuple):
    event_id: UUID
    kind: str
    at: datetime
    body: dict[str, Any]


class _Case(NamedTuple):
    """All that the sentences are made of. `only`: the order that is asked about, None for all."""

    view: PaymentView
    events: Sequence[_Event]
    operations: Mapping[UUID, Standing]
    orders: Mapping[UUID, OrderView]
    only: UUID | None


async def explain(
    store: Store,
    operations: Operations,
    named: str,
    *,
    shop: str | None,
    mode: Mode,
    advise: Callable[[Operation], Advice],
    at: datetime,
) -> Story:
    """Tell the story of a payment (`pay_...`), of the order of an operation or refund, or of a shop's payment order.

    `shop` with `mode`: `named` is that shop's own payment_order_id. Raises CoatcheckError NOT_FOUND. Only reads.
    """
    payment_id, only = await _find(store, operations, named, shop, mode)
    (view,) = await read_payments(store, [payment_id])
    if view is None:
        raise _nothing(named)
    events = await _read_events(store, payment_id)
    orders = {order_id_of(view.shop_id, view.mode, order.payment_order_id): order for order in view.orders}
    known = await operations.stand(_operation_ids(events, orders))
    case = _Case(view, events, known, orders, only)
    return Story(
        _title(case),
        [_moment(case, event) for event in events if _is_about(case, event)],
        [
            *_orders_stand(case),
            *_operations_stand(case, advise, at),
        ],
    )


async def _find(
    store: Store, operations: Operations, named: str, shop: str | None, mode: Mode
) -> tuple[UUID, UUID | None]:
    """Find the payment that is meant, and the one order of it."""
    if shop is not None:
        return await _order_named(store, named, order_id_of(shop_id_of(shop), mode, named))
    if (payment_id := parse_id(PAYMENT, named)) is not None:
        return payment_id, None
    if (operation_id := parse_id(OPERATION, named)) is not None:
        return await _order_of_operation(operations, named, operation_id)
    if (order_id := parse_id(ORDER, named)) is not None:
        return await _order_named(store, named, order_id)
    return await _order_of_what_came_later(store, named)


async def _order_of_operation(operations: Operations, named: str, operation_id: UUID) -> tuple[UUID, UUID]:
    standing = (await operations.stand([operation_id])).get(operation_id)
    if standing is None:
        raise _nothing(named)
    if standing.operation.intent.kind is OperationKind.PAYOUT:
        raise _a_payout(named, standing.operation.payment_id)
    return standing.operation.payment_id, standing.operation.order_id


async def _order_of_what_came_later(store: Store, named: str) -> tuple[UUID, UUID]:
    """Find the order of a refund or a dispute."""
    row = None
    if (refund_id := parse_id(REFUND, named)) is not None:
        row = await store.pool.fetchrow(store.queries["refund_read"], refund_id)
        if row is not None:
            return row["payment_id"], order_id_of(row["shop_id"], row["mode"], row["payment_order_id"])
    if (dispute_id := parse_id(DISPUTE, named)) is not None:
        row = await store.pool.fetchrow(store.queries["dispute_read"], [dispute_id])
    if row is None:
        raise _nothing(named)
    return row["payment_id"], row["order_id"]


async def _order_named(store: Store, named: str, order_id: UUID) -> tuple[UUID, UUID]:
    row = await store.pool.fetchrow(store.queries["order_read"], order_id)
    if row is None:
        raise _nothing(named)
    return row["payment_id"], order_id


def _a_payout(named: str, payout_id: UUID) -> CoatcheckError:
    return CoatcheckError(
        ErrorCode.NOT_FOUND,
        f"{named} is no payment's: it pays {print_id(PAYOUT, payout_id)} out, shown by GET /v1/payouts. "
        f"`coatcheck retry-queue show {named}` or `coatcheck dead-letters show {named}` says what it waits for.",
    )


def _nothing(named: str) -> CoatcheckError:
    return CoatcheckError(
        ErrorCode.NOT_FOUND,
        f"Nothing here is called {named}. Give a pay_, op_, rf_, dsp_ or po_ id, or a payment_order_id with --shop "
        "NAME (and --live for real money).",
    )


async def _read_events(store: Store, payment_id: UUID) -> list[_Event]:
    found: list[_Event] = []
    after = UUID(int=0)
    while True:
        rows = await store.pool.fetch(store.queries["event_list"], payment_id, after, _PAGE)
        found += [_Event(row["event_id"], row["kind"], row["at"], msgspec.json.decode(row["body"])) for row in rows]
        if len(rows) < _PAGE:
            return sorted(found, key=_place_of)
        after = rows[-1]["event_id"]


def _place_of(event: _Event) -> tuple[datetime, int, int, UUID]:
    """Order events; within a millisecond ids have no order, so what an attempt brought stands behind its beginning."""
    is_request = event.kind in _REQUESTS or (event.kind.endswith(".requested") and not _is_by_policy(event))
    attempt = 0 if is_request else event.body.get("attempt") or _AFTER_ALL
    place = _BEGINNINGS.index(event.kind) if event.kind in _BEGINNINGS else len(_BEGINNINGS)
    return event.at, attempt, place, event.event_id


def _is_by_policy(event: _Event) -> bool:
    """Whether a cancel is the gateway's own, made in the commit of a late authorization: behind what it answers."""
    return event.kind == EventKind.CANCEL_REQUESTED and event.body.get("reason") is not None


def _operation_ids(events: Iterable[_Event], orders: Iterable[UUID]) -> set[UUID]:
    """Name every operation there can be: the events name them, or the ticket under which they were asked for."""
    order_ids = list(orders)
    found: set[UUID] = {operation_id_of(order_id, kind) for order_id in order_ids for kind in ("charge", "authorize")}
    for event in events:
        body = event.body
        if (named := body.get("operation_id")) is not None:
            found.add(UUID(named))
        if event.kind == EventKind.CAPTURE_REQUESTED:
            found |= {operation_id_of(order_id, OperationKind.CAPTURE, body["key"]) for order_id in order_ids}
        elif event.kind == EventKind.CANCEL_REQUESTED:
            found |= {operation_id_of(order_id, OperationKind.VOID, body["key"]) for order_id in order_ids}
        elif event.kind == EventKind.CHECKOUT_DECIDED:
            found |= {operation_id_of(each, kind, _JOINT_TICKET) for each in order_ids for kind in _JOINT_KINDS}
    return found


def _is_about(case: _Case, event: _Event) -> bool:
    order_id = event.body.get("order_id")
    return case.only is None or order_id is None or UUID(order_id) == case.only


def _title(case: _Case) -> str:
    view = case.view
    return (
        f"Payment {print_id(PAYMENT, view.payment_id)}, checkout {view.checkout_id}, {view.mode} mode: "
        f"{view.status.value}"
    )


def _moment(case: _Case, event: _Event) -> Moment:
    if event.kind == EventKind.PAYMENT_ACCEPTED:
        return Moment(event.at, _accepted(event.body))
    if event.kind == EventKind.PAYMENT_ADOPTED:
        return Moment(event.at, _adopted(event.body))
    if event.kind == EventKind.CAPTURE_REQUESTED:
        return Moment(event.at, _capture_requested(case, event.body))
    fields = _fields(case, event)
    is_absent = event.kind in _GIVEN_UP_KINDS and event.body.get("decline_code") == NOT_AT_PROVIDER
    sentence = ABSENT if is_absent else SENTENCES.get(event.kind)
    sentence = GIVEN_BACK if _is_by_policy(event) else sentence
    # A kind of a newer release: better its bare name than no story.
    return Moment(event.at, event.kind if sentence is None else sentence.format(**fields))


def _fields(case: _Case, event: _Event) -> dict[str, str]:
    """Put what an event says into the words its sentence may use."""
    body = event.body
    named = body.get("operation_id")
    standing = None if named is None else case.operations.get(UUID(named))
    order = None if body.get("order_id") is None else case.orders.get(UUID(body["order_id"]))
    return {
        "what": _what(standing, order, body),
        "told_by": _TOLD_BY.get(body.get("told_by", ""), ""),
        "held_back": " It was not sent again: the provider is silent." if _kept_a_look_up(body) else "",
        "order": "?" if order is None else order.payment_order_id,
        "key": _key(named),
        # An event of another provider's may have named the order.
        "provider": body.get("provider") or (order.provider if order is not None else "the provider"),
        "attempt": str(body.get("attempt", "?")),
        "answer": _answer(body),
        "evidence": f" ({body['evidence']})" if body.get("evidence") else "",
        "sending": _sending(event, standing, order),
        "found": f", for a look-up said {_answer(body['found'], with_evidence=True)}" if body.get("found") else "",
        "reference": str(body.get("provider_reference") or "none given"),
        "code": str(body.get("decline_code") or "no code given"),
        "due": f" It goes on at {_time_text(body['due_at'])}." if body.get("due_at") else "",
        "page": f" The buyer pays on {body['redirect_url']}." if body.get("redirect_url") else "",
        "until": f" until {_time_text(body['expires_at'])}" if body.get("expires_at") else "",
        "amount": _amount(body, order),
        "request_key": str(body.get("key", "?")),
        "why": str(body.get("why") or body.get("reason") or "no reason given"),
        "by": str(body.get("by", "?")),
        "word": str(body.get("word", "?")).replace("_", " "),
        "proposed_by": str(body.get("proposed_by", "?")),
        "decision": str(body.get("decision", "?")),
        "difference": str(body.get("difference") or body.get("cause") or "?"),
        "holder": str(body.get("holder", "?")),
        "alert": str(body.get("alert", "?")),
        **_dispute_fields(body),
    }


def _kept_a_look_up(body: Mapping[str, Any]) -> bool:
    """Whether a look-up would have allowed a sending, which was held back."""
    return bool(body.get("is_held_back")) and body.get("told_by") == ToldBy.LOOK_UP


def _sending(event: _Event, standing: Standing | None, order: OrderView | None) -> str:
    """Say what is about to leave; a page has a key of its own, the same for all orders of the payment."""
    what, provider = _what(standing, order, event.body), "the provider" if order is None else order.provider
    named, first = event.body.get("operation_id"), event.body.get("first_sent_at")
    again = " again" if first is not None and datetime.fromisoformat(first) < event.at else ""
    if standing is not None and standing.operation.intent.is_hosted:
        return f"{provider} is asked{again} for the page on which the buyer pays the {what}"
    return f"the {what} is sent{again} to {provider} under the key {_key(named)}"


def _key(operation_id: str | None) -> str:
    return "?" if operation_id is None else print_id(OPERATION, UUID(operation_id))


def _answer(body: Mapping[str, Any], *, with_evidence: bool = False) -> str:
    said = ": ".join(str(body[name]) for name in ("outcome", "cause") if body.get(name)) or "no answer"
    return f"{said} ({body['evidence']})" if with_evidence and body.get("evidence") else said


def _dispute_fields(body: Mapping[str, Any]) -> dict[str, str]:
    """Put what a dispute's event says into words: its amounts have a currency of their own."""

    def money(name: str) -> str:
        minor, currency = body.get(name), body.get("currency")
        return _money(abs(minor), currency) if isinstance(minor, int) and isinstance(currency, str) else "an amount"

    due = body.get("evidence_due_at")
    parts = ", ".join(str(each.get("part", "?")) for each in body.get("manifest") or ())
    line = f"line {body['line_no']} of a settlement file" if body.get("line_no") else "no settlement file any more"
    return {
        "dispute": str(body.get("provider_reference") or "the dispute"),
        "claim": money("amount_minor"),
        "moved": money("gross_minor"),
        "fee": f" The fee is {money('fee_minor')}." if body.get("fee_minor") else "",
        "status": str(body.get("status", "?")),
        "answer_by": f" It must be answered by {_time_text(due)}." if due else "",
        "said": str(body.get("evidence_kind", "an answer")) + (f" ({parts})" if parts else ""),
        "refusal": str(body.get("refusal_code") or "no code given"),
        "line": line,
    }


def _what(standing: Standing | None, order: OrderView | None, body: Mapping[str, Any]) -> str:
    kind = standing.operation.intent.kind.value if standing is not None else str(body.get("kind") or "charge")
    noun = {"authorize": "authorization"}.get(kind, kind)
    return noun if order is None else f"{noun} of order {order.payment_order_id}"


def _amount(body: Mapping[str, Any], order: OrderView | None) -> str:
    if not isinstance(body.get("amount_minor"), int) or order is None:
        return "an amount"
    return _money(body["amount_minor"], order.currency)


def _accepted(body: Mapping[str, Any]) -> str:
    checkout, orders, risk = body["checkout_id"], len(body["orders"]), body["risk"]["decision"]
    told = [f"Checkout {checkout} was accepted with {orders} order(s); the risk rules said {risk}."]
    for order in body["orders"]:
        asked = f"Order {order['payment_order_id']}: {_money(order['amount_minor'], order['currency'])}"
        asked += f" for {order['seller_account']}"
        if order["operation"] is None:
            told.append(f"{asked}, blocked: no provider was asked.")
        else:
            key = print_id(OPERATION, UUID(order["operation"]["operation_id"]))
            told.append(f"{asked}, to go to {order['provider']} under the key {key}.")
    return " ".join(told)


def _adopted(body: Mapping[str, Any]) -> str:
    told = [f"Checkout {body['checkout_id']} was taken over from the provider by {body['by']}: {body['why']}."]
    for order in body["orders"]:
        operation = order["operation"]
        key = print_id(OPERATION, UUID(operation["operation_id"]))
        amount = _money(order["amount_minor"], order["currency"])
        asked = f"Order {order['payment_order_id']}: {amount} for {order['seller_account']}"
        has_it = f"{order['provider']} has it as {operation['provider_reference']}, under the key {key}"
        told.append(f"{asked}; {has_it}.")
    return " ".join(told)


def _capture_requested(case: _Case, body: Mapping[str, Any]) -> str:
    asked = []
    for order_id, amount in body["amounts_minor"].items():
        order = case.orders.get(UUID(order_id))
        if order is not None:
            asked.append(
                f"{'all that is left' if amount is None else _money(amount, order.currency)} of order "
                f"{order.payment_order_id}"
            )
    last = "; nothing is captured after it" if body.get("is_final") else ""
    return f"The shop asked to capture {', '.join(asked)} (its key: {body['key']}){last}."


ABSENT = "Attempt {attempt}: the {what} was given up, for nobody has it{evidence}. No money moved."
GIVEN_BACK = "What was reserved is given back by policy, for {why} (under the key {request_key})."
SENTENCES: Mapping[str, str] = {
    EventKind.PAYMENT_RECOGNISED: "The shop came again with this checkout, which had been taken over from the "
    "provider: it is the same one. What was charged is not charged again.",
    EventKind.OPERATION_ADOPTED: "{by} took the {what} over from the provider ({reference}): {why}.",
    EventKind.OPERATION_DOUBTED: "After a restore from a backup the {what} may have been sent: it is asked about "
    "first.",
    EventKind.REFUND_RECOGNISED: "The shop asked again for a refund of order {order} that had been taken over from "
    "the provider (its key: {request_key}): it is the same one.",
    EventKind.ORDER_SUCCEEDED: "Attempt {attempt}{told_by}: {provider} did the {what} (its id: {reference}). The "
    "order is SUCCESS and the books have it.",
    EventKind.ORDER_FAILED: "Attempt {attempt}{told_by}: the {what} was declined: {code}. The order is FAILED; no "
    "money moved.",
    EventKind.ORDER_PENDING: "Attempt {attempt}{told_by}: {provider} has the {what} and decides later.{page}{due}",
    EventKind.ORDER_AUTHORIZED: "Attempt {attempt}{told_by}: {provider} reserved the money of order {order}{until} "
    "(its id: {reference}). The books hold it.",
    EventKind.ORDER_CAPTURED: "Attempt {attempt}{told_by}: {provider} did the {what}, a part of it (its id: "
    "{reference}).",
    EventKind.ORDER_CANCELLED: "Attempt {attempt}{told_by}: order {order} is CANCELLED by the {what}: what was "
    "reserved is given back.",
    EventKind.ORDER_SUCCEEDED_LATE: "Attempt {attempt}{told_by}: {provider} says that it did the {what} after all, "
    "although the order had been given up. The books have it.",
    EventKind.ORDER_AUTHORIZED_LATE: "Attempt {attempt}{told_by}: {provider} reserved the money of order {order}"
    "{until} after all (its id: {reference}), although the order had been given up. The books hold it.",
    EventKind.ORDER_DISPUTED: "{provider} says that the charge of order {order} is disputed: nothing more of it is "
    "refunded.",
    EventKind.ORDER_UNDISPUTED: "No dispute of order {order} is open or lost any more: it can be refunded again.",
    EventKind.DISPUTE_OPENED: "{provider} opened the dispute {dispute} about {claim} of order {order} ({why}): "
    "{status}.{answer_by}",
    EventKind.DISPUTE_UPDATED: "{provider} says of the dispute {dispute} of order {order}: {status}.{answer_by}",
    EventKind.DISPUTE_WON: "The dispute {dispute} of order {order} is won.",
    EventKind.DISPUTE_LOST: "The dispute {dispute} of order {order} is lost: the buyer keeps the money.",
    EventKind.DISPUTE_CLOSED: "The dispute {dispute} of order {order} is over, without a chargeback.",
    EventKind.DISPUTE_REOPENED: "The dispute {dispute} of order {order} is open again: {status}.{answer_by}",
    EventKind.DISPUTE_FUNDS_WITHDRAWN: "{provider} took {moved} for the dispute {dispute} of order {order}.{fee} The "
    "books have it.",
    EventKind.DISPUTE_FUNDS_REINSTATED: "{provider} gave {moved} back for the dispute {dispute} of order {order}.{fee} "
    "The books have it.",
    EventKind.DISPUTE_FUNDS_NAMED: "{provider} told of the money that a settlement file had shown before.",
    EventKind.DISPUTE_FUNDS_SETTLED: "The money of the dispute is in {line}.",
    EventKind.DISPUTE_EVIDENCE_REQUESTED: "{by} answers the dispute {dispute} of order {order}: {said}.",
    EventKind.DISPUTE_EVIDENCE_SENT: "{provider} has the answer to the dispute: {said}.",
    EventKind.DISPUTE_EVIDENCE_REFUSED: "{provider} did not take the answer to the dispute ({said}): {refusal}.",
    EventKind.ORDER_CHARGED_TWICE: "{provider} told of a charge of order {order} that is one too many ({reference}): "
    "{difference}. A person must compare and refund there.",
    EventKind.CHECKOUT_DECIDED: "All or nothing: the orders go together, and the decision is to {decision}.",
    EventKind.CAPTURE_DECLINED: "Attempt {attempt}{told_by}: {provider} refused the {what}: {code}.",
    EventKind.CANCEL_REQUESTED: "The shop asked to cancel what is not charged (its key: {request_key}).",
    EventKind.VOID_DECLINED: "Attempt {attempt}{told_by}: {provider} refused the {what}: {code}.",
    EventKind.REFUND_REQUESTED: "A refund of {amount} of order {order} was asked for ({why}; its key: {request_key}) "
    "and reserved; it goes to {provider} under the key {key}.",
    EventKind.REFUND_SUCCEEDED: "Attempt {attempt}{told_by}: {provider} did the {what} (its id: {reference}). The "
    "books have it.",
    EventKind.REFUND_FAILED: "Attempt {attempt}{told_by}: {provider} refused the {what}: {code}. What it reserved is "
    "free.",
    EventKind.REFUND_RETURNED: "Attempt {attempt}{told_by}: the buyer's bank sent the {what} back: {code}. The books "
    "have taken it back.",
    EventKind.WEBHOOK_REFUSED: "An authentic event of {provider} was about something else than the {what}: "
    "{difference}. Nothing was booked.",
    EventKind.OPERATION_PENDING: "Attempt {attempt}{told_by}: {provider} has the {what} and decides later.{due}",
    EventKind.OPERATION_CONFIRMED: "Attempt {attempt}{told_by}: asked again, {provider} said nothing new of the "
    "{what}.",
    EventKind.OPERATION_REOPENED: "The {what} is asked about again as attempt {attempt}: {why}.",
    EventKind.OPERATION_REGISTERED: "Attempt {attempt}: {provider} made its object for the {what} ({reference}); no "
    "money moved.",
    EventKind.OPERATION_CLAIMED: "A gateway ({holder}) took the {what} over as attempt {attempt}.",
    EventKind.OPERATION_SENDING: "Attempt {attempt}: {sending}{found}.",
    EventKind.OPERATION_RESCHEDULED: "Attempt {attempt}{told_by} under the key {key} decided nothing about the {what}: "
    "{answer}{evidence}.{held_back}{due}",
    EventKind.OPERATION_UNRESOLVED: "Attempt {attempt}{told_by} under the key {key} decided nothing about the {what}: "
    "{answer}{evidence}. That was the last of its own accord: it waits for a person.",
    EventKind.OPERATION_ANSWER_REFUSED: "Attempt {attempt}{told_by}: the answer about the {what} was not booked: "
    "{difference}. It waits for a person.",
    EventKind.DEAD_LETTER_RETRIED: "{by} had the {what} asked again.",
    EventKind.DEAD_LETTER_RESOLUTION_PROPOSED: "{by} says of the {what}: {word} ({why}). A second person must "
    "confirm it.",
    EventKind.DEAD_LETTER_RESOLUTION_CONFIRMED: "{by} confirmed what {proposed_by} had said of the {what}: {word} "
    "({why}).",
    EventKind.ALERT_OPENED: "An alert was opened: {alert}.",
    EventKind.ALERT_CLOSED: "The alert was closed: {alert}.",
    EventKind.ALERT_ACKNOWLEDGED: "{by} has seen to the alert {alert}: {why}.",
}


def _orders_stand(case: _Case) -> list[str]:
    return [
        f"Order {order.payment_order_id} is {order.status.value}: {_why(order)}"
        for order_id, order in case.orders.items()
        if case.only in (None, order_id)
    ]


def _why(order: OrderView) -> str:
    whole = _money(order.amount_minor, order.currency)
    if order.status is OrderStatus.SUCCESS:
        back = f", {_money(order.refunded_minor, order.currency)} of it has gone back" if order.refunded_minor else ""
        return f"{_money(order.captured_minor, order.currency)} of {whole} was taken{back}. Nothing more is to come."
    if order.status is OrderStatus.AUTHORIZED:
        until = "" if order.expires_at is None else f" until {_time(order.expires_at)}"
        held = _money(order.authorized_minor - order.captured_minor, order.currency)
        return f"{held} is reserved{until}. It waits for a capture or a cancel."
    if order.status is OrderStatus.FAILED:
        return f"{order.decline_code or 'declined without a code'}. No money moved."
    if order.status is OrderStatus.CANCELLED:
        return f"{order.decline_code or 'cancelled'}. Nothing is reserved or taken."
    if order.status is OrderStatus.PENDING:
        return "the provider or the buyer has not decided yet."
    return f"what became of {whole} is not known yet."


def _operations_stand(case: _Case, advise: Callable[[Operation], Advice], at: datetime) -> list[str]:
    """Say of each undecided operation why it is where it is, and what comes next."""
    return [
        _undecided(case, standing, advise(standing.operation), at)
        for standing in sorted(case.operations.values(), key=lambda each: each.created_at)
        if standing.has_lease and case.only in (None, standing.operation.order_id)
    ]


def _undecided(case: _Case, standing: Standing, advice: Advice, at: datetime) -> str:
    operation = standing.operation
    what = f"{_what(standing, case.orders.get(operation.order_id), {})} (key {operation.intent.reference})"
    why = f": {operation.cause}" if operation.cause else ""
    status = f"{operation.status.value} after attempt {operation.attempt}{why}"
    return f"The {what} is {status}. {_next(standing, advice, at)}"


def _next(standing: Standing, advice: Advice, at: datetime) -> str:
    due = standing.due_at
    if due is None:
        return f"It waits for a person. {advice.text}"
    if standing.holder is not None and due > at:
        return f"A gateway is working on it now; if that one dies, another takes over at {_time(due)}."
    is_asked = standing.operation.status is OperationStatus.PENDING or advice.step is Step.LOOK_UP
    ask = "looked up at the provider, which moves no money" if is_asked else "sent under the same key"
    when = f"at {_time(due)}" if due > at else f"by the next gateway that looks: it is due since {_time(due)}"
    return f"Next: it is {ask}, {when}."


def _money(minor: int, currency: str) -> str:
    return f"{format_amount(minor, currency)} {currency}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _time_text(text: str) -> str:
    return _time(datetime.fromisoformat(text))
