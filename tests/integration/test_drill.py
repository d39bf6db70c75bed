"""The failure drill as a user runs it: real processes, every kind of fault, and a judge that is not fooled."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from coatcheck.drill.proxy import DATABASE_FAULTS, PSP_FAULTS, WEBHOOK_FAULTS
from coatcheck.drill.schedule import Blow

PROOF = re.compile(
    r"PROOF payments=(\d+) faults=(\d+) kills=(\d+) charged_twice=0 lost=0 over_refunded=0 overdrawn=0 unresolved=0 "
    r"ledger_difference=0 replay_difference=0 payouts_twice=0 breaks_open=0 clearing_open=0 "
    r"payouts=(\d+) disputes=(\d+) adopted=(\d+) ok=true"
)
RUN = "from coatcheck.cli import main; main()"
# A gateway that charges an order a second time, under a name of its own: nobody but the PSP can know.
CHARGES_AGAIN = """
import sys
from pathlib import Path

import aiohttp
from coatcheck.drill import DrillPlan, run_drill
from coatcheck.drill.world import World

calm = World.calm

async def charge_again(world):
    await calm(world)
    if world.is_second:
        return
    books = await world.witnesses.read_books()
    charge = next(charge for charge in books.charges if charge.status == "succeeded")
    body = {"amount": charge.amount_minor, "currency": charge.currency, "token": "tok_approve", "reference": "planted"}
    headers = {"Authorization": "Bearer sk_sim_test_coatcheck", "Idempotency-Key": "planted"}
    async with aiohttp.ClientSession() as session:
        async with session.post(world.simulator.url + "/v1/charges", json=body, headers=headers) as response:
            assert response.status == 201

World.calm = charge_again
sys.exit(run_drill(DrillPlan(seconds=6, seed=4, clients=16)))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    with tempfile.TemporaryDirectory(prefix="coatcheck-drill-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


def start(directory: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Settings of the user's own must not reach the drill.
        env=environ | {"TMPDIR": str(directory), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere"},
    )


def assert_everything_was_broken(report: dict[str, Any]) -> None:
    assert set(report["blows"]) == {blow.name.lower() for blow in Blow}
    assert min(report["blows"].values()) >= 1
    assert report["gateways"]["starts with a wrong clock"] >= 2
    assert report["gateways"]["starts"] > 4
    faults = report["faults_by_kind"]
    for line, kinds in (("database", DATABASE_FAULTS), ("psp", PSP_FAULTS), ("webhooks", WEBHOOK_FAULTS)):
        assert {kind: faults.get(f"{line} line: {kind}", 0) >= 1 for kind in kinds} == dict.fromkeys(kinds, True)
    at_the_psp = ("dropped after charge", "error before", "error after", "rate limited", "slow", "look up error")
    webhooks = ("webhook lost", "webhook duplicated", "webhook late", "webhook reordered", "webhook forged")
    for kind in (*at_the_psp, *webhooks, "webhook wrong amount"):
        assert faults[f"PSP: {kind}"] >= 1, kind
    assert report["faults"] == sum(faults.values())
    assert set(report["manners"]) == {"pay-in", "hosted page", "manual capture", "all or nothing"}
    assert report["clients_say"]["refunds"] >= 1
    assert report["recoveries"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_A2_D8_F1_F2_G6_G16_G20_a_drill_with_every_kind_of_fault_is_proved(directory: Path) -> None:
    report = directory / "report.json"
    drill = start(directory, RUN, "drill", "--seconds", "20", "--seed", "11", "--clients", "40", "--json", str(report))
    output, _ = drill.communicate(timeout=290)
    assert drill.returncode == 0, output
    found = PROOF.fullmatch(output.rstrip().splitlines()[-1])
    assert found is not None, output
    assert int(found[1]) > 100
    assert min(int(count) for count in found.groups()) > 0, "payouts, disputes, and what was forgotten, too"
    assert_everything_was_broken(json.loads(report.read_bytes()))
    assert "Again: coatcheck drill --seconds 20 --seed 11" in output
    assert "\x1b" not in output, "a file must not get colours"
    assert list(directory.glob("coatcheck-drill-*")) == [], "nothing was found, so nothing is kept"


@pytest.mark.slow
@pytest.mark.timeout(220)
def test_the_judge_finds_a_charge_that_only_the_psp_knows_of(directory: Path) -> None:
    drill = start(directory, CHARGES_AGAIN)
    output, _ = drill.communicate(timeout=210)
    assert drill.returncode == 1, output
    proof = output.rstrip().splitlines()[-1]
    assert " charged_twice=1 lost=1 over_refunded=0 " in proof, output
    assert " ledger_difference=0 " not in proof
    assert proof.endswith("ok=false")
    [kept] = directory.glob("coatcheck-drill-*")
    assert str(kept) in output, "what something was found in is kept"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_interrupted_drill_leaves_no_process_behind(directory: Path) -> None:
    drill = start(directory, RUN, "drill", "--seconds", "60", "--seed", "12", "--clients", "8")
    assert drill.stdout is not None
    for line in drill.stdout:
        if " of 60 s: " in line:
            break
    children = psutil.Process(drill.pid).children(recursive=True)
    assert len(children) > 6
    drill.send_signal(signal.SIGTERM)
    output, _ = drill.communicate(timeout=60)
    assert drill.returncode == 130, output
    assert "Interrupted: nothing was judged." in output
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert list(directory.glob("coatcheck-drill-*")) == []
