"""The simulation can fail: each of these breaks one line of the money path, and the judge must say what came of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from tests.simulation.judge import Fault
from tests.simulation.psp import STORMY
from tests.simulation.test_simulation import play
from tests.simulation.world import Trouble

from coatcheck import executor
from coatcheck.executor import Executor
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Charge, Provider
from coatcheck.store import Store

SQL = Path(__file__).parents[2] / "src/coatcheck/sql/functions"
# One seed, and worse weather than elsewhere: the faults that a sabotage needs to do harm are sure to come.
SEED = 20_260_301
STORM = replace(STORMY, dial=msgspec.structs.replace(STORMY.dial, error_after_share=0.4, search_lag_ms=55_000))
TROUBLE = Trouble(life_calls=300, blackout_every=3, weather=STORM)

Patch = pytest.MonkeyPatch
_ask = Executor._ask
_timed = Executor._timed


def a_new_key_per_attempt(patch: Patch) -> None:
    async def timed(self: Executor, provider: Provider, call: str, charge: Charge) -> Outcome:
        charge = msgspec.structs.replace(charge, operation_id=uuid4()) if call == "charge" else charge
        return await _timed(self, provider, call, charge)

    patch.setattr(Executor, "_timed", timed)


def silence_is_a_failure(patch: Patch) -> None:
    async def ask(self: Executor, provider: Provider, operation: Operation) -> tuple[Operation, Outcome, bool]:
        asked, outcome, was_sent = await _ask(self, provider, operation)
        if outcome.kind is OutcomeKind.UNKNOWN:
            outcome = Outcome(kind=OutcomeKind.DECLINED, decline_code="timeout")
        return asked, outcome, was_sent

    patch.setattr(Executor, "_ask", ask)


def the_window_never_ends(patch: Patch) -> None:
    patch.setattr(executor, "window_is_open", lambda *_: True)


def not_found_is_believed_at_once(patch: Patch) -> None:
    patch.setattr(executor, "may_send_after", lambda _, found, *__: found.kind is OutcomeKind.NOT_FOUND)


def any_answer_is_ours(patch: Patch) -> None:
    patch.setattr(executor, "mismatch_of", lambda *_: None)


def nobody_recovers(patch: Patch) -> None:
    async def recover_once(_: Executor) -> int:
        return 0

    patch.setattr(Executor, "recover_once", recover_once)


def the_old_is_given_up(patch: Patch) -> None:
    """What is not decided at the third attempt is called a failure: FAILED by age."""

    async def ask(self: Executor, provider: Provider, operation: Operation) -> tuple[Operation, Outcome, bool]:
        if operation.attempt > 2:
            return operation, Outcome(kind=OutcomeKind.DECLINED, decline_code="expired"), True
        return await _ask(self, provider, operation)

    patch.setattr(Executor, "_ask", ask)


@pytest.mark.parametrize(
    ("sabotage", "remembers_errors", "fault"),
    [
        (a_new_key_per_attempt, True, Fault.CHARGED_TWICE),
        (silence_is_a_failure, True, Fault.FAILED_WHILE_CHARGED),
        (the_window_never_ends, True, Fault.CHARGED_TWICE),
        (not_found_is_believed_at_once, False, Fault.CHARGED_TWICE),
        (any_answer_is_ours, True, Fault.NEVER_SAID),
        (nobody_recovers, True, Fault.NOT_FINAL),
        (the_old_is_given_up, True, Fault.FAILED_WHILE_CHARGED),
    ],
)
async def test_a_sabotage_is_found(  # noqa: PLR0917 - pytest passes them by name
    store: Store,
    owner: asyncpg.Connection,
    monkeypatch: Patch,
    sabotage: Callable[[Patch], None],
    remembers_errors: bool,  # noqa: FBT001 - a column of the table above
    fault: Fault,
) -> None:
    sabotage(monkeypatch)
    verdict = (
        await play(store, owner, seed=SEED, checkouts=300, waves=6, remembers_errors=remembers_errors, trouble=TROUBLE)
    )[1]
    assert verdict.faults[fault]


async def test_F1_a_missing_fence_is_found(store: Store, owner: asyncpg.Connection) -> None:
    """Both fences: the lease's attempt number, and behind it the table of states."""
    text = (SQL / "030_apply_outcomes.sql").read_text("utf-8")
    for fence, hole in {
        "SELECT coalesce(array_agg(n), '{}') INTO won FROM taken;": (
            "SELECT array_agg(g.n) INTO won FROM generate_subscripts(g_attempt, 1) AS g (n);"
        ),
        "AND operation_may_become(o.status, g.status)": "",
        "AND order_may_become(o.status, g.status)": "",
    }.items():
        assert fence in text
        text = text.replace(fence, hole)
    await owner.execute(text)
    sleepy = Trouble(life_calls=5_000, weather=replace(STORM, hang=0.2))
    verdict = (await play(store, owner, seed=SEED, checkouts=300, waves=4, trouble=sleepy))[1]
    assert verdict.faults[Fault.LEDGER]
    assert verdict.faults[Fault.WALLET]
    assert verdict.faults[Fault.INVARIANT]


@pytest.mark.parametrize("remembers_errors", [True, False])
async def test_without_a_sabotage_nothing_is_found(
    store: Store,
    owner: asyncpg.Connection,
    remembers_errors: bool,  # noqa: FBT001 - as above
) -> None:
    verdict = (
        await play(store, owner, seed=SEED, checkouts=300, waves=6, remembers_errors=remembers_errors, trouble=TROUBLE)
    )[1]
    assert not verdict.faults, verdict.findings
