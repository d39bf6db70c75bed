"""What the comparison with an earlier revision reads and says."""

import pytest
from bench.against import Ran, line_of, read_run

OUTPUT = """
  group commit: 1,655 payments/s, gateway 102 MiB at most
    processor time per payment, in microseconds: gateway 552, simulator 47, PostgreSQL 279, load generator 33
"""


def test_a_run_is_read_from_what_the_benchmark_prints() -> None:
    assert read_run(OUTPUT) == Ran(1655, 831)


def test_a_run_without_figures_says_what_was_printed() -> None:
    with pytest.raises(ValueError, match="no figures:\nTraceback"):
        read_run("Traceback")


def test_the_best_runs_are_compared_and_the_medians_said() -> None:
    now, before = [Ran(900, 800), Ran(1900, 700), Ran(1700, 750)], [Ran(2000, 700), Ran(1000, 900), Ran(1600, 800)]
    assert line_of(now, before) == "BENCH part=against best_ratio=0.95 median_ratio=1.06 processor_time_ratio=1.00"
