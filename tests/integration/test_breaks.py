"""Breaks that nothing else explains: two people say where the money belongs, and suspense returns to zero."""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.outside import CALLER, checkout
from tests.integration.running import checkout as body_of
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_bank_statements import Bank, statement
from tests.integration.test_reconciliation import Desk, kinds, lines, summed

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import print_id
from coatcheck.ledger import Ledger, TransferKind
from coatcheck.reconciliation.breaks import BREAK, BreakKind, BreakQuery, BreakStatus, Destination, Explanation
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.reconciler import Reconciler
from coatcheck.shops import create_key
from coatcheck.store import Store

__all__ = ["simulator_url"]

ALL = BreakQuery()


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, tmp_path)


def said(destination: str = "fee", account: str | None = None, note: str = "an unknown fee") -> Explanation:
    return Explanation(
        destination=Destination(destination), note=note, evidence="the invoice of November", account=account
    )


async def a_break(desk: Desk, *, gross: str = "11.00", net: str = "10.75", name: str = "file.csv") -> Any:
    """One charge of which the PSP's file has another amount."""
    if not await desk.world.count("payment"):
        await desk.world.pay(checkout("c1", "o1"))
        desk.header, desk.charge, *_ = lines(desk.close()[0])  # type: ignore[attr-defined]
    changed = desk.charge.replace("10.00,0.25,9.75", f"{gross},0.25,{net}")  # type: ignore[attr-defined]
    report = await desk.take(summed(desk.header, changed), name)  # type: ignore[attr-defined]
    (found,) = report.mismatches
    return found


async def agree(desk: Desk, break_id: Any, explanation: Explanation) -> Any:
    breaks = desk.world.gateway.breaks
    proposal = await breaks.propose(break_id, ALL, explanation, "person ada")
    return await breaks.confirm(break_id, proposal.proposal_id, ALL, "person bob")


@pytest.mark.parametrize(
    ("explanation", "account", "gross", "net"),
    [
        (said("fee"), "platform:psp_fees", "11.00", "10.75"),
        (said("fee"), "platform:psp_fees", "9.00", "8.75"),
        (said("dispute_fee"), "platform:dispute_fees", "9.00", "8.75"),
        (said("commission"), "platform:commission", "11.00", "10.75"),
        (said("seller", "seller-o1"), "seller:seller-o1:pending", "9.00", "8.75"),
        (said("bank", "DE02"), "bank:DE02", "11.00", "10.75"),
        (said("receivable"), "psp:simulator:receivable", "11.00", "10.75"),
        (said("payout"), "psp:simulator:payouts_in_transit", "9.00", "8.75"),
    ],
)
async def test_I1_two_people_move_the_money_of_a_break_where_it_belongs(
    desk: Desk, explanation: Explanation, account: str, gross: str, net: str
) -> None:
    found = await a_break(desk, gross=gross, net=net)
    breaks = desk.world.gateway.breaks
    before = await posted(desk, account)
    proposal = await breaks.propose(found.break_id, ALL, explanation, "person ada")
    assert (await desk.balances())["suspense"] == -found.suspense_minor
    with pytest.raises(CoatcheckError) as refused:
        await breaks.confirm(found.break_id, proposal.proposal_id, ALL, "person ada")
    assert refused.value.error is ErrorCode.BREAK_RESOLUTION_NOT_POSSIBLE
    listed = await breaks.confirm(found.break_id, proposal.proposal_id, ALL, "person bob")
    assert (listed.found.closed_by, listed.found.reason) == ("person ada and person bob", "an unknown fee")
    assert "suspense" not in await desk.balances()
    assert await posted(desk, account) - before == -found.suspense_minor  # debits less credits
    again = await breaks.confirm(found.break_id, proposal.proposal_id, ALL, "person bob")
    assert again == listed
    kinds_told = await desk.world.store.pool.fetch(
        "SELECT kind FROM event WHERE subject_id = $1 ORDER BY event_id", found.break_id
    )
    assert sorted(row["kind"] for row in kinds_told) == [
        "break.closed",
        *("break.recorded", "break.recorded"),  # as it was opened, and as it is closed
        "break.resolution_confirmed",
        "break.resolution_proposed",
    ]
    assert await desk.world.violations() == {}


async def posted(desk: Desk, name: str) -> int:
    found = await desk.world.store.pool.fetchval(
        "SELECT sum(debits_posted_minor - credits_posted_minor) FROM account WHERE name = $1", name
    )
    return int(found or 0)


@pytest.mark.parametrize(
    ("explanation", "pointer"),
    [
        (said("nothing"), "/destination"),
        (said("seller"), "/account"),
        (said("bank"), "/account"),
        (said("fee", "somebody"), "/account"),
        (said("receivable", "simulator"), "/account"),
        (said("seller", "two words"), "/account"),
        (said("fee", note=" "), "/note"),
        (said("fee", note="4242 4242 4242 4242"), "/note"),
    ],
)
async def test_I1_what_could_not_be_booked_is_refused_before_anybody_confirms_it(
    desk: Desk, explanation: Explanation, pointer: str
) -> None:
    found = await a_break(desk)
    with pytest.raises(CoatcheckError) as refused:
        await desk.world.gateway.breaks.propose(found.break_id, ALL, explanation, "person ada")
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
    assert await desk.world.count("break_resolution") == 0


async def test_I1_a_proposal_is_one_person_s_and_grows_old(desk: Desk) -> None:
    found = await a_break(desk)
    breaks = desk.world.gateway.breaks
    first = await breaks.propose(found.break_id, ALL, said(), "person ada")
    assert await breaks.propose(found.break_id, ALL, said(), "person ada") == first
    with pytest.raises(CoatcheckError, match="Somebody else"):
        await breaks.propose(found.break_id, ALL, said("commission"), "person bob")
    second = await breaks.propose(found.break_id, ALL, said("commission"), "person ada")
    with pytest.raises(CoatcheckError, match="no such proposal"):
        await breaks.confirm(found.break_id, first.proposal_id, ALL, "person bob")
    desk.world.clock.advance(timedelta(hours=25))
    with pytest.raises(CoatcheckError, match="older than 24 hours"):
        await breaks.confirm(found.break_id, second.proposal_id, ALL, "person bob")
    taken = await breaks.propose(found.break_id, ALL, said("commission"), "person bob")
    await breaks.confirm(found.break_id, taken.proposal_id, ALL, "person ada")
    with pytest.raises(CoatcheckError, match="is closed"):
        await breaks.propose(found.break_id, ALL, said(), "person cid")


async def test_I1_many_confirmations_at_once_move_the_money_once(desk: Desk) -> None:
    found = await a_break(desk)
    breaks = desk.world.gateway.breaks
    proposal = await breaks.propose(found.break_id, ALL, said(), "person ada")
    done = await asyncio.gather(
        *[breaks.confirm(found.break_id, proposal.proposal_id, ALL, f"person {name}") for name in "bcdefg"],
        return_exceptions=True,
    )
    assert sum(not isinstance(each, BaseException) for each in done) == 1
    assert await desk.world.count("transfer", f"kind = '{TransferKind.EXPLAINED.value}'") == 1
    assert await desk.world.violations() == {}


async def test_H4_what_two_people_have_said_holds_when_the_batch_is_issued_again(desk: Desk) -> None:
    found = await a_break(desk)
    await agree(desk, found.break_id, said())
    books = await desk.balances()
    again = await desk.take(summed(desk.header, changed_of(desk) + "\n").replace("\n\n", "\n"), "again.csv")  # type: ignore[attr-defined]
    assert (again.is_repeat, again.is_clean) == (True, True)
    reissued = summed(desk.header, changed_of(desk) + "\n", fee_of(desk))  # type: ignore[attr-defined]
    report = await desk.take(reissued, "reissued.csv")
    assert (report.is_repeat, report.is_clean) == (False, True)
    assert [each.closed_by for each in report.mismatches] == ["person ada and person bob"]
    assert (await desk.balances()).keys() == books.keys()
    assert await desk.world.violations() == {}


async def test_H4_a_line_that_goes_away_after_two_people_explained_it_is_a_break_the_other_way(desk: Desk) -> None:
    found = await a_break(desk)
    await agree(desk, found.break_id, said())
    report = await desk.take(summed(desk.header, desk.charge, fee_of(desk)), "without.csv")  # type: ignore[attr-defined]
    (gone,) = report.mismatches
    assert (gone.kind, gone.suspense_minor, gone.line_no) == ("unexplained", -100, None)
    assert await desk.world.violations() == {}
    # Issued once more before anybody has looked: it still waits.
    more = summed(desk.header, desk.charge, fee_of(desk), fee_of(desk, "fee_2"))  # type: ignore[attr-defined]
    assert [each.break_id for each in (await desk.take(more, "more.csv")).mismatches] == [gone.break_id]
    assert await desk.world.violations() == {}
    await agree(desk, gone.break_id, said())
    assert "suspense" not in await desk.balances()
    assert await posted(desk, "platform:psp_fees") == 25 + 50 + 50
    assert await desk.world.violations() == {}


async def test_H4_a_break_that_the_psp_itself_explained_is_not_given_back_twice(desk: Desk) -> None:
    """Closed with a transfer out of suspense, a break leaves nothing for the next version of its batch to reverse."""
    found = await a_break(desk)
    assert await desk.corrections.close([found.break_id], "coatcheck", "the provider says so") == 1
    assert "suspense" not in await desk.balances()
    report = await desk.take(summed(desk.header, desk.charge), "right.csv")  # type: ignore[attr-defined]
    assert kinds(report) == []
    assert "suspense" not in await desk.balances()
    assert await desk.world.violations() == {}


def changed_of(desk: Desk) -> str:
    return desk.charge.replace("10.00,0.25,9.75", "11.00,0.25,10.75").rstrip("\n")  # type: ignore[attr-defined, no-any-return]


def fee_of(desk: Desk, name: str = "fee_1") -> str:
    """A line over a fee of its own, of the same batch."""
    fields = desk.charge.rstrip("\n").split(",")  # type: ignore[attr-defined]
    return ",".join([fields[0], "9", "fee", name, "", "", fields[6], "EUR", "0.00", "0.50", "-0.50"]) + "\n"


async def test_I1_a_bank_s_break_goes_back_to_the_bank_or_to_a_provider(store: Store, tmp_path: Path) -> None:
    desk = Bank(store, tmp_path)
    for place, explanation in enumerate((said("payout", "simulator"), said("bank", "DE99"))):
        report = await desk.state(statement((f"{place + 5}.00", f"unknown words {place}")), f"{place}.xml")
        (found,) = report.mismatches
        assert await desk.standing()
        with pytest.raises(CoatcheckError):
            await desk.world.gateway.breaks.propose(found.break_id, ALL, said("payout"), "person ada")
        await agree(desk, found.break_id, explanation)
        assert "suspense" not in await desk.standing()
        assert await desk.world.violations() == {}
    # Closed by whoever knows that nothing came: the money goes back to the account that it came to.
    (found,) = (await desk.state(statement(("9.00", "an error of the bank")), "error.xml")).mismatches
    before = (await desk.standing())["bank"]
    assert await desk.corrections.close([found.break_id], "coatcheck", "the bank took it back") == 1
    assert (await desk.standing())["bank"] == before - 900
    assert await desk.world.violations() == {}


async def test_breaks_are_listed_oldest_first_and_by_what_they_are(desk: Desk) -> None:
    found = await a_break(desk)
    desk.world.clock.advance(timedelta(seconds=1))
    header, charge = desk.header, desk.charge  # type: ignore[attr-defined]
    foreign = charge.replace("st_000001", "st_000002").replace(",op_", ",their_").replace("ch_0", "ch_9")
    await desk.take(summed(header, foreign), "foreign.csv")
    breaks = desk.world.gateway.breaks
    whole = await breaks.find(ALL)
    assert [each.found.kind for each in whole] == ["amount", "missing_here"]
    (rest,) = await breaks.find(ALL, after=(found.opened_at, found.break_id))
    assert rest == whole[1]
    assert await breaks.find(BreakQuery(kind=BreakKind.AMOUNT)) == whole[:1]
    assert await breaks.find(BreakQuery(provider="bank")) == []
    assert await breaks.find(BreakQuery(shop_id=CALLER.key_id)) == []
    await agree(desk, found.break_id, said())
    assert [each.found.kind for each in await breaks.find(BreakQuery(status=BreakStatus.OPEN))] == ["missing_here"]
    assert [each.found.kind for each in await breaks.find(BreakQuery(status=BreakStatus.CLOSED))] == ["amount"]


async def command(database_url: str, *words: str) -> tuple[int, str]:
    running = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "from coatcheck.cli import main; main()", "breaks", *words],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DATABASE_URL": database_url, "COATCHECK_CONFIG": os.devnull},
    )
    printed, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode()


async def test_I1_the_command_takes_a_break_from_its_list_to_its_end(desk: Desk, database_url: str) -> None:
    await create_key(desk.world.store, desk.world.clock, "hats", CALLER.mode)
    found = await a_break(desk)
    name = print_id(BREAK, found.break_id)
    status, printed = await command(database_url, "list")
    assert (status, name in printed, "amount" in printed) == (0, True, True)
    text = ("--note", "an unknown fee", "--evidence", "invoice 11")
    status, printed = await command(database_url, "propose", name, "fee", *text, "--by", "Ada")
    assert status == 0, printed
    proposal = printed.split(name)[1].split()[0]
    status, printed = await command(database_url, "confirm", name, proposal, "--by", "ADA ")
    assert (status, "second person" in printed) == (2, True)
    status, printed = await command(database_url, "confirm", name, proposal, "--by", "bob")
    assert (status, "platform:psp_fees has its money" in printed) == (0, True)
    status, printed = await command(database_url, "show", name)
    assert (status, "person ada and person bob" in printed) == (0, True)
    status, printed = await command(database_url, "list")
    assert (status, "No break is open." in printed) == (0, True)


async def test_I1_over_http_another_key_of_the_shop_confirms(store: Store, simulator_url: str, tmp_path: Path) -> None:
    async with run_gateway(store, simulator_url) as server:
        key, second, stranger = await server.make_key(), await server.make_key(), await server.make_key("socks")
        assert (await server.pay(key, body_of("c1"), Idempotency_Key="k1")).status == 201
        async with server.session.post(f"{simulator_url}/admin/close-batches") as closed:
            (batch,) = (await closed.json())["data"]
        headers = {"Authorization": "Bearer sk_sim_test_coatcheck"}
        async with server.session.get(f"{simulator_url}/v1/settlements/{batch['id']}/file", headers=headers) as answer:
            header, charge, *_ = lines(await answer.text())
        path = tmp_path / "file.csv"
        path.write_text(summed(header, charge.replace(",op_", ",their_").replace("ch_", "xx_")), "utf-8")
        shop_id = await store.pool.fetchval("SELECT shop_id FROM shop WHERE name = 'hats'")
        source = Source(path=path, name=path.name, shop_id=shop_id, mode=CALLER.mode, brought_by="ada")
        await Reconciler(store, server.clock).take(source)
        listed = await server.ask("GET", "/v1/breaks?kind=missing_here&status=open&provider=simulator&limit=1", key)
        (shown,) = listed.body["breaks"]
        assert (listed.status, shown["stated"], shown["in_suspense"], shown["file"], shown["expected"]) == (
            *(200, "12.34", "12.34", "file.csv"),
            None,
        )
        path_of = f"/v1/breaks/{shown['break_id']}"
        assert (await server.ask("GET", path_of, stranger)).status == 404
        said_so = {"destination": "commission", "note": "a tip", "evidence": "the dashboard"}
        proposed = await server.ask("POST", f"{path_of}/resolution", key, json=said_so)
        assert (proposed.status, proposed.body["account_name"]) == (201, "platform:commission")
        wanted = {"proposal_id": proposed.body["proposal_id"]}
        refused = await server.ask("POST", f"{path_of}/confirmation", key, json=wanted)
        assert (refused.status, refused.body["code"]) == (409, "break_resolution_not_possible")
        done = await server.ask("POST", f"{path_of}/confirmation", second, json=wanted)
        assert (done.status, done.body["status"], done.body["in_suspense"]) == (200, "closed", None)
        assert done.body["closed_by"].count("key key_") == 2
        assert (await server.ask("GET", path_of, key)).body == done.body
        trial = await Ledger(store).trial_balance(shop_id, CALLER.mode)
        assert all(each.balance_minor == 0 for one in trial for each in one.accounts if each.name.startswith("susp"))
