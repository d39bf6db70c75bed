"""Recovery: books that were restored from a backup are made whole from what the PSPs have (hazard G16).

The door is closed by a row in the database, and opened when every PSP has told all that it has. docs/recovery.md is the
drill, step by step.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.disputes import Disputes, NewsOutcome
from coatcheck.executor import NOT_FOUND, Executor
from coatcheck.ids import OPERATION, parse_id, random_id
from coatcheck.operations import Operation, Operations, Standing
from coatcheck.providers.disputes import DisputeNews, DisputeRegistry
from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import Found, Registry
from coatcheck.reconciliation.adoption import Adopted, Adoption, as_it_began
from coatcheck.reconciliation.payout_adoption import PayoutAdoption
from coatcheck.states import OperationKind, OperationStatus, OrderStatus
from coatcheck.store import Store

# How long before the given time a backup may know nothing of: clocks differ, and a charge was on its way.
MARGIN: Final = timedelta(hours=1)
_PASSES_MOST: Final = 10
_AT_ONCE: Final = 100
_IS_USED: Final = """
SELECT EXISTS (SELECT FROM operation WHERE provider = $1)
    OR EXISTS (SELECT FROM payout_destination WHERE provider = $1)
"""
_WHY: Final = "found at the provider after a restore"
# A charge must be here before what was done with it, and a void ends what may still be captured.
_ORDER_OF_ACTS: Final = {OperationKind.CAPTURE: 0, OperationKind.VOID: 1, OperationKind.REFUND: 2}
_LOUDEST: Final = (OutcomeKind.APPROVED, OutcomeKind.PENDING, OutcomeKind.UNKNOWN, OutcomeKind.DECLINED)

log = structlog.get_logger("coatcheck.recovery")


class RecoveryError(Exception):
    """The books could not be made whole; the door stays closed. The text says what to do."""


class Strange(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a PSP has and the books could not take over: a person must look. No currency: unreadable."""

    provider: str
    provider_reference: str
    reference: str | None
    amount_minor: int
    currency: str
    why: Adopted


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery did. `listed`: what the PSPs have since then; `adopted` of it was missing here.

    `asked`: operations of before whose state the PSPs were asked for. `disputes`: those that were news here.
    """

    recovery_id: UUID
    since: datetime
    listed: int
    adopted: int
    asked: int
    disputes: int
    strange: list[Strange]


class Recovery:
    """Makes restored books whole. `provider`: whom new payments go to; others only where the books know of them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        operations: Operations,
        executor: Executor,
        adoption: Adoption,
        payout_adoption: PayoutAdoption,
        disputes: Disputes,
        provider: str,
    ) -> None:
        self._store = store
        self._clock = clock
        self._operations = operations
        self._executor = executor
        self._adoption = adoption
        self._payout_adoption = payout_adoption
        self._disputes = disputes
        self._provider = provider

    async def run(self, since: datetime, by: str) -> RecoveryReport:
        """Close the door, adopt what the PSPs have made since, bring what is older to their state, open the door.

        Posts what it adopts. May be run again after it broke off: it goes on, and adopts nothing twice. Raises
        RecoveryError and NotListedError, and then the door stays closed.
        """
        names = await self._in_use()
        recovery_id, since = await self._begin(names, since, by)
        asked, adopted, seen, strange = set[UUID](), 0, 0, list[Strange]()
        for _ in range(_PASSES_MOST):
            before = adopted, len(asked)
            lists = {name: await self._listed(name, since - MARGIN) for name in names}
            # First, for a capture or refund finds its order by the charge, and that may be among the undecided. Again
            # in each pass: a joint checkout whose charges are adopted has its captures made.
            undecided = await self._undecided()
            await self._ask(undecided, _captured(lists))
            asked |= set(undecided)
            seen, strange = 0, []
            for name, found in lists.items():
                seen += len(found)
                news, odd = await self._compare(name, found, by)
                adopted += news
                strange += odd
            if (adopted, len(asked)) == before:
                break
        else:
            raise RecoveryError("the provider's list does not end growing: stop whoever still charges there, run again")
        disputes = 0
        for name in names:  # last: a dispute is of a charge that is here
            moved, odd = await self._take_disputes(name, since - MARGIN)
            disputes += moved
            strange += odd
        counted = {"listed": seen, "adopted": adopted, "asked": len(asked), "disputes": disputes}
        await self._finish(recovery_id, by, **counted, strange=len(strange))
        return RecoveryReport(recovery_id=recovery_id, since=since, **counted, strange=strange)

    async def _in_use(self) -> list[str]:
        """Name the providers that may have charged or paid for us: an adapter never used has nobody to ask."""
        return [
            name
            for name in self._adoption.providers
            if name == self._provider or await self._store.pool.fetchval(_IS_USED, name)
        ]

    async def _begin(self, names: Sequence[str], since: datetime, by: str) -> tuple[UUID, datetime]:
        unlisted = [name for name in names if not isinstance(self._adoption.providers[name], Registry)]
        if unlisted:
            raise RecoveryError(f"{', '.join(unlisted)} gives no list of what it has: compare its dashboard by hand")
        (row,) = await self._store.pool.fetch(
            "SELECT * FROM begin_recovery($1, $2, $3, $4)", self._clock.now(), random_id(), since, by
        )
        log.warning("recovery_begun", since=str(row["since"]), by=by)
        return row["recovery_id"], row["since"]

    async def _finish(self, recovery_id: UUID, by: str, **counted: int) -> None:
        told = msgspec.json.encode(counted).decode()
        await self._store.pool.fetchval(
            "SELECT finish_recovery($1, $2, $3, $4::json)", self._clock.now(), recovery_id, by, told
        )
        log.warning("recovery_finished", by=by, **counted)

    async def _listed(self, name: str, since: datetime) -> list[Found]:
        """Read a PSP's whole list, from its beginning to its end."""
        provider = self._adoption.providers[name]
        if not isinstance(provider, Registry):  # as _begin has made sure
            return []
        found: list[Found] = []
        following: str | None = None
        while True:
            page = await provider.list_since(since, following)
            found += page.found
            if page.following is None:
                return sorted(found, key=lambda each: each.made_at)
            following = page.following

    async def _compare(self, name: str, found: Sequence[Found], by: str) -> tuple[int, list[Strange]]:
        """Hold a PSP's list against the books; returns how much was adopted, and what could not be."""
        charges = [each for each in found if each.is_first]
        acts = sorted(
            [each for each in found if each.kind in _ORDER_OF_ACTS],
            key=lambda each: (_ORDER_OF_ACTS[each.kind or OperationKind.CAPTURE], each.made_at),
        )
        payouts = [each for each in found if each.kind is OperationKind.PAYOUT]
        verdicts = await self._adopt_charges(name, charges, by)
        verdicts |= await self._adopt_acts(name, acts, by)
        # Last, for what they are paid from are charges, less what was given back.
        verdicts |= await self._adopt_payouts(name, payouts, by)
        strange = [
            Strange(
                provider=name,
                provider_reference=each.provider_reference,
                reference=each.reference,
                amount_minor=each.amount_minor,
                currency=each.currency,
                why=verdicts[_key_of(each)],
            )
            for each in (*charges, *acts, *payouts)
            if not verdicts.get(_key_of(each), Adopted.EXISTS).is_here
        ]
        return sum(each is Adopted.ADOPTED for each in verdicts.values()), strange

    async def _adopt_charges(
        self, name: str, charges: Sequence[Found], by: str
    ) -> dict[tuple[str, OperationKind | None], Adopted]:
        verdicts: dict[tuple[str, OperationKind | None], Adopted] = {}
        speaking = _speaking(charges)
        for start in range(0, len(speaking), _AT_ONCE):
            part = speaking[start : start + _AT_ONCE]
            known = await self._known(part)
            await self._bring(part, known)
            missing = [each for each in part if _operation_id(each) not in known]
            said = await self._adoption.adopt_charges(name, missing, by=by, why=_WHY)
            verdicts |= {(reference, None): word for reference, word in said.items()}
            verdicts |= {_key_of(each): Adopted.CONFLICT for each in part if _is_second(each, known)}
        return verdicts | {_key_of(each): Adopted.CONFLICT for each in _twice(charges, speaking)}

    async def _adopt_acts(
        self, name: str, acts: Sequence[Found], by: str
    ) -> dict[tuple[str, OperationKind | None], Adopted]:
        verdicts: dict[tuple[str, OperationKind | None], Adopted] = {}
        known = await self._known(acts)
        await self._bring(acts, known)
        missing = [each for each in acts if _operation_id(each) not in known and _has_happened(each)]
        orders = await self._adoption.orders_of(name, [each.charge_reference or "" for each in missing])
        for each in missing:
            order = orders.get(each.charge_reference or "")
            said = await self._adoption.adopt_action(name, each, order, by=by, why=_WHY)
            # What a void had ended was adopted as ended already: there is nothing left for it to do.
            is_done = said is Adopted.NOT_POSSIBLE and each.kind is OperationKind.VOID
            verdicts[_key_of(each)] = Adopted.EXISTS if is_done else said
        return verdicts

    async def _adopt_payouts(
        self, name: str, payouts: Sequence[Found], by: str
    ) -> dict[tuple[str, OperationKind | None], Adopted]:
        """Adopt what is missing, failed ones too: a shop was told of them, and asks again with the same key."""
        speaking = _speaking(payouts)
        known = await self._known(speaking)
        await self._bring(speaking, known)
        missing = [each for each in speaking if _operation_id(each) not in known]
        said = await self._payout_adoption.adopt(name, missing, by=by, why=_WHY)
        verdicts = {_key_of(each): said[each.provider_reference] for each in missing}
        paid_twice = [*_twice(payouts, speaking), *[each for each in speaking if _is_second(each, known)]]
        return verdicts | {_key_of(each): Adopted.CONFLICT for each in paid_twice}

    async def _take_disputes(self, name: str, since: datetime) -> tuple[int, list[Strange]]:
        """Book how the disputes stand that a PSP has had since; returns how many were news, and what fits nothing here.

        One of a charge that is none of ours is left alone, as the charge is.
        """
        provider, at = self._adoption.providers[name], self._clock.now()
        if not (provider.capabilities.disputes and isinstance(provider, DisputeRegistry)):
            return 0, []
        moved, strange, following = 0, list[Strange](), None
        while True:
            page = await provider.list_disputes_since(since, at, following)
            outcomes = await self._disputes.apply(page.news)
            moved += outcomes.count(NewsOutcome.APPLIED)
            strange += [
                _strange_dispute(news)
                for news, outcome in zip(page.news, outcomes, strict=True)
                if outcome in (NewsOutcome.REFUSED, NewsOutcome.NOT_CAPTURED) or not news.is_whole
            ]
            following = page.following
            if following is None:
                return moved, strange

    async def _known(self, found: Sequence[Found]) -> dict[UUID, Standing]:
        return await self._operations.stand([each for each in map(_operation_id, found) if each is not None])

    async def _bring(self, found: Sequence[Found], known: dict[UUID, Standing]) -> None:
        """Ask about what is here and not as the PSP has it: the PSP's answer decides, not its list."""
        differing = [
            operation_id
            for each in found
            if (operation_id := _operation_id(each)) in known and _differs(each, known[operation_id])
        ]
        reopened = await self._operations.reopen(differing, _WHY) if differing else []
        if reopened:
            await self._executor.start(reopened)

    async def _undecided(self) -> list[UUID]:
        """Name what is undecided here; each may have been sent since the backup."""
        rows = await self._store.pool.fetch("SELECT * FROM doubt_operations($1)", self._clock.now())
        return [row[0] for row in rows]

    async def _ask(self, undecided: Sequence[UUID], captured: Collection[str]) -> None:
        """Ask the PSPs about what was undecided at the backup. Nothing is sent."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(operation: Operation) -> None:
            async with gate:
                await self._settle(operation, captured)

        await asyncio.gather(*[ask(each) for each in await self._operations.claim_named(undecided)])

    async def _settle(self, operation: Operation, captured: Collection[str]) -> None:
        provider = self._adoption.providers.get(operation.provider)
        if provider is None:
            return  # its lease runs out, and the executor says what is wrong
        outcome = await self._adoption.ask(operation.provider, operation.intent)
        outcome = as_it_began(operation.intent, outcome, was_captured=outcome.provider_reference in captured)
        if outcome.kind is OutcomeKind.NOT_FOUND:
            lag = provider.capabilities.look_up_lag
            outcome = msgspec.structs.replace(outcome, cause=NOT_FOUND, retry_after=lag)
        await self._executor.settle(operation, outcome)


def _strange_dispute(news: DisputeNews) -> Strange:
    return Strange(
        provider=news.provider,
        provider_reference=news.provider_reference,
        reference=news.reference,
        amount_minor=news.amount_minor or 0,
        currency=news.currency or "",
        why=Adopted.NOT_POSSIBLE if news.is_whole else Adopted.UNCLEAR,
    )


def _captured(lists: Mapping[str, Sequence[Found]]) -> set[str]:
    """Name the charges of which something was captured since the backup."""
    captures = [each for found in lists.values() for each in found if each.kind is OperationKind.CAPTURE]
    return {each.charge_reference or "" for each in captures if each.status is OutcomeKind.APPROVED}


def _operation_id(found: Found) -> UUID | None:
    return parse_id(OPERATION, found.reference or "")


def _key_of(found: Found) -> tuple[str, OperationKind | None]:
    return found.provider_reference, found.kind


def _speaking(charges: Sequence[Found]) -> list[Found]:
    """Of several charges under one reference take the one that says most about money; the first of equals."""
    best: dict[str, Found] = {}
    for each in charges:
        if each.status not in _LOUDEST:
            continue
        known = best.get(each.reference or each.provider_reference)
        if known is None or _LOUDEST.index(each.status) < _LOUDEST.index(known.status):
            best[each.reference or each.provider_reference] = each
    return list(best.values())


def _twice(found: Sequence[Found], speaking: Sequence[Found]) -> list[Found]:
    """List what took or paid money besides the one that speaks for its reference."""
    loud = {each.provider_reference for each in speaking}
    return [each for each in found if each.provider_reference not in loud and each.status is OutcomeKind.APPROVED]


def _is_second(found: Found, known: dict[UUID, Standing]) -> bool:
    """Whether it is another charge than the one that is here under the same reference (hazard A8)."""
    standing = known.get(_operation_id(found) or UUID(int=0))
    if standing is None or found.status is not OutcomeKind.APPROVED or standing.operation.intent.is_hosted:
        return False
    return standing.operation.intent.provider_reference not in (None, found.provider_reference)


def _has_happened(act: Found) -> bool:
    """Whether it did something, or a shop was told that it had not: a refund that failed is a refund all the same."""
    return act.status is not OutcomeKind.DECLINED or act.kind is OperationKind.REFUND


def _differs(found: Found, standing: Standing) -> bool:
    """Whether the PSP's list contradicts what was decided here. What is undecided is asked about anyway."""
    operation = standing.operation
    if not operation.status.is_decided:
        return False
    says = {OutcomeKind.APPROVED: OperationStatus.APPROVED, OutcomeKind.DECLINED: OperationStatus.DECLINED}
    said = says.get(found.status)
    if said in (None, operation.status):
        return False
    # An authorization that the PSP has ended is old news once the order says so, too.
    is_authorization = operation.intent.kind is OperationKind.AUTHORIZE
    return not is_authorization or said is OperationStatus.APPROVED or operation.order_status is OrderStatus.AUTHORIZED
