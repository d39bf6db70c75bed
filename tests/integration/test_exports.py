"""Exports of books with a history. Two programs that know nothing of us add every transfer up again and judge them."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.integration.books import ODD_SELLER, play
from tests.integration.outside import CALLER
from tests.integration.test_demo import assert_proved, data_dir, start
from tests.integration.test_reconciliation import Desk

from coatcheck.money import format_amount
from coatcheck.reporting.account_statements import AccountStatements
from coatcheck.reporting.exports import Format, Scope, open_book, write
from coatcheck.reporting.exports import book as module
from coatcheck.store import Store

__all__ = ["data_dir"]

FIRST_DAY = date(2026, 3, 1)
SECOND_DAY, LAST_DAY = FIRST_DAY + timedelta(days=1), FIRST_DAY + timedelta(days=2)
JUDGED = [Format.HLEDGER, Format.BEANCOUNT]
RUN = "from coatcheck.cli import main; main()"


def verdict_of(form: Format, path: Path) -> tuple[bool, str]:
    """Let hledger or beancount judge a file; whether it agrees, and what it says."""
    if form is Format.HLEDGER:
        program = shutil.which("hledger")
        if program is None:
            pytest.fail("hledger is one of the judges of our books, and is not here: sudo apt-get install hledger")
        command = [program, "check", "--strict", "-f", str(path)]
    else:
        command = [sys.executable, "-m", "beancount.scripts.check", "--no-cache", str(path)]
    done = subprocess.run(  # noqa: S603 - the judges
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    return done.returncode == 0, done.stdout + done.stderr


async def exported(desk: Desk, form: Format, since: date | None = None, until: date | None = None) -> str:
    scope = Scope(shop_id=CALLER.shop_id, shop_name="hats", mode=CALLER.mode, since=since, until=until)
    async with open_book(desk.world.store, desk.world.clock, scope) as book:
        return "".join([part async for part in write(book, form)])


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> Desk:
    return await play(store, tmp_path)


def assert_agreed(form: Format, path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    agrees, told = verdict_of(form, path)
    assert agrees, f"{told}\n{text}"


@pytest.mark.parametrize("form", JUDGED)
@pytest.mark.parametrize(
    ("since", "until"),
    [(None, None), (SECOND_DAY, None), (None, LAST_DAY), (SECOND_DAY, LAST_DAY), (FIRST_DAY, SECOND_DAY)],
)
async def test_both_judges_agree_with_our_books_of_any_period(
    desk: Desk, tmp_path: Path, form: Format, since: date | None, until: date | None
) -> None:
    text = await exported(desk, form, since, until)
    assert_agreed(form, tmp_path / "books", text)
    if until is not None:
        # the same from entries as from what is queued
        await AccountStatements(desk.world.store, desk.world.clock).fill()
        again = await exported(desk, form, since, until)
        assert again == text


@pytest.mark.parametrize("form", JUDGED)
async def test_every_account_and_currency_is_asserted(desk: Desk, form: Format) -> None:
    text = await exported(desk, form)
    accounts = await desk.world.count("account")
    assertion = r"^    \S+  0\S* \w+ = \S+ \w+$" if form is Format.HLEDGER else r"^2026-03-04 balance \S+  \S+ ~ 0 \w+$"
    assert len(re.findall(assertion, text, re.MULTILINE)) == accounts
    posted = await desk.world.count("transfer", "phase IN ('posted', 'captured')")
    assert text.count("transfer_id:") == posted


def tamperings(text: str, form: Format) -> dict[str, str]:
    """What somebody could do to the books, a last digit at a time."""
    posting = re.search(r"^ +(\S+)  (\d+\.\d\d) EUR\n +(\S+)  -(\d+\.\d\d) EUR$", text, re.MULTILINE)
    assert posting is not None
    debit, amount, credit, _ = posting.groups()
    more = f"{int(amount.replace('.', '')) + 1:03}"
    more = f"{more[:-2]}.{more[-2:]}"
    found = {
        "one side of a transfer": text.replace(posting[0], posting[0].replace(f"  {amount} EUR", f"  {more} EUR"), 1),
        "both sides of a transfer": text.replace(
            posting[0],
            posting[0].replace(f"  {amount} EUR", f"  {more} EUR").replace(f"-{amount} EUR", f"-{more} EUR"),
            1,
        ),
        "its accounts": text.replace(
            posting[0], posting[0].replace(debit, "#").replace(credit, debit).replace("#", credit), 1
        ),
    }
    whole = r"\n\d{4}-\d\d-\d\d \* \"?commission.*?\n(?=\n)"
    found["a transfer is gone"] = re.sub(whole, "", text, count=1, flags=re.DOTALL)
    balance = r"(= )(\d+)( JPY)" if form is Format.HLEDGER else r"(  )(\d+)( ~ 0 JPY)"
    found["a closing balance"] = re.sub(balance, lambda part: f"{part[1]}{int(part[2]) + 1}{part[3]}", text, count=1)
    return found


@pytest.mark.parametrize("form", JUDGED)
async def test_the_judges_are_judges_they_refuse_books_that_are_off_by_a_last_digit(
    desk: Desk, tmp_path: Path, form: Format
) -> None:
    text = await exported(desk, form)
    assert_agreed(form, tmp_path / "books", text)
    for what, tampered in tamperings(text, form).items():
        assert tampered != text, what
        (tmp_path / "tampered").write_text(tampered, "utf-8")
        agrees, told = verdict_of(form, tmp_path / "tampered")
        assert not agrees, what
        assert re.search("assert|balance|Balance|unbalanced", told), told


@pytest.mark.parametrize("form", JUDGED)
async def test_books_that_are_wrong_are_refused(
    desk: Desk, tmp_path: Path, owner: asyncpg.Connection, form: Format
) -> None:
    """Not only a file that was changed: a counter that no transfer made, exported as it stands."""
    await owner.execute(
        "UPDATE account SET credits_posted_minor = credits_posted_minor + 1 WHERE name LIKE 'seller:seller-o2:%'"
    )
    (tmp_path / "books").write_text(await exported(desk, form), "utf-8")
    agrees, told = verdict_of(form, tmp_path / "books")
    assert not agrees
    assert "Liabilities:Seller:Pending:Seller-o2" in told


async def test_H8_csv_has_every_transfer_and_no_formula(desk: Desk) -> None:
    text = await exported(desk, Format.CSV)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    stored = await desk.world.store.pool.fetch(
        "SELECT transfer_id, amount_minor, currency FROM transfer WHERE phase IN ('posted', 'captured') ORDER BY at, 1"
    )
    assert [(row["transfer_id"], row["amount"], row["currency"]) for row in rows] == [
        (str(row["transfer_id"]), format_amount(row["amount_minor"], row["currency"]), row["currency"])
        for row in stored
    ]
    assert not re.search(r"(^|,)[=+@-]", text, re.MULTILINE)
    assert {row["currency"] for row in rows} == {"EUR", "JPY", "BHD"}
    assert f"seller:{ODD_SELLER}:pending" in {row["credit_account"] for row in rows}


async def test_json_has_accounts_and_transfers_that_agree(desk: Desk) -> None:
    for since, until in ((None, None), (SECOND_DAY, LAST_DAY)):
        found = json.loads(await exported(desk, Format.JSON, since, until))
        assert (found["shop"], found["mode"]) == ("hats", "test")
        moved: Counter[tuple[str, str]] = Counter()
        for each in found["transfers"]:
            minor = int(each["amount"].replace(".", ""))
            moved[each["debit_account"], each["currency"]] += minor
            moved[each["credit_account"], each["currency"]] -= minor
        for account in found["accounts"]:
            opening, closing = (int(account[f"{name}_balance"].replace(".", "")) for name in ("opening", "closing"))
            assert opening + moved[account["name"], account["currency"]] == closing, account
        assert len(found["accounts"]) == await desk.world.count("account")


async def test_another_shop_s_books_are_empty(desk: Desk, tmp_path: Path) -> None:
    scope = Scope(shop_id=CALLER.shop_id, shop_name="hats", mode=type(CALLER.mode).LIVE)
    for form in JUDGED:
        async with open_book(desk.world.store, desk.world.clock, scope) as book:
            text = "".join([part async for part in write(book, form)])
        assert "transfer_id" not in text
        assert_agreed(form, tmp_path / "books", text)


async def test_an_export_is_one_snapshot_and_is_read_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    expected = await exported(desk, Format.BEANCOUNT)
    scope = Scope(shop_id=CALLER.shop_id, shop_name="hats", mode=CALLER.mode)
    parts: list[str] = []
    async with open_book(desk.world.store, desk.world.clock, scope) as book:
        async for part in write(book, Format.BEANCOUNT):
            if len(parts) == 3:
                await desk.world.refund("o2", 100, "r9")
            parts.append(part)
    assert "".join(parts) == expected
    assert await exported(desk, Format.BEANCOUNT) != expected


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def export(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", RUN, "export", *arguments],
        env={**os.environ, "COATCHECK_CONFIG": os.devnull, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_writes_the_same_and_never_half_a_file(desk: Desk, database_url: str, tmp_path: Path) -> None:
    at = {"DATABASE_URL": database_url}
    output = tmp_path / "hats.csv"
    done = export(at, "--format", "csv", "--shop", "hats", "--output", str(output))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert output.read_text("utf-8") == await exported(desk, Format.CSV)
    assert export(at, "--format", "csv", "--shop", "hats").stdout == output.read_text("utf-8")
    days = ("--from", "2026-03-02", "--to", "2026-03-03")
    assert export(at, "--format", "csv", "--shop", "hats", *days).stdout == await exported(
        desk, Format.CSV, SECOND_DAY, LAST_DAY
    )
    live = export(at, "--format", "csv", "--shop", "hats", "--live")
    assert live.stdout.count("\n") == 1
    for wrong, told in (
        (("--shop", "nobody"), "no shop 'nobody'"),
        (("--shop", "hats", "--from", "2026-03-02", "--to", "2026-03-02"), "--to must be a day after --from"),
    ):
        refused = export(at, "--format", "csv", *wrong, "--output", str(tmp_path / "none.csv"))
        assert refused.returncode == 2
        assert told in refused.stderr
    assert not [name for name in names_in(tmp_path) if name.startswith(".") or "none" in name]
    assert "hats.csv" in names_in(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_both_judges_agree_with_the_books_of_a_whole_demo(data_dir: Path, tmp_path: Path) -> None:
    demo = start(data_dir, "--seed", "11")
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, output
    assert_proved(output)
    environ = {"COATCHECK_DATA_DIR": str(data_dir)}
    for form in JUDGED:
        path = tmp_path / form.value
        done = export(environ, "--format", form.value, "--shop", "evening-1", "--output", str(path))
        assert done.returncode == 0, done.stderr
        text = path.read_text("utf-8")
        assert text.count("transfer_id:") > 200
        assert_agreed(form, path, text)
