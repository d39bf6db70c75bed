"""The watcher: looks for what somebody should see, and says so once: as an event, a metric and a log line.

Every gateway may run one; none leads. An alert is a row, and the database opens and closes it in the statement that
looks, so no two watchers tell of the same thing. docs/runbooks has a page for each kind.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.audit.invariants import InvariantResult, read_invariants, run_invariants
from coatcheck.clock import Clock
from coatcheck.ids import DISPUTE, INBOX, OPERATION, ORDER, PAYOUT_RUN, print_id
from coatcheck.loops import until_stopped
from coatcheck.metrics import Metrics
from coatcheck.money import format_amount
from coatcheck.providers.protocol import Capabilities
from coatcheck.reconciliation.report import BREAK
from coatcheck.store import Store

OPENED_MOST = 100  # alerts of one kind opened by one look: an outage is told a hundred times, not a hundred thousand
_ROWS_TOLD = 3  # of an invariant's violations

log = structlog.get_logger("coatcheck.watcher")


class AlertKind(StrEnum):
    """What can be wrong; each has its page in docs/runbooks."""

    ORDER_STUCK = "order_stuck"
    OPERATION_UNRESOLVED = "operation_unresolved"
    LEASE_EXPIRED_LONG = "lease_expired_long"
    UNKNOWN_OLD = "unknown_old"
    AUTHORIZATION_EXPIRING = "authorization_expiring"
    AUTHORIZATION_LAPSED = "authorization_lapsed"
    CHARGED_TWICE = "charged_twice"
    WEBHOOK_DEAD = "webhook_dead"
    SETTLEMENT_LATE = "settlement_late"
    BREAK_ESCALATED = "break_escalated"
    SEALING_OVERDUE = "sealing_overdue"
    INVARIANT_BROKEN = "invariant_broken"
    TRANSACTION_OLD = "transaction_old"
    DISPUTE_EVIDENCE_DUE = "dispute_evidence_due"
    REFUNDED_AND_DISPUTED = "refunded_and_disputed"
    PAYOUT_RUN_WAITING = "payout_run_waiting"


_AT_EACH_LOOK = tuple(kind for kind in AlertKind if kind is not AlertKind.INVARIANT_BROKEN)
_INCIDENTS = frozenset(
    {
        AlertKind.CHARGED_TWICE,
        AlertKind.REFUNDED_AND_DISPUTED,
        AlertKind.SEALING_OVERDUE,
        AlertKind.INVARIANT_BROKEN,
    }
)
# What stays so until a person has seen to it; all other alerts close of themselves.
_ACKNOWLEDGED = (AlertKind.CHARGED_TWICE, AlertKind.REFUNDED_AND_DISPUTED)


class WatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """From when on something is worth an alert. `stuck`: also the least age of an answer that is missed."""

    stuck: timedelta = timedelta(minutes=15)
    overdue: timedelta = timedelta(minutes=5)
    expiring: timedelta = timedelta(days=1)
    transaction: timedelta = timedelta(minutes=15)
    invariants: timedelta = timedelta(hours=1)
    evidence_due: timedelta = timedelta(days=3)


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody should look at, since when it is so, and in a sentence what it is."""

    kind: AlertKind
    subject: str
    since: datetime
    text: str
    opened_at: datetime | None = None

    @property
    def runbook(self) -> str:
        """The page that says what it means and what is safe to do."""
        return f"docs/runbooks/{self.kind.value}.md"


class Change(msgspec.Struct, frozen=True):
    """An alert that one look has opened or closed."""

    is_opened: bool
    alert: Alert


class Watcher:
    """Looks, once or until stopped."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        capabilities: Mapping[str, Capabilities],
        metrics: Metrics,
        limits: WatchLimits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._capabilities = capabilities
        self._metrics = metrics
        self._limits = limits
        for kind in AlertKind:  # so that a series shows 0 before its first alert
            metrics.alerts[kind.value].set(0)

    async def watch(self, interval: timedelta, stopping: asyncio.Event) -> None:
        """Look until stopped; trouble with the database is waited out."""

        async def look() -> None:
            await self.watch_once()
            await self.check_invariants_in_turn()

        await until_stopped(look, interval, stopping, log=log, trouble="watch_failed")

    async def watch_once(self) -> list[Change]:
        """Look at everything but the invariants. Idempotent: what is told stays told until it is so no more."""
        changes = self._take_note(_AT_EACH_LOOK, await self._write(self._store.pool, _AT_EACH_LOOK, ()))
        self._metrics.watched_at.set(self._clock.now().timestamp())
        return changes

    async def check_invariants_in_turn(self) -> list[Change]:
        """Run the invariants if it is time and no other process does; they read whole tables."""
        turn = await self._store.pool.fetchval(
            "SELECT take_watch_turn($1, $2, $3)", self._clock.now(), "invariants", self._limits.invariants
        )
        return await self.check_invariants() if turn else []

    async def check_invariants(self) -> list[Change]:
        """Run every invariant on one snapshot; what is broken is an alert until a run finds it whole again.

        What was broken is read once more in the transaction that writes: the run takes long, and an alert is about now.
        """
        kinds = (AlertKind.INVARIANT_BROKEN,)
        suspected = [result.name for result in await run_invariants(self._store) if not result.holds]
        async with self._store.pool.acquire() as connection, connection.transaction():
            again = await read_invariants(connection, {name: self._store.invariants[name] for name in suspected})
            rows = await self._write(connection, kinds, [result for result in again if not result.holds])
        for result in again:
            if result.holds:
                log.warning("invariant_held_again", name=result.name, meaning=result.meaning)
        return self._take_note(kinds, rows)

    async def _write(
        self, writer: Any, kinds: Iterable[AlertKind], broken: Iterable[InvariantResult]
    ) -> list[asyncpg.Record]:
        """Open what is newly so and close what is so no more, of these kinds."""
        at, limits = self._clock.now(), self._limits
        told = {result.name: _broken_detail(result) for result in broken}
        rows: list[asyncpg.Record] = await writer.fetch(
            "SELECT * FROM watch_alerts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            *(at, list(kinds), at - limits.stuck, at - limits.overdue, at + limits.expiring, limits.transaction),
            *(list(self._capabilities), [self._unknown_before(name, at) for name in self._capabilities]),
            *(list(told), list(told.values()), OPENED_MOST, at + limits.evidence_due),
        )
        return rows

    def _take_note(self, kinds: Iterable[AlertKind], rows: Sequence[asyncpg.Record]) -> list[Change]:
        """Count and log what a look has changed, once that is committed."""
        standing = {row["kind"]: row["standing"] for row in rows if row["change"] == "standing"}
        for kind in kinds:
            self._metrics.alerts[kind.value].set(standing.get(kind.value, 0))
        changes = [
            Change(row["change"] == "opened", _alert_of(row, None)) for row in rows if row["change"] != "standing"
        ]
        for change in changes:
            _tell(change)
        return changes

    def _unknown_before(self, provider: str, at: datetime) -> datetime:
        """Say from when on a missed answer is old: half of what the provider's memory of the key leaves us."""
        known = self._capabilities[provider]
        return at - max((known.idempotency_window - known.window_margin) / 2, self._limits.stuck)


async def list_alerts(store: Store) -> list[Alert]:
    """List the open alerts, longest-standing first."""
    rows = await store.pool.fetch(store.queries["alert_list"])
    return [_alert_of(row, row["opened_at"]) for row in rows]


async def acknowledge(store: Store, clock: Clock, order_id: UUID, *, by: str, reason: str) -> bool:
    """Note that a person has seen to a second charge, or to money that went back twice; the next look closes its alert.

    False when none is open. Moves no money: that is done at the provider.
    """
    done = [
        await store.pool.fetchval(
            "SELECT acknowledge_alert($1, $2, $3, $4, $5)", clock.now(), kind.value, str(order_id), by, reason
        )
        for kind in _ACKNOWLEDGED
    ]
    return any(done)


def _tell(change: Change) -> None:
    alert = change.alert
    line = log.info
    if change.is_opened:
        line = log.error if alert.kind in _INCIDENTS else log.warning
    line(
        "alert_opened" if change.is_opened else "alert_closed",
        kind=alert.kind.value,
        subject=alert.subject,
        what=alert.text,
        runbook=alert.runbook,
    )


def _broken_detail(result: InvariantResult) -> str:
    shown = [{name: str(value) for name, value in row.items()} for row in result.violations[:_ROWS_TOLD]]
    detail = {"name": result.name, "meaning": result.meaning, "found": len(result.violations), "rows": shown}
    return msgspec.json.encode(detail).decode()


def _alert_of(row: asyncpg.Record, opened_at: datetime | None) -> Alert:
    kind, detail = AlertKind(row["kind"]), msgspec.json.decode(row["detail"])
    subject: str = row["subject"]
    prefix = next((prefix for name, prefix in _PRINTED.items() if name in detail), None)
    return Alert(
        kind=kind,
        subject=subject if prefix is None else print_id(prefix, UUID(subject)),
        since=row["since"],
        text=_in_words(kind, detail, row["since"]),
        opened_at=opened_at,
    )


# What an alert's subject is, by what its detail names; the first one counts.
_PRINTED = {
    "dispute_id": DISPUTE,
    "order_id": ORDER,
    "operation_id": OPERATION,
    "inbox_id": INBOX,
    "break_id": BREAK,
    "run_id": PAYOUT_RUN,
}


def _in_words(kind: AlertKind, detail: Mapping[str, Any], since: datetime) -> str:
    if kind in _TOLD_BY:
        return _TOLD_BY[kind](detail, since)
    if kind is AlertKind.INVARIANT_BROKEN:
        return f"The books disagree. This does not hold: {detail['meaning']}"
    if kind is AlertKind.TRANSACTION_OLD:
        return f"A database transaction is open for {detail['age_s']} s: {detail['who']}. Dead rows cannot be cleared."
    if kind is AlertKind.WEBHOOK_DEAD:
        cause, attempt = detail["cause"] or "no cause is known", detail["attempt"]
        named = f"{detail['event_id']} of {detail['provider']}, received {_time(since)}"
        return f"The event {named}, waits for a person after attempt {attempt}: {cause}."
    if kind in (AlertKind.AUTHORIZATION_EXPIRING, AlertKind.AUTHORIZATION_LAPSED):
        left = f"{format_amount(detail['amount_minor'], detail['currency'])} {detail['currency']}"
        ends = "ends" if kind is AlertKind.AUTHORIZATION_EXPIRING else "should have ended"
        return f"The authorization of order {detail['payment_order_id']} {ends} {_time(since)}; {left} not captured."
    return _UNDECIDED[kind].format(
        order=detail["payment_order_id"],
        what=_what(detail),
        since=_time(since),
        attempt=detail["attempt"],
        cause=detail.get("cause") or "no cause is known",
        provider=detail.get("provider", ""),
    )


_UNDECIDED = {
    AlertKind.ORDER_STUCK: "Order {order} is EXECUTING since {since}, attempt {attempt}: {cause}.",
    AlertKind.OPERATION_UNRESOLVED: "The {what} waits for a person after attempt {attempt}: {cause}.",
    AlertKind.LEASE_EXPIRED_LONG: "The {what} is due since {since} and no gateway takes it.",
    AlertKind.UNKNOWN_OLD: "The {what} was sent to {provider} {since} and has no answer yet: {cause}.",
}


def _charged_twice(detail: Mapping[str, Any], _: datetime) -> str:
    amount = f"{format_amount(detail['amount_minor'], detail['currency'])} {detail['currency']}"
    provider, known, other = detail["provider"], detail["provider_reference"], detail["other_reference"]
    if known is None:
        return (
            f"Order {detail['payment_order_id']} seems charged twice at {provider}: {other} carry its one reference, "
            f"and none of them is in the books. Compare them there; if they took the money, refund all but one "
            f"({amount} each) at {provider}, then say of the operation that the one which is left was charged."
        )
    return (
        f"Order {detail['payment_order_id']} seems charged twice at {provider}: {known} is in the books, {other} is "
        f"not. Compare both there; if both took the money, refund {other} ({amount}) at {provider}, not through the "
        "gateway, which would give back the first."
    )


def _settlement_late(detail: Mapping[str, Any], _: datetime) -> str:
    return f"A file of {detail['provider']} has not come: {detail['about']}."


def _break_escalated(detail: Mapping[str, Any], _: datetime) -> str:
    line = "" if detail["line"] is None else f", line {detail['line']}"
    where = "" if detail["file"] is None else f" in {detail['file']}{line}"
    currency, ours, theirs = detail["currency"], detail["expected_minor"], detail["stated_minor"]
    amounts = [
        f"{whose} {format_amount(minor, currency)} {currency}"
        for whose, minor in (("ours", ours), ("the file's", theirs))
        if currency is not None and minor is not None
    ]
    about = ", ".join([detail["about"], *amounts])
    return f"A break of kind {detail['break_kind']} with {detail['provider']}{where} ({about})."


def _sealing_overdue(detail: Mapping[str, Any], since: datetime) -> str:
    number = detail["last_seal_no"]
    last = "there is no seal yet" if number is None else f"the last seal is number {number}"
    return f"History should have been sealed by {_time(since)}: {last}. What was written since is not proved."


def _evidence_due(detail: Mapping[str, Any], due_at: datetime) -> str:
    amount = f"{format_amount(detail['amount_minor'], detail['currency'])} {detail['currency']}"
    must = "had to be answered by" if detail["is_over"] else "must be answered by"
    what = f"The dispute {detail['provider_reference']} of order {detail['payment_order_id']} at {detail['provider']}"
    return f"{what} ({amount}, {detail['reason'] or 'no reason given'}) {must} {_time(due_at)}."


def _refunded_and_disputed(detail: Mapping[str, Any], _: datetime) -> str:
    refunded = f"{format_amount(detail['refunded_minor'], detail['currency'])} {detail['currency']}"
    taken = " and ".join(f"{format_amount(minor, each)} {each}" for each, minor in sorted(detail["taken"].items()))
    captured = f"{format_amount(detail['captured_minor'], detail['currency'])} {detail['currency']}"
    return (
        f"Order {detail['payment_order_id']} went back twice: {refunded} by refunds and {taken} by disputes, of "
        f"{captured} that was captured. Answer the dispute at {detail['provider']} with the proof of the refund."
    )


def _what(detail: Mapping[str, Any]) -> str:
    """Name what is undecided: an operation of an order, or a payout, which has none."""
    order = detail["payment_order_id"]
    return "payout" if order is None else f"{detail.get('operation_kind', 'charge')} of order {order}"


def _run_waiting(detail: Mapping[str, Any], _: datetime) -> str:
    currency, usual = detail["currency"], detail["usual_minor"]
    than = "nobody knows what is usual" if usual is None else f"usual is {format_amount(usual, currency)} {currency}"
    total = f"{format_amount(detail['total_minor'], currency)} {currency}"
    return (
        f"The run of payouts {detail['schedule']} would pay {total} "
        f"to {detail['items']} sellers; {than}. It waits for a second person than {detail['proposed_by']}."
    )


_TOLD_BY: Mapping[AlertKind, Callable[[Mapping[str, Any], datetime], str]] = {
    AlertKind.CHARGED_TWICE: _charged_twice,
    AlertKind.SETTLEMENT_LATE: _settlement_late,
    AlertKind.BREAK_ESCALATED: _break_escalated,
    AlertKind.SEALING_OVERDUE: _sealing_overdue,
    AlertKind.DISPUTE_EVIDENCE_DUE: _evidence_due,
    AlertKind.REFUNDED_AND_DISPUTED: _refunded_and_disputed,
    AlertKind.PAYOUT_RUN_WAITING: _run_waiting,
}


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
