"""What the user sees: how the evening goes, what came out, and what to try next."""

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from coatcheck.demo.evening import Checkout, Evening, Manner, amount_text
from coatcheck.demo.judge import Verdict
from coatcheck.demo.month import Month
from coatcheck.demo.shoppers import Memory

_WIDTH_OF_A_FILE = 110
_TENTHS = 10
_NO_FAULTS = "none"
_FAULT_WORDS = {
    "dropped_after_charge": "answers dropped after charging",
    "error_before": "5xx before charging",
    "error_after": "5xx after charging",
    "error_on_replay": "5xx to a repeated sending",
    "slow": "slow answers",
    "rate_limited": "429",
    "look_up_error": "5xx to a look-up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything the report tells."""

    evening: Evening
    memory: Memory
    verdict: Verdict
    faults: Mapping[str, int]
    sendings: Mapping[str, int]
    took_s: float
    data_dir: Path
    books: Path
    api_key: str


def make_console() -> Console:
    """Make what prints to standard output: colours and a moving bar for a terminal, plain wide lines for a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """Show how far the evening is; yields what to call after each checkout."""
    if console.is_terminal:
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("checkouts", total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done * _TENTHS // total > (done - 1) * _TENTHS // total:
            console.print(f"  {done} of {total} checkouts")

    yield tick


def print_report(console: Console, outcome: Outcome) -> None:
    """Print the table, whatever was found, what to try next, and the line of proof last."""
    verdict = outcome.verdict
    console.print()
    _print_rows(console, [*_what_was_done(outcome), *_what_came_out(outcome)])
    if verdict.findings_in_all:
        console.print(f"\n[bold red]{verdict.findings_in_all} things are not as they must be[/]; the first of them:")
        for finding in verdict.findings:
            console.print(Text(f"  - {finding}"))
    console.print("\n[bold]Try next[/] (the data stays; this is a test key, and nothing here moves real money):")
    for line in _next_commands(outcome):
        console.print(Text(f"  {line}", style="dim" if line.startswith("#") else ""), soft_wrap=True)
    console.print()
    console.print(Text(verdict.proof, style="bold green" if verdict.is_ok else "bold red"), soft_wrap=True)


def _print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(f"  {name}"), Text(value))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():  # a file needs no blanks up to its right edge
        console.print(Text(line.rstrip()))


def _what_was_done(outcome: Outcome) -> list[tuple[str, str]]:
    counts = outcome.memory.counts
    manners = Counter(checkout.manner for checkout in outcome.evening.checkouts)
    times_s = outcome.memory.times_s()
    placed, asked, sent = len(outcome.evening.checkouts), outcome.verdict.asked, outcome.sendings.get("charge", 0)
    clicks = (
        f"{counts['clicks']}: {manners[Manner.TWICE_AT_ONCE]} twice at the same time, "
        f"{manners[Manner.AGAIN_SAME_KEY] + manners[Manner.AGAIN_NEW_KEY]} again after the answer, "
        f"{counts['vanished']} gone before it and back"
    )
    answers = (
        f"p50 {_milliseconds(times_s, 50)}, p99 {_milliseconds(times_s, 99)}; {counts['replays']} given again, "
        f"{counts['told to wait']} told to wait (409), {counts['told later']} told later (202), "
        f"{counts['gateway errors']} errors, {counts['lost connections']} connections lost"
    )
    sendings = f"{sent} charges, {sent - asked} of them sent again; {outcome.sendings.get('look_up', 0)} look-ups"
    return [
        (
            "checkouts",
            f"{placed} with {asked} orders, in {outcome.took_s:.1f} s ({placed / outcome.took_s:.0f} a second)",
        ),
        ("clicks", clicks),
        ("answers", answers),
        ("faults of the PSP", _faults(outcome.faults)),
        ("sent to the PSP", sendings),
    ]


def _what_came_out(outcome: Outcome) -> list[tuple[str, str]]:
    verdict = outcome.verdict
    asked: Counter[str] = Counter()
    orders: Counter[str] = Counter()
    for order in outcome.evening.orders:
        asked[order.currency] += order.amount_minor
        orders[order.currency] += 1
    rows = []
    for currency, count in sorted(orders.items()):
        charged = _grouped(verdict.charged_minor[currency], currency)
        rows.append((f"orders in {currency}", f"{count} for {_grouped(asked[currency], currency)}, charged {charged}"))
    rows += [("charged once", f"{verdict.charged} orders"), ("declined", f"{verdict.declined} orders")]
    rows += _how_the_month_ended(verdict.month)
    if verdict.of_other_evenings:
        rows.append(("left over", f"{verdict.of_other_evenings} charges of an evening that was interrupted"))
    return rows


def _how_the_month_ended(month: Month) -> list[tuple[str, str]]:
    paid_out = ", ".join(
        [f"{_grouped(minor, currency)} {currency}" for currency, minor in sorted(month.paid_out.items())]
    )
    return [
        ("settled", f"{month.matched} lines of the PSP's files agree with the books; the bank has what it paid out"),
        ("mistakes in its files", f"{month.found} found of {month.planted} planted"),
        ("refunds, disputes", f"{month.refunds}, {month.disputes}"),
        ("paid to sellers", f"{month.payouts} payouts: {paid_out}"),
        ("replayed", f"{month.replay_rows} rows made of the events alone"),
    ]


def _milliseconds(times_s: Sequence[float], percent: int) -> str:
    if not times_s:
        return "-"
    return f"{times_s[min(len(times_s) * percent // 100, len(times_s) - 1)] * 1000:.0f} ms"


def _faults(faults: Mapping[str, int]) -> str:
    told = [f"{count} {_FAULT_WORDS.get(kind, kind)}" for kind, count in sorted(faults.items()) if count]
    return ", ".join(told) or _NO_FAULTS


def _grouped(amount_minor: int, currency: str) -> str:
    whole, point, fraction = amount_text(amount_minor, currency).partition(".")
    return f"{int(whole):,}{point}{fraction}"


def _next_commands(outcome: Outcome) -> list[str]:
    coatcheck = _this_command()
    is_default = outcome.data_dir == Path("coatcheck-data")
    checkout = _example(outcome)
    payment_id = outcome.memory.payment_ids.get(checkout.checkout_id, "")
    curl, url = 'curl -s -H "Authorization: Bearer $KEY"', "http://127.0.0.1:8080"
    return [
        "# the same PSP with its books, and the gateway on the data of this evening",
        *([] if is_default else [f"export COATCHECK_DATA_DIR={shlex.quote(str(outcome.data_dir))}"]),
        f"{coatcheck} simulator --books {shlex.quote(str(outcome.books))} &",
        f"{coatcheck} serve &",
        f"export KEY={outcome.api_key}",
        "# a payment, a seller's wallet, the whole ledger",
        f"{curl} {url}/v1/payments/{payment_id}",
        f"{curl} {url}/v1/sellers/{checkout.orders[0].seller_account}/wallet",
        f"{curl} {url}/v1/ledger/trial_balance",
        "# the click on that payment once more: the same answer, and no new charge",
        f"{curl} -i -H 'Content-Type: application/json' -H 'Idempotency-Key: {checkout.key}' \\",
        f"  -d @{shlex.quote(str(_keep_click(outcome, checkout)))} {url}/v1/payments",
        "# ask the books whether all is well",
        f"{coatcheck} audit",
    ]


def _example(outcome: Outcome) -> Checkout:
    """Pick a payment worth looking at: several orders, clicked twice."""
    checkouts = outcome.evening.checkouts
    good = (each for each in checkouts if each.manner is Manner.TWICE_AT_ONCE and len(each.orders) > 1)
    return next(good, checkouts[0])


def _keep_click(outcome: Outcome, checkout: Checkout) -> Path:
    """Write the body of a click to a file, so that the command that sends it again fits on a line."""
    path = outcome.books.with_name("click.json")
    path.write_bytes(checkout.body)
    return path


def _this_command() -> str:
    """Name the command line as the user would: by its name where the shell finds it, else by its path."""
    beside = Path(sys.executable).with_name("coatcheck")
    found = shutil.which("coatcheck")
    if not beside.exists() or (found is not None and Path(found).resolve() == beside.resolve()):
        return "coatcheck"
    near = os.path.relpath(beside)
    return shlex.quote(str(beside) if near.startswith(os.pardir) else near)
