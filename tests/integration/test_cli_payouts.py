"""`coatcheck payouts`: runs by hand, two people, and statements, from the command line."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.integration.outside import ScriptedProvider, World
from tests.integration.payees import schedule, seller_with

from coatcheck import cli
from coatcheck.clock import ManualClock
from coatcheck.store import Store


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COATCHECK_DIGEST_SECRET", "0" * 64)


@pytest.fixture
async def due(store: Store) -> World:
    """A seller who was due an hour ago."""
    world = World(store, ScriptedProvider(payout_token="dest_[a-z]+"), clock=ManualClock(datetime.now(UTC)))
    world.clock.advance(timedelta(hours=-3))
    await seller_with(world, 1000)
    await schedule(world, "s1", "0 * * * *")
    return world


async def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = await asyncio.to_thread(cli.run, arguments)
    told = capsys.readouterr()
    return status, told.out + told.err


@pytest.mark.usefixtures("environment")
async def test_D11_a_run_by_hand_twice_is_one_and_another_person_lets_it_go(
    due: World, owner: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = await run(capsys, "payouts", "run", "--all", "--dry-run", "--by", "ada")
    assert (status, "new" in text) == (0, True), text
    assert await due.count("payout_run") == 0
    status, text = await run(capsys, "payouts", "run", "--schedule", "0  * * * *", "--by", "ada")
    assert (status, "WAITING: 10.00 EUR to 1" in text) == (0, True), text
    status, text = await run(capsys, "payouts", "run", "--all", "--by", "ada")
    assert (status, "Nobody is due." in text) == (0, True), text
    name = next(word for word in (await run(capsys, "payouts", "runs", "--waiting"))[1].split() if word[:4] == "run_")
    status, text = await run(capsys, "payouts", "approve", name, "--by", "ada")
    assert status != 0
    assert "A second person must decide" in text
    status, text = await run(capsys, "payouts", "approve", name, "--by", "grace")
    assert status == 0, text
    assert (await owner.fetchval("SELECT status FROM payout"), await due.count("payout")) == ("PENDING", 1)
    status, text = await run(capsys, "payouts", "show", name)
    assert "requested" in text
    assert "person grace" in (await run(capsys, "payouts", "runs"))[1]
    status, text = await run(capsys, "payouts", "reject", name, "--by", "emmy")
    assert status != 0


@pytest.mark.usefixtures("environment", "due")
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--by", "ada"),
        ("run", "--all", "--schedule", "0 6 * * *", "--by", "ada"),
        ("run", "--schedule", "daily", "--by", "ada"),
        ("run", "--all", "--at", "tomorrow", "--by", "ada"),
        ("run", "--all", "--at", "2999-01-01T00:00:00Z", "--by", "ada"),
        ("show", "run_nothing"),
        ("approve", "pay_dpgs5zdhcp7p3nlvvnjrb7o7cq", "--by", "ada"),
    ],
)
async def test_what_makes_no_sense_is_told_and_nothing_is_run(
    store: Store, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, text = await run(capsys, "payouts", *arguments)
    assert status != 0
    assert "Traceback" not in text
    assert await store.pool.fetchval("SELECT count(*) FROM payout_run") == 0


@pytest.mark.usefixtures("environment", "due")
async def test_a_statement_is_written_in_each_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    period = ("--from", "2020-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z")
    for ending, start in ((".json", b"{"), (".csv", b"seller_account,"), (".pdf", b"%PDF-")):
        out = tmp_path / f"may{ending}"
        arguments = ("payouts", "statement", "s1", "--shop", "hats", *period, "--out", str(out))
        status, text = await run(capsys, *arguments)
        assert status == 0, text
        assert out.read_bytes().startswith(start)
    body = json.loads((tmp_path / "may.json").read_bytes())
    assert [part["closing"]["total"] for part in body["currencies"]] == ["10.00"]
    status, _ = await run(
        capsys, "payouts", "statement", "s9", "--shop", "hats", *period, "--out", str(tmp_path / "a.csv")
    )
    assert status != 0


@pytest.mark.usefixtures("environment", "due")
@pytest.mark.parametrize(
    ("limit", "ending", "told"),
    [
        ("reading.MOVEMENTS_MOST", ".csv", "Ask for a shorter period"),
        ("pdf_file.PDF_MOVEMENTS_MOST", ".pdf", "Ask for CSV"),
    ],
)
async def test_a_statement_that_is_too_long_says_what_to_ask_for(
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    ending: str,
    told: str,
) -> None:
    monkeypatch.setattr(f"coatcheck.reporting.seller_statements.{limit}", 0)
    period = ("--from", "2020-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z")
    out = tmp_path / f"may{ending}"
    status, text = await run(capsys, "payouts", "statement", "s1", "--shop", "hats", *period, "--out", str(out))
    assert (status, "Traceback" in text, out.exists()) == (2, False, False), text
    assert told in text
