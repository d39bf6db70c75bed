"""The pure parts of the model's runner: a search that found something, or was cut short, must not look like a proof."""

import re
from pathlib import Path

import pytest
from model.check import (
    MODEL,
    MUTANTS,
    PSPS,
    WITNESSES,
    Breach,
    Kind,
    ModelError,
    Run,
    Verdict,
    is_ok,
    line_of,
    need_programs,
    parse_verdict,
    summary_of,
)

ROOT = Path(__file__).resolve().parents[2]
PROMELA = MODEL.read_text(encoding="utf-8")
PAGE = (ROOT / "docs/model.md").read_text(encoding="utf-8")
HOLDS = """
(Spin Version 6.5.2 -- 6 December 2019)

Full statespace search for:
	assertion violations	+
	invalid end states	+

State-vector 84 byte, depth reached 48221, errors: 0
 12042672 states, stored
 1.0e+08 states, matched
"""
A_PSP = PSPS[0]
PROVEN = Verdict(states=10, is_exhaustive=True, breach=None)


def found(what: str) -> str:
    return f"pan:1: {what} (at depth 46)\npan: wrote charge.pml.trail\n" + HOLDS.replace("errors: 0", "errors: 1")


def caught(run: Run) -> Verdict:
    return Verdict(states=7, is_exhaustive=False, breach=run.breaks)


def switches_of(kind: str) -> set[str]:
    return {name.lower() for name in re.findall(rf"#if(?:n?def) {kind}_(\w+)", PROMELA)}


def test_a_complete_search_without_an_error_is_a_proof() -> None:
    assert parse_verdict(HOLDS) == Verdict(states=12042672, is_exhaustive=True, breach=None)


@pytest.mark.parametrize(
    ("printed", "breach"),
    [
        ("assertion violated (charged==1)", Breach.CHARGED_TWICE),
        ("assertion violated (bookings==1)", Breach.BOOKED_TWICE),
        ("assertion violated (charged>=1)", Breach.BOOKED_UNCHARGED),
        ("assertion violated (charged==0)", Breach.FAILED_CHARGED),
        ("assertion violated (status!=2)", Breach.FAILED_CHARGED),
        ("assertion violated  !((charged>0))", Breach.WITNESS),
        ("assertion violated (lease==3)", Breach.UNKNOWN),
        ("invalid end state", Breach.STUCK),
    ],
)
def test_what_was_found_has_a_name_and_is_no_proof(printed: str, breach: Breach) -> None:
    assert parse_verdict(found(printed)) == Verdict(states=12042672, is_exhaustive=False, breach=breach)


def test_an_error_of_another_kind_is_a_breach_too() -> None:
    assert parse_verdict(HOLDS.replace("errors: 0", "errors: 2")).breach is Breach.UNKNOWN


@pytest.mark.parametrize(
    "sign",
    [
        "error: max search depth too small",
        "Warning: Search not completed",
        "pan: reached -DMEMLIM bound",
        "pan: out of memory",
    ],
)
def test_a_search_cut_short_is_no_proof(sign: str) -> None:
    verdict = parse_verdict(sign + HOLDS)
    assert not verdict.is_exhaustive
    assert not is_ok(A_PSP, verdict)


@pytest.mark.parametrize("output", ["", "pan: cannot allocate", "errors: 0", " 5 states, stored"])
def test_no_report_is_an_error(output: str) -> None:
    with pytest.raises(ModelError, match="no report"):
        parse_verdict(output)


def test_a_psp_that_fails_is_not_ok() -> None:
    assert is_ok(A_PSP, PROVEN)
    assert not is_ok(A_PSP, Verdict(states=10, is_exhaustive=False, breach=Breach.STUCK))


def test_a_mutant_counts_as_caught_only_for_what_it_breaks() -> None:
    mutant = Run(Kind.MUTANT, "no_lag", "keeps_successes", Breach.CHARGED_TWICE)
    assert is_ok(mutant, caught(mutant))
    assert not is_ok(mutant, PROVEN)
    assert not is_ok(mutant, Verdict(states=7, is_exhaustive=False, breach=Breach.STUCK))


def test_the_last_line_counts_what_was_proved_and_what_was_caught() -> None:
    results = [(run, PROVEN) for run in PSPS] + [(run, caught(run)) for run in (*MUTANTS, *WITNESSES)]
    total = len(MUTANTS)
    assert summary_of(results) == (
        True,
        f"MODEL states={10 * len(PSPS)} ok=true mutants_caught={total}/{total}",
    )
    escaped = [(run, PROVEN if run is MUTANTS[3] else verdict) for run, verdict in results]
    assert summary_of(escaped) == (
        False,
        f"MODEL states={10 * len(PSPS)} ok=false mutants_caught={total - 1}/{total}",
    )


@pytest.mark.parametrize("run", [PSPS[0], WITNESSES[0]])
def test_a_run_that_ends_otherwise_spoils_the_whole(run: Run) -> None:
    results = [(other, PROVEN if other.kind is Kind.PSP else caught(other)) for other in (*PSPS, *MUTANTS, *WITNESSES)]
    wrong = Verdict(states=10, is_exhaustive=False, breach=None)
    ok, _ = summary_of([(other, wrong if other is run else verdict) for other, verdict in results])
    assert not ok


def test_a_line_says_what_was_run_and_found() -> None:
    mutant = Run(Kind.MUTANT, "no_lag", "keeps_successes", Breach.CHARGED_TWICE)
    assert line_of(mutant, caught(mutant), 3) == (
        "mutant  psp=keeps_successes mutant=no_lag states=7 exhaustive=false found=charged_twice seconds=3 ok=true"
    )
    assert mutant.switches == ["-DKEEPS_SUCCESSES", "-DMUTANT_NO_LAG"]
    assert A_PSP.switches == [f"-D{A_PSP.name.upper()}"]


def test_every_mutant_and_witness_of_the_model_is_run_and_no_other() -> None:
    assert {run.name for run in MUTANTS} == switches_of("MUTANT")
    assert {run.name for run in WITNESSES} == switches_of("WITNESS")
    assert len({run.name for run in MUTANTS}) == len(MUTANTS)


def test_every_psp_of_the_model_is_run() -> None:
    (listed,) = re.findall(r"The PSP: (.*?) \(exactly one\)", PROMELA)
    names = set(re.findall(r"[A-Z_]{4,}", listed))
    assert {run.psp.upper() for run in PSPS} == names
    assert {run.psp.upper() for run in (*MUTANTS, *WITNESSES)} <= names


def test_the_page_describes_every_psp_and_mutant() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {run.name for run in (*PSPS, *MUTANTS, *WITNESSES)}


def test_without_the_programs_and_without_root_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "model.check.shutil.which", lambda program: None if program == "spin" else f"/usr/bin/{program}"
    )
    monkeypatch.setattr("model.check.os.geteuid", lambda: 1000)
    with pytest.raises(ModelError, match=r"sudo apt-get install spin$"):
        need_programs()
