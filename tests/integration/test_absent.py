"""What neither the PSP nor its files have: given up on both their words, never by age, never on one of them alone."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.integration.outside import CALLER, SETTINGS, checkout
from tests.integration.test_adoption import story_of
from tests.integration.test_reconciliation import Desk, lines, summed

from coatcheck.operations import NOT_AT_PROVIDER
from coatcheck.payments import PaymentView
from coatcheck.simulator.chaos import Dial
from coatcheck.states import Capture
from coatcheck.store import Store

LONG = timedelta(days=8)
WITHIN_ITS_LIFE = timedelta(days=6)  # an authorization lives for seven


class Absence(Desk):
    """A charge that got a server error and was never made, and a PSP that is well again."""

    async def lost(self, **dial: float) -> PaymentView:
        self.psp._app.chaos.set(Dial(**(dial or {"error_before_share": 1.0})))  # type: ignore[arg-type]
        view = await self.world.pay(checkout("lost", "lost"))
        assert await self.world.count("operation", "status = 'UNRESOLVED'") == 1
        self.psp._app.chaos.set(Dial())
        return view

    async def lost_capture(self, **dial: float) -> PaymentView:
        """An authorization of 10.00, and a capture of 7.00 of it that got an error and was never made."""
        view = await self.world.pay(checkout("held", "held", capture=Capture.MANUAL))
        self.psp._app.chaos.set(Dial(**(dial or {"error_before_share": 1.0})))  # type: ignore[arg-type]
        await self.world.capture(view, held=700)
        assert await self.world.count("operation", "kind = 'capture' AND status = 'UNRESOLVED'") == 1
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


async def test_H7_a_capture_that_nobody_has_is_given_up_and_may_be_asked_for_again(desk: Absence) -> None:
    view = await desk.lost_capture()
    await desk.take(await desk.settle("a"), "a.csv")
    assert await desk.ask_twice() == 0
    desk.world.clock.advance(WITHIN_ITS_LIFE)
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.give_up() == 0  # asked once
    desk.world.clock.advance(timedelta(minutes=2))
    assert await desk.give_up() == 1
    (order,) = (await desk.world.read(view.payment_id)).orders
    assert (order.status, order.captured_minor) == ("AUTHORIZED", 0)
    refused = "kind = 'capture' AND status = 'DECLINED' AND decline_code = 'not_at_provider'"
    assert await desk.world.count("operation", refused) == 1
    story = await story_of(desk.world, view)
    assert any("the capture of order held was given up, for nobody has it" in text for text in story)
    assert await desk.world.violations() == {}
    assert await desk.world.capture(view, key="again", held=700) == ["requested"]
    assert (await desk.world.read(view.payment_id)).status == "SUCCESS"
    assert await desk.world.violations() == {}


async def test_H7_a_capture_that_the_psp_has_after_all_is_booked(desk: Absence) -> None:
    view = await desk.lost_capture(drop_after_charge_share=1.0)
    desk.psp.bank.settlements._open.clear()  # and no file of its ever tells of it
    await desk.take(await desk.settle("a"), "a.csv")
    desk.world.clock.advance(WITHIN_ITS_LIFE)
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.ask_twice() == 0
    (order,) = (await desk.world.read(view.payment_id)).orders
    assert (order.status, order.captured_minor) == ("SUCCESS", 700)
    assert await desk.world.violations() == {}


async def test_H7_a_capture_is_not_given_up_while_a_line_about_its_charge_is_unexplained(desk: Absence) -> None:
    """Of whatever amount: the PSP may have captured otherwise than it was asked to."""
    view = await desk.lost_capture()
    held = await desk.world.store.pool.fetchval("SELECT target_reference FROM operation WHERE kind = 'capture'")
    header, charge, *_ = lines(await desk.settle("a"))
    fields = charge.split(",")
    stranger = ",".join([fields[0], "2", "capture", "act_99", held, "", *fields[6:]]).replace(
        ",20.00,0.40,19.60", ",3.00,0.10,2.90"
    )
    report = await desk.take(summed(header, charge, stranger), "a.csv")
    assert [each.kind for each in report.mismatches] == ["missing_here"]
    desk.world.clock.advance(WITHIN_ITS_LIFE)
    await desk.take(await desk.settle("b"), "b.csv")
    assert await desk.ask_twice() == 0
    assert await desk.world.count("operation", "kind = 'capture' AND status = 'UNRESOLVED'") == 1
    await desk.corrections.close([report.mismatches[0].break_id], "person ada", "it is of another shop's")
    assert await desk.ask_twice() == 1
    assert (await desk.world.read(view.payment_id)).status == "AUTHORIZED"


async def test_H7_a_page_that_was_never_made_is_given_up_and_one_that_may_be_open_is_not(
    desk: Absence, owner: asyncpg.Connection
) -> None:
    desk.psp._app.chaos.set(Dial(error_before_share=1.0))
    view = await desk.world.pay(checkout("lost", "lost", return_url="https://shop.example/thanks"))
    desk.psp._app.chaos.set(Dial())
    assert await desk.world.count("operation", "is_hosted AND status = 'UNRESOLVED'") == 1
    await desk.take(await desk.settle("a"), "a.csv")
    desk.world.clock.advance(LONG)
    await desk.take(await desk.settle("b"), "b.csv")
    await owner.execute("UPDATE operation SET provider_reference = 'cs_9' WHERE is_hosted")
    assert await desk.ask_twice() == 0
    assert await desk.is_open(view)
    await owner.execute("UPDATE operation SET provider_reference = NULL WHERE is_hosted")
    assert await desk.ask_twice() == 1
    (order,) = (await desk.world.read(view.payment_id)).orders
    assert (order.status, order.decline_code) == ("FAILED", NOT_AT_PROVIDER)
    assert await desk.world.violations() == {}
