"""The demo as a user runs it: real processes, real PostgreSQL, the proof read from standard output."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PROOF = re.compile(
    r"PROOF asked=(\d+) charged=(\d+) charged_twice=0 lost=0 unresolved=0 ledger_difference=0 wallet_difference=0 "
    r"matched=(\d+) breaks_planted=(\d+) breaks_found=(\d+) clearing_open=0 payouts_twice=0 replay_difference=0 ok=true"
)
CHECKOUTS = 120
RUN = "from coatcheck.cli import main; main()"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    with tempfile.TemporaryDirectory(prefix="coatcheck-demo-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "data"


def start(data_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", RUN, "demo", "--data-dir", str(data_dir), "--checkouts", str(CHECKOUTS), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Settings of the user's own must not reach the demo.
        env=environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere", "COATCHECK_PORT": "not a port"},
    )


def processes_of(data_dir: Path) -> list[str]:
    """What still runs on the data directory: gateway, simulator or PostgreSQL."""
    found = []
    for process in psutil.process_iter():
        try:
            about = [*process.cmdline(), process.environ().get("COATCHECK_DATA_DIR", "")]
        except psutil.Error:
            continue
        if any(str(data_dir) in each for each in about):
            found.append(" ".join(about))
    return found


def assert_proved(output: str) -> int:
    lines = output.rstrip().splitlines()
    found = PROOF.fullmatch(lines[-1])
    assert found is not None, output
    asked, charged = int(found[1]), int(found[2])
    assert CHECKOUTS < charged < asked < 4 * CHECKOUTS
    matched, planted, discovered = int(found[3]), int(found[4]), int(found[5])
    assert charged < matched
    assert 20 < planted == discovered
    assert "\x1b" not in output, "a file must not get colours"
    return asked


def successes_by_reference(data_dir: Path) -> Counter[str]:
    """What the PSP's journal says of all evenings together."""
    lines = (data_dir / "demo" / "psp-books.jsonl").read_bytes().splitlines()
    charges = [entry["charge"] for entry in map(json.loads, lines) if entry["entry"] == "charge"]
    return Counter(charge["reference"] for charge in charges if charge["status"] == "succeeded")


@pytest.mark.slow
def test_an_evening_is_proved_and_the_next_one_on_the_same_data_too(data_dir: Path) -> None:
    for seed in ("5", "6"):
        demo = start(data_dir, "--seed", seed)
        output, _ = demo.communicate(timeout=100)
        assert demo.returncode == 0, output
        asked = assert_proved(output)
        assert f"{CHECKOUTS} with {asked} orders" in output
        for promised in ("dropped after charging", "coatcheck serve", "orders in KWD", "24 twice at the same time"):
            assert promised in re.sub(r"\s+", " ", output)
        assert processes_of(data_dir) == []


@pytest.mark.slow
def test_an_interrupted_evening_leaves_no_process_and_is_finished_by_the_next(data_dir: Path) -> None:
    demo = start(data_dir, "--seed", "8")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(f"  {CHECKOUTS * 3 // 10} of "):
            break
    demo.send_signal(signal.SIGTERM)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "the next evening there finishes what was open" in output
    assert processes_of(data_dir) == []
    following = start(data_dir, "--seed", "8")
    output, _ = following.communicate(timeout=100)
    assert following.returncode == 0, output
    assert_proved(output)
    assert max(successes_by_reference(data_dir).values()) == 1, "one PSP, both evenings: nothing was charged twice"


def test_a_gateway_that_dies_in_the_evening_is_said_and_no_proof_is_given(data_dir: Path) -> None:
    demo = start(data_dir, "--seed", "9")
    assert demo.stdout is not None
    for line in demo.stdout:
        if " of " in line and line.startswith("  "):
            break
    [gateway] = [child for child in psutil.Process(demo.pid).children() if "serve" in child.cmdline()]
    gateway.kill()
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 2, output
    assert "coatcheck: the gateway ended in the middle of the evening" in output
    assert "PROOF" not in output
