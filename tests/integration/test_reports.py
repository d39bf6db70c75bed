"""Reports over books with a history: the same from days that are counted and from what is queued, and by currency."""

import asyncio
import csv
import io
import json
import os
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from tests.integration.books import basket, play
from tests.integration.outside import CALLER
from tests.integration.test_reconciliation import Desk

from coatcheck.reporting.account_statements import AccountStatements
from coatcheck.reporting.reports import DAYS_MOST, Declines, Granularity, Period, Revenue, fees, revenue, volumes
from coatcheck.states import Mode
from coatcheck.store import Store

FIRST_DAY = date(2026, 3, 1)
SECOND_DAY, THIRD_DAY, END = (FIRST_DAY + timedelta(days=days) for days in (1, 2, 3))
ALL_DAYS = Period(FIRST_DAY, END)
RUN = "from coatcheck.cli import main; main()"


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> Desk:
    return await play(store, tmp_path)


async def test_E8_revenue_is_told_by_day_and_currency(desk: Desk) -> None:
    store = desk.world.store
    fees_minor = await fees_kept(desk)
    expected = [
        # charged, refunded, commission, returned, psp fees, dispute fees
        Revenue(FIRST_DAY, "BHD", 12_345, 0, 1_234, 0, 0, 0),
        Revenue(FIRST_DAY, "EUR", 4_001, 0, 400, 0, 0, 0),
        Revenue(FIRST_DAY, "JPY", 10_277, 0, 95, 0, 0, 0),
        Revenue(SECOND_DAY, "BHD", 0, 5_000, 0, 499, fees_minor["BHD"], 0),
        Revenue(SECOND_DAY, "EUR", 700, 300, 70, 30, fees_minor["EUR"], 0),
        Revenue(SECOND_DAY, "JPY", 0, 0, 0, 0, fees_minor["JPY"], 0),
        Revenue(THIRD_DAY, "EUR", 1_000, 0, 100, 0, 0, 0),
    ]
    for _ in range(2):  # from what is queued, then from days that are counted
        assert await revenue(store, CALLER.shop_id, CALLER.mode, ALL_DAYS) == expected
        await AccountStatements(store, desk.world.clock).fill()
    assert expected[4].net_minor == 70 - 30 - fees_minor["EUR"]
    months = await revenue(store, CALLER.shop_id, CALLER.mode, Period(FIRST_DAY, END, Granularity.MONTH))
    assert [(each.period, each.currency, each.charged_minor) for each in months] == [
        (FIRST_DAY, "BHD", 12_345),
        (FIRST_DAY, "EUR", 5_701),
        (FIRST_DAY, "JPY", 10_277),
    ]
    only = await revenue(store, CALLER.shop_id, CALLER.mode, Period(SECOND_DAY, THIRD_DAY))
    assert only == expected[3:6]
    assert await revenue(store, CALLER.shop_id, Mode.LIVE, ALL_DAYS) == []


async def fees_kept(desk: Desk) -> dict[str, int]:
    """What the accounts of fees say, which the settlement files filled."""
    rows = await desk.world.store.pool.fetch(
        "SELECT currency::text, debits_posted_minor FROM account WHERE kind = 'platform_psp_fees'"
    )
    return {row[0]: row[1] for row in rows}


async def test_E8_fees_are_told_by_provider_day_and_currency(desk: Desk) -> None:
    kept = await fees_kept(desk)
    assert min(kept.values()) > 0
    for _ in range(2):
        found = await fees(desk.world.store, CALLER.shop_id, CALLER.mode, ALL_DAYS)
        assert [(each.period, each.provider, each.currency, each.kind, each.fees_minor) for each in found] == [
            (SECOND_DAY, "simulator", currency, "psp_fee", kept[currency]) for currency in sorted(kept)
        ]
        assert sum(each.transfers for each in found) == await desk.world.count("transfer", "kind = 'psp_fee'")
        await AccountStatements(desk.world.store, desk.world.clock).fill()


async def test_E8_volumes_say_how_many_succeeded_and_why_the_others_did_not(desk: Desk) -> None:
    found = await volumes(desk.world.store, CALLER.shop_id, CALLER.mode, ALL_DAYS)
    told = {
        (each.period, each.currency): (each.orders, each.succeeded, each.failed, each.success_rate) for each in found
    }
    assert told == {
        (FIRST_DAY, "BHD"): (1, 1, 0, "1.0000"),
        (FIRST_DAY, "EUR"): (3, 3, 0, "1.0000"),
        (FIRST_DAY, "JPY"): (3, 2, 1, "0.6666"),
        (SECOND_DAY, "EUR"): (2, 2, 0, "1.0000"),
        (THIRD_DAY, "EUR"): (1, 1, 0, "1.0000"),
    }
    by_place = {(each.period, each.currency): each for each in found}
    yen, euros = by_place[FIRST_DAY, "JPY"], by_place[FIRST_DAY, "EUR"]
    assert (yen.amount_minor, yen.captured_minor, yen.declines) == (10_677, 10_277, [Declines("do_not_honor", 1, 400)])
    assert (euros.amount_minor, euros.captured_minor, euros.refunded_minor) == (4_001, 4_001, 300)
    assert {each.provider for each in found} == {"simulator"}
    (month,) = [
        each
        for each in await volumes(
            desk.world.store, CALLER.shop_id, CALLER.mode, Period(FIRST_DAY, END, Granularity.MONTH)
        )
        if each.currency == "EUR"
    ]
    assert (month.orders, month.open, month.cancelled) == (6, 0, 0)


async def test_nothing_decided_has_no_rate_and_cancelled_orders_are_not_in_it(store: Store, tmp_path: Path) -> None:
    desk = Desk(store, tmp_path)
    await desk.world.pay(basket("c1", ("a", 100, "EUR", 0), token="tok_pending"))
    (only,) = await volumes(store, CALLER.shop_id, CALLER.mode, ALL_DAYS)
    assert (only.orders, only.open, only.succeeded, only.success_rate, only.declines) == (1, 1, 0, None, [])


@pytest.mark.parametrize(
    ("period", "told"),
    [
        (Period(FIRST_DAY, FIRST_DAY), "must be after the first"),
        (Period(END, FIRST_DAY), "must be after the first"),
        (Period(FIRST_DAY, FIRST_DAY + timedelta(days=DAYS_MOST + 1)), "at most 400 days"),
        (Period(date.min, date.max, Granularity.MONTH), "at most 120 months"),
    ],
)
def test_a_period_that_cannot_be_read_is_told(period: Period, told: str) -> None:
    assert told in str(period.problem)
    assert Period(FIRST_DAY, FIRST_DAY + timedelta(days=DAYS_MOST)).problem is None


async def command(database_url: str, *arguments: str) -> tuple[int, str]:
    """Run `coatcheck reports` as a person would; its exit status and what it printed."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "reports", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DATABASE_URL": database_url, "COATCHECK_CONFIG": os.devnull},
    )
    printed, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode()


PERIOD = ("--shop", "hats", "--from", "2026-03-01", "--to", "2026-03-04")


async def test_the_commands_show_the_books_as_table_csv_and_json(desk: Desk, database_url: str) -> None:
    assert await desk.world.count("transfer") > 0
    status, table = await command(database_url, "revenue", *PERIOD)
    assert status == 0
    assert "2026-03-01  BHD       12.345" in table
    _, text = await command(database_url, "revenue", *PERIOD, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["charged"] for row in rows if row["currency"] == "EUR"] == ["40.01", "7.00", "10.00"]
    assert rows[4]["net"].startswith("-") or float(rows[4]["net"]) >= 0
    _, text = await command(database_url, "volumes", *PERIOD, "--format", "csv")
    assert {row["declines"] for row in csv.DictReader(io.StringIO(text))} == {"", "do_not_honor: 1"}
    _, text = await command(database_url, "fees", *PERIOD, "--format", "json")
    assert {row["provider"] for row in json.loads(text)["rows"]} == {"simulator"}
    _, text = await command(
        database_url, *("statement", "seller:tokyo:pending", "--currency", "JPY", "--shop", "hats", "--format", "json")
    )
    statement = json.loads(text)
    assert (statement["opening_balance"], statement["closing_balance"]) == ("0", "9405")
    assert [line["balance"] for line in statement["lines"]] == ["9405"]
    _, text = await command(database_url, "trial-balance", "--shop", "hats", "--at", "2026-03-02")
    assert "BHD       all accounts" in text


async def test_the_commands_say_what_they_cannot_show(desk: Desk, database_url: str) -> None:
    assert await desk.world.count("transfer") > 0
    for arguments, told in (
        (("revenue", "--shop", "hats", "--from", "2026-03-04", "--to", "2026-03-04"), "must be after the first"),
        (("revenue", "--shop", "nobody", *PERIOD[2:]), "no shop 'nobody'"),
        (("statement", "seller:x", "--currency", "EUR", "--shop", "hats"), "no account seller:x in EUR"),
    ):
        status, printed = await command(database_url, *arguments)
        assert (status, told in printed) == (2, True), printed
    status, printed = await command(database_url, "fees", *PERIOD, "--live")
    assert (status, printed) == (0, "Nothing moved in that time.\n")
    status, printed = await command(database_url, "fees", *PERIOD, "--live", "--format", "csv")
    assert printed == "period,provider,currency,kind,fees,transfers\n"
