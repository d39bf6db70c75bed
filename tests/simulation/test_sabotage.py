"""The simulation can fail: each of these breaks one line of the money path, and the judge must say what came of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from tests.simulation import plan
from tests.simulation.conftest import Arena
from tests.simulation.judge import Fault
from tests.simulation.plan import Manner
from tests.simulation.play import play
from tests.simulation.psp import STORMY
from tests.simulation.world import Running, Trouble, World

from coatcheck import executor
from coatcheck.executor import Executor, Step, _Answer
from coatcheck.operations import Operation
from coatcheck.payments import effects
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent, Provider
from coatcheck.providers.simulated import SimulatedProvider
from coatcheck.providers.simulated_answers import page_outcome
from coatcheck.states import OperationStatus
from coatcheck.store import Store

SQL = Path(__file__).parents[2] / "src/coatcheck/sql/functions"
# Worse weather than elsewhere, so that the faults that a sabotage needs to do harm come often. Whether they meet also
# depends on the order in which statements reach PostgreSQL: what one seed does not show, another one does.
SEEDS = range(20_260_301, 20_260_307)
STORM = replace(
    STORMY, returned=0.1, dial=msgspec.structs.replace(STORMY.dial, error_after_share=0.4, search_lag_ms=55_000)
)
TROUBLE = Trouble(life_calls=300, blackout_every=3, weather=STORM)

Patch = pytest.MonkeyPatch
_next_step = executor.next_step
_ask = Executor._ask
_timed = Executor._timed


def a_new_key_per_attempt(patch: Patch) -> None:
    async def timed(self: Executor, provider: Provider, call: str, intent: Intent) -> Outcome:
        intent = msgspec.structs.replace(intent, operation_id=uuid4()) if call == "charge" else intent
        return await _timed(self, provider, call, intent)

    patch.setattr(Executor, "_timed", timed)


def silence_is_a_failure(patch: Patch) -> None:
    async def ask(self: Executor, provider: Provider, operation: Operation) -> _Answer:
        answer = await _ask(self, provider, operation)
        if answer.outcome.kind is OutcomeKind.UNKNOWN:
            return answer._replace(outcome=Outcome(kind=OutcomeKind.DECLINED, decline_code="timeout"))
        return answer

    patch.setattr(Executor, "_ask", ask)


def the_window_never_ends(patch: Patch) -> None:
    patch.setattr(executor, "window_is_open", lambda *_: True)


def not_found_is_believed_at_once(patch: Patch) -> None:
    patch.setattr(executor, "may_send_after", lambda _, found, *__: found.kind is OutcomeKind.NOT_FOUND)


def any_answer_is_ours(patch: Patch) -> None:
    patch.setattr(executor, "mismatch_of", lambda *_: None)
    patch.setitem(plan.TOKENS, Manner.USUAL, {"tok_approve": 0.8, "tok_wrong_amount": 0.1, "tok_wrong_reference": 0.1})


def nobody_recovers(patch: Patch) -> None:
    async def recover_once(_: Executor) -> int:
        return 0

    patch.setattr(Executor, "recover_once", recover_once)


def the_old_is_given_up(patch: Patch) -> None:
    """What is not decided at the third attempt is called a failure: FAILED by age."""

    async def ask(self: Executor, provider: Provider, operation: Operation) -> _Answer:
        if operation.attempt > 2:
            given_up = Outcome(kind=OutcomeKind.DECLINED, decline_code="expired")
            return _Answer(operation, given_up, was_sent=True)
        return await _ask(self, provider, operation)

    patch.setattr(Executor, "_ask", ask)


def a_release_is_forgotten(patch: Patch) -> None:
    patch.setattr(effects, "_release_legs", lambda *_: ())


def a_page_is_sent(patch: Patch) -> None:
    """The gate lets an order on a page be sent like a charge, instead of making the page and asking."""

    def step(operation: Operation, *given: Any) -> Step:
        return Step.SEND if operation.intent.is_hosted else _next_step(operation, *given)

    patch.setattr(executor, "next_step", step)


def every_order_has_a_page(patch: Patch) -> None:
    async def register(self: SimulatedProvider, intent: Intent) -> Outcome:
        raw = await self._post(self._pages_url, intent.body, intent.reference)
        return raw if isinstance(raw, Outcome) else page_outcome(raw, intent)

    patch.setattr(plan, "_HOSTED", 1.0)
    patch.setattr(SimulatedProvider, "register", register)


def what_was_reopened_is_sent(patch: Patch) -> None:
    """A refund that came back is asked about by sending it once more: the key brings the old answer again."""

    def step(operation: Operation, *given: Any) -> Step:
        return _next_step(msgspec.structs.replace(operation, status=OperationStatus.OPEN), *given)

    patch.setattr(executor, "next_step", step)


@pytest.mark.parametrize(
    ("sabotage", "remembers_errors", "fault"),
    [
        (a_release_is_forgotten, True, Fault.LEDGER),
        (a_page_is_sent, True, Fault.UNRESOLVED_TOO_SOON),
        (every_order_has_a_page, True, Fault.FAILED_WHILE_CHARGED),
        (what_was_reopened_is_sent, True, Fault.REFUNDED_OTHERWISE),
        (a_new_key_per_attempt, True, Fault.CHARGED_TWICE),
        (silence_is_a_failure, True, Fault.FAILED_WHILE_CHARGED),
        (the_window_never_ends, True, Fault.CHARGED_TWICE),
        (not_found_is_believed_at_once, False, Fault.CHARGED_TWICE),
        (any_answer_is_ours, True, Fault.NEVER_SAID),
        (nobody_recovers, True, Fault.NOT_FINAL),
        (the_old_is_given_up, True, Fault.FAILED_WHILE_CHARGED),
    ],
)
async def test_a_sabotage_is_found(
    arena: Arena,
    monkeypatch: Patch,
    sabotage: Callable[[Patch], None],
    remembers_errors: bool,  # noqa: FBT001 - a column of the table above
    fault: Fault,
) -> None:
    sabotage(monkeypatch)
    await find(arena, {fault}, checkouts=300, waves=6, remembers_errors=remembers_errors)


async def find(
    arena: Arena,
    faults: set[Fault],
    *,
    checkouts: int,
    waves: int,
    remembers_errors: bool = True,
    trouble: Trouble = TROUBLE,
    breaking: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> None:
    """Play seed after seed, each in a database of its own that is broken first, until every fault was found."""
    for seed in SEEDS:
        async with arena() as (store, owner):
            if breaking is not None:
                await breaking(owner)
            verdict = (
                await play(
                    store,
                    owner,
                    seed=seed,
                    checkouts=checkouts,
                    waves=waves,
                    remembers_errors=remembers_errors,
                    trouble=trouble,
                )
            )[1]
        faults = faults - set(+verdict.faults)
        if not faults:
            return
    pytest.fail(f"not found with any of {len(SEEDS)} seeds: {', '.join(sorted(faults))}")


async def break_sql(owner: asyncpg.Connection, file: str, holes: Mapping[str, str]) -> None:
    text = (SQL / file).read_text("utf-8")
    for line, hole in holes.items():
        assert line in text, line
        text = text.replace(line, hole)
    await owner.execute(text)


async def test_F1_a_missing_fence_is_found(arena: Arena) -> None:
    """Both fences: the lease's attempt number, and behind it the table of states."""
    holes = {
        "SELECT coalesce(array_agg(n), '{}') INTO won FROM taken;": (
            "SELECT array_agg(g.n) INTO won FROM generate_subscripts(g_attempt, 1) AS g (n);"
        ),
        "AND operation_may_become(o.status, g.status)": "",
        "AND order_may_become(o.status, g.status)": "",
    }

    async def break_fences(owner: asyncpg.Connection) -> None:
        await break_sql(owner, "030_apply_outcomes.sql", holes)

    sleepy = Trouble(life_calls=5_000, weather=replace(STORM, hang=0.2))
    faults = {Fault.LEDGER, Fault.WALLET, Fault.INVARIANT}
    await find(arena, faults, checkouts=300, waves=4, trouble=sleepy, breaking=break_fences)


async def test_D1_a_refund_without_its_reservation_is_found(arena: Arena) -> None:
    """The constraints behind it have to go, too."""

    async def take_what_was_not_reserved(owner: asyncpg.Connection) -> None:
        for behind in ("refunds_what_was_captured", "returns_its_own_commission"):
            await owner.execute(f"ALTER TABLE payment_order DROP CONSTRAINT payment_order_{behind}")
        await break_sql(
            owner, "050_requests.sql", {"= p.refund_reserved_minor + wanted_minor": "= p.refund_reserved_minor"}
        )

    faults = {Fault.ASKED_TOO_MUCH, Fault.INVARIANT}
    await find(arena, faults, checkouts=300, waves=6, breaking=take_what_was_not_reserved)


async def test_D4_captures_that_do_not_wait_for_one_another_are_found(arena: Arena) -> None:
    async def never_wait(owner: asyncpg.Connection) -> None:
        await break_sql(owner, "050_requests.sql", {"WHEN o.acting IS NOT NULL THEN 'busy'": ""})

    await find(arena, {Fault.ASKED_TOO_MUCH}, checkouts=500, waves=6, breaking=never_wait)


async def test_a_checkout_that_is_decided_without_its_lock_is_found(arena: Arena, monkeypatch: Patch) -> None:
    """Two orders become reserved at once, in two processes: neither sees the other, and nobody captures."""
    lock = "PERFORM 1 FROM payment AS p WHERE p.payment_id = ANY (payment_ids) ORDER BY p.payment_id FOR UPDATE;"
    decided = "    FOR moved IN  -- one statement per kind"

    async def unlock(owner: asyncpg.Connection) -> None:
        await break_sql(owner, "050_requests.sql", {lock: "", decided: f"    PERFORM pg_sleep(0.15);\n{decided}"})

    async def spread(world: World, _: Running, operations: Sequence[Operation]) -> None:
        world._living()
        gateways = [running.gateway for running in world._gateways]
        await world._done_or_hanging(
            [gateways[place % len(gateways)].executor.start([each]) for place, each in enumerate(operations)]
        )

    monkeypatch.setattr(plan, "_MANNERS", {Manner.TOGETHER: 1.0})
    monkeypatch.setattr(World, "_run_to_the_end", spread)
    await find(arena, {Fault.LEFT_LYING}, checkouts=150, waves=4, breaking=unlock)


@pytest.mark.parametrize("remembers_errors", [True, False])
async def test_without_a_sabotage_nothing_is_found(
    store: Store,
    owner: asyncpg.Connection,
    remembers_errors: bool,  # noqa: FBT001 - as above
) -> None:
    verdict = (
        await play(
            store, owner, seed=SEEDS[0], checkouts=300, waves=6, remembers_errors=remembers_errors, trouble=TROUBLE
        )
    )[1]
    assert not verdict.faults, verdict.findings
