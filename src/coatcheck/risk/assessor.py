"""Ask the risk rules about payments as they come in: the database is asked once per batch, not once per payment."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.risk.rules import ALLOWED, NO_FAILURES, Decision, Failures, RiskSettings, decide
from coatcheck.risk.velocity import Subjects, count_failures, digest_key_of, subjects_of
from coatcheck.states import Mode
from coatcheck.store import Batcher, Store
from coatcheck.validation import PaymentRequest


class Assessor:
    """Decides on payments before anything is charged. Idempotent: asking counts nothing, only declines do."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: RiskSettings,
        secret: bytes,
        *,
        batch_size: int = 512,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._key = digest_key_of(secret)
        self._window = timedelta(seconds=settings.velocity_window_s)
        lanes = 1 if batch_size > 1 else 8
        self._count = Batcher(self._count_batch, size=batch_size, lanes=lanes, observe=observe)

    async def assess(self, shop_id: UUID, mode: Mode, request: PaymentRequest) -> Decision:
        """Decide on one payment. With the rules switched off everything is allowed and nothing is counted."""
        if not self._settings.enabled:
            return ALLOWED
        subjects = self.subjects(shop_id, mode, request)
        failures = await self._count.submit(subjects)
        totals_minor: dict[str, int] = {}
        for order in request.orders:
            totals_minor[order.currency] = totals_minor.get(order.currency, 0) + order.amount_minor
        decision = decide(self._settings, totals_minor, request.buyer.country, failures)
        return msgspec.structs.replace(decision, subjects=subjects.given)

    def subjects(self, shop_id: UUID, mode: Mode, request: PaymentRequest) -> Subjects:
        """Name what a decline of this payment is to be counted against."""
        buyer = request.buyer
        return subjects_of(self._key, shop_id, mode, token=request.token, buyer_reference=buyer.reference, ip=buyer.ip)

    async def _count_batch(self, items: Sequence[Subjects]) -> list[Failures]:
        wanted = list({subject for item in items for subject in item.given})
        since = self._clock.now() - self._window
        counts = await count_failures(self._store, wanted, since, self._settings.highest_velocity)
        if not counts:
            return [NO_FAILURES] * len(items)
        return [
            Failures(counts.get(card, 0) if card else 0, counts.get(buyer, 0), counts.get(ip, 0) if ip else 0)
            for card, buyer, ip in items
        ]
