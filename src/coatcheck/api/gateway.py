"""What the edge works with: one object made in wiring, found by every route."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from litestar import Request

from coatcheck.clock import Clock
from coatcheck.config import Settings, digest_secret_of
from coatcheck.correspondence import Correspondence
from coatcheck.disputes import Disputes
from coatcheck.executor import Executor
from coatcheck.failpoints import CALM, Failpoints
from coatcheck.inbox import Inbox
from coatcheck.maturing import Maturing
from coatcheck.metrics import Metrics
from coatcheck.operations import Operations
from coatcheck.payments import Acts, Payments
from coatcheck.payouts import Payees, PayoutRuns, Payouts
from coatcheck.providers.protocol import Provider, WebhookReader
from coatcheck.reconciliation.adoption import Adoption
from coatcheck.reconciliation.arrivals import Arrivals
from coatcheck.reconciliation.breaks import Breaks
from coatcheck.reconciliation.corrections import Corrections
from coatcheck.reconciliation.expected import ExpectedFiles
from coatcheck.reconciliation.recovery import Recovery
from coatcheck.refunds import Refunds
from coatcheck.shops import KeyRing
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Gateway:
    """The running gateway, as its HTTP edge sees it. `page_key` keys the tokens of buyers' status pages."""

    settings: Settings
    clock: Clock
    store: Store
    keys: KeyRing
    payments: Payments
    acts: Acts
    refunds: Refunds
    payouts: Payouts
    payees: Payees
    payout_runs: PayoutRuns
    operations: Operations
    executor: Executor
    inbox: Inbox
    disputes: Disputes
    correspondence: Correspondence
    upkeep: Upkeep
    arrivals: Arrivals
    expected_files: ExpectedFiles | None
    adoption: Adoption
    corrections: Corrections
    breaks: Breaks
    recovery: Recovery
    maturing: Maturing
    webhooks: Mapping[tuple[str, Mode], WebhookReader]
    metrics: Metrics
    stopping: asyncio.Event
    providers: Mapping[str, Provider]
    failpoints: Failpoints = CALM
    page_key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        secret = digest_secret_of(self.settings)
        key = blake2b(secret, digest_size=32, person=b"coatcheck page").digest()
        object.__setattr__(self, "page_key", key)  # worked out once; the rest of the time this is frozen


def gateway_of(request: Request[Any, Any, Any]) -> Gateway:
    """Find the gateway that a request came to."""
    return cast("Gateway", request.app.state.gateway)
