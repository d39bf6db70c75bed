"""Every failpoint and every fault: the money ends as if nothing had happened."""

import ast
import re
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from tests.failpoints.judging import play, protests_of
from tests.failpoints.scenarios import SCENARIOS
from tests.failpoints.stage import Fault
from tests.failpoints.table import ANYWHERE, AT, HOMES, makes_sense

from coatcheck.failpoints import CALM, Failpoint
from coatcheck.store import Store

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src/coatcheck"
# Reached every time that a gateway looks whether there is something to do.
_IDLE: Final = frozenset(
    {
        Failpoint.RECOVERY_BEFORE_CLAIM,
        Failpoint.RECOVERY_BEFORE_START,
        Failpoint.INBOX_BEFORE_CLAIM,
        Failpoint.UPKEEP_BEFORE_CLAIM,
        Failpoint.LATE_BEFORE_READ,
    }
)
# The others end a connection or a task where these end more.
_HARD: Final = (Fault.KILL, Fault.HANG, Fault.CUT_AFTER_COMMIT, Fault.ANSWER_LOST)


def reached_in(path: Path) -> list[str]:
    """List the failpoints that a module reaches, once per line that does."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return [
        call.args[0].attr
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "reach"
        and isinstance(call.args[0], ast.Attribute)
    ]


def test_every_failpoint_stands_at_exactly_one_line() -> None:
    reached = [name for path in SOURCE.rglob("*.py") for name in reached_in(path)]
    assert sorted(reached) == sorted(Failpoint.__members__)


def test_the_page_lists_every_failpoint_with_its_meaning_and_what_comes_next() -> None:
    text = (ROOT / "docs/failpoints.md").read_text("utf-8")
    listed = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.+?) \| (.+?) \| `(.+?)` \|$", text, flags=re.MULTILINE)
    assert listed == [
        (failpoint.value, failpoint.meaning, HOMES[failpoint].next.value, HOMES[failpoint].scenario)
        for failpoint in Failpoint
    ]


def test_there_are_enough_of_them_and_each_has_a_home_where_its_cells_make_sense() -> None:
    assert len(Failpoint) >= 40
    assert set(HOMES) == set(Failpoint)
    assert {fault for faults in AT.values() for fault in faults} | set(ANYWHERE) == set(Fault)
    for fault in Fault:
        assert any(makes_sense(fault, home.next) for home in HOMES.values())


async def test_what_nobody_has_armed_does_nothing() -> None:
    for failpoint in Failpoint:
        assert CALM.reach(failpoint) is CALM.reach(failpoint)
        await CALM.reach(failpoint)


async def test_without_faults_every_failpoint_is_reached_at_home_and_the_table_is_true(
    hasty_store: Store, owner: asyncpg.Connection
) -> None:
    for name, scenario in SCENARIOS.items():
        calm = await play(hasty_store, owner, scenario)
        assert not calm.protests, (name, calm.protests)
        here = {failpoint: home.next for failpoint, home in HOMES.items() if home.scenario == name}
        assert {failpoint: calm.reached.get((failpoint, 1)) for failpoint in here} == here


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(Fault))
async def test_F1_F12_F13_G6_every_failpoint_survives(
    hasty_store: Store, owner: asyncpg.Connection, fault: Fault
) -> None:
    calm = {name: await play(hasty_store, owner, scenario) for name, scenario in SCENARIOS.items()}
    protests = []
    for failpoint, home in HOMES.items():
        if not makes_sense(fault, home.next):
            continue
        faulty = await play(hasty_store, owner, SCENARIOS[home.scenario], (failpoint, 1), fault)
        cell = f"{failpoint} x {fault} ({home.scenario})"
        protests += protests_of(cell, faulty, calm[home.scenario])
        if not faulty.has_struck or (fault not in ANYWHERE and not faulty.has_cut):
            protests.append(f"{cell}: was never reached")
    assert not protests, "\n".join(protests)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
async def test_F1_F12_F13_G6_every_scenario_survives_at_its_last_passing(
    hasty_store: Store, owner: asyncpg.Connection, name: str
) -> None:
    """The same in every scenario, the last time that a failpoint is reached: at its capture, void, refund, look-up."""
    scenario = SCENARIOS[name]
    calm = await play(hasty_store, owner, scenario)
    counts = calm.counts()
    protests = []
    for (failpoint, number), what_is_next in calm.reached.items():
        is_of_the_matrix = number == 1 and HOMES[failpoint].scenario == name
        if failpoint in _IDLE or number != counts[failpoint] or is_of_the_matrix:
            continue
        for fault in _HARD:
            if makes_sense(fault, what_is_next):
                faulty = await play(hasty_store, owner, scenario, (failpoint, number), fault)
                protests += protests_of(f"{failpoint}, time {number}, x {fault}", faulty, calm)
    assert not protests, "\n".join(protests)
