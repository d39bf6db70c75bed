"""Run the model of one charge through `spin`: every PSP exhaustively, every mutant until it is caught.

`python model/check.py`, which is `make model`. One line per run; the last one is
`MODEL states=... ok=... mutants_caught=N/N`. Ends with status 1 unless every PSP holds, every mutant is caught for what
it breaks, and every witness is seen. `--show NAME` prints the shortest counterexample of a mutant, witness or PSP.
"""
# ruff: noqa: INP001, T201 - a program that prints figures, like those of bench/

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

MODEL = Path(__file__).resolve().with_name("charge.pml")
PACKAGES = {"spin": "spin", "gcc": "gcc"}  # program: Debian package
_MEMORY_MIB = 6000  # of one search; two run at once, and the largest needs less than half of this
_DEPTH = 500_000  # steps; the deepest search seen is a third of it


class Breach(StrEnum):
    """What a run found wrong."""

    CHARGED_TWICE = "charged_twice"
    BOOKED_TWICE = "booked_twice"
    BOOKED_UNCHARGED = "booked_but_not_charged"
    FAILED_CHARGED = "failed_while_charged"
    STUCK = "stuck"
    WITNESS = "witness"
    UNKNOWN = "unknown_assertion"


class Kind(StrEnum):
    """What a run is for."""

    PSP = "psp"
    MUTANT = "mutant"
    WITNESS = "witness"


@dataclass(frozen=True, slots=True)
class Run:
    """One search: the protocol at one kind of PSP, with at most one line of it broken or one "never" claimed."""

    kind: Kind
    name: str
    psp: str
    breaks: Breach | None = None

    @property
    def switches(self) -> list[str]:
        """The -D switches that make this run of charge.pml."""
        psp = f"-D{self.psp.upper()}"
        return [psp] if self.kind is Kind.PSP else [psp, f"-D{self.kind.upper()}_{self.name.upper()}"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What spin's checker printed. `is_exhaustive`: no state was left out, by depth, memory or an error."""

    states: int
    is_exhaustive: bool
    breach: Breach | None


def _mutant(name: str, psp: str, breaks: Breach) -> Run:
    return Run(Kind.MUTANT, name, psp, breaks)


def _witness(name: str, psp: str = "keeps_successes") -> Run:
    return Run(Kind.WITNESS, name, psp, Breach.WITNESS)


PSPS = tuple(
    Run(Kind.PSP, name, name) for name in ("registers_first", "keeps_answers", "keeps_errors", "keeps_successes")
)
MUTANTS = (
    _mutant("resend_outside_window", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("new_key_per_attempt", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("fail_on_timeout", "keeps_errors", Breach.FAILED_CHARGED),
    _mutant("fail_by_age", "keeps_errors", Breach.FAILED_CHARGED),
    _mutant("not_found_is_failed", "keeps_errors", Breach.FAILED_CHARGED),
    _mutant("believe_first_not_found", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("sent_at_forgotten", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("sent_at_not_committed", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("no_margin", "keeps_errors", Breach.CHARGED_TWICE),
    _mutant("booking_not_fenced", "keeps_errors", Breach.BOOKED_TWICE),
    _mutant("webhook_not_fenced", "keeps_errors", Breach.BOOKED_TWICE),
    _mutant("lease_never_runs_out", "keeps_errors", Breach.STUCK),
    _mutant("attempt_not_raised", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("sending_not_fenced", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("resend_without_looking", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("one_look_up_is_enough", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("no_lag", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("cause_survives_sending", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("webhook_keeps_not_found", "keeps_successes", Breach.CHARGED_TWICE),
    _mutant("registering_not_fenced", "registers_first", Breach.CHARGED_TWICE),
)
WITNESSES = (
    _witness("webhook_before_the_answer"),
    _witness("zombie_is_fenced"),
    _witness("charged_but_unresolved"),
    _witness("sent_again"),
    _witness("sent_again", "keeps_errors"),
    _witness("key_forgotten_after_the_charge"),
    _witness("booked_after_two_crashes"),
)

_STATES = re.compile(r"^\s*(\d+) states, stored", re.MULTILINE)
_ERRORS = re.compile(r"\berrors: (\d+)")
_VIOLATED = re.compile(r"^pan:\d+: (?:assertion violated\s*(.*?)|(invalid end state))\s*\(at depth \d+\)", re.MULTILINE)
_CUT_SHORT = ("Search not completed", "search depth too small", "out of memory", "memory limit", "-DMEMLIM bound")
# As the checker prints the assertions of charge.pml: its state names have become numbers.
_BREACHES = (
    (re.compile(r"\(charged==1\)"), Breach.CHARGED_TWICE),
    (re.compile(r"\(bookings==1\)"), Breach.BOOKED_TWICE),
    (re.compile(r"\(charged>=1\)"), Breach.BOOKED_UNCHARGED),
    (re.compile(r"\(status!=\d\)|\(charged==0\)"), Breach.FAILED_CHARGED),
    (re.compile(r"!\(.*"), Breach.WITNESS),
)


class ModelError(Exception):
    """The model could not be run; the text says what to do."""


def breach_of(output: str) -> Breach | None:
    """Name what the checker found; None when it found nothing. Pure."""
    found = _VIOLATED.search(output)
    if found is None:
        return None
    if found[2]:
        return Breach.STUCK
    return next((breach for pattern, breach in _BREACHES if pattern.fullmatch(found[1])), Breach.UNKNOWN)


def parse_verdict(output: str) -> Verdict:
    """Read what spin's checker printed. Pure. Raises ModelError when it is no report."""
    states, errors = _STATES.search(output), _ERRORS.search(output)
    if states is None or errors is None:
        raise ModelError(f"the checker gave no report:\n{output.strip()[-2000:]}")
    breach = breach_of(output)
    if breach is None and int(errors[1]):
        breach = Breach.UNKNOWN
    is_exhaustive = breach is None and not any(sign in output for sign in _CUT_SHORT)
    return Verdict(int(states[1]), is_exhaustive, breach)


def is_ok(run: Run, verdict: Verdict) -> bool:
    """Whether a run ended as it must: a PSP without a breach and complete, the others with just their breach. Pure."""
    if run.kind is Kind.PSP:
        return verdict.is_exhaustive and verdict.breach is None
    return verdict.breach is run.breaks


def line_of(run: Run, verdict: Verdict, seconds: int) -> str:
    """One line about one run. Pure."""
    name = "" if run.kind is Kind.PSP else f" {run.kind}={run.name}"
    return (
        f"{run.kind:8}psp={run.psp}{name} states={verdict.states} exhaustive={_word(verdict.is_exhaustive)}"
        f" found={verdict.breach or 'nothing'} seconds={seconds} ok={_word(is_ok(run, verdict))}"
    )


def summary_of(results: Sequence[tuple[Run, Verdict]]) -> tuple[bool, str]:
    """Sum up all runs: whether all ended as they must, and the last line. Pure."""
    states = sum(verdict.states for run, verdict in results if run.kind is Kind.PSP)
    mutants = [is_ok(run, verdict) for run, verdict in results if run.kind is Kind.MUTANT]
    ok = all(is_ok(run, verdict) for run, verdict in results)
    return ok, f"MODEL states={states} ok={_word(ok)} mutants_caught={sum(mutants)}/{len(mutants)}"


def _word(yes: bool) -> str:  # noqa: FBT001 - a word for a truth
    return "true" if yes else "false"


def need_programs() -> None:
    """Make sure that spin and gcc are there: as root by apt-get, else say what to install. Raises ModelError."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise ModelError(f"the model needs {' and '.join(missing)}: sudo apt-get install {' '.join(missing)}")
    print(f"Installing {' '.join(missing)} (once) ...", flush=True)
    _call([apt_get, "update", "-qq"], Path.cwd())
    _call([apt_get, "install", "-y", "-qq", "--no-install-recommends", *missing, "libc6-dev"], Path.cwd())


def _call(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(  # noqa: S603 - our own command lines
        command, cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ModelError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def search(run: Run, directory: Path) -> Verdict:
    """Build the checker of a run in an empty directory and run it there.

    A PSP is searched depth-first, which needs the least memory. What must be found is searched breadth-first, which
    finds the shortest way there and leaves its trail in the directory. Partial-order reduction would save nothing here.
    """
    shutil.copy(MODEL, directory)
    _call(["spin", "-a", *run.switches, MODEL.name], directory)
    order = ["-O2"] if run.kind is Kind.PSP else ["-O1", "-DBFS"]
    _call(["gcc", "-w", *order, "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={_MEMORY_MIB}", "-o", "pan", "pan.c"], directory)
    return parse_verdict(_call([str(directory / "pan"), f"-m{_DEPTH}", "-w25"], directory))


def _timed_search(run: Run) -> tuple[Run, Verdict, int]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coatcheck-model-") as directory:
        verdict = search(run, Path(directory))
    return run, verdict, round(time.monotonic() - started)


def check_all() -> bool:
    """Search every run, two at a time, and print a line for each. Returns whether all ended as they must."""
    results = []
    with ThreadPoolExecutor(2) as pool:
        for run, verdict, seconds in pool.map(_timed_search, (*PSPS, *MUTANTS, *WITNESSES)):
            print(line_of(run, verdict, seconds), flush=True)
            results.append((run, verdict))
    ok, line = summary_of(results)
    print(line)
    return ok


def show(name: str) -> bool:
    """Print the shortest way to what a run finds, step by step. Returns whether it found anything."""
    run = next((run for run in (*MUTANTS, *WITNESSES, *PSPS) if run.name == name), None)
    if run is None:
        raise ModelError(f"there is no run {name}: {', '.join(run.name for run in (*MUTANTS, *WITNESSES, *PSPS))}")
    with tempfile.TemporaryDirectory(prefix="coatcheck-model-") as directory:
        verdict = search(run, Path(directory))
        if verdict.breach is not None:
            print(_call(["spin", "-t", "-p", *run.switches, MODEL.name], Path(directory)))
    print(f"{run.kind}={run.name} psp={run.psp} found={verdict.breach or 'nothing'}")
    return verdict.breach is not None


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--show", metavar="NAME", help="print the shortest counterexample of one run")
    asked = parser.parse_args().show
    try:
        need_programs()
        return 0 if (show(asked) if asked else check_all()) else 1
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
