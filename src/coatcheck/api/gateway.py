"""What the edge works with: one object made in wiring, found by every route."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from litestar import Request

from coatcheck.clock import Clock
from coatcheck.config import Settings
from coatcheck.executor import Executor
from coatcheck.metrics import Metrics
from coatcheck.operations import Operations
from coatcheck.payments import Payments
from coatcheck.shops import KeyRing
from coatcheck.store import Store


@dataclass(frozen=True, slots=True)
class Gateway:
    """The running gateway, as its HTTP edge sees it."""

    settings: Settings
    clock: Clock
    store: Store
    keys: KeyRing
    payments: Payments
    operations: Operations
    executor: Executor
    metrics: Metrics
    stopping: asyncio.Event


def gateway_of(request: Request[Any, Any, Any]) -> Gateway:
    """Find the gateway that a request came to."""
    return cast("Gateway", request.app.state.gateway)
