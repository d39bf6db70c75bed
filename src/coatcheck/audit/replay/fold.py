"""The fold: from the events of one subject to its rows. Pure.

It never asks which of two events came first by the clock, for their times and ids come from clocks that may differ by
seconds. What stands in for it: sums are sums in any order; an operation's events are in the order of its attempts, and
within one of what an attempt can bring; an order and a refund go the ways that states.py allows, and these have one
direction. docs/replay.md says why that is enough.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import (
    KINDS,
    Accepted,
    AcceptedOrder,
    AccountOpened,
    ActRequested,
    Adopted,
    AdoptedOrder,
    Attempted,
    CheckoutDecided,
    Claimed,
    Decided,
    Disputed,
    Doubted,
    Event,
    MadeOperation,
    OperationAdopted,
    PayoutAdopted,
    PayoutDecided,
    PayoutRecognised,
    PayoutRequested,
    Postponed,
    Recognised,
    RefundRecognised,
    RefundRequested,
    Registered,
    Reopened,
    Said,
    Sending,
    Undisputed,
)
from coatcheck.audit.replay.rows import (
    AccountRow,
    AdoptedPaymentRow,
    CheckoutDecisionRow,
    OperationRow,
    OrderRow,
    PaymentRow,
    PayoutRow,
    RefundRow,
    TransferRow,
)
from coatcheck.audit.replay.subject import Body, Heard
from coatcheck.audit.replay.subjects import SUBJECTS
from coatcheck.states import (
    PAYOUT_TRANSITIONS,
    REFUND_TRANSITIONS,
    Capture,
    OnFailure,
    OperationKind,
    OperationStatus,
    OrderStatus,
    PayoutStatus,
    RefundStatus,
)

_CANCELLED = "cancelled"  # the decline code of what a void has ended
_UNDO = "undo"
_GIVEN_UP = (OrderStatus.FAILED, OrderStatus.CANCELLED)
_JSON_NULL = b"null"
# What an attempt brings, in this order: a void may end what was put back; what was decided has no lease any more.
# A restore's doubt comes after whatever the backup knows of the attempt.
_RANKS: Mapping[type[Said], int] = MappingProxyType(
    {Claimed: 0, Reopened: 0, Registered: 1, Sending: 2, Postponed: 3, Decided: 4, PayoutDecided: 4, Doubted: 5}
)


class Finding(NamedTuple):
    """An event of which no row can be made, and why."""

    event_id: UUID
    kind: str
    why: str


class Told(NamedTuple):
    """What the events of a subject come to."""

    rows: list[msgspec.Struct]
    findings: list[Finding]


# What reads an event, by its kind: of one that says something to several subjects, several.
_readers: dict[str, list["msgspec.json.Decoder[Any]"]] = defaultdict(list)
for _kind, _body in (*KINDS.items(), *(told for subject in SUBJECTS for told in subject.bodies.items())):
    _readers[_kind].append(msgspec.json.Decoder(_body))
_READERS = MappingProxyType(dict(_readers))
_OTHERS = [msgspec.json.Decoder(Said)]


def read(event: Event) -> list[Said]:
    """Read what an event says, to each who listens. Raises msgspec.MsgspecError where it does not say what it must."""
    return [reader.decode(event.body) for reader in _READERS.get(event.kind, _OTHERS)]


def fold(events: Iterable[Event]) -> Told:
    """Make the rows of one subject's events, whatever order they come in. Pure."""
    heard = _Heard()
    rows: list[msgspec.Struct] = []
    for event in events:
        try:
            bodies = read(event)
        except msgspec.MsgspecError as error:
            heard.find(event, f"cannot be read: {error}")
            continue
        rows += _rows_of_any(Heard(event, bodies[0]))
        for body in bodies:
            heard.groups[type(body)].append(Heard(event, body))
    rows += _rows_of_payment(heard)
    for subject in SUBJECTS:
        told = [each for body in set(subject.bodies.values()) for each in heard.of(body)]
        if told:
            rows += subject.fold(told, heard.find)
    return Told(rows, list(heard.findings.values()))


def _rows_of_payment(heard: "_Heard") -> Iterator[msgspec.Struct]:
    accepted, adopted = heard.of(Accepted), heard.of(Adopted)
    requested: list[Heard[Any]] = [*heard.of(PayoutRequested), *heard.of(PayoutAdopted)]
    if requested:
        yield from _rows_of_payout(requested[0], heard)
    elif accepted:
        yield from _Payment(_beginning_of(accepted[0]), heard).rows()
    elif adopted:
        yield from _Payment(_adopted_beginning(adopted, heard.of(Recognised)), heard).rows()
    else:
        for needy in heard.about_a_payment():
            heard.find(needy.event, "no event says that its payment was accepted")
    for another in (*accepted[1:], *requested[1:], *(adopted if accepted else ()), *heard.of(Recognised)[1:]):
        heard.find(another.event, "the payment was accepted before")


def _rows_of_any(heard: Heard[Said]) -> Iterator[msgspec.Struct]:
    """Make the rows that need nothing but their own event: transfers, and an account that was opened."""
    event = heard.event
    for moved in heard.body.transfers:
        yield TransferRow(
            moved.transfer_id,
            moved.kind,
            moved.phase,
            moved.hold_id,
            moved.debit_account_id,
            moved.credit_account_id,
            moved.amount_minor,
            moved.currency,
            moved.subject_id or event.subject_id,
            event.at,
        )
    if isinstance(heard.body, AccountOpened):
        opened = heard.body
        yield AccountRow(
            event.subject_id, event.shop_id, event.mode, opened.name, opened.kind, opened.currency, event.at
        )


class _Heard:
    """What was heard of one subject, by what it is; and what was wrong with it, a word for each event."""

    def __init__(self) -> None:
        self.groups: dict[type[Said], list[Heard[Any]]] = defaultdict(list)
        self.findings: dict[UUID, Finding] = {}

    def find(self, event: Event, why: str) -> None:
        """Keep what is wrong with an event."""
        self.findings.setdefault(event.event_id, Finding(event.event_id, event.kind, why))

    def of(self, kind: type[Body]) -> list[Heard[Body]]:
        """List what is of a kind."""
        return self.groups.get(kind, [])

    def attempted(self) -> list[Heard[Attempted]]:
        """List what belongs to an attempt of an operation."""
        return [each for kind in _RANKS for each in self.groups.get(kind, [])]

    def about_a_payment(self) -> list[Heard[Any]]:
        """List what says nothing without its payment."""
        others: tuple[type[Said], ...] = (ActRequested, CheckoutDecided, RefundRequested, Disputed, Undisputed)
        others += (Recognised, OperationAdopted, RefundRecognised, PayoutRecognised)
        return [*self.attempted(), *[each for kind in others for each in self.groups.get(kind, [])]]


class _Beginning(NamedTuple):
    """What a payment begins with: accepted, or adopted and perhaps recognised."""

    payment: PaymentRow
    orders: list[OrderRow]
    operations: list[OperationRow]
    adopted: AdoptedPaymentRow | None = None


class _Payment:
    """A payment with all that was heard of it."""

    def __init__(self, begins: _Beginning, heard: _Heard) -> None:
        self._begins = begins
        self._heard = heard
        self._orders = {order.order_id: order for order in begins.orders}
        self._operations = {row.operation_id: row for row in begins.operations}
        self._firsts = {row.order_id: row.operation_id for row in self._operations.values()}
        self._refunds: dict[UUID, RefundRow] = {}

    def rows(self) -> Iterator[msgspec.Struct]:
        """Make the payment's rows."""
        self._make_acts()
        self._make_refunds()
        self._adopt_operations()
        self._fold_operations()
        self._fold_orders()
        self._fold_refunds()
        yield self._begins.payment
        if self._begins.adopted is not None:
            yield self._begins.adopted
        yield from self._orders.values()
        yield from self._operations.values()
        yield from self._refunds.values()
        yield from _checkout_of(self._begins.payment.payment_id, self._heard.of(CheckoutDecided))

    def _by(self, heard: Iterable[Heard[Any]], key: str, known: Container[UUID]) -> dict[UUID, list[Heard[Any]]]:
        """Group events by what they are about. Finds fault with what this payment does not have."""
        groups: dict[UUID, list[Heard[Any]]] = defaultdict(list)
        for each in heard:
            named = getattr(each.body, key)
            if named in known:
                groups[named].append(each)
            else:
                self._heard.find(each.event, f"is about {named}, which no event of this payment has made")
        return groups

    def _make_acts(self) -> None:
        """Make the captures and voids, of requests and of what an all-or-nothing checkout came to."""
        makers: list[Heard[Any]] = [*self._heard.of(ActRequested), *self._heard.of(CheckoutDecided)]
        for each in makers:
            for made in each.body.operations:
                order = self._orders.get(made.order_id)
                if order is None:
                    self._heard.find(each.event, f"makes an operation of {made.order_id}, which is no order of it")
                else:
                    self._operations[made.operation_id] = _act_of(order, made, each.at)

    def _make_refunds(self) -> None:
        """Make the refunds and their operations, and reserve them on their orders."""
        for order_id, asked in self._by(self._heard.of(RefundRequested), "order_id", self._orders).items():
            order = self._orders[order_id]
            for each in asked:
                self._refunds[each.body.refund_id] = _refund_of(each)
                self._operations[each.body.operation_id] = _refunding_of(order, each)
                order.refund_reserved_minor += each.body.amount_minor
                order.refund_commission_minor += each.body.commission_minor

    def _adopt_operations(self) -> None:
        """Take captures, voids and refunds over; a refund and its operation were made by its request just before."""
        for order_id, adopted in self._by(self._heard.of(OperationAdopted), "order_id", self._orders).items():
            for each in adopted:
                body = each.body
                known = self._operations.get(body.operation_id)
                row = _adopted_act(self._orders[order_id], each) if known is None else known
                row.status, row.cause = OperationStatus.PENDING.value, body.why
                row.first_sent_at, row.provider_reference = body.first_sent_at, body.provider_reference
                self._operations[body.operation_id] = row
        for refund_id, recognised in self._by(self._heard.of(RefundRecognised), "refund_id", self._refunds).items():
            refund, said = self._refunds[refund_id], recognised[0].body
            refund.key, refund.reason = said.key, said.reason
            refund.request_digest = bytes.fromhex(said.request_digest)

    def _fold_operations(self) -> None:
        attempted = self._by(self._heard.attempted(), "operation_id", self._operations)
        ended = self._by([each for each in self._heard.of(Decided) if each.body.ends], "ends", self._operations)
        for operation_id, row in self._operations.items():
            _fold_operation(row, attempted.get(operation_id, []), ended.get(operation_id, []))
        for act in self._operations.values():
            if act.kind in (OperationKind.CAPTURE, OperationKind.VOID) and not act.was_decided:
                self._orders[act.order_id].acting = act.operation_id

    def _fold_orders(self) -> None:
        disputes = self._by(self._heard.of(Disputed), "order_id", self._orders)
        ends_of_disputes = self._by(self._heard.of(Undisputed), "order_id", self._orders)
        postponed = self._by(self._heard.of(Postponed), "order_id", self._orders)
        decided = self._by(self._heard.of(Decided), "order_id", self._orders)
        for order_id, order in self._orders.items():
            # They take turns, each in the commit that changed it: one more of the first says that it is disputed now.
            order.is_disputed = len(disputes.get(order_id, [])) > len(ends_of_disputes.get(order_id, []))
            _hear_postponed(order, postponed.get(order_id, []))
            _fold_order(order, decided.get(order_id, []), self._firsts.get(order_id))

    def _fold_refunds(self) -> None:
        settled = [each for each in self._heard.of(Decided) if each.body.refund_status is not None]
        for refund_id, decided in self._by(settled, "refund_id", self._refunds).items():
            _fold_refund(self._refunds[refund_id], decided)


def _rows_of_payout(requested: Heard[PayoutRequested], heard: _Heard) -> Iterator[msgspec.Struct]:
    """Make a payout and its operation. The payout has one, and goes the ways that its states allow, by its attempts."""
    payout = _payout_of(requested)
    operation = _paying_out_of(payout, requested)
    if isinstance(requested.body, PayoutAdopted):
        _take_over(requested.body, payout, operation)
    about = [each for each in heard.attempted() if each.body.operation_id == operation.operation_id]
    recognised = heard.of(PayoutRecognised)
    for told in recognised:
        payout.request_digest = bytes.fromhex(told.body.request_digest)
    for needy in heard.about_a_payment():
        if needy not in (*about, *recognised):
            heard.find(needy.event, "is about no operation of this payout")
    _fold_operation(operation, about, [])
    for each in sorted([each for each in about if isinstance(each.body, PayoutDecided)], key=_place):
        _decide_payout(payout, each)
    yield payout
    yield operation


def _take_over(body: PayoutAdopted, payout: PayoutRow, operation: OperationRow) -> None:
    """Begin as what a PSP has had since then."""
    payout.created_at = operation.created_at = body.created_at
    operation.status, operation.cause = OperationStatus.PENDING.value, body.why
    operation.provider_reference = body.provider_reference


def _decide_payout(row: PayoutRow, heard: Heard[Any]) -> None:
    body: PayoutDecided = heard.body
    if body.status is not None and body.status in PAYOUT_TRANSITIONS[PayoutStatus(row.status)]:
        row.status, row.decided_at, row.decline_code = body.status.value, heard.at, body.decline_code
        row.provider_reference = _newer(body.provider_reference, row.provider_reference)


# The rows as they begin


def _beginning_of(accepted: Heard[Accepted]) -> _Beginning:
    orders = [_order_of(accepted, order) for order in accepted.body.orders]
    return _Beginning(_payment_of(accepted), orders, list(_first_operations(accepted, orders)))


def _adopted_beginning(adopted: Sequence[Heard[Adopted]], recognised: Sequence[Heard[Recognised]]) -> _Beginning:
    """Make what a PSP had. Each adoption adds orders, so the shortest list is the first one."""
    first = min(adopted, key=lambda each: len(each.body.order_ids))
    last = max(adopted, key=lambda each: len(each.body.order_ids))
    theirs = [(each, order) for each in adopted for order in each.body.orders]
    orders = [_adopted_order(*each) for each in theirs]
    operations = [_adopted_charge(*each, row) for each, row in zip(theirs, orders, strict=True)]
    note = AdoptedPaymentRow(first.body.payment_id, first.at, first.body.by, None)
    payment = _adopted_payment(first, last.body.order_ids)
    if not recognised:
        return _Beginning(payment, orders, operations, note)
    told = recognised[0]
    made = set(told.body.made)
    news = [_order_of(told, order) for order in told.body.orders]
    orders += [order for order in news if order.order_id in made]
    for operation in _first_operations(told, news):
        if operation.order_id in made:
            operation.first_sent_at = None if operation.is_hosted else told.at
            operations.append(operation)
    payment = msgspec.structs.replace(_payment_of(told), created_at=payment.created_at)
    return _Beginning(payment, orders, operations, msgspec.structs.replace(note, completed_at=told.at))


def _adopted_payment(adopted: Heard[Adopted], order_ids: list[UUID]) -> PaymentRow:
    event, body = adopted.event, adopted.body
    return PaymentRow(
        *(body.payment_id, event.shop_id, event.mode, body.checkout_id, b"", UUID(int=0), order_ids, None),
        *("ALLOW", "[]", [], body.capture, body.on_failure, None, body.created_at),
    )


def _adopted_order(adopted: Heard[Adopted], order: AdoptedOrder) -> OrderRow:
    event, body = adopted.event, adopted.body
    return OrderRow(
        *(order.order_id, body.payment_id, event.shop_id, event.mode, order.payment_order_id, order.seller_account),
        *(order.amount_minor, order.commission_minor, order.currency, order.provider, order.status.value, None),
        order.created_at,
    )


def _adopted_charge(adopted: Heard[Adopted], order: AdoptedOrder, begun: OrderRow) -> OperationRow:
    theirs = order.operation
    row = _operation_of(begun, theirs.operation_id, theirs.kind, first_sent_at=theirs.first_sent_at)
    row.status, row.cause = OperationStatus.PENDING.value, adopted.body.why
    row.provider_reference = theirs.provider_reference
    return row


def _adopted_act(order: OrderRow, adopted: Heard[OperationAdopted]) -> OperationRow:
    body = adopted.body
    made = MadeOperation(
        *(body.operation_id, order.order_id, body.kind, body.amount_minor, body.is_final),
        *(body.target_reference, body.first_sent_at),
    )
    return _act_of(order, made, adopted.at)


def _payout_of(requested: Heard[PayoutRequested]) -> PayoutRow:
    event, body = requested.event, requested.body
    return PayoutRow(
        payout_id=body.payout_id,
        shop_id=event.shop_id,
        mode=event.mode,
        seller_account=body.seller_account,
        currency=body.currency,
        amount_minor=body.amount_minor,
        provider=body.provider,
        destination=body.destination,
        key=body.key,
        request_digest=bytes.fromhex(body.request_digest),
        run_id=body.run_id,
        created_at=event.at,
    )


def _paying_out_of(payout: PayoutRow, requested: Heard[PayoutRequested]) -> OperationRow:
    body = requested.body
    row = _operation_of(payout, body.operation_id, OperationKind.PAYOUT.value, first_sent_at=body.first_sent_at)
    row.target_reference = body.destination
    return row


def _payment_of(accepted: Heard[Any]) -> PaymentRow:
    event, body = accepted.event, accepted.body
    metadata = bytes(body.metadata)
    return PaymentRow(
        body.payment_id,
        event.shop_id,
        event.mode,
        body.checkout_id,
        body.request_digest,
        body.buyer_id,
        [order.order_id for order in body.orders],
        None if metadata == _JSON_NULL else metadata.decode(),
        body.risk.decision,
        bytes(body.risk.signals).decode(),
        body.risk.subjects,
        body.capture,
        body.on_failure,
        body.return_url,
        event.at,
    )


def _order_of(accepted: Heard[Any], order: AcceptedOrder) -> OrderRow:
    return OrderRow(
        order.order_id,
        accepted.body.payment_id,
        accepted.event.shop_id,
        accepted.event.mode,
        order.payment_order_id,
        order.seller_account,
        order.amount_minor,
        order.commission_minor,
        order.currency,
        order.provider,
        order.status.value,
        order.decline_code,
        accepted.at,
        accepted.at if order.status.is_final else None,
    )


def _first_operations(accepted: Heard[Any], begun: Sequence[OrderRow]) -> Iterator[OperationRow]:
    """Make each order's charge or authorization, which is sent at once; `begun`: the orders' rows."""
    body = accepted.body
    is_reserved = body.capture == Capture.MANUAL or body.on_failure == OnFailure.ALL_OR_NOTHING
    kind = (OperationKind.AUTHORIZE if is_reserved else OperationKind.CHARGE).value
    for order, order_row in zip(body.orders, begun, strict=True):
        if order.operation is not None:
            row = _operation_of(order_row, order.operation.operation_id, kind, first_sent_at=accepted.at)
            row.body, row.is_hosted = order.operation.body, body.return_url is not None
            yield row


def _act_of(order: OrderRow, made: MadeOperation, at: datetime) -> OperationRow:
    row = _operation_of(order, made.operation_id, made.kind, first_sent_at=made.first_sent_at)
    row.amount_minor, row.is_final, row.created_at = made.amount_minor, made.is_final, at
    row.target_reference = made.target_reference
    return row


def _refunding_of(order: OrderRow, heard: Heard[RefundRequested]) -> OperationRow:
    asked = heard.body
    row = _operation_of(order, asked.operation_id, OperationKind.REFUND.value, first_sent_at=asked.first_sent_at)
    row.amount_minor, row.refund_id, row.created_at = asked.amount_minor, asked.refund_id, heard.at
    row.target_reference = asked.target_reference
    return row


def _operation_of(
    about: OrderRow | PayoutRow, operation_id: UUID, kind: str, *, first_sent_at: datetime | None
) -> OperationRow:
    """Make an operation as it begins: of all that it is about, and made with it, unless its maker knows better.

    A payout stands for order and payment.
    """
    return OperationRow(
        operation_id=operation_id,
        order_id=about.payout_id if isinstance(about, PayoutRow) else about.order_id,
        payment_id=about.payout_id if isinstance(about, PayoutRow) else about.payment_id,
        shop_id=about.shop_id,
        mode=about.mode,
        kind=kind,
        provider=about.provider,
        amount_minor=about.amount_minor,
        currency=about.currency,
        first_sent_at=first_sent_at,
        created_at=about.created_at,
    )


def _refund_of(heard: Heard[RefundRequested]) -> RefundRow:
    event, asked = heard.event, heard.body
    return RefundRow(
        refund_id=asked.refund_id,
        order_id=asked.order_id,
        payment_id=event.subject_id,
        shop_id=event.shop_id,
        mode=event.mode,
        key=asked.key,
        request_digest=bytes.fromhex(asked.request_digest),
        amount_minor=asked.amount_minor,
        commission_minor=asked.commission_minor,
        currency=asked.currency,
        reason=asked.reason,
        created_at=event.at,
    )


def _checkout_of(payment_id: UUID, decided: Sequence[Heard[CheckoutDecided]]) -> Iterator[CheckoutDecisionRow]:
    """Make the row of what was decided: an undo is always the later word."""
    if decided:
        last = max(decided, key=lambda each: each.body.decision == _UNDO).body
        yield CheckoutDecisionRow(payment_id, last.decision, last.decided_at)


# What happened to them


def _place(heard: Heard[Any]) -> tuple[int, int]:
    """Order an operation's events: by attempt, and within one by what it brings."""
    return heard.body.attempt, _RANKS[type(heard.body)]


def _fold_operation(row: OperationRow, attempted: Sequence[Heard[Attempted]], ended: Sequence[Heard[Decided]]) -> None:
    """Take an operation through its attempts; `ended` are voids, each of which has ended one of them, or nothing."""
    told: list[tuple[int, int, Heard[Any]]] = [(*_place(each), each) for each in attempted]
    told += [(each.body.ended_attempt, len(_RANKS), each) for each in ended if each.body.ended_attempt is not None]
    for _, _, heard in sorted(told, key=lambda place: place[:2]):
        body = heard.body
        match body:
            case Claimed():
                row.attempt, row.first_sent_at = body.attempt, body.first_sent_at
                row.cause = None if body.forgets_cause else row.cause
            case Reopened():
                row.attempt, row.first_sent_at = body.attempt, body.first_sent_at
                row.status, row.cause = OperationStatus.PENDING.value, body.why
            case Registered():
                row.provider_reference = body.provider_reference
            case Sending():
                row.first_sent_at, row.cause = body.first_sent_at, None
            case Postponed():
                _put_back(row, body)
            case Doubted():
                row.first_sent_at = row.first_sent_at or body.first_sent_at
            case PayoutDecided() | Decided() if body.operation_id == row.operation_id:
                _decide(row, body, heard.at)
            case Decided():
                row.status, row.decline_code, row.cause = OperationStatus.DECLINED.value, _CANCELLED, None
                row.decided_at = heard.at


def _put_back(row: OperationRow, body: Postponed) -> None:
    row.status, row.cause = body.status.value, body.cause
    row.first_sent_at = body.first_sent_at
    row.tries += body.costs
    row.provider_reference = _newer(body.provider_reference, row.provider_reference)


def _decide(row: OperationRow, body: Decided | PayoutDecided, at: datetime) -> None:
    row.status, row.decided_at, row.decline_code, row.cause = body.outcome.value, at, body.decline_code, None
    row.was_decided = True
    row.provider_reference = _newer(body.provider_reference, row.provider_reference)


def _hear_postponed(order: OrderRow, postponed: Sequence[Heard[Postponed]]) -> None:
    for each in sorted(postponed, key=lambda heard: heard.body.attempt):
        order.redirect_url = _newer(each.body.redirect_url, order.redirect_url)
        if each.body.order_status is not None:
            order.status = each.body.order_status.value


def _fold_order(order: OrderRow, decided: Sequence[Heard[Decided]], first: UUID | None) -> None:
    """Take an order through its decisions, along the only ways there are."""
    for each in sorted(decided, key=_place):
        _count(order, each.body)
        if each.body.operation_id == first:
            order.provider_reference = _newer(each.body.provider_reference, order.provider_reference)
    for each in sorted(decided, key=lambda heard: (_stage(heard.body, first), heard.body.attempt)):
        body = each.body
        if body.status is None:
            continue
        order.status = body.status.value
        order.decline_code = body.decline_code if body.status in _GIVEN_UP else None
        if body.status.is_final:
            order.decided_at = each.at
        elif body.expires_at is not None:
            order.expires_at = body.expires_at


def _stage(body: Decided, first: UUID | None) -> int:
    """Say how far on its way an order is behind a decision that moved it. Two of one stage are of one operation.

    1: given up by its own operation. 2: ended by a void while that was undecided. 3: taken or authorized, late or not.
    4: the end of an authorization; it releases a hold, and the ledger lets nobody release more than is held.
    """
    if body.operation_id != first:
        return 2 if body.ends is not None else 4
    if body.outcome == OperationStatus.APPROVED:
        return 3
    return 4 if body.transfers else 1


def _count(order: OrderRow, body: Decided) -> None:
    changes = body.changes
    if changes is None:  # a usual charge takes all or nothing
        if body.status == OrderStatus.SUCCESS:
            order.authorized_minor += order.amount_minor
            order.captured_minor += order.amount_minor
        return
    order.authorized_minor += changes.authorized_minor
    order.captured_minor += changes.captured_minor
    order.refund_reserved_minor += changes.reserved_minor
    order.refunded_minor += changes.refunded_minor
    order.refund_commission_minor += changes.commission_minor


def _fold_refund(row: RefundRow, decided: Sequence[Heard[Decided]]) -> None:
    """Take a refund the way of its one operation's attempts; what the states do not allow was not taken."""
    for each in sorted(decided, key=_place):
        status = each.body.refund_status
        if status is not None and status in REFUND_TRANSITIONS[RefundStatus(row.status)]:
            row.status, row.decided_at, row.decline_code = status.value, each.at, each.body.decline_code
            row.provider_reference = _newer(each.body.provider_reference, row.provider_reference)


def _newer(told: str | None, known: str | None) -> str | None:
    return known if told is None else told
