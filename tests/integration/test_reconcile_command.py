"""`coatcheck reconcile` in its forms: every report, the nightly run by hand, the ageing, and what it cannot do."""

import asyncio
import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from tests.integration.arriving import ArrivalDesk
from tests.integration.outside import CALLER, checkout
from tests.integration.test_reconciliation import lines, summed

from coatcheck.shops import create_key
from coatcheck.store import Store


async def reconcile(database_url: str, *arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run the command as a person would; its exit status, and what it printed on both streams."""
    program = [sys.executable, "-c", "from coatcheck.cli import main; main()", "reconcile"]
    named = {f"COATCHECK_{name.upper()}": text for name, text in settings.items()}
    running = await asyncio.create_subprocess_exec(
        *[*program, *arguments],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": database_url, "COATCHECK_CONFIG": os.devnull, **named},
    )
    printed, complained = await running.communicate()
    assert running.returncode is not None
    return running.returncode, printed.decode(), complained.decode()


@pytest.fixture
async def strange(store: Store, tmp_path: Path) -> Path:
    """A file with a charge that nobody here knows of."""
    desk = ArrivalDesk(store, tmp_path)
    await create_key(store, desk.world.clock, "hats", CALLER.mode)
    await desk.world.pay(checkout("c1", "o1", "o2"))
    header, one, two, payout, _ = lines(desk.close()[0])
    path = tmp_path / "st_1.csv"
    text = summed(header, one, two.replace(",op_", ",their_").replace("ch_0", "ch_9"), payout)
    await asyncio.to_thread(path.write_text, text, "utf-8")
    return path


async def test_a_report_is_printed_in_the_form_that_is_asked_for(strange: Path, database_url: str) -> None:
    asked = str(strange), "--shop", "hats", "--by", "ada"
    status, printed, complained = await reconcile(database_url, *asked, unrecorded_charge="queue")
    assert (status, complained) == (1, "")  # no bar where nobody watches
    assert "1 breaks:" in printed
    assert "missing_here" in printed
    status, printed, _ = await reconcile(database_url, *asked, "--format", "json")
    body = json.loads(printed)
    assert (status, body["matched"], [each["kind"] for each in body["mismatches"]]) == (1, 1, ["missing_here"])
    _, printed, _ = await reconcile(database_url, *asked, "--format", "csv")
    total, found = csv.DictReader(io.StringIO(printed))
    assert (total["gross"], found["kind"], found["files"]) == ("20.00", "missing_here", "10.00")
    _, printed, _ = await reconcile(database_url, *asked, "--format", "html")
    assert printed.startswith("<!doctype html>")
    assert "<td>missing_here</td>" in printed


async def test_the_ageing_is_printed_for_people_and_programs(strange: Path, database_url: str) -> None:
    await reconcile(database_url, str(strange), "--shop", "hats", "--by", "ada")
    status, printed, _ = await reconcile(database_url, "--ageing", "--shop", "hats")
    assert status == 0
    assert "psp:simulator:payouts_in_transit" in printed
    assert "open breaks" in printed
    status, printed, _ = await reconcile(database_url, "--ageing", "--shop", "hats", "--format", "json")
    assert status == 0
    assert {each["kind"]: each["days_0_to_1"] for each in json.loads(printed)["breaks"]} == {"missing_here": 1}


async def test_the_nightly_run_is_done_by_hand(strange: Path, database_url: str, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    await asyncio.to_thread(inbox.mkdir)
    await asyncio.to_thread(strange.rename, inbox / "st_1.csv")
    settings = {"settlement_shop": "hats", "settlement_dir": str(inbox)}
    status, printed, _ = await reconcile(database_url, "--nightly", "--by", "ada", **settings)
    assert (status, "1 taken, 0 refused, 0 not taken yet." in printed) == (1, True)
    status, printed, _ = await reconcile(database_url, "--nightly", "--by", "ada", **settings)
    assert (status, "0 taken, 0 refused, 0 not taken yet." in printed) == (0, True)
    await asyncio.to_thread((inbox / "cut.csv").write_text, "nothing\n", "utf-8")
    status, printed, _ = await reconcile(database_url, "--nightly", "--by", "ada", **settings)
    assert status == 1
    assert "cut.csv: refused: its beginning fits none of the formats" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a FILE, or --nightly, or --ageing"),
        (("--nightly", "--ageing"), "give a FILE, or --nightly, or --ageing"),
        (("--ageing",), "missing option '--shop'"),
        (("--nightly",), "missing option '--by'"),
        (("--ageing", "--shop", "hats", "--format", "csv"), "printed as text or json"),
        (("--ageing", "--shop", "nobody"), "no such shop"),
        (("--nightly", "--by", "ada"), "COATCHECK_SETTLEMENT_SHOP"),
    ],
)
async def test_what_it_cannot_do_it_says(arguments: tuple[str, ...], said: str, database_url: str) -> None:
    status, printed, complained = await reconcile(database_url, *arguments)
    assert (status, printed) == (2, "")
    assert said in complained
