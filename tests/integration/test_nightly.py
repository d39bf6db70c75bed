"""The nightly reconciliation: what has come is taken once a day by one gateway, and what has not come is told."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.outside import CALLER, checkout
from tests.integration.running import checkout as checkout_body
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconciliation import lines

from coatcheck.providers.simulated_settlements import SettlementsUnavailableError, SimulatedSettlements
from coatcheck.reconciliation.nightly import Nightly, NightlyReport, nightly_plan_of
from coatcheck.shops import create_key
from coatcheck.store import Store
from coatcheck.watcher import list_alerts
from coatcheck.wiring import make_nightly

__all__ = ["simulator_url"]

MIDNIGHT = {"settlement_shop": "hats", "settlement_nightly_at": "00:30"}
DAILY = {"settlement_shop": "hats", "settlement_expected": {"simulator": "daily 09:00"}}


async def nobody_writes() -> None:
    """Wait for nothing: in a test nobody writes meanwhile."""


class Window:
    """The PSP's settlements as they are fetched, without sockets."""

    name = "simulator"

    def __init__(self, desk: ArrivalDesk) -> None:
        self._desk = desk
        self.is_open = True
        self.asked: list[str] = []

    async def batches(self) -> list[str]:
        if not self.is_open:
            raise SettlementsUnavailableError("could not connect")
        return [batch.id for batch in self._desk.psp.bank.settlements.batches(self._desk.merchant)]

    async def save(self, batch: str, path: Path) -> None:
        self.asked.append(batch)
        text = "".join(self._desk.psp.bank.settlements.file(self._desk.merchant, batch))
        await asyncio.to_thread(path.write_text, text, "utf-8")


class NightDesk(ArrivalDesk):
    """A desk with a nightly job, and a directory that it looks into."""

    def __init__(self, store: Store, directory: Path, **changed: Any) -> None:
        self.inbox = directory / "inbox"
        super().__init__(store, directory, **{"settlement_dir": self.inbox, **MIDNIGHT, **changed})
        self.inbox.mkdir()
        self.window = Window(self)

    def nightly(self, settle: Callable[[], Awaitable[None]] = nobody_writes, sources: Sequence[Window] = ()) -> Nightly:
        """Another gateway's job: each has its own."""
        plan = nightly_plan_of(self.settings)
        assert plan is not None
        gateway = self.world.gateway
        return Nightly(
            gateway.store,
            gateway.clock,
            plan,
            arrivals=gateway.arrivals,
            expected=gateway.expected_files,
            sources=sources,
            settle=settle,
        )

    def put(self, text: str, name: str = "st_1.csv") -> Path:
        path = self.inbox / name
        path.write_text(text, "utf-8")
        return path

    def there(self) -> list[str]:
        return sorted(str(path.relative_to(self.inbox)) for path in self.inbox.rglob("*") if path.is_file())


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> NightDesk:
    made = NightDesk(store, tmp_path)
    await create_key(store, made.world.clock, "hats", CALLER.mode)
    return made


def names(report: NightlyReport | None) -> tuple[list[str], list[str], list[str]]:
    assert report is not None
    left = report.refused, report.waiting
    refused, waiting = ([each.name for each in each_kind] for each_kind in left)
    return [taken.name for taken in report.taken], refused, waiting


async def settled(desk: ArrivalDesk, checkout_id: str = "c1") -> str:
    """Pay, and have the PSP pay out: the text of its file."""
    await desk.world.pay(checkout(checkout_id, f"{checkout_id}-o"), f"key-{checkout_id}")
    return desk.close()[0]


async def test_what_was_put_there_is_taken_and_moved(desk: NightDesk) -> None:
    desk.put(await settled(desk))
    assert names(await desk.nightly().run("person ada")) == (["st_1.csv"], [], [])
    assert desk.there() == ["done/st_1.csv"]
    assert await desk.balances() == {"psp_payouts_in_transit": 975, "platform_psp_fees": 25}
    assert names(await desk.nightly().run("person ada")) == ([], [], [])


async def test_a_name_that_comes_every_day_overwrites_nothing(desk: NightDesk) -> None:
    first, second = await settled(desk), await settled(desk, "c2")
    desk.put(first)
    await desk.nightly().run("person ada")
    desk.put(second)
    await desk.nightly().run("person ada")
    assert desk.there() == ["done/st_1.2.csv", "done/st_1.csv"]
    assert (desk.inbox / "done/st_1.csv").read_text("utf-8") == first
    assert (desk.inbox / "done/st_1.2.csv").read_text("utf-8") == second


async def test_H2_a_refused_file_is_kept_with_the_reason_beside_it(desk: NightDesk) -> None:
    text = await settled(desk)
    desk.put("".join(lines(text)[:-1]))
    desk.put(text, "whole.csv")
    assert names(await desk.nightly().run("person ada")) == (["whole.csv"], ["st_1.csv"], [])
    assert desk.there() == ["done/whole.csv", "refused/st_1.csv", "refused/st_1.csv.why"]
    why = (desk.inbox / "refused/st_1.csv.why").read_text("utf-8")
    assert why.startswith("st_1.csv was refused, and nothing of it was taken: the last line, 'end', is missing")


async def test_H2_a_file_that_still_grows_is_not_taken(desk: NightDesk) -> None:
    text = await settled(desk)
    path = desk.put(text[:100])
    desk.put(text, "upload.csv.part")
    desk.put(text, ".hidden.csv")
    (desk.inbox / "link.csv").symlink_to(desk.inbox / "upload.csv.part")

    async def write_on() -> None:
        path.write_text(text[:200], "utf-8")

    assert names(await desk.nightly(write_on).run("person ada")) == ([], [], ["st_1.csv"])
    path.write_text(text, "utf-8")
    assert names(await desk.nightly().run("person ada")) == (["st_1.csv"], [], [])
    assert desk.there() == [".hidden.csv", "done/st_1.csv", "link.csv", "upload.csv.part"]


async def test_H9_a_bank_s_statement_is_taken_after_the_files_that_it_is_about(desk: NightDesk) -> None:
    desk.put(await settled(desk), "z.csv")
    await settled(desk, "c2")
    desk.put(statement(("9.75", "po_000001"), ("9.75", "po_000002")), "a.xml")
    report = await desk.nightly(sources=[desk.window]).run("person ada")
    assert names(report)[0][-1] == "a.xml"
    assert [taken.is_clean for taken in report.taken] == [True] * len(report.taken)
    assert (await desk.world.balances())["bank"] == 1950


async def test_what_the_psp_has_is_fetched_once(desk: NightDesk) -> None:
    await settled(desk)
    await settled(desk, "c2")
    nightly = desk.nightly(sources=[desk.window])
    assert names(await nightly.run("person ada")) == (["simulator-st_000001.csv", "simulator-st_000002.csv"], [], [])
    assert names(await nightly.run("person ada")) == ([], [], [])
    assert desk.window.asked == ["st_000001", "st_000002"]
    assert desk.there() == ["done/simulator-st_000001.csv", "done/simulator-st_000002.csv"]


async def test_F8_of_any_number_of_gateways_one_runs_it_once_a_day(desk: NightDesk) -> None:
    desk.put(await settled(desk))
    reports = await asyncio.gather(*[desk.nightly().tend_once() for _ in range(5)])
    assert sorted(names(report)[0] for report in reports if report is not None) == [["st_1.csv"]]
    assert await desk.nightly().tend_once() is None
    (row,) = await desk.world.store.pool.fetch("SELECT * FROM nightly_run")
    assert (row["day"], row["attempt"], row["taken"], row["refused"]) == (date(2026, 3, 1), 1, 1, 0)
    assert row["ended_at"] is not None
    assert sorted(await desk.events("nightly.begun", "nightly.ended")) == ["nightly.begun", "nightly.ended"]
    desk.world.clock.advance(timedelta(hours=12))  # past midnight, before the time
    assert await desk.nightly().tend_once() is None
    desk.world.clock.advance(timedelta(minutes=30))
    assert names(await desk.nightly().tend_once()) == ([], [], [])
    assert await desk.world.count("nightly_run") == 2


async def test_F8_a_run_whose_gateway_is_gone_is_taken_up_again(desk: NightDesk) -> None:
    desk.put(await settled(desk))
    at = desk.world.clock.now()
    claimed = await desk.world.store.pool.fetchval(
        "SELECT claim_nightly($1, $2, $3, $4, $5)",
        *(at, CALLER.shop_id, CALLER.mode.value, at.date(), at + timedelta(minutes=30)),
    )
    assert claimed == 1
    assert await desk.nightly().tend_once() is None
    desk.world.clock.advance(timedelta(minutes=30))
    assert names(await desk.nightly().tend_once()) == (["st_1.csv"], [], [])
    assert await desk.world.store.pool.fetchval("SELECT attempt FROM nightly_run WHERE ended_at IS NOT NULL") == 2
    late_end = await desk.world.store.pool.fetchval(
        "SELECT end_nightly($1, $2, $3, $4, 1, 7, 7)", at, CALLER.shop_id, CALLER.mode.value, at.date()
    )
    assert late_end is False


async def test_what_could_not_be_done_is_tried_again_the_same_day(desk: NightDesk) -> None:
    await settled(desk)
    desk.window.is_open = False
    nightly = desk.nightly(sources=[desk.window])
    assert names(await nightly.tend_once()) == ([], [], ["simulator"])
    desk.window.is_open = True
    assert await nightly.tend_once() is None
    desk.world.clock.advance(timedelta(minutes=10))
    assert names(await nightly.tend_once()) == (["simulator-st_000001.csv"], [], [])
    assert await desk.world.store.pool.fetchval("SELECT taken FROM nightly_run") == 1


async def test_F12_a_gateway_that_stops_leaves_the_rest_to_the_next(desk: NightDesk) -> None:
    desk.put(await settled(desk))
    stopping = asyncio.Event()

    async def stop() -> None:
        stopping.set()

    await desk.nightly(stop).tend(timedelta(seconds=30), stopping)
    assert desk.there() == ["st_1.csv"]
    desk.world.clock.advance(timedelta(minutes=10))
    assert names(await desk.nightly().tend_once()) == (["st_1.csv"], [], [])


async def test_files_of_a_shop_that_is_not_there_are_left_alone(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path)
    desk.put("whatever")
    assert await desk.nightly().tend_once() is None
    assert desk.there() == ["st_1.csv"]


async def test_H3_a_file_that_does_not_come_is_told_until_it_comes(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path, **DAILY)
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    nightly = desk.nightly()
    await nightly.tend_once()
    text = await settled(desk)  # the file of that day, which does not come
    desk.world.clock.advance(timedelta(hours=20, minutes=59))  # 08:59 of the next day
    await nightly.tend_once()
    assert (await desk.alerts(), await desk.breaks()) == ([], [])
    desk.world.clock.advance(timedelta(minutes=1))
    await nightly.tend_once()
    assert await desk.breaks() == ["late"]
    assert await desk.alerts() == [("settlement_late", True)]
    (alert,) = await list_alerts(store)
    assert alert.text == (
        "A file of simulator has not come: the file of 2026-03-01 was due until 2026-03-02 09:00 UTC."
    )
    await nightly.tend_once()
    assert (await desk.alerts(), await desk.breaks()) == ([], ["late"])
    later = await settled(desk, "c2")  # the next day's file is not the one that is missing
    await desk.arrive(later, "later.csv")
    assert await desk.breaks() == ["late"]
    await desk.arrive(text, "at last.csv")
    assert await desk.breaks() == []
    assert await desk.breaks("reason = 'the file has come'") == ["late"]
    assert await desk.alerts() == [("settlement_late", False)]
    told = await desk.events("file.late", "file.arrived", "break.closed")
    assert sorted(told) == ["break.closed", "file.arrived", "file.arrived", "file.late"]
    desk.world.clock.advance(timedelta(days=1, minutes=1))
    await nightly.tend_once()
    assert await desk.breaks() == []  # the second day's file was there


async def test_H3_a_file_that_came_before_anybody_waited_has_come(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path, **DAILY)
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    text = await settled(desk)
    await desk.take(text)  # by a process that knows of no calendar
    desk.world.clock.advance(timedelta(hours=2))
    await desk.nightly().tend_once()
    assert await desk.world.count("expected_file", "file_id IS NOT NULL") == 1
    desk.world.clock.advance(timedelta(hours=20))
    await desk.nightly().tend_once()
    assert await desk.breaks() == []


async def test_H3_a_weekend_s_file_is_friday_s(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path, settlement_shop="hats", settlement_expected={"simulator": "weekday 09:00"})
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    nightly = desk.nightly()
    await nightly.tend_once()  # a Sunday
    assert await desk.world.count("expected_file") == 0
    desk.world.clock.advance(timedelta(days=5))  # Friday
    await nightly.tend_once()
    days = await desk.world.store.pool.fetch("SELECT day FROM expected_file ORDER BY day")
    assert [row["day"] for row in days] == [date(2026, 3, 6)]
    desk.world.clock.advance(timedelta(days=1))
    await desk.arrive(await settled(desk))
    desk.world.clock.advance(timedelta(days=2))  # Monday, past nine
    await nightly.tend_once()
    assert await desk.breaks() == []
    desk.world.clock.advance(timedelta(days=1))
    await nightly.tend_once()
    assert await desk.breaks() == ["late"]  # Monday's own


async def test_H3_a_statement_without_entries_is_the_one_that_was_waited_for_longest(
    store: Store, tmp_path: Path
) -> None:
    desk = NightDesk(store, tmp_path, settlement_shop="hats", settlement_expected={"bank": "daily 07:30"})
    await create_key(store, desk.world.clock, "hats", CALLER.mode)

    await desk.nightly().tend_once()
    desk.world.clock.advance(timedelta(days=1))
    await desk.nightly().tend_once()
    assert await desk.breaks() == ["late"]
    await desk.arrive(statement(), "empty.xml")
    assert await desk.breaks() == []


async def test_H3_of_many_gateways_one_tells_what_is_late(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path, **DAILY)
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    await desk.nightly().tend_once()
    desk.world.clock.advance(timedelta(days=1))
    await asyncio.gather(*[desk.nightly().tend_once() for _ in range(5)])
    assert await desk.breaks() == ["late"]
    assert await desk.events("file.late") == ["file.late"]


async def test_a_late_file_that_a_person_has_given_up_is_not_asked_for_again(store: Store, tmp_path: Path) -> None:
    desk = NightDesk(store, tmp_path, **DAILY)
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    await desk.nightly().tend_once()
    desk.world.clock.advance(timedelta(hours=21))
    await desk.nightly().tend_once()
    assert await desk.alerts() == [("settlement_late", True)]
    (break_id,) = await store.pool.fetch("SELECT break_id FROM reconciliation_break")
    await desk.corrections.close([break_id["break_id"]], "person ada", "the PSP was closed that day")
    await desk.nightly().tend_once()
    assert (await desk.breaks(), await desk.alerts()) == ([], [("settlement_late", False)])


async def test_the_simulator_s_files_are_fetched_over_http(store: Store, simulator_url: str, tmp_path: Path) -> None:
    async with run_gateway(
        store, simulator_url, settings={"settlement_shop": "hats", "settlement_from_simulator": True}
    ) as server:
        key = await server.make_key()
        await server.pay(key, checkout_body("c1", orders=2), Idempotency_Key="k1")
        async with server.session.post(f"{simulator_url}/admin/close-batches?account=coatcheck&mode=test") as response:
            assert response.status == 200, await response.text()
        short = SimulatedSettlements(simulator_url, "sk_sim_test_coatcheck", deadline_s=5, limit_bytes=10)
        with pytest.raises(SettlementsUnavailableError, match="is longer than 10 bytes"):
            await short.save("st_000001", tmp_path / "short.csv")
        nightly = make_nightly(server.gateway)
        assert nightly is not None
        report = await nightly.run("person ada")
        assert names(report) == (["simulator-st_000001.csv"], [], [])
        (taken,) = report.taken
        assert (taken.matched, taken.is_clean) == (2, True)
        assert names(await nightly.run("person ada")) == ([], [], [])


async def test_C17_settlements_that_cannot_be_fetched_say_why(simulator_url: str, tmp_path: Path) -> None:
    def source(url: str = simulator_url, key: str = "sk_sim_test_coatcheck", most: int = 1000) -> SimulatedSettlements:
        return SimulatedSettlements(url, key, deadline_s=5, limit_bytes=most)

    with pytest.raises(SettlementsUnavailableError, match="answered 404 for /v1/settlements/st_9/file"):
        await source().save("st_9", tmp_path / "x")
    with pytest.raises(SettlementsUnavailableError, match="answered 401"):
        await source(key="nobody's").batches()
    with pytest.raises(SettlementsUnavailableError, match=r"could not connect|was refused"):
        await source("http://127.0.0.1:1").batches()
