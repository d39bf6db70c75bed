"""Runs of payouts: due once a period, made once, paid once, and far off the usual only with a second person."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.integration.outside import CALLER, ScriptedProvider, World, declined, unknown
from tests.integration.payees import fund, house, pass_days, pay_out, schedule, seller_with, take_back

from coatcheck.clock import ManualClock
from coatcheck.errors import CoatcheckError
from coatcheck.ids import PAYOUT_RUN, payout_run_id_of, print_id
from coatcheck.payouts import Decision, PayoutVerdict, Planned, Run
from coatcheck.states import OperationKind, PayoutRunStatus
from coatcheck.store import Store
from coatcheck.wiring import make_watcher

DAILY = "0 6 * * *"
START = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the night after, clocks go forward in Europe
PAYOUT = OperationKind.PAYOUT


@pytest.fixture
def world(store: Store) -> World:
    return World(store, ScriptedProvider(payout_token="dest_[a-z.-]+"), clock=ManualClock(START))


async def seller_daily(world: World, amount_minor: int, seller: str, currency: str = "EUR") -> None:
    await seller_with(world, amount_minor, seller, currency)
    await schedule(world, seller, DAILY, currency=currency)


async def tend(world: World) -> None:
    """Let upkeep and recovery do what is due, to its end."""
    await world.gateway.upkeep.tend_once()
    for operation in await world.gateway.operations.claim(100):
        await world.gateway.executor.run(operation)


async def runs_of(world: World, status: PayoutRunStatus | None = None) -> Sequence[Run]:
    return await world.gateway.payout_runs.find(status=status)


async def usual_days(world: World, totals: Sequence[int], seller: str = "s1") -> None:
    """Pay a seller out day by day; a run that waits is let go by another person."""
    for total in totals:
        await fund(world, seller, total)
        await pass_days(world)
        await tend(world)
        for run in await runs_of(world, PayoutRunStatus.WAITING):
            assert await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=True) is Decision.DONE
        await tend(world)


async def sent(world: World) -> list[int]:
    return [intent.amount_minor for call, intent in world.provider.calls if call == "payout"]


async def test_sellers_who_are_due_are_paid_what_is_available(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await seller_daily(world, 250, "s2")
    await usual_days(world, [1])
    (run,) = await runs_of(world)
    assert (run.status, run.items, run.total_minor, run.period) == (
        PayoutRunStatus.FINISHED,
        2,
        1251,
        datetime(2026, 3, 29, 6, tzinfo=UTC),
    )
    assert sorted(await sent(world)) == [250, 1001]
    assert (await world.balances()).get("seller_available") is None
    assert await world.violations() == {}


async def test_nobody_is_due_before_the_schedule_s_next_time(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    world.clock.advance(timedelta(hours=17, minutes=59))
    await tend(world)
    assert await runs_of(world) == []
    world.clock.advance(timedelta(minutes=1))
    await tend(world)
    assert len(await runs_of(world)) == 1


async def test_D11_a_run_made_by_eight_gateways_at_once_pays_once(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await seller_daily(world, 500, "s2")
    await usual_days(world, [1])
    world.provider.calls.clear()
    await fund(world, "s1", 1000)
    await fund(world, "s2", 251)
    await pass_days(world)
    await asyncio.gather(*[world.gateway.upkeep.tend_once() for _ in range(8)])
    await tend(world)
    assert sorted(await sent(world)) == [251, 1000]
    assert len(await runs_of(world)) == 2
    assert await world.violations() == {}


async def test_D11_a_batch_run_twice_finds_itself_and_pays_nobody_again(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await usual_days(world, [1])
    await fund(world, "s1", 700)
    run = await world.gateway.payout_runs.propose(this_mornings(world), "person ada")
    assert (run.status, run.items, run.proposed_by) == (PayoutRunStatus.FINISHED, 1, "gateway")
    await tend(world)
    assert await sent(world) == [1001]
    assert (await world.balances())["seller_available"] == 700
    assert await world.violations() == {}


def this_mornings(world: World, schedule: str = DAILY) -> Planned:
    """Plan what this morning's run was, as a process would that has not heard of it."""
    period = world.clock.now().replace(hour=6, minute=0)
    return Planned(
        run_id=payout_run_id_of(CALLER.shop_id, CALLER.mode, schedule, "EUR", period),
        shop_id=CALLER.shop_id,
        mode=CALLER.mode,
        schedule=schedule,
        currency="EUR",
        period=period,
        sellers=["s1"],
    )


async def test_D14_after_a_restore_the_same_period_is_not_paid_again(world: World, owner: asyncpg.Connection) -> None:
    """The schedule's next time is back where it was before the run; run and item say that the period is done."""
    await seller_daily(world, 1000, "s1")
    await usual_days(world, [1])
    await fund(world, "s1", 700)
    await owner.execute("UPDATE payout_schedule SET next_at = $1", datetime(2026, 3, 29, 6, tzinfo=UTC))
    await tend(world)
    assert await sent(world) == [1001]
    await pass_days(world)
    await tend(world)
    assert await sent(world) == [1001, 700]
    assert await world.violations() == {}


async def test_F8_a_night_on_which_clocks_change_has_one_run_and_missed_days_are_paid_once(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await schedule(world, "s1", "30 1 * * *")  # in many places this time does not come that night, in autumn twice
    world.clock.advance(timedelta(days=3))
    await tend(world)
    await tend(world)
    (run,) = await runs_of(world)
    assert run.period == datetime(2026, 3, 31, 1, 30, tzinfo=UTC)


async def test_D14_a_seller_is_paid_once_a_period_whatever_becomes_of_the_schedule(
    world: World, owner: asyncpg.Connection
) -> None:
    await seller_daily(world, 1000, "s1")
    await usual_days(world, [1])
    await fund(world, "s1", 300)
    same_times = "0 6 1-31 * *"
    await schedule(world, "s1", same_times)
    planned = this_mornings(world, same_times)
    await owner.execute("UPDATE payout_schedule SET next_at = $1", planned.period)
    run = await world.gateway.payout_runs.propose(planned, "person ada")
    assert (run.items, run.total_minor) == (0, 0)
    await tend(world)
    assert await sent(world) == [1001]


async def test_the_first_run_waits_for_a_second_person(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world)
    assert (run.status, run.usual_minor) == (PayoutRunStatus.WAITING, None)
    await tend(world)
    assert world.provider.asked == []
    assert (await world.balances())["seller_available"] == 1000


async def test_I1_a_total_far_off_the_usual_waits_for_another_person_than_the_proposer(world: World) -> None:
    await seller_daily(world, 1, "s1")
    await usual_days(world, [1000, 1100, 900])
    assert len(await sent(world)) == 3
    await fund(world, "s1", 3004)
    await pass_days(world)
    (planned,) = await world.gateway.payout_runs.plan()
    run = await world.gateway.payout_runs.propose(planned, "person ada")
    assert (run.status, run.usual_minor, run.total_minor) == (PayoutRunStatus.WAITING, 1001, 3004)
    decide = world.gateway.payout_runs.decide
    assert await decide(run.run_id, "person ada", is_approved=True) is Decision.SAME_PERSON
    await tend(world)
    assert len(await sent(world)) == 3
    assert await decide(run.run_id, "person grace", is_approved=True) is Decision.DONE
    assert await decide(run.run_id, "person grace", is_approved=True) is Decision.EXISTS
    assert await decide(run.run_id, "person emmy", is_approved=False) is Decision.SETTLED
    await tend(world)
    assert (await sent(world))[-1] == 3004
    assert await world.violations() == {}


@pytest.mark.parametrize(
    ("total", "status"), [(3000, "FINISHED"), (3001, "WAITING"), (334, "FINISHED"), (333, "WAITING")]
)
async def test_a_total_waits_from_the_factor_on_in_both_directions(world: World, total: int, status: str) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world, PayoutRunStatus.WAITING)
    await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=True)
    await tend(world)
    await fund(world, "s1", total)
    await pass_days(world)
    await tend(world)
    newest = (await runs_of(world))[0]
    assert (newest.total_minor, newest.usual_minor, newest.status) == (total, 1000, status)


async def test_a_run_that_was_stopped_pays_nobody_and_the_next_time_does(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world)
    assert await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=False) is Decision.DONE
    await tend(world)
    assert world.provider.asked == []
    await pass_days(world)
    await tend(world)
    assert [each.status for each in await runs_of(world)] == [PayoutRunStatus.WAITING, PayoutRunStatus.REJECTED]
    assert await world.violations() == {}


async def test_D8_less_is_paid_where_less_is_left_and_never_more_than_was_approved(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await seller_daily(world, 1000, "s2")
    await seller_daily(world, 1000, "s3")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world)
    await take_back(world, "s1", 400)
    await fund(world, "s2", 5000)
    await take_back(world, "s3", 1000)
    await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=True)
    await tend(world)
    items = {item.seller_account: item for item in await world.gateway.payout_runs.items(run.run_id)}
    assert {name: (item.outcome, item.amount_minor) for name, item in items.items()} == {
        "s1": (PayoutVerdict.REQUESTED, 600),
        "s2": (PayoutVerdict.REQUESTED, 1000),
        "s3": (PayoutVerdict.NOTHING_AVAILABLE, None),
    }
    assert (await runs_of(world))[0].status is PayoutRunStatus.FINISHED
    assert await world.violations() == {}


async def test_a_destination_changed_after_the_plan_is_not_paid_to(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world)
    await house(world, "s1", "dest_ok.thief")
    await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=True)
    await tend(world)
    (item,) = await world.gateway.payout_runs.items(run.run_id)
    assert item.outcome is PayoutVerdict.COOLING_DOWN
    assert world.provider.asked == []


async def test_a_threshold_is_looked_at_each_hour_and_paid_from_it_on(world: World) -> None:
    await seller_with(world, 99, "s1")
    await schedule(world, "s1", None, 100)
    world.clock.advance(timedelta(hours=1))
    await tend(world)
    assert [run.items for run in await runs_of(world)] == [0]
    await fund(world, "s1", 1)
    world.clock.advance(timedelta(hours=1))
    await tend(world)
    assert [(run.items, run.total_minor) for run in await runs_of(world)] == [(1, 100), (0, 0)]


async def test_currencies_are_runs_of_their_own(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await seller_daily(world, 5000, "s1", "JPY")
    await pass_days(world)
    await tend(world)
    assert {(run.currency, run.total_minor) for run in await runs_of(world)} == {("EUR", 1000), ("JPY", 5000)}


async def test_no_schedule_any_more_and_no_schedule_that_never_comes(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    assert await schedule(world, "s1", None) == "changed"
    assert await schedule(world, "s1", None) == "exists"
    await pass_days(world)
    await tend(world)
    assert await runs_of(world) == []
    for wrong in ("every day", "0 0 30 2 *", "61 * * * *", "* * * * * *"):
        with pytest.raises(CoatcheckError, match="cron"):
            await schedule(world, "s1", wrong)


async def test_the_dry_run_writes_nothing(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    (planned,) = await world.gateway.payout_runs.plan()
    assert (planned.is_new, planned.sellers, planned.schedule) == (True, ["s1"], DAILY)
    assert await world.count("payout_run") == 0


async def test_a_seller_s_own_request_and_a_run_at_once_pay_what_there_is(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await usual_days(world, [1])
    await fund(world, "s1", 1000)
    await pass_days(world)
    await asyncio.gather(pay_out(world, 600), world.gateway.upkeep.tend_once(), pay_out(world, 600, key="p2"))
    await tend(world)
    assert (await world.balances()).get("seller_available", 0) >= 0
    assert sum(await sent(world)) <= 2001
    assert await world.violations() == {}


async def test_items_whose_psp_is_silent_or_refuses_are_single_payouts_from_then_on(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await seller_daily(world, 500, "s2")
    world.provider.acts[PAYOUT] = [unknown, declined]
    await usual_days(world, [1])
    (run,) = await runs_of(world)
    assert run.status is PayoutRunStatus.FINISHED
    assert await world.violations() == {}
    await world.recover()
    statuses = {item.seller_account: item.status for item in await world.gateway.payout_runs.items(run.run_id)}
    assert sorted(str(status) for status in statuses.values()) == ["FAILED", "PAID"]
    assert await world.violations() == {}


async def test_the_invariant_of_runs_sees_what_it_is_for(world: World, owner: asyncpg.Connection) -> None:
    await seller_daily(world, 1000, "s1")
    await usual_days(world, [1])
    assert await world.violations() == {}
    await owner.execute("UPDATE payout_run_item SET planned_minor = 5")
    assert "payout_run_pays_what_was_approved" in await world.violations()


async def test_a_run_that_waits_is_an_alert_until_somebody_decides(world: World) -> None:
    await seller_daily(world, 1000, "s1")
    await pass_days(world)
    await tend(world)
    (run,) = await runs_of(world)
    watcher = make_watcher(world.gateway)
    (opened,) = await watcher.watch_once()
    assert (opened.is_opened, opened.alert.kind.value) == (True, "payout_run_waiting")
    assert opened.alert.subject == print_id(PAYOUT_RUN, run.run_id)
    assert opened.alert.text == (
        "The run of payouts 0 6 * * * would pay 10.00 EUR to 1 sellers; nobody knows what is usual. It waits for a "
        "second person than gateway."
    )
    assert await watcher.watch_once() == []
    await world.gateway.payout_runs.decide(run.run_id, "person grace", is_approved=False)
    (closed,) = await watcher.watch_once()
    assert closed.is_opened is False
