"""The fold against a model of the gateway that does one commit after the other, with clocks that nobody may trust.

The model keeps rows as the SQL functions do; what a decision changes and says is the gateway's own (effects, booking).
Its processes' clocks are seconds apart, an answer may be worked out from what was read long before, and whoever was
overtaken goes on and is fenced. Whatever happened, the events make the model's rows: in the clocks' order and in any.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coatcheck.audit.replay.bodies import KINDS, Event
from coatcheck.audit.replay.fold import fold
from coatcheck.audit.replay.rows import CheckoutDecisionRow, OperationRow, OrderRow, RefundRow
from coatcheck.events import EventKind
from coatcheck.ids import operation_id_of, order_id_of, payment_id_of, refund_id_of, time_ordered_ids
from coatcheck.operations import Operation, first_kind_of
from coatcheck.payments.booking import booking_of, booking_rows
from coatcheck.payments.effects import commission_of, effect_of
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.states import (
    OPERATION_TRANSITIONS,
    ORDER_TRANSITIONS,
    REFUND_TRANSITIONS,
    Mode,
    OperationKind,
    OperationStatus,
    OrderStatus,
    RefundStatus,
)

SHOP: Final = UUID(int=7)
PAYMENT: Final = payment_id_of(SHOP, "test", "c1")
START: Final = datetime(2026, 3, 1, tzinfo=UTC)
GIVEN_UP: Final = ("FAILED", "CANCELLED")
UNDECIDED: Final = ("OPEN", "PENDING", "UNRESOLVED")
JOINT: Final = "all-or-nothing"
# Kinds that say the same as another that is played: an attempt that decided nothing.
SAME_BODY: Final = {"operation.pending", "operation.unresolved", "operation.answer_refused"}
# Played in tests/integration/test_replay_of_the_month.py, against the database that tells them; the last two in
# tests/integration/test_recovery_payouts.py.
ELSEWHERE: Final = {
    *("payment.adopted", "payment.recognised", "operation.adopted", "operation.doubted", "refund.recognised"),
    *("payout.requested", "payout.paid", "payout.failed", "payout.returned", "order.undisputed"),
    *("payout.adopted", "payout.recognised"),
}


TROUBLES: Final = {
    "a void ended it",
    "a void ended nothing",
    "a window that a sending begins",
    "asked again about what a void ended",
    "fenced",
    "overtaken",
    "refused by the books",
}


class RefusedError(Exception):
    """The books do not allow a decision; its commit is undone."""


class Dice:
    """What the model draws with: seeded, for many histories."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def flag(self) -> bool:
        return self._random.random() < 0.5

    def among(self, each: Sequence[Any]) -> Any:
        return self._random.choice(each)


class Drawn(Dice):
    """The same by hypothesis, which makes what fails small."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, least: int, most: int) -> int:
        return self._data.draw(st.integers(least, most))

    def flag(self) -> bool:
        return self._data.draw(st.booleans())

    def among(self, each: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(each))


class Model:
    """One payment: its rows, who works on what, and the events that were told."""

    def __init__(self, dice: "Dice") -> None:
        self.dice = dice
        self.seen: Counter[str] = Counter()
        self.time = START
        self.events: list[Event] = []
        self.orders: dict[UUID, Any] = {}
        self.operations: dict[UUID, Any] = {}
        self.refunds: dict[UUID, Any] = {}
        self.holds: dict[UUID, int] = {}
        self.leases: dict[UUID, tuple[int, bool]] = {}  # attempt, and whether somebody holds it
        self.running: list[Operation] = []  # as they were read; who was overtaken does not know
        self.news: list[UUID] = []  # operations that somebody has decided to ask about again
        self.decision: tuple[str, datetime] | None = None
        self.keys = 0

    # clocks and events

    def at(self) -> datetime:
        """Read the clock of whichever process this is."""
        self.time += timedelta(milliseconds=self.dice.integer(0, 1000))
        return self.time + timedelta(milliseconds=self.dice.integer(-4000, 4000))

    def tell(self, kind: str, at: datetime, body: Any) -> None:
        text = body if isinstance(body, str) else msgspec.json.encode(body).decode()
        self.events.append(Event(PAYMENT, time_ordered_ids(at, 1)[0], kind, SHOP, "test", at, text))

    # the first commit

    def accept(self, manner: str, orders: int, *, hosted: bool) -> None:
        at = self.at()
        self.capture = "manual" if manner == "manual" else "automatic"
        self.on_failure = "all_or_nothing" if manner == "joint" else "keep"
        self.first_kind = first_kind_of(self.capture, self.on_failure)
        told = []
        for number in range(orders):
            order_id = order_id_of(SHOP, "test", f"o{number}")
            operation_id = operation_id_of(order_id, self.first_kind)
            amount = self.dice.integer(1, 1000)
            order = {
                "order_id": order_id,
                "payment_order_id": f"o{number}",
                "seller_account": f"s{number}",
                "amount_minor": amount,
                "commission_minor": self.dice.integer(0, amount),
                "currency": "EUR",
                "provider": "psp",
                "status": "EXECUTING",
                "decline_code": None,
            }
            told.append(order | {"operation": {"operation_id": operation_id, "body": b"body"}})
            self.orders[order_id] = SimpleNamespace(
                **order,
                payment_id=PAYMENT,
                shop_id=SHOP,
                mode="test",
                created_at=at,
                decided_at=None,
                provider_reference=None,
                redirect_url=None,
                authorized_minor=0,
                captured_minor=0,
                refund_reserved_minor=0,
                refunded_minor=0,
                refund_commission_minor=0,
                acting=None,
                is_disputed=False,
                expires_at=None,
            )
            self.make(operation_id, self.first_kind, order_id, amount, at, body=b"body", is_hosted=hosted)
            self.hold(operation_id)
        self.tell(
            EventKind.PAYMENT_ACCEPTED,
            at,
            {
                "payment_id": PAYMENT,
                "checkout_id": "c1",
                "request_digest": b"digest",
                "buyer_id": UUID(int=3),
                "metadata": None,
                "capture": self.capture,
                "on_failure": self.on_failure,
                "return_url": "https://shop.example" if hosted else None,
                "risk": {"decision": "ALLOW", "signals": [], "subjects": []},
                "orders": told,
            },
        )

    def make(
        self,
        operation_id: UUID,
        kind: str,
        order_id: UUID,
        amount: int,
        at: datetime,
        *,
        is_sent: bool = True,
        **more: Any,
    ) -> None:
        """Insert an operation with its lease."""
        order = self.orders[order_id]
        beginning = {
            "body": b"",
            "target_reference": None if kind == self.first_kind else order.provider_reference,
            "refund_id": None,
            "is_final": True,
            "is_hosted": False,
            "provider_reference": None,
        }
        self.operations[operation_id] = SimpleNamespace(
            **beginning | more,
            operation_id=operation_id,
            order_id=order_id,
            payment_id=PAYMENT,
            shop_id=SHOP,
            mode="test",
            kind=str(kind),
            provider="psp",
            amount_minor=amount,
            currency="EUR",
            status="OPEN",
            attempt=1,
            tries=0,
            first_sent_at=at if is_sent else None,
            decline_code=None,
            cause=None,
            created_at=at,
            decided_at=None,
        )
        self.leases[operation_id] = (1, is_sent)
        if kind in ("capture", "void"):
            assert order.acting is None
            order.acting = operation_id

    def hold(self, operation_id: UUID) -> None:
        """Read an operation as whoever has just taken it reads it."""
        row = self.operations[operation_id]
        order = self.orders[row.order_id]
        refund = self.refunds.get(row.refund_id)
        self.running.append(
            Operation(
                attempt=row.attempt,
                tries=row.tries,
                order_id=row.order_id,
                payment_id=PAYMENT,
                shop_id=SHOP,
                provider="psp",
                seller_account=order.seller_account,
                commission_minor=order.commission_minor,
                status=OperationStatus(row.status),
                order_status=OrderStatus(order.status),
                authorized_minor=order.authorized_minor,
                captured_minor=order.captured_minor,
                refund_id=row.refund_id,
                refund_commission_minor=0 if refund is None else refund.commission_minor,
                refund_status=None if refund is None else RefundStatus(refund.status),
                is_joint=self.on_failure == "all_or_nothing",
                first_kind=OperationKind(self.first_kind),
                intent=Intent(
                    operation_id=operation_id,
                    kind=OperationKind(row.kind),
                    amount_minor=row.amount_minor,
                    currency="EUR",
                    mode=Mode.TEST,
                    body=row.body,
                    is_final=row.is_final,
                    is_hosted=row.is_hosted,
                ),
            )
        )

    # attempts

    def claim(self, operation_id: UUID) -> None:
        """Take an operation over, from nobody or from somebody whose lease ran out."""
        at, row = self.at(), self.operations[operation_id]
        forgets = self.dice.flag()
        self.seen["overtaken"] += self.leases[operation_id][1]
        row.attempt += 1
        row.cause = None if forgets else row.cause
        self.leases[operation_id] = (row.attempt, True)
        self.tell(
            EventKind.OPERATION_CLAIMED,
            at,
            {
                "operation_id": operation_id,
                "order_id": row.order_id,
                "attempt": row.attempt,
                "holder": UUID(int=1),
                "forgets_cause": forgets,
                "first_sent_at": row.first_sent_at,
            },
        )
        self.hold(operation_id)

    def reopen(self, operation_id: UUID) -> None:
        at, row = self.at(), self.operations[operation_id]
        if row.status not in ("APPROVED", "DECLINED"):
            return
        assert operation_id not in self.leases
        self.seen["asked again about what a void ended"] += row.decline_code == "cancelled"
        row.status, row.attempt, row.cause = "PENDING", row.attempt + 1, "news"
        self.leases[operation_id] = (row.attempt, True)
        self.tell(
            EventKind.OPERATION_REOPENED,
            at,
            {
                "operation_id": operation_id,
                "order_id": row.order_id,
                "attempt": row.attempt,
                "kind": row.kind,
                "why": "news",
                "first_sent_at": row.first_sent_at,
            },
        )
        self.hold(operation_id)

    def may_be_asked_again(self, row: Any) -> bool:
        """Whether anybody ever reopens such an operation: what a PSP's event or file may contradict."""
        return row.status in ("APPROVED", "DECLINED") and row.kind != "void"

    def mark(self, held: Operation) -> None:
        row, at = self.operations[held.intent.operation_id], self.at()
        if self.leases.get(row.operation_id, (0, False))[0] == held.attempt and held.status != "PENDING":
            self.seen["a window that a sending begins"] += row.first_sent_at is None
            row.first_sent_at, row.cause = row.first_sent_at or at, None
            named = {"operation_id": row.operation_id, "order_id": row.order_id, "attempt": held.attempt}
            self.tell(EventKind.OPERATION_SENDING, at, named | {"first_sent_at": row.first_sent_at, "found": None})

    def register(self, held: Operation) -> None:
        row, at = self.operations[held.intent.operation_id], self.at()
        is_held = self.leases.get(row.operation_id, (0, False))[0] == held.attempt
        if not is_held or row.provider_reference is not None or held.status == "PENDING" or row.kind != self.first_kind:
            return
        row.provider_reference = f"obj {held.attempt}"
        self.tell(
            EventKind.OPERATION_REGISTERED,
            at,
            {
                "operation_id": row.operation_id,
                "order_id": row.order_id,
                "attempt": held.attempt,
                "provider_reference": row.provider_reference,
            },
        )

    def postpone(self, held: Operation) -> None:
        """Put an undecided operation back."""
        at, row = self.at(), self.operations[held.intent.operation_id]
        self.running.remove(held)
        if self.leases.get(row.operation_id) != (held.attempt, True):
            return
        order = self.orders[row.order_id]
        is_pending, is_spent, was_sent, costs = [self.dice.flag() for _ in range(4)]
        starts = row.kind == self.first_kind
        reference = self.dice.among([None, f"ref {held.attempt}"])
        page = f"page {held.attempt}" if is_pending and row.is_hosted and self.dice.flag() else None
        row.status = "UNRESOLVED" if is_spent else "PENDING" if is_pending or held.status == "PENDING" else "OPEN"
        row.cause, row.tries = f"cause {held.attempt}", row.tries + costs
        row.first_sent_at = row.first_sent_at if was_sent or row.is_hosted else None
        row.provider_reference = reference or row.provider_reference
        order_status = "PENDING" if is_pending and starts else None
        order.redirect_url = page or order.redirect_url
        if order_status is not None and OrderStatus.PENDING in ORDER_TRANSITIONS[OrderStatus(order.status)]:
            order.status = order_status
        self.leases[row.operation_id] = (held.attempt, False)
        self.tell(
            EventKind.ORDER_PENDING if order_status else EventKind.OPERATION_RESCHEDULED,
            at,
            {
                "operation_id": row.operation_id,
                "order_id": row.order_id,
                "attempt": held.attempt,
                "outcome": "UNKNOWN",
                "status": row.status,
                "order_status": order_status,
                "due_at": at,
                "was_sent": was_sent,
                "costs": costs,
                "provider_reference": reference,
                "redirect_url": page,
                "cause": row.cause,
                "first_sent_at": row.first_sent_at,
            },
        )

    # the second commit

    def decide(self, held: Operation) -> None:
        at, row = self.at(), self.operations[held.intent.operation_id]
        if self.leases.get(row.operation_id, (0, False))[0] != held.attempt:
            self.running.remove(held)
            self.seen["fenced"] += 1
            return
        outcome = self.answer(held)
        before = msgspec.json.encode([vars(each) for each in self.everything()])
        kept = [(each, dict(vars(each))) for each in self.everything()]
        leases, holds = dict(self.leases), dict(self.holds)
        self.ended_attempt: int | None = None
        try:
            self.apply(held, outcome, at)
        except RefusedError:
            for each, fields in kept:
                vars(each).update(fields)
            self.leases, self.holds = leases, holds
            self.seen["refused by the books"] += 1
            assert msgspec.json.encode([vars(each) for each in self.everything()]) == before
            return
        self.running.remove(held)
        rows = booking_rows([booking_of(held, outcome)], at).outcomes[0]
        more = "" if self.ended_attempt is None else f',"ended_attempt":{self.ended_attempt}'
        self.tell(rows[11], at, rows[12][:-1] + more + "}")
        if held.is_joint:
            self.settle_checkout(at)

    def everything(self) -> list[Any]:
        return [*self.orders.values(), *self.operations.values(), *self.refunds.values()]

    def answer(self, held: Operation) -> Outcome:
        word = self.dice.among(["yes", "yes", "no", "ended"])
        reference = self.dice.among([None, f"psp {held.attempt}"])
        life = START + timedelta(days=7, seconds=held.attempt)
        if word == "yes":
            is_first = held.intent.kind is OperationKind.AUTHORIZE
            return Outcome(
                kind=OutcomeKind.APPROVED, provider_reference=reference, expires_at=life if is_first else None
            )
        return Outcome(
            kind=OutcomeKind.DECLINED,
            provider_reference=reference,
            decline_code=f"code {held.attempt}",
            is_cancelled=word == "ended",
        )

    def apply(self, held: Operation, outcome: Outcome, at: datetime) -> None:
        row, order = self.operations[held.intent.operation_id], self.orders[held.order_id]
        effect = effect_of(held, outcome)
        status = OperationStatus.APPROVED if outcome.kind is OutcomeKind.APPROVED else OperationStatus.DECLINED
        if status not in OPERATION_TRANSITIONS[OperationStatus(row.status)]:
            raise RefusedError
        del self.leases[row.operation_id]
        row.status, row.decided_at, row.cause, row.decline_code = status.value, at, None, outcome.decline_code
        row.provider_reference = outcome.provider_reference or row.provider_reference
        if effect.ends is not None:
            self.leases.pop(effect.ends, None)
            ended = self.operations[effect.ends]
            self.seen["a void ended it" if ended.status in UNDECIDED else "a void ended nothing"] += 1
            if ended.status in UNDECIDED:
                self.ended_attempt = ended.attempt
                ended.status, ended.decided_at, ended.decline_code, ended.cause = "DECLINED", at, "cancelled", None
        self.move_order(held, outcome, effect, at)
        if effect.refund_status is not None:
            self.move_refund(held, outcome, effect.refund_status, at)
        for leg in effect.legs:
            if leg.phase == "held":
                self.holds[leg.hold_id or UUID(int=0)] = leg.amount_minor
            elif leg.hold_id is not None:
                self.holds[leg.hold_id] -= leg.amount_minor
        check_limits(order, self.holds)

    def move_refund(self, held: Operation, outcome: Outcome, status: RefundStatus, at: datetime) -> None:
        refund = self.refunds[held.refund_id or UUID(int=0)]
        if status in REFUND_TRANSITIONS[RefundStatus(refund.status)]:
            refund.status, refund.decided_at, refund.decline_code = status.value, at, outcome.decline_code
            refund.provider_reference = outcome.provider_reference or refund.provider_reference

    def move_order(self, held: Operation, outcome: Outcome, effect: Any, at: datetime) -> None:
        order, operation_id = self.orders[held.order_id], held.intent.operation_id
        status = None if effect.order_status is None else effect.order_status.value
        if (
            status not in (None, order.status)
            and effect.order_status not in ORDER_TRANSITIONS[OrderStatus(order.status)]
        ):
            raise RefusedError
        if effect.needs_quiet:
            is_alone = order.acting in (None, operation_id)
            if (
                order.authorized_minor - order.captured_minor != held.authorized_minor - held.captured_minor
                or not is_alone
            ):
                raise RefusedError
        if status is not None:
            order.status = status
            order.decline_code = outcome.decline_code if status in GIVEN_UP else None
            order.decided_at = at if status in ("SUCCESS", *GIVEN_UP) else order.decided_at
        if held.intent.kind.starts_an_order:
            is_plain = held.intent.kind is OperationKind.CHARGE and held.order_status in ("EXECUTING", "PENDING")
            is_plain = is_plain and not outcome.is_cancelled
            known = None if is_plain else order.provider_reference  # the usual charge's statement overwrites it
            order.provider_reference = outcome.provider_reference or known
        order.authorized_minor += effect.authorized_minor
        order.captured_minor += effect.captured_minor
        order.refund_reserved_minor += effect.reserved_minor
        order.refunded_minor += effect.refunded_minor
        order.refund_commission_minor += effect.commission_minor
        order.acting = None if order.acting == operation_id else order.acting
        if effect.order_status is OrderStatus.AUTHORIZED:
            order.expires_at = outcome.expires_at or order.expires_at

    # what shops ask for, and all or nothing

    def made(self, operation_ids: list[UUID]) -> list[dict[str, Any]]:
        names = ("operation_id", "order_id", "kind", "amount_minor", "is_final", "target_reference", "first_sent_at")
        return [{name: getattr(self.operations[each], name) for name in names} for each in operation_ids]

    def request_capture(self, order: Any) -> None:
        left = order.authorized_minor - order.captured_minor
        if self.on_failure != "keep" or order.status != "AUTHORIZED" or order.acting is not None or not left:
            return
        at, amount, is_final = self.at(), self.dice.integer(1, left), self.dice.flag()
        self.keys += 1
        operation_id = operation_id_of(order.order_id, "capture", f"c{self.keys}")
        self.make(operation_id, "capture", order.order_id, amount, at, is_final=is_final)
        self.hold(operation_id)
        body = {"payment_id": PAYMENT, "key": f"c{self.keys}", "is_final": is_final, "amounts_minor": {}}
        self.tell(EventKind.CAPTURE_REQUESTED, at, body | {"operations": self.made([operation_id])})

    def request_cancel(self) -> None:
        at, wanted = self.at(), []
        self.keys += 1
        for order in self.orders.values():
            first = self.operations[operation_id_of(order.order_id, self.first_kind)]
            if order.status in GIVEN_UP:
                continue
            is_there = order.status == "AUTHORIZED" or (
                order.status == "PENDING" and first.provider_reference is not None
            )
            if order.acting is not None or not is_there:
                return
            wanted.append((order, order.provider_reference or first.provider_reference))
        made = []
        for order, target in wanted:
            is_authorized = order.status == "AUTHORIZED"
            amount = order.authorized_minor - order.captured_minor if is_authorized else order.amount_minor
            operation_id = operation_id_of(order.order_id, "void", f"v{self.keys}")
            self.make(operation_id, "void", order.order_id, amount, at, target_reference=target)
            self.hold(operation_id)
            made.append(operation_id)
        if made:
            body = {"payment_id": PAYMENT, "key": f"v{self.keys}", "operations": self.made(made)}
            self.tell(EventKind.CANCEL_REQUESTED, at, body)

    def request_refund(
        self, order: Any, amount: int | None, key: str, ticket: str, at: datetime, *, is_ours: bool
    ) -> None:
        left = order.captured_minor - order.refund_reserved_minor
        if order.is_disputed or not left:
            return
        amount = left if amount is None else min(amount, left)
        earned = commission_of(order.commission_minor, order.amount_minor, order.captured_minor)
        rest = earned - order.refund_commission_minor
        share = min(amount, rest, max(commission_of(earned, order.captured_minor, amount), rest - (left - amount)))
        refund_id = refund_id_of(SHOP, "test", key)
        order.refund_reserved_minor += amount
        order.refund_commission_minor += share
        told = {
            "refund_id": refund_id,
            "order_id": order.order_id,
            "key": key,
            "amount_minor": amount,
            "commission_minor": share,
            "currency": "EUR",
            "reason": None,
        }
        self.refunds[refund_id] = SimpleNamespace(
            **told,
            payment_id=PAYMENT,
            shop_id=SHOP,
            mode="test",
            request_digest=b"\x01",
            status="PENDING",
            decline_code=None,
            provider_reference=None,
            created_at=at,
            decided_at=None,
        )
        operation_id = operation_id_of(order.order_id, "refund", ticket)
        self.make(operation_id, "refund", order.order_id, amount, at, is_sent=is_ours, refund_id=refund_id)
        if is_ours:
            self.hold(operation_id)
        row = self.operations[operation_id]
        more = {"operation_id": operation_id, "request_digest": "01", "target_reference": row.target_reference}
        self.tell(EventKind.REFUND_REQUESTED, at, told | more | {"first_sent_at": row.first_sent_at})

    def dispute(self, order: Any) -> None:
        if not order.is_disputed:
            order.is_disputed = True
            self.tell(EventKind.ORDER_DISPUTED, self.at(), {"order_id": order.order_id, "type": "dispute"})

    def settle_checkout(self, at: datetime) -> None:
        captures = [self.operations.get(operation_id_of(each, "capture", JOINT)) for each in self.orders]
        failed = any(order.status in GIVEN_UP for order in self.orders.values())
        failed = failed or any(each is not None and each.status == "DECLINED" for each in captures)
        is_new = False
        if failed or all(order.status == "AUTHORIZED" for order in self.orders.values()):
            word = "void" if failed else "capture"
            if self.decision is None or (self.decision[0], word) == ("capture", "void"):
                self.decision, is_new = (word if self.decision is None else "undo", at), True
        made = []
        if self.decision is not None:
            kind = "capture" if self.decision[0] == "capture" else "void"
            for order in self.orders.values():
                operation_id = operation_id_of(order.order_id, kind, JOINT)
                if order.status == "AUTHORIZED" and order.acting is None and operation_id not in self.operations:
                    self.make(operation_id, kind, order.order_id, order.authorized_minor, at, is_sent=False)
                    made.append(operation_id)
        if self.decision is not None and (is_new or made):
            word, decided_at = self.decision
            body = {"payment_id": PAYMENT, "decision": word, "decided_at": decided_at, "operations": self.made(made)}
            self.tell(EventKind.CHECKOUT_DECIDED, at, body)
        for order in self.orders.values():
            is_kept = order.status == "SUCCESS" and order.captured_minor > order.refund_reserved_minor
            is_known = operation_id_of(order.order_id, "refund", JOINT) in self.operations
            if self.decision is not None and self.decision[0] == "undo" and is_kept and not is_known:
                self.request_refund(order, None, f"{JOINT} {order.order_id}", JOINT, at, is_ours=False)

    # one step

    def step(self) -> None:
        steps: list[Callable[[], None]] = []
        for held in list(self.running):
            steps += [lambda held=held: self.decide(held)] * 3  # type: ignore[misc]
            steps += [lambda held=held: self.postpone(held)] * 2  # type: ignore[misc]
            steps += [lambda held=held: self.mark(held), lambda held=held: self.register(held)]  # type: ignore[misc]
        steps += [lambda each=each: self.claim(each) for each in self.leases]  # type: ignore[misc]
        steps += [
            lambda each=each: self.news.append(each)  # type: ignore[misc]
            for each, row in self.operations.items()
            if self.may_be_asked_again(row)
        ]
        if self.news:
            steps += [lambda: self.reopen(self.news.pop(0))] * 2
        steps.append(self.request_cancel)
        for order in self.orders.values():
            steps.append(lambda order=order: self.request_capture(order))  # type: ignore[misc]
            steps.append(lambda order=order: self.ask_refund(order))  # type: ignore[misc]
            steps.append(lambda order=order: self.dispute(order))  # type: ignore[misc]
        self.dice.among(steps)()

    def ask_refund(self, order: Any) -> None:
        self.keys += 1
        amount = self.dice.integer(1, 1000) if self.dice.flag() else None
        key = f"r{self.keys}"
        self.request_refund(order, amount, key, refund_id_of(SHOP, "test", key).hex, self.at(), is_ours=True)


def check_limits(order: Any, holds: Mapping[UUID, int]) -> None:
    """Refuse what the CHECKs of an order's row and of a hold refuse."""
    counts = [0, order.refunded_minor, order.refund_reserved_minor, order.captured_minor, order.authorized_minor]
    counts.append(order.amount_minor)
    shares = [0, order.refund_commission_minor, min(order.refund_reserved_minor, order.commission_minor)]
    if counts != sorted(counts) or shares != sorted(shares) or any(left < 0 for left in holds.values()):
        raise RefusedError


def rows_of(events: list[Event]) -> dict[str, list[Any]]:
    """What the events make, and what the model has, by table."""
    rows, findings = fold(events)
    assert findings == []
    return {
        "orders": [row for row in rows if isinstance(row, OrderRow)],
        "operations": [row for row in rows if isinstance(row, OperationRow)],
        "refunds": [row for row in rows if isinstance(row, RefundRow)],
        "decisions": [row for row in rows if isinstance(row, CheckoutDecisionRow)],
    }


def assert_same(made: dict[str, Any], kept: Any) -> None:
    """Hold a row that was made against the model's, as the comparison in SQL does."""
    made.pop("was_decided", None)
    assert made == {name: getattr(kept, name) for name in made}


def check(model: Model, seed: int) -> None:
    by_the_clock = sorted(model.events, key=lambda event: (event.at, event.event_id))
    shuffled = random.Random(seed).sample(model.events, len(model.events))
    for events in (model.events, by_the_clock, by_the_clock[::-1], shuffled):
        made = rows_of(events)
        for name, kept in (("orders", model.orders), ("operations", model.operations), ("refunds", model.refunds)):
            assert len(made[name]) == len(kept)
            for row in made[name]:
                assert_same(msgspec.structs.asdict(row), kept[getattr(row, row.__struct_fields__[0])])
        decisions = [(row.decision, row.decided_at) for row in made["decisions"]]
        assert decisions == ([] if model.decision is None else [model.decision])


def play(dice: Dice, steps: int) -> Model:
    """Play one payment's life, looking at it now and then."""
    model = Model(dice)
    model.accept(dice.among(["charge", "manual", "joint"]), dice.integer(1, 3), hosted=dice.flag())
    check(model, 0)
    for number in range(steps):
        model.step()
        if number % 5 == 0:
            check(model, number)
    check(model, dice.integer(0, 10**6))
    return model


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_whatever_happened_the_events_make_the_rows_whatever_the_clocks_say(data: st.DataObject) -> None:
    play(Drawn(data), data.draw(st.integers(1, 40)))


def test_the_same_of_many_long_lives_in_which_everything_happened() -> None:
    seen: Counter[str] = Counter()
    for seed in range(250):
        model = play(Dice(seed), 60)
        seen.update(model.seen)
        seen.update({event.kind for event in model.events})
    assert {kind for kind in seen if "." in kind} == {*KINDS} - {"account.opened", *SAME_BODY, *ELSEWHERE}
    assert {word for word in seen if "." not in word} == TROUBLES
