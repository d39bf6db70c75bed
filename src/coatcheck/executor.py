"""The executor: takes a leased operation, asks the PSP outside any transaction, and has the answer booked in one.

`next_step` is the one gate to a PSP's till. What it does not allow is not sent: not by a retry, not after a crash, not
by hand.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from time import perf_counter
from typing import NamedTuple

import asyncpg
import msgspec
import structlog

from coatcheck.breaker import Breaker
from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.loops import log_trouble, until_stopped
from coatcheck.metrics import Metrics
from coatcheck.operations import Operation, Operations, Postponement
from coatcheck.payments import Payments
from coatcheck.payouts import Payouts
from coatcheck.providers.outcome import Outcome, OutcomeKind, ToldBy
from coatcheck.providers.protocol import Capabilities, Intent, Provider
from coatcheck.states import Mode, OperationKind, OperationStatus, OrderStatus, PayoutStatus

SERVER_ERROR = "server error: "
NOT_FOUND = "not found at the provider"
CIRCUIT_OPEN = "the provider is silent: nothing new is sent to it for now"
ANSWER_REFUSED = "the provider's answer is about something else: "

_TOLD_EVERY = timedelta(seconds=30)

log = structlog.get_logger("coatcheck.executor")


class Step(StrEnum):
    """What may be done next for an operation."""

    REGISTER = "register"
    SEND = "send"
    LOOK_UP = "look_up"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long an undecided operation is worked on: exponential back-off with full jitter, up to a budget."""

    budget_attempts: int
    base: timedelta
    cap: timedelta

    def pause(self, attempt: int, draw: float) -> timedelta:
        """How long to wait after attempt number `attempt` (from 1); `draw` is uniform in [0, 1)."""
        times = 2 ** min(attempt, 30)
        ceiling = self.base * times if self.base < self.cap / times else self.cap  # no timedelta is days * 2**30
        return ceiling * draw


def window_is_open(intent: Intent, capabilities: Capabilities, at: datetime) -> bool:
    """Whether the PSP still remembers our key for certain: after this, sending again may charge again."""
    if intent.first_sent_at is None:
        return True
    return at - intent.first_sent_at < capabilities.idempotency_window - capabilities.window_margin


def next_step(operation: Operation, capabilities: Capabilities, at: datetime) -> Step:
    """Decide what may be asked of the PSP: sending again needs an open window, or a look-up first.

    Source: hazards A1, A3, A4 and A5.
    """
    intent = operation.intent
    if operation.status is OperationStatus.PENDING:
        return Step.LOOK_UP  # the PSP has it: the same key would only say so again
    if intent.is_hosted:  # only the buyer pays there; the page itself is made once, under its own key
        is_to_make = intent.provider_reference is None and window_is_open(intent, capabilities, at)
        # A PSP that forgets the key after an error would make a second page: ask for the first one before (A5).
        may_be_there = operation.sent_before and capabilities.look_up_before_resend
        is_safe = not may_be_there and not _may_be_replayed(operation, capabilities)
        return Step.REGISTER if is_to_make and is_safe else Step.LOOK_UP
    if capabilities.registers_first and intent.kind.starts_an_order and intent.provider_reference is None:
        return Step.REGISTER
    if not operation.sent_before:
        return Step.SEND
    if not window_is_open(intent, capabilities, at) or capabilities.look_up_before_resend:
        return Step.LOOK_UP
    return Step.LOOK_UP if _may_be_replayed(operation, capabilities) else Step.SEND


def _may_be_replayed(operation: Operation, capabilities: Capabilities) -> bool:
    """Whether the same key might only bring the same server error again (hazard A4)."""
    return capabilities.replays_errors and (operation.cause or "").startswith(SERVER_ERROR)


def may_send_after(operation: Operation, found: Outcome, capabilities: Capabilities, at: datetime) -> bool:
    """Decide whether a look-up allows sending again.

    NOT_SENT is the PSP's word that its object exists and nothing was charged: enough at any age. NOT_FOUND never is
    outside the window. Inside it, it is enough where the PSP keeps our key whatever it answered, for then the same key
    cannot charge twice; where it does not, only when a look-up long enough before found nothing either (hazard A14).
    """
    if operation.intent.is_hosted or operation.status is OperationStatus.PENDING:
        return False
    if found.kind is OutcomeKind.NOT_SENT:
        return True
    if found.kind is not OutcomeKind.NOT_FOUND or not window_is_open(operation.intent, capabilities, at):
        return False
    return not capabilities.look_up_before_resend or operation.cause == NOT_FOUND


def may_make_page(operation: Operation, found: Outcome, capabilities: Capabilities, at: datetime) -> bool:
    """Decide whether a look-up allows making the PSP's page: under its own key, so it is made once inside the window.

    Where the PSP may have forgotten the key, only when a look-up long enough before found nothing either (A5, A14).
    """
    if found.kind is not OutcomeKind.NOT_FOUND or not operation.intent.is_hosted:
        return False
    is_believed = not capabilities.look_up_before_resend or operation.cause == NOT_FOUND
    return is_believed and window_is_open(operation.intent, capabilities, at)


def mismatch_of(intent: Intent, outcome: Outcome) -> str | None:
    """Say how an answer differs from what was asked (hazard A15); None when it is about our charge.

    An approval must name amount, currency and reference; anything it names must be ours.
    """
    asked: dict[str, object] = {
        "amount_minor": intent.amount_minor,
        "currency": intent.currency,
        "reference": intent.reference,
    }
    differing = [
        f"{name} {getattr(outcome, name)!r} instead of {wanted!r}"
        for name, wanted in asked.items()
        if getattr(outcome, name) != wanted
        and (getattr(outcome, name) is not None or outcome.kind is OutcomeKind.APPROVED)
    ]
    if outcome.is_live is not None and outcome.is_live is not (intent.mode is Mode.LIVE):
        differing.append(f"live={outcome.is_live} for a {intent.mode} charge")
    # On a hosted page the buyer's charge has an id of its own; the page's is what we know.
    is_other = outcome.provider_reference not in (None, intent.provider_reference) and not intent.is_hosted
    if intent.provider_reference is not None and is_other:
        differing.append(f"provider_reference {outcome.provider_reference!r} instead of {intent.provider_reference!r}")
    return ", ".join(differing) or None


def contradiction_of(operation: Operation, outcome: Outcome) -> str | None:
    """Say what an answer would undo that cannot be undone here: a payout paid after all, once the seller has it back.

    Taking it from his balance again could leave that below zero, which no payout may (hazard D9): a person must look.
    """
    is_too_late = operation.payout_status is PayoutStatus.FAILED and outcome.kind is OutcomeKind.APPROVED
    return "paid after all, though it was booked as failed and the seller has his balance back" if is_too_late else None


class _Answer(NamedTuple):
    """What asking has brought. `was_sent`: money may have moved by now. `is_held_back`: see Postponement."""

    operation: Operation
    outcome: Outcome
    was_sent: bool
    is_held_back: bool = False


class Executor:
    """Runs operations: the ones a request has just committed, and the ones that are due or were left behind."""

    def __init__(
        self,
        *,
        clock: Clock,
        payments: Payments,
        payouts: Payouts,
        operations: Operations,
        providers: Mapping[str, Provider],
        policy: RetryPolicy,
        metrics: Metrics,
        breakers: Mapping[str, Breaker] | None = None,
        recovery_in_flight: int = 200,
        dice: random.Random | None = None,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._clock = clock
        self._failpoints = failpoints
        self._payments = payments
        self._payouts = payouts
        self._operations = operations
        self._providers = providers
        self._policy = policy
        self._metrics = metrics
        self._breakers = breakers or {}
        self._recovery_in_flight = recovery_in_flight
        self._recovering: Counter[str] = Counter()
        self._dice = dice or random.SystemRandom()
        self._running: set[asyncio.Task[list[Outcome | None]]] = set()
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._silent: set[str] = set()  # providers whose silence was told of
        self._quiet_until: dict[str, datetime] = {}

    @property
    def in_flight(self) -> int:
        """How many requests' worth of operations this process is running now."""
        return len(self._running)

    def start(self, operations: Sequence[Operation]) -> "asyncio.Task[list[Outcome | None]]":
        """Run operations in a task of their own: whoever asked may go away, the work goes on (hazard A17)."""
        task = asyncio.create_task(self._run_all(operations))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[list[Outcome | None]]") -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # whoever waits for it hears it too, but often nobody does
            log_trouble(log, "work_left_to_its_lease", error)

    async def _run_all(self, operations: Sequence[Operation]) -> list[Outcome | None]:
        if len(operations) == 1:
            return [await self.run(operations[0])]
        return list(await asyncio.gather(*[self.run(operation) for operation in operations]))

    async def run(self, operation: Operation) -> Outcome | None:
        """Carry one leased operation as far as it goes now. Returns the decision that was booked, else None.

        Calls the PSP outside any transaction. An error of our own is silence like any other: UNKNOWN, asked again.
        """
        await self._failpoints.reach(Failpoint.RUN_STARTED)
        provider = self._providers.get(operation.provider)
        if provider is None:
            unsent = Outcome(kind=OutcomeKind.NOT_SENT, cause=f"provider {operation.provider} is not configured here")
            await self._postpone(_Answer(operation, unsent, operation.sent_before))
            return None
        try:
            answer = await self._ask(provider, operation)
        except Exception as error:  # noqa: BLE001 - whatever it is, the PSP may have heard us
            log_trouble(log, "operation_failed", error, operation=operation.intent.reference)
            silence = Outcome(kind=OutcomeKind.UNKNOWN, cause=f"gateway error: {type(error).__name__}")
            answer = _Answer(operation, silence, was_sent=True)
        return await self._settle(answer)

    async def settle(self, operation: Operation, outcome: Outcome) -> Outcome | None:
        """Do what somebody else's news means for an operation that this process holds, like an answer to `run`.

        Unasked news of the provider's, where the outcome does not say what it came by. Returns what was booked.
        """
        if outcome.told_by is None:
            outcome = msgspec.structs.replace(outcome, told_by=ToldBy.WEBHOOK)
        return await self._settle(_Answer(operation, outcome, was_sent=True))

    async def _settle(self, answer: _Answer) -> Outcome | None:
        """Book an answer, put it back, or refuse it: the one way for all of them. Returns what was booked."""
        await self._failpoints.reach(Failpoint.SETTLE_STARTED)
        operation, outcome = answer.operation, answer.outcome
        difference = mismatch_of(operation.intent, outcome) or contradiction_of(operation, outcome)
        if difference is not None:
            await self._refuse(operation, outcome, difference)
        elif not outcome.kind.is_definite:
            await self._postpone(answer)
        elif await self._book(answer):
            if operation.is_joint:
                await self._failpoints.reach(Failpoint.JOINT_BEFORE_RECOVERY)
                await self.recover_once()  # what this decision made due: the others' captures or voids
            return outcome
        else:
            self._metrics.fenced.inc()
        return None

    async def _book(self, answer: _Answer) -> bool:
        """Book a decision; one that the books refuse by their own rules is asked about again, and lost on nobody."""
        operation, outcome = answer.operation, answer.outcome
        await self._failpoints.reach(Failpoint.APPLY_BEFORE_COMMIT)
        try:
            if operation.intent.kind is OperationKind.PAYOUT:
                is_booked = await self._payouts.apply(operation, outcome)
            else:
                is_booked = await self._payments.apply(operation, self._with_life(operation, outcome))
        except asyncpg.CheckViolationError as error:
            log.warning("decision_refused", operation=operation.intent.reference, error=str(error))
            cause = f"the decision could not be booked: {error}"[:300]
            unbooked = Outcome(kind=OutcomeKind.UNKNOWN, cause=cause, told_by=outcome.told_by)
            await self._postpone(answer._replace(outcome=unbooked))
            return False
        await self._failpoints.reach(Failpoint.APPLY_AFTER_COMMIT)
        return is_booked

    def _with_life(self, operation: Operation, outcome: Outcome) -> Outcome:
        """Say until when an authorization lives: the PSP's word, else what is usual there."""
        if operation.intent.kind is not OperationKind.AUTHORIZE or outcome.expires_at is not None:
            return outcome
        life = self._providers[operation.provider].capabilities.authorization_life
        return msgspec.structs.replace(outcome, expires_at=self._clock.now() + life)

    async def _ask(self, provider: Provider, operation: Operation) -> _Answer:
        """Take the steps the gate allows."""
        step = next_step(operation, provider.capabilities, self._clock.now())
        if step is Step.LOOK_UP:
            return await self._look_up_first(provider, operation)
        if (pause := self._pause_of(provider)) is not None:
            unsent = Outcome(kind=OutcomeKind.NOT_SENT, cause=CIRCUIT_OPEN, retry_after=pause)
            return _Answer(operation, unsent, operation.sent_before, is_held_back=True)
        if step is Step.REGISTER:
            return await self._register_and_send(provider, operation)
        return await self._send(provider, operation)

    async def _look_up_first(self, provider: Provider, operation: Operation) -> _Answer:
        """Ask what became of it, and send where that allows it.

        While the provider's circuit is open the sending is held back, and what the look-up said is kept (hazard F6).
        """
        await self._failpoints.reach(Failpoint.LOOK_UP_BEFORE_CALL)
        found = await self._timed(provider, "look_up", operation.intent)
        await self._failpoints.reach(Failpoint.LOOK_UP_AFTER_CALL)
        found = _as_found(found, provider.capabilities)
        if mismatch_of(operation.intent, found) is not None:
            return _Answer(operation, found, was_sent=True)
        at = self._clock.now()
        makes_page = may_make_page(operation, found, provider.capabilities, at)
        if not makes_page and not may_send_after(operation, found, provider.capabilities, at):
            return _Answer(operation, found, was_sent=True)
        if (pause := self._pause_of(provider)) is not None:
            waiting = msgspec.structs.replace(found, retry_after=max(pause, found.retry_after or pause))
            return _Answer(operation, waiting, was_sent=True, is_held_back=True)
        if not makes_page:
            return await self._send(provider, operation, found)
        # The "not found" that allows this page says nothing about what comes of it, also if we die on the way (A14).
        if not await self._mark(operation, found):
            return _taken_over(operation)
        return await self._register_and_send(provider, operation)

    def _pause_of(self, provider: Provider) -> timedelta | None:
        """Say how long a sending must wait because the provider's circuit is open; None when it may go."""
        breaker = self._breakers.get(provider.name)
        return None if breaker is None or breaker.may_send() else breaker.wait()

    async def _register_and_send(self, provider: Provider, operation: Operation) -> _Answer:
        await self._failpoints.reach(Failpoint.REGISTER_BEFORE_CALL)
        registered = await self._timed(provider, "register", operation.intent)
        await self._failpoints.reach(Failpoint.REGISTER_AFTER_CALL)
        reference = registered.provider_reference
        if operation.intent.is_hosted:
            return _Answer(operation, registered, registered.kind is not OutcomeKind.NOT_SENT)
        if registered.kind.is_definite or reference is None:
            return _Answer(operation, registered, was_sent=False)
        difference = mismatch_of(operation.intent, registered)
        if difference is not None or not await self._keep_reference(operation, reference):
            return _Answer(operation, registered, was_sent=False)
        intent = msgspec.structs.replace(operation.intent, provider_reference=reference)
        return await self._send(provider, msgspec.structs.replace(operation, intent=intent))

    async def _keep_reference(self, operation: Operation, reference: str) -> bool:
        await self._failpoints.reach(Failpoint.REGISTER_BEFORE_COMMIT)
        is_kept = await self._operations.register(operation, reference)
        await self._failpoints.reach(Failpoint.REGISTER_AFTER_COMMIT)
        return is_kept

    async def _mark(self, operation: Operation, found: Outcome | None) -> bool:
        await self._failpoints.reach(Failpoint.SEND_BEFORE_MARK)
        is_ours = await self._operations.mark_sending(operation, found)
        await self._failpoints.reach(Failpoint.SEND_AFTER_MARK)
        return is_ours

    async def _send(self, provider: Provider, operation: Operation, found: Outcome | None = None) -> _Answer:
        """Send it. `found`: what the look-up before it said."""
        first_sent_at = operation.intent.first_sent_at
        # Committed just now, under a lease that still holds: nothing to ask. A process that slept in between asks, and
        # every later attempt tells that it sends.
        is_young = first_sent_at is not None and self._clock.now() - first_sent_at < self._operations.lease
        is_marked = is_young and operation.cause is None and operation.attempt == 1
        if not is_marked and not await self._mark(operation, found):
            return _taken_over(operation)
        await self._failpoints.reach(Failpoint.SEND_BEFORE_CALL)
        outcome = await self._timed(provider, operation.intent.kind.value, operation.intent)
        await self._failpoints.reach(Failpoint.SEND_AFTER_CALL)
        return _Answer(operation, outcome, operation.sent_before or outcome.kind is not OutcomeKind.NOT_SENT)

    async def _timed(self, provider: Provider, call: str, intent: Intent) -> Outcome:
        started = perf_counter()
        ask = {"register": provider.register, "look_up": provider.look_up}.get(call, provider.send)
        outcome = await ask(intent)
        self._tell_of_reach(provider.name, outcome, is_sending=call != "look_up")
        self._metrics.provider_seconds[provider.name, call].observe(perf_counter() - started)
        self._metrics.operation_outcomes[provider.name, call, outcome.kind.value].inc()
        return outcome

    def _tell_of_reach(self, provider: str, outcome: Outcome, *, is_sending: bool) -> None:
        """Log when a provider stops answering and when it is back; its circuit hears of every sending.

        One that fails now and then is told of from time to time, not with each call; the metrics count them all.
        """
        is_silent = outcome.kind in (OutcomeKind.NOT_SENT, OutcomeKind.UNKNOWN) and outcome.provider_reference is None
        breaker = self._breakers.get(provider)
        if is_sending and breaker is not None and breaker.hear(is_silent=is_silent):
            self._metrics.circuit_open[provider].set(breaker.is_open)
            log.warning("provider_circuit", provider=provider, is_open=breaker.is_open)
        if is_silent and provider not in self._silent:
            now = self._clock.now()
            if now >= self._quiet_until.get(provider, now):
                self._silent.add(provider)
                self._quiet_until[provider] = now + _TOLD_EVERY
                log.warning("provider_gives_no_answer", provider=provider, cause=outcome.cause)
        elif not is_silent and provider in self._silent:
            self._silent.discard(provider)
            log.info("provider_answers_again", provider=provider)

    async def _postpone(self, answer: _Answer) -> None:
        """Put an undecided operation back: with a time for its next step, or for a person when the budget is spent."""
        operation, outcome = answer.operation, answer.outcome
        is_pending = outcome.kind is OutcomeKind.PENDING
        # What the PSP has accepted and decides later is no silence: one lost answer in between does not end the asking.
        waits_for_psp = is_pending or operation.status is OperationStatus.PENDING
        is_free = waits_for_psp or answer.is_held_back  # what was not even tried costs no retry
        is_spent = operation.tries + 1 >= self._policy.budget_attempts and not is_free
        pause = max(self._policy.pause(operation.attempt, self._dice.random()), outcome.retry_after or timedelta(0))
        if outcome.is_server_error:
            outcome = msgspec.structs.replace(outcome, cause=f"{SERVER_ERROR}{outcome.cause}")
        if is_spent:
            log.warning("operation_unresolved", operation=operation.intent.reference, cause=outcome.cause)
        if outcome.several and operation.intent.kind.starts_an_order and operation.cause != outcome.cause:
            await self._tell_of_several(operation, outcome)
        await self._failpoints.reach(Failpoint.POSTPONE_BEFORE_COMMIT)
        await self._put_back(
            Postponement(
                operation=operation,
                outcome=outcome,
                kind=_kind_of(operation, is_spent=is_spent, is_pending=is_pending),
                status=_status_of(is_spent=is_spent, is_pending=waits_for_psp),
                order_status=OrderStatus.PENDING if is_pending and operation.intent.kind.starts_an_order else None,
                due_at=None if is_spent else self._clock.now() + pause,
                was_sent=answer.was_sent,
                costs=not is_free,
                is_held_back=answer.is_held_back,
            )
        )
        await self._failpoints.reach(Failpoint.POSTPONE_AFTER_COMMIT)

    async def _tell_of_several(self, operation: Operation, outcome: Outcome) -> None:
        """Tell of each charge under our one reference: an alert until a person has refunded all but one (hazard A8).

        Before it is put back, so that a death in between is told twice rather than never.
        """
        difference = f"{outcome.cause} under our reference: {', '.join(outcome.several)}"
        log.error("order_charged_twice", operation=operation.intent.reference, difference=difference)
        for reference in outcome.several:
            words = {"type": "look-up", "difference": difference, "provider_reference": reference}
            body = {"provider": operation.provider, **words}
            await self._operations.tell(operation, EventKind.ORDER_CHARGED_TWICE, body)

    async def _refuse(self, operation: Operation, outcome: Outcome, difference: str) -> None:
        """Post nothing for an answer about another amount, currency or object: it is an incident for a person."""
        self._metrics.answers_refused.inc()
        log.error("answer_refused", operation=operation.intent.reference, difference=difference)
        await self._failpoints.reach(Failpoint.REFUSE_BEFORE_COMMIT)
        await self._put_back(
            Postponement(
                operation=operation,
                outcome=msgspec.structs.replace(outcome, cause=ANSWER_REFUSED + difference, provider_reference=None),
                kind=EventKind.OPERATION_ANSWER_REFUSED,
                status=OperationStatus.UNRESOLVED,
                order_status=None,
                due_at=None,
                was_sent=True,
            )
        )
        await self._failpoints.reach(Failpoint.REFUSE_AFTER_COMMIT)

    async def _put_back(self, postponement: Postponement) -> None:
        if not await self._operations.postpone(postponement):
            self._metrics.fenced.inc()

    async def recover_once(self) -> int:
        """Claim what is due and start it. Returns how many operations were claimed.

        Of each provider no more than a few are under way at once: what one that hangs leaves undone waits in the
        database, in order of age, and keeps nobody else's waiting (hazard F7).
        """
        await self._failpoints.reach(Failpoint.RECOVERY_BEFORE_CLAIM)
        room = {name: self._recovery_in_flight - busy for name, busy in self._recovering.items()}
        claimed = await self._operations.claim(self._recovery_in_flight, room)
        await self._failpoints.reach(Failpoint.RECOVERY_BEFORE_START)
        for operation in claimed:
            self._recovering[operation.provider] += 1
            self.start([operation]).add_done_callback(partial(self._recovered, operation.provider))
        return len(claimed)

    def _recovered(self, provider: str, _: "asyncio.Task[list[Outcome | None]]") -> None:
        self._recovering[provider] -= 1

    async def recover(self, interval: timedelta) -> None:
        """Claim due work until stopped; trouble with the database is waited out."""

        async def claim() -> bool:
            self._woken.clear()
            return await self.recover_once() >= self._recovery_in_flight

        await until_stopped(claim, interval, self._stopping, log=log, trouble="recovery_failed", woken=self._woken)

    def wake(self) -> None:
        """Let `recover` look for due work now, for there is some, and not when its interval is over."""
        self._woken.set()

    def stop_claiming(self) -> None:
        """Take over no more work; what is running goes on."""
        self._stopping.set()
        self._woken.set()

    async def stop(self, grace: timedelta) -> None:
        """Stop claiming, let what is in flight finish, give the rest back (hazard F12).

        What is still at a PSP after the grace keeps its lease, until it runs out or this process is seen to be gone.
        """
        self.stop_claiming()
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace.total_seconds())
        if not self._running:
            await self._failpoints.reach(Failpoint.STOP_BEFORE_RELEASE)
            await self._operations.release()
            await self._failpoints.reach(Failpoint.STOP_AFTER_RELEASE)


def _as_found(outcome: Outcome, capabilities: Capabilities) -> Outcome:
    """Take an answer as a look-up's; of one that found nothing, the next is worth asking for once the lag is over."""
    if outcome.kind is not OutcomeKind.NOT_FOUND:
        return msgspec.structs.replace(outcome, told_by=ToldBy.LOOK_UP)
    evidence, lag = outcome.evidence or outcome.cause, capabilities.look_up_lag
    return msgspec.structs.replace(outcome, cause=NOT_FOUND, evidence=evidence, retry_after=lag, told_by=ToldBy.LOOK_UP)


def _taken_over(operation: Operation) -> _Answer:
    unsent = Outcome(kind=OutcomeKind.NOT_SENT, cause="another process took the operation over")
    return _Answer(operation, unsent, operation.sent_before)


def _kind_of(operation: Operation, *, is_spent: bool, is_pending: bool) -> EventKind:
    if is_spent:
        return EventKind.OPERATION_UNRESOLVED
    if not is_pending:
        return EventKind.OPERATION_RESCHEDULED
    return EventKind.ORDER_PENDING if operation.intent.kind.starts_an_order else EventKind.OPERATION_PENDING


def _status_of(*, is_spent: bool, is_pending: bool) -> OperationStatus:
    if is_spent:
        return OperationStatus.UNRESOLVED
    return OperationStatus.PENDING if is_pending else OperationStatus.OPEN
