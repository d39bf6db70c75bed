"""The figures Prometheus reads at /metrics. docs/metrics.md describes each; a test holds the two together."""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

from coatcheck.states import OrderStatus, PaymentStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A "created" series beside every counter doubles the scrape and nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_Family = TypeVar("_Family", bound=MetricWrapperBase)
_Key = TypeVar("_Key", bound=Hashable)

_HTTP_SECONDS = (0.002, 0.004, 0.008, 0.012, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)
_PROVIDER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Bound(dict[_Key, _Family], Generic[_Key, _Family]):
    """The series of one metric by their label values, each bound once so that the hot path pays a dict look-up.

    The key is the label's value, or a tuple of them in the order of docs/metrics.md. Values must come from a small
    fixed set (a status, a route's template), never from a request: each new one is a series for ever.
    """

    def __init__(self, family: _Family, known: Iterable[_Key] = ()) -> None:
        super().__init__()
        self._family = family
        for key in known:  # so that a series shows 0 before its first event, as alerts need
            self[key] = self.__missing__(key)

    def __missing__(self, key: _Key) -> _Family:
        values = key if isinstance(key, tuple) else (key,)
        series = self[key] = self._family.labels(*values)
        return series


class Metrics:
    """Every metric of one gateway process, in a registry of its own.

    `metrics.payments["SUCCESS"].inc()`, `metrics.provider_seconds["stripe", "charge"].observe(0.2)`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._count_money()
        self._count_operations()
        self._count_webhooks()
        self._count_alerts()
        self._count_seals()
        self._count_batches()
        self._count_wallets()
        self._count_http()

    def render(self) -> bytes:
        """Print every metric in the Prometheus text format."""
        return generate_latest(self.registry)

    def batch_observer(self, batch: str) -> Callable[[int, float], None]:
        """Make what a batcher calls after each batch with its size and its seconds at the database."""
        sizes, seconds = self.batch_size[batch], self.batch_seconds[batch]

        def observe(size: int, took_s: float) -> None:
            sizes.observe(size)
            seconds.observe(took_s)

        return observe

    def _count_money(self) -> None:
        self.payments: Bound[str, Counter] = Bound(
            self._counter("payments", "Payments answered, by the status in the answer.", "status"), PaymentStatus
        )
        self.orders: Bound[tuple[str, str], Counter] = Bound(
            self._counter("orders", "Payment orders that reached a status, by currency.", "status", "currency"),
            [(status, "USD") for status in (OrderStatus.SUCCESS, OrderStatus.FAILED)],
        )
        self.risk_decisions: Bound[str, Counter] = Bound(
            self._counter("risk_decisions", "Payments assessed, by what the risk rules decided.", "decision"),
            ("ALLOW", "REVIEW", "BLOCK"),
        )

    def _count_operations(self) -> None:
        self.operation_outcomes: Bound[tuple[str, str, str], Counter] = Bound(
            self._counter("operation_outcomes", "Answers and silences of a provider.", "provider", "kind", "outcome")
        )
        self.provider_seconds: Bound[tuple[str, str], Histogram] = Bound(
            self._histogram(
                "provider_seconds", "Time of one call to a provider.", _PROVIDER_SECONDS, "provider", "call"
            )
        )
        self.open_operations = self._gauge("open_operations", "Operations not decided yet.")
        self.unresolved_operations = self._gauge(
            "unresolved_operations", "Operations that only a look-up, a settlement file or a person may decide."
        )
        self.circuit_open: Bound[str, Gauge] = Bound(
            self._gauge("circuit_open", "1 while nothing new is sent to a silent provider.", "provider")
        )
        self.fenced = self._counter("fenced", "Answers not booked: another process had taken the operation over.")
        self.answers_refused = self._counter(
            "answers_refused", "Answers not booked: the provider spoke of another amount, currency or reference."
        )

    def _count_webhooks(self) -> None:
        self.webhooks: Bound[str, Counter] = Bound(
            self._counter("webhooks", "Events of providers that were handled, by what became of them.", "outcome"),
            ("applied", "no_effect", "unmatched", "unknown_type", "refused", "charged_twice"),
        )
        self.webhooks_refused = self._counter(
            "webhooks_refused", "Webhooks turned away at the door: not proven to come from the provider."
        )
        self.webhooks_waiting = self._gauge("webhooks_waiting", "Stored events that are not handled yet.")
        self.webhooks_dead = self._gauge("webhooks_dead", "Stored events that wait for a person.")

    def _count_batches(self) -> None:
        self.batch_size: Bound[str, Histogram] = Bound(
            self._histogram("batch_size", "Items written by one database transaction.", _BATCH_SIZES, "batch")
        )
        self.batch_seconds: Bound[str, Histogram] = Bound(
            self._histogram("batch_seconds", "Time of one batch at the database.", _BATCH_SECONDS, "batch")
        )
        self.deadlocks = self._gauge("deadlocks", "Deadlocks PostgreSQL has counted in our database; 0 is the aim.")

    def _count_alerts(self) -> None:
        self.alerts: Bound[str, Gauge] = Bound(self._gauge("alerts", "What somebody should look at, by kind.", "kind"))
        self.watched_at = self._gauge("watched_at_seconds", "When the watcher last looked (Unix time).")

    def _count_wallets(self) -> None:
        self.wallet_transfers: Bound[str, Counter] = Bound(
            self._counter("wallet_transfers", "Transfers posted as sellers' money matured, by kind.", "kind"),
            ("release", "reserve", "reserve_release", "offset"),
        )
        self.matured = self._counter("matured", "Charges and captures whose seller's share has matured.")
        self.matured_at = self._gauge("matured_at_seconds", "When this process last let wallets mature (Unix time).")

    def _count_seals(self) -> None:
        self.sealed_rows = self._counter("sealed_rows", "Events and transfers that this process has sealed.")
        self.sealed_to = self._gauge(
            "sealed_to_seconds",
            "Until when everything that was committed is sealed (Unix time), as this process last saw.",
        )
        self.sealing_failures: Bound[str, Counter] = Bound(
            self._counter("sealing_failures", "Rounds of sealing that failed, by why.", "why"),
            ("refused", "failed", "endpoint"),
        )

    def _count_http(self) -> None:
        self.http_requests: Bound[tuple[str, str], Counter] = Bound(
            self._counter("http_requests", "Requests answered, by route and HTTP status.", "route", "status")
        )
        self.http_seconds: Bound[str, Histogram] = Bound(
            self._histogram("http_seconds", "Time from a request's first byte to its answer.", _HTTP_SECONDS, "route")
        )
        self.idempotent_replays = self._counter(
            "idempotent_replays", "Answers given again for a key that had its answer."
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"coatcheck_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"coatcheck_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"coatcheck_{name}", meaning, labels, registry=self.registry, buckets=tuple(buckets))
