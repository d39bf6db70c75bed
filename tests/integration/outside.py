"""What the money-path tests stand on: a PSP that does as it is told, and a gateway on a manual clock."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.ids import derive_id, order_id_of
from coatcheck.operations import Operation
from coatcheck.payments import Acceptance, PaymentView
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Capabilities, ChargeRequest, Intent
from coatcheck.refunds import RefundAnswer, RefundRequest
from coatcheck.shops import Caller
from coatcheck.states import Capture, Mode, OnFailure, OperationKind
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest
from coatcheck.wiring import make_gateway

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALLER = Caller(derive_id("shop", "hats"), "hats", Mode.TEST, derive_id("key", "one"))
SETTINGS = Settings(digest_secret="a secret of the tests, long enough to be taken")
NO_JITTER = random.Random(1)

Answer = Callable[[Intent], Outcome]


def approved(intent: Intent) -> Outcome:
    return Outcome(
        kind=OutcomeKind.APPROVED,
        provider_reference=intent.provider_reference or f"ch_{intent.reference}",
        reference=intent.reference,
        amount_minor=intent.amount_minor,
        currency=intent.currency,
        is_live=False,
    )


def declined(intent: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.DECLINED, decline_code="insufficient_funds", reference=intent.reference)


def unknown(_: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.UNKNOWN, cause="read timeout")


def server_error(_: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.UNKNOWN, cause="500", is_server_error=True)


def not_sent(_: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.NOT_SENT, cause="connection refused")


def not_found(_: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.NOT_FOUND, cause="nothing under our reference")


def pending(intent: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.PENDING, reference=intent.reference, cause="the PSP decides later")


class ScriptedProvider:
    """A PSP whose next answers are set by the test; it keeps what it was asked, in order."""

    name = "simulator"  # it takes the place that the settings name

    def __init__(self, **capabilities: object) -> None:
        defaults: dict[str, object] = {
            "idempotency_window": timedelta(hours=24),
            "window_margin": timedelta(minutes=5),
        }
        self.capabilities = Capabilities(**(defaults | capabilities))  # type: ignore[arg-type]
        self.charges: list[Answer] = []
        self.acts: dict[OperationKind, list[Answer]] = {}  # answers to captures, voids, refunds, authorizations
        self.look_ups: list[Answer] = []
        self.registers: list[Answer] = []
        self.calls: list[tuple[str, Intent]] = []
        self.line_is_free = asyncio.Event()  # cleared: it hangs
        self.line_is_free.set()

    @property
    def asked(self) -> list[str]:
        return [call for call, _ in self.calls]

    def prepare(self, request: ChargeRequest) -> bytes:
        return f"{request.token} {request.amount_minor} {request.currency}".encode()

    async def register(self, intent: Intent) -> Outcome:
        self.calls.append(("register", intent))
        if self.registers:
            return self.registers.pop(0)(intent)
        if intent.is_hosted:
            return Outcome(
                kind=OutcomeKind.PENDING, provider_reference="cs_1", redirect_url="https://psp.example/page/cs_1"
            )
        return Outcome(kind=OutcomeKind.NOT_SENT, provider_reference=f"pi_{len(self.calls)}")

    async def send(self, intent: Intent) -> Outcome:
        await self.line_is_free.wait()
        self.calls.append((intent.kind.value, intent))
        answers = self.charges if intent.kind is OperationKind.CHARGE else self.acts.get(intent.kind, [])
        return (answers.pop(0) if answers else approved)(intent)

    async def look_up(self, intent: Intent) -> Outcome:
        await self.line_is_free.wait()
        self.calls.append(("look_up", intent))
        return (self.look_ups.pop(0) if self.look_ups else not_found)(intent)

    async def close(self) -> None:
        return None


class World:
    """One gateway on a store, a scripted PSP and a clock that the test moves."""

    def __init__(
        self,
        store: Store,
        provider: ScriptedProvider | None = None,
        *,
        clock: ManualClock | None = None,
        settings: Settings = SETTINGS,
    ) -> None:
        self.store = store
        self.provider = provider or ScriptedProvider()
        self.clock = clock or ManualClock(START)
        self.gateway: Gateway = make_gateway(
            settings, store, {settings.provider: self.provider}, clock=self.clock, dice=NO_JITTER
        )

    async def accept(self, request: PaymentRequest, key: str = "k1", caller: Caller = CALLER) -> Acceptance:
        return await self.gateway.payments.accept(caller, request, key)

    async def pay(self, request: PaymentRequest, key: str = "k1") -> PaymentView:
        accepted = await self.accept(request, key)
        await self.gateway.executor.start(accepted.operations)
        return await self.read(accepted.payment_id)

    async def read(self, payment_id: UUID) -> PaymentView:
        view = await self.gateway.payments.read(payment_id)
        assert view is not None
        return view

    async def capture(
        self, view: PaymentView, *, key: str = "c1", is_final: bool = True, **amounts_minor: int | None
    ) -> list[str]:
        """Capture orders by name, or all; returns the verdicts."""
        names = amounts_minor or {order.payment_order_id: None for order in view.orders}
        wanted = {order_id_of(CALLER.shop_id, CALLER.mode, name): amount for name, amount in names.items()}
        act = await self.gateway.acts.capture(view.payment_id, wanted, is_final=is_final, key=key)
        await self.gateway.executor.start(act.operations)
        return [verdict.value for verdict in act.verdicts.values()]

    async def cancel(self, view: PaymentView, key: str = "v1") -> list[str]:
        order_ids = [order_id_of(CALLER.shop_id, CALLER.mode, order.payment_order_id) for order in view.orders]
        act = await self.gateway.acts.cancel(view.payment_id, order_ids, key)
        await self.gateway.executor.start(act.operations)
        return [verdict.value for verdict in act.verdicts.values()]

    async def refund(self, name: str, amount_minor: int | None = None, key: str = "r1") -> RefundAnswer:
        asked = RefundRequest(order_id=order_id_of(CALLER.shop_id, CALLER.mode, name), amount_minor=amount_minor)
        answer = await self.gateway.refunds.request(CALLER, asked, key)
        await self.gateway.executor.start(answer.operations)
        return answer

    async def balances(self) -> dict[str, int]:
        """Read what each kind of account holds, on the side that makes it grow; holds as kind.held."""
        rows = await self.store.pool.fetch(
            "SELECT a.kind, "
            "sum(CASE normal_side WHEN 'debit' THEN 1 ELSE -1 END * (debits_posted_minor - credits_posted_minor)), "
            "sum(CASE normal_side WHEN 'debit' THEN debits_pending_minor ELSE credits_pending_minor END) "
            "FROM account a JOIN account_kind k USING (kind) GROUP BY a.kind"
        )
        posted = {row[0]: int(row[1]) for row in rows if row[1]}
        return posted | {f"{row[0]}.held": int(row[2]) for row in rows if row[2]}

    async def quiet(self) -> None:
        """Wait until this gateway runs nothing."""
        while self.gateway.executor._running:
            await asyncio.wait(set(self.gateway.executor._running))

    async def recover(self, after: timedelta = timedelta(minutes=2)) -> list[Operation]:
        """Let time pass, then do what is due, to its end."""
        self.clock.advance(after)
        claimed = await self.gateway.operations.claim(100)
        for operation in claimed:
            await self.gateway.executor.run(operation)
        return claimed

    async def count(self, table: str, where: str = "true") -> int:
        counted: int = await self.store.pool.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")
        return counted

    async def violations(self) -> dict[str, int]:
        found = {}
        for name, text in self.store.invariants.items():
            rows = await self.store.pool.fetch(text)
            if rows:
                found[name] = len(rows)
        return found


def checkout(
    checkout_id: str = "c1",
    *orders: str,
    amount_minor: int = 1000,
    token: str | None = "tok_approve",
    capture: Capture = Capture.AUTOMATIC,
    on_failure: OnFailure = OnFailure.KEEP,
    return_url: str | None = None,
) -> PaymentRequest:
    """A checkout of EUR orders named after it, each with a commission of a tenth."""
    names = orders or (f"{checkout_id}-o1",)
    return PaymentRequest(
        checkout_id,
        Buyer("buyer-1", email="ada@example.com", country="GB", ip="192.0.2.7"),
        token if return_url is None else None,
        tuple(OrderRequest(name, f"seller-{name}", amount_minor, "EUR", amount_minor // 10) for name in names),
        capture=capture,
        on_failure=on_failure,
        return_url=return_url,
    )
