"""What neither the PSP nor its files have: given up on both their words, never by age, never on one of them alone."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.outside import CALLER, SETTINGS, checkout
from tests.integration.test_adoption import story_of
from tests.integration.test_reconciliation import Desk, lines, summed

from coatcheck.operations import NOT_AT_PROVIDER
from coatcheck.payments import PaymentView
from coatcheck.simulator.chaos import Dial
from coatcheck.store import Store

LONG = timedelta(days=8)


class Absence(Desk):
    """A charge that got a server error and was never made, and a PSP that is well again."""

    async def lost(self, **dial: float) -> PaymentView:
        self.psp._app.chaos.set(Dial(**(dial or {"error_before_share": 1.0})))  # type: ignore[arg-type]
        view = await self.world.pay(checkout("lost", "lost"))
        assert await self.world.count("operation", "status = 'UNRESOLVED'") == 1
        self.psp._app.chaos.set(Dial())
        return view

    async def settle(self, name: str) -> str:
        """One more charge, and the file that tells of it."""
        await self.world.pay(checkout(name, name, amount_minor=2000), f"key {name}")
        (text,) = self.close()
        return text

    async def give_up(self) -> int:
        return await self.world.gateway.corrections.give_up_absent(CALLER.shop_id, CALLER.mode, "simulator")

    async def ask_twice(self) -> int:
        """Give up what may be given up, with the time between two questions that a look-up needs."""
        first = await self.give_up()
        self.world.clock.advance(timedelta(minutes=2))
        return first + await self.give_up()

    async def is_open(self, view: PaymentView) -> bool:
        return (await self.world.read(view.payment_id)).status == "EXECUTING"


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Absence:
    return Absence(store, tmp_path, settings=replace(SETTINGS, retry_budget_attempts=1))


async def test_H7_what_nobody_has_is_given_up_when_both_have_said_so_twice(desk: Absence) -> None:
    view = await desk.lost()
    await desk.take(await desk.settle("a"), "a.csv")
    assert await desk.ask_twice() == 0  # the files do not reach so far
    desk.world.clock.advance(LONG)
    assert await desk.ask_twice() == 0  # nor does time alone make them
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.give_up() == 0  # asked once
    assert await desk.give_up() == 0  # twice, and too soon
    assert await desk.is_open(view)
    desk.world.clock.advance(timedelta(minutes=2))
    assert await desk.give_up() == 1
    (order,) = (await desk.world.read(view.payment_id)).orders
    assert (order.status, order.decline_code) == ("FAILED", NOT_AT_PROVIDER)
    (last,) = [text for text in await story_of(desk.world, view) if "given up" in text]
    assert "found nothing under op_" in last
    assert "none of its 2 settlement files" in last
    assert await desk.give_up() == 0
    assert await desk.world.violations() == {}


async def test_H7_what_the_psp_has_after_all_is_booked(desk: Absence) -> None:
    view = await desk.lost(drop_after_charge_share=1.0)
    desk.psp.bank.settlements._open.clear()  # and no file of its ever tells of it
    await desk.take(await desk.settle("a"), "a.csv")
    desk.world.clock.advance(LONG)
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.ask_twice() == 0
    assert (await desk.world.read(view.payment_id)).status == "SUCCESS"
    assert await desk.world.violations() == {}


async def test_H3_while_a_file_is_missing_nothing_is_given_up(desk: Absence) -> None:
    view = await desk.lost()
    await desk.take(await desk.settle("a"), "a.csv")
    missing = await desk.settle("b")
    desk.world.clock.advance(LONG)
    await desk.take(await desk.settle("c"), "c.csv")
    assert await desk.ask_twice() == 0
    assert await desk.is_open(view)
    await desk.take(missing, "b.csv")
    assert await desk.ask_twice() == 1


async def test_H2_while_a_file_does_not_agree_with_itself_nothing_is_given_up(desk: Absence) -> None:
    view = await desk.lost()
    await desk.take(await desk.settle("a"), "a.csv")
    desk.world.clock.advance(LONG)
    text = await desk.settle("b")
    last = text.splitlines()[-1]
    wrong = last.replace("20.00,", "20.01,").replace(last.rpartition(",")[2], "19.61")
    report = await desk.take(text.replace(last, wrong), "b.csv")
    assert [each.kind for each in report.mismatches] == ["control_total"]
    assert await desk.ask_twice() == 0
    assert await desk.is_open(view)


async def test_H7_what_a_stranger_s_line_could_be_is_not_given_up(desk: Absence) -> None:
    view = await desk.lost()
    header, charge, *_ = lines(await desk.settle("a"))
    stranger = charge.replace(",1,charge,", ",2,charge,").replace("ch_0", "ch_9").replace(",op_", ",their_")
    same = stranger.replace("20.00,0.40,19.60", "10.00,0.25,9.75")
    await desk.take(summed(header, charge, same), "a.csv")
    desk.world.clock.advance(LONG)
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.ask_twice() == 0
    assert await desk.is_open(view)
