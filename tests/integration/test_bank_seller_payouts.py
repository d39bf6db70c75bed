"""Payouts to sellers in a bank's statement: what our account there has paid, and what came back to it."""

from pathlib import Path

import pytest
from tests.integration.outside import CALLER, ScriptedProvider, World, approved, unknown
from tests.integration.payees import pass_days, pay_out, payout_of, schedule, seller_with
from tests.integration.test_bank_statements import statement
from tests.integration.test_payout_runs import runs_of, tend
from tests.integration.test_payouts import returned
from tests.integration.test_psp_files import called
from tests.integration.test_reconciliation import kinds

from coatcheck.ids import OPERATION, PAYOUT, PAYOUT_RUN, print_id
from coatcheck.ledger import Ledger
from coatcheck.payouts import PayoutAnswer
from coatcheck.payouts.commits import payout_operation_id
from coatcheck.reconciliation.ageing import read_ageing
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.report import Report
from coatcheck.states import OperationKind
from coatcheck.store import Store

ACCOUNT = "bank:DE02120300000000202051"


class PayDesk:
    """Sellers who are paid by a provider that debits our account at a bank, and the bank's statements."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._directory = directory
        self.provider = ScriptedProvider(payout_token="dest_[a-z.-]+")
        self.world = World(store, self.provider)

    async def paid(self, key: str, minor: int = 400, name: str = "po_1", answer: object = approved) -> PayoutAnswer:
        """Pay the seller out; the provider calls it by this name."""
        self.provider.acts.setdefault(OperationKind.PAYOUT, []).append(called(name, answer))  # type: ignore[arg-type]
        return await pay_out(self.world, minor, key=key)

    async def came_back(self, made: PayoutAnswer) -> None:
        self.provider.look_ups.append(returned)
        operations = self.world.gateway.operations
        await self.world.gateway.executor.start(
            await operations.reopen([payout_operation_id(made.payout_id)], "the bank has it")
        )
        assert (await payout_of(self.world, made)).status == "RETURNED"

    async def arrive(self, *entries: tuple[str, str], name: str | None = None) -> Report:
        path = self._directory / "statement.xml"
        path.write_text(statement(*entries, name=name), "utf-8")
        source = Source(path=path, name="statement.xml", shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
        return await self.world.gateway.arrivals.take(source)

    async def standing(self) -> dict[str, int]:
        """What the banks' accounts and suspense hold; and the books hold, and say how old they are."""
        assert await self.world.violations() == {}
        (balance,) = await Ledger(self.world.store).trial_balance(CALLER.shop_id, CALLER.mode)
        held = {each.name: each.balance_minor for each in balance.accounts if each.balance_minor}
        ageing = await read_ageing(self.world.store, self.world.clock, CALLER.shop_id, CALLER.mode)
        aged = {each.name: each.balance_minor - each.undated_minor for each in ageing.accounts}
        assert aged.get("bank:simulator", 0) == held.get("bank:simulator", 0)
        return {name: minor for name, minor in held.items() if name.startswith(("bank:", "suspense:"))}


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> PayDesk:
    desk = PayDesk(store, tmp_path)
    await seller_with(desk.world, 10_000)
    return desk


def names_of(made: PayoutAnswer) -> list[str]:
    """Everything that an entry may call a payout."""
    ours = print_id(PAYOUT, made.payout_id), print_id(OPERATION, payout_operation_id(made.payout_id))
    return ["po_1", *ours, ours[0].upper().replace("_", " ")]


@pytest.mark.parametrize("called_by", range(4))
async def test_H9_what_a_seller_was_paid_is_found_at_the_bank_by_any_of_its_names(
    desk: PayDesk, called_by: int
) -> None:
    made = await desk.paid("p1")
    assert await desk.standing() == {"bank:simulator": -400}
    report = await desk.arrive(("-4.00", f"PAYOUT {names_of(made)[called_by]} TO SELLER"))
    assert (kinds(report), report.matched) == ([], 1)
    assert await desk.standing() == {ACCOUNT: -400}


async def test_H9_the_books_are_the_same_if_the_statement_comes_before_the_provider_s_word(desk: PayDesk) -> None:
    made = await desk.paid("p1", answer=unknown)
    report = await desk.arrive(("-4.00", names_of(made)[1]))
    assert kinds(report) == ["unexplained"]
    assert await desk.standing() == {ACCOUNT: -400, "suspense:bank": 400}
    desk.provider.look_ups.append(called("po_1"))
    desk.world.clock.advance(desk.world.gateway.operations.lease)
    await desk.world.recover()
    assert (await payout_of(desk.world, made)).status == "PAID"
    await desk.arrive(("1.00", "rent"))
    assert await desk.standing() == {ACCOUNT: -300, "suspense:bank": -100}
    reason = "SELECT reason FROM reconciliation_break WHERE closed_at IS NOT NULL"
    assert await desk.world.store.pool.fetchval(reason) == "a payout of simulator to a seller, known since: po_1"


async def test_H1_a_payout_is_found_once_and_never_by_its_amount(desk: PayDesk) -> None:
    await desk.paid("p1")
    report = await desk.arrive(("-4.00", "po_1"), ("-4.00", "po_1"), ("-4.00", "of the same amount"))
    assert kinds(report) == ["duplicate_line", "unexplained"]
    assert await desk.standing() == {ACCOUNT: -1200, "suspense:bank": 800}


async def test_H5_an_entry_of_another_amount_is_a_break(desk: PayDesk) -> None:
    await desk.paid("p1")
    report = await desk.arrive(("-4.01", "po_1"))
    (told,) = report.mismatches
    assert (told.kind, told.expected_minor, told.stated_minor) == ("amount", -400, -401)
    assert await desk.standing() == {"bank:simulator": -400, ACCOUNT: -401, "suspense:bank": 401}


async def test_D10_what_came_back_is_an_entry_of_its_own(desk: PayDesk) -> None:
    made = await desk.paid("p1")
    await desk.came_back(made)
    assert await desk.standing() == {}
    report = await desk.arrive(("-4.00", "po_1"))
    assert kinds(report) == []
    assert await desk.standing() == {"bank:simulator": 400, ACCOUNT: -400}
    assert kinds(await desk.arrive(("4.00", "RETURN po_1"))) == []
    assert await desk.standing() == {}


async def test_H9_both_ways_in_one_statement_are_nothing_together(desk: PayDesk) -> None:
    await desk.came_back(await desk.paid("p1"))
    assert kinds(await desk.arrive(("-4.00", "po_1"), ("4.00", "po_1"))) == []
    assert await desk.standing() == {}


async def test_H5_one_entry_may_be_several_payouts_and_a_whole_run(desk: PayDesk) -> None:
    await desk.paid("p1", 400, "po_1")
    await desk.paid("p2", 500, "po_2")
    assert kinds(await desk.arrive(("-9.00", "po_1 po_2"))) == []
    for seller, minor in (("s2", 700), ("s3", 300)):
        await seller_with(desk.world, minor, seller)
        await schedule(desk.world, seller)
    await pass_days(desk.world)
    await tend(desk.world)
    (waiting,) = await runs_of(desk.world)
    await desk.world.gateway.payout_runs.decide(waiting.run_id, "person grace", is_approved=True)
    await tend(desk.world)
    run = await desk.world.store.pool.fetchval("SELECT run_id FROM payout_run")
    assert await desk.standing() == {"bank:simulator": -1000, ACCOUNT: -900}
    assert kinds(await desk.arrive(("-10.00", f"batch {print_id(PAYOUT_RUN, run)}"))) == []
    assert await desk.standing() == {ACCOUNT: -1900}


async def test_H4_a_statement_issued_again_without_the_entry_gives_the_payout_back(desk: PayDesk) -> None:
    await desk.paid("p1")
    await desk.arrive(("-4.00", "po_1"), ("1.00", "rent"), name="S1")
    await desk.arrive(("1.00", "rent"), name="S1")
    assert await desk.standing() == {"bank:simulator": -400, ACCOUNT: 100, "suspense:bank": -100}
    await desk.arrive(("-4.00", "after all po_1"), ("1.00", "rent"), name="S1")
    assert await desk.standing() == {ACCOUNT: -300, "suspense:bank": -100}
