"""An order stays with the PSP that was asked first; that the settings name another by now is for new orders only."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    Answer,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    server_error,
    unknown,
)

from coatcheck.payments import Verdict
from coatcheck.states import Capture, OperationKind, OrderStatus
from coatcheck.store import Store
from coatcheck.wiring import make_gateway


class Moved:
    """A gateway that charged at one PSP, and the same one started again with another for new orders."""

    def __init__(self, store: Store) -> None:
        self.before = World(store)
        self.first = self.before.provider
        self.second = ScriptedProvider()
        self.second.name = "stripe"
        self.after = self._started(store, {"simulator": self.first, "stripe": self.second})
        self.without_the_first = self._started(store, {"stripe": self.second})

    def _started(self, store: Store, providers: dict[str, ScriptedProvider]) -> World:
        world = World(store, self.second, clock=self.before.clock)
        settings = replace(SETTINGS, provider="stripe")
        world.gateway = make_gateway(settings, store, providers, clock=world.clock)
        return world

    async def repeat(self) -> None:
        """Ask again as a shop would that has no answer: with the same key, a new one, and for the order alone."""
        verdicts = []
        for request, key in (
            (checkout("c1", "o1"), "k1"),
            (checkout("c1", "o1"), "another key"),
            (checkout("another checkout", "o1"), "a third key"),
        ):
            answer = await self.after.accept(request, key)
            verdicts.append(answer.verdict)
            assert answer.operations == ()
        assert {*verdicts[:2]} <= {Verdict.SAME_KEY, Verdict.SAME_CHECKOUT}
        assert verdicts[2] is Verdict.ORDER_CONFLICT
        assert self.second.calls == []

    async def standing(self) -> tuple[str, str]:
        """The order's status and whose it is."""
        rows = await self.before.store.pool.fetch("SELECT status, provider FROM payment_order")
        (row,) = rows
        return row["status"], row["provider"]


@pytest.fixture
def moved(store: Store) -> Moved:
    return Moved(store)


@pytest.mark.parametrize("silence", [unknown, server_error, not_sent])
@pytest.mark.parametrize(("decision", "status"), [(approved, "SUCCESS"), (declined, "FAILED")])
async def test_A6_an_undecided_charge_goes_to_no_other_provider_whatever_is_repeated(
    moved: Moved, silence: Answer, decision: Answer, status: str
) -> None:
    moved.first.charges = [silence, unknown, decision]
    assert (await moved.before.pay(checkout("c1", "o1"), "k1")).status == "EXECUTING"
    for _ in range(2):
        await moved.repeat()
        assert await moved.standing() == ("EXECUTING", "simulator")
        await moved.after.recover()
    assert await moved.standing() == (status, "simulator")
    await moved.repeat()  # and when it is decided, it is decided
    await moved.after.recover(timedelta(days=2))
    assert await moved.standing() == (status, "simulator")
    assert moved.first.asked == ["charge"] * 3
    assert len({(intent.reference, intent.body) for _, intent in moved.first.calls}) == 1
    assert await moved.after.violations() == {}


async def test_A6_what_waits_for_a_person_or_for_the_psp_goes_to_no_other_provider(moved: Moved) -> None:
    moved.first.charges = [unknown]
    moved.first.look_ups = [not_found] * 50
    await moved.before.pay(checkout("c1", "o1"), "k1")
    for _ in range(20):
        await moved.after.recover(timedelta(days=2))
    assert await moved.after.count("operation", "status = 'UNRESOLVED'") == 1
    await moved.repeat()
    assert await moved.standing() == ("EXECUTING", "simulator")
    assert moved.first.asked.count("charge") == 1


async def test_A6_a_charge_that_is_pending_goes_to_no_other_provider(moved: Moved) -> None:
    moved.first.charges = [pending]
    await moved.before.pay(checkout("c1", "o1"), "k1")
    await moved.repeat()
    moved.first.look_ups = [pending, approved]
    for _ in range(2):
        await moved.after.recover(timedelta(hours=1))
    assert await moved.standing() == ("SUCCESS", "simulator")
    assert moved.second.calls == []


async def test_A6_a_gateway_that_does_not_know_the_first_provider_asks_no_other(moved: Moved) -> None:
    moved.first.charges = [unknown, approved]
    await moved.before.pay(checkout("c1", "o1"), "k1")
    assert len(await moved.without_the_first.recover()) == 1
    assert moved.second.calls == []
    assert await moved.standing() == ("EXECUTING", "simulator")
    await moved.after.recover()
    assert await moved.standing() == ("SUCCESS", "simulator")


async def test_A6_captures_voids_and_refunds_go_where_the_charge_is(moved: Moved) -> None:
    """With the first provider's authorization undecided at the change."""
    moved.first.acts[OperationKind.AUTHORIZE] = [unknown, approved]
    moved.first.acts[OperationKind.CAPTURE] = [unknown, approved]
    view = await moved.before.pay(checkout("c1", "o1", capture=Capture.MANUAL), "k1")
    await moved.after.recover()
    assert await moved.after.capture(view, is_final=False, o1=400) == ["requested"]
    await moved.after.recover()
    assert await moved.after.cancel(view) == ["requested"]
    assert (await moved.after.refund("o1")).verdict == "requested"
    assert moved.first.asked == ["authorize", "authorize", "capture", "capture", "void", "refund"]
    assert moved.second.calls == []
    assert await moved.after.balances() == {}
    assert await moved.after.violations() == {}


async def test_A6_only_a_new_order_goes_to_the_new_provider(moved: Moved) -> None:
    """After a definite refusal the shop may route on: under a checkout and an order of their own."""
    moved.first.charges = [declined]
    await moved.before.pay(checkout("c1", "o1"), "k1")
    view = await moved.after.pay(checkout("c2", "o2"), "k2")
    assert [(order.status, order.provider) for order in view.orders] == [(OrderStatus.SUCCESS, "stripe")]
    assert (moved.first.asked, moved.second.asked) == (["charge"], ["charge"])
    names = await moved.after.store.pool.fetch(
        "SELECT name FROM account WHERE kind = 'psp_receivable' AND debits_posted_minor > 0 AND shop_id = $1",
        CALLER.shop_id,
    )
    assert [row["name"] for row in names] == ["psp:stripe:receivable"]
    assert await moved.after.violations() == {}
