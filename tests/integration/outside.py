"""What the money-path tests stand on: a PSP that does as it is told, and a gateway on a manual clock."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from coatcheck.clock import ManualClock
from coatcheck.config import Settings
from coatcheck.ids import derive_id
from coatcheck.operations import Operation
from coatcheck.payments import Acceptance, PaymentView
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Capabilities, Charge, ChargeRequest
from coatcheck.shops import Caller
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest
from coatcheck.wiring import make_gateway

if TYPE_CHECKING:
    from coatcheck.api.gateway import Gateway

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALLER = Caller(derive_id("shop", "hats"), "hats", Mode.TEST, derive_id("key", "one"))
SETTINGS = Settings(digest_secret="a secret of the tests, long enough to be taken")
NO_JITTER = random.Random(1)

Answer = Callable[[Charge], Outcome]


def approved(charge: Charge) -> Outcome:
    return Outcome(
        kind=OutcomeKind.APPROVED,
        provider_reference=charge.provider_reference or f"ch_{charge.reference}",
        reference=charge.reference,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        is_live=False,
    )


def declined(charge: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.DECLINED, decline_code="insufficient_funds", reference=charge.reference)


def unknown(_: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.UNKNOWN, cause="read timeout")


def server_error(_: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.UNKNOWN, cause="500", is_server_error=True)


def not_sent(_: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.NOT_SENT, cause="connection refused")


def not_found(_: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.NOT_FOUND, cause="nothing under our reference")


def pending(charge: Charge) -> Outcome:
    return Outcome(kind=OutcomeKind.PENDING, reference=charge.reference, cause="the PSP decides later")


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
        self.look_ups: list[Answer] = []
        self.calls: list[tuple[str, Charge]] = []

    @property
    def asked(self) -> list[str]:
        return [call for call, _ in self.calls]

    def prepare(self, request: ChargeRequest) -> bytes:
        return f"{request.token} {request.amount_minor} {request.currency}".encode()

    async def register(self, charge: Charge) -> Outcome:
        self.calls.append(("register", charge))
        return Outcome(kind=OutcomeKind.NOT_SENT, provider_reference=f"pi_{len(self.calls)}")

    async def charge(self, charge: Charge) -> Outcome:
        self.calls.append(("charge", charge))
        return (self.charges.pop(0) if self.charges else approved)(charge)

    async def look_up(self, charge: Charge) -> Outcome:
        self.calls.append(("look_up", charge))
        return (self.look_ups.pop(0) if self.look_ups else not_found)(charge)

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
    checkout_id: str = "c1", *orders: str, amount_minor: int = 1000, token: str = "tok_approve"
) -> PaymentRequest:
    """A checkout of EUR orders named after it, each with a commission of a tenth."""
    names = orders or (f"{checkout_id}-o1",)
    return PaymentRequest(
        checkout_id,
        Buyer("buyer-1", email="ada@example.com", country="GB", ip="192.0.2.7"),
        token,
        tuple(OrderRequest(name, f"seller-{name}", amount_minor, "EUR", amount_minor // 10) for name in names),
    )
