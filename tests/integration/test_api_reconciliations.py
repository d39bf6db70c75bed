"""Reconciliation over HTTP: a file goes up, its report comes back in every form, and nobody sees another shop's."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.integration.running import Answer, RunningGateway, checkout, run_gateway, simulator_url
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconcile_command import reconcile
from tests.integration.test_reconciliation import lines, summed

from coatcheck.states import Mode
from coatcheck.store import Store

__all__ = ["simulator_url"]

CSV = {"Content-Type": "text/csv"}
MERCHANT = {"Authorization": "Bearer sk_sim_test_coatcheck"}


@pytest.fixture
async def server(store: Store, simulator_url: str) -> AsyncIterator[RunningGateway]:
    async with run_gateway(store, simulator_url, settings={"settlement_limit_bytes": 50_000}) as running:
        yield running


@pytest.fixture
async def key(server: RunningGateway) -> str:
    return await server.make_key()


async def settled(server: RunningGateway, key: str, name: str = "c1", orders: int = 2) -> str:
    """Pay, and have the simulator pay out: the text of its file."""
    answer = await server.pay(key, checkout(name, orders=orders), Idempotency_Key=f"key-{name}")
    assert answer.status == 201, answer.raw
    closing = f"{server.simulator_url}/admin/close-batches?account=coatcheck&mode=test"
    async with server.session.post(closing) as response:
        assert response.status == 200, await response.text()
    batches = f"{server.simulator_url}/v1/settlements"
    async with server.session.get(batches, headers=MERCHANT) as response:
        listed = (await response.json())["data"]
    async with server.session.get(f"{batches}/{listed[-1]['id']}/file", headers=MERCHANT) as response:
        return await response.text()


async def upload(server: RunningGateway, key: str, text: str, query: str = "", **headers: str) -> Answer:
    named = CSV | {name.replace("_", "-"): value for name, value in headers.items()}
    return await server.ask("POST", f"/v1/reconciliations{query}", key, data=text.encode(), headers=named)


def missing(text: str) -> str:
    """The file with a charge that nobody here knows of, whose name a spreadsheet would compute."""
    header, one, two, payout, _ = lines(text)
    fields = two.split(",")
    return summed(header, one, ",".join([*fields[:3], "=ch_9", fields[4], "@theirs", *fields[6:]]), payout)


async def test_a_file_is_taken_and_what_became_of_it_is_answered(server: RunningGateway, key: str) -> None:
    text = await settled(server, key)
    answer = await upload(server, key, text, "?name=settlement.csv")
    assert answer.status == 201, answer.raw
    body = answer.body
    assert (body["name"], body["provider"], body["lines"], body["matched"]) == ("settlement.csv", "simulator", 3, 2)
    assert (body["breaks"], body["open_breaks"], body["mismatches"]) == (0, 0, [])
    (total,) = body["totals"]
    assert (total["currency"], total["gross"], total["fees"], total["paid_out"]) == ("EUR", "24.68", "0.56", "24.12")
    assert body["received_by"].startswith("key key_")
    read = await server.ask("GET", f"/v1/reconciliations/{body['reconciliation_id']}", key)
    assert (read.status, read.body) == (200, body)


async def test_H1_the_same_file_again_is_no_news(server: RunningGateway, key: str) -> None:
    text = await settled(server, key)
    answers = await asyncio.gather(*[upload(server, key, text, f"?name=n{n}.csv") for n in range(4)])
    assert [answer.status for answer in answers] == [201] * 4
    assert len({answer.body["reconciliation_id"] for answer in answers}) == 1
    assert sorted("idempotent-replayed" in answer.headers for answer in answers) == [False, True, True, True]
    assert await server.gateway.store.pool.fetchval("SELECT count(*) FROM settlement_file") == 1


async def test_H2_a_refused_file_is_a_problem_that_says_where(server: RunningGateway, key: str) -> None:
    header, one, *rest = lines(await settled(server, key))
    broken = "".join([header, one.replace("12.34", "12,34"), *rest])
    answer = await upload(server, key, broken, "?name=broken.csv")
    assert (answer.status, answer.body["code"]) == (422, "file_refused")
    assert answer.body["detail"].startswith("broken.csv was refused: line 2: ")
    assert answer.body["problems"][0]["pointer"] == "/2"
    cut = await upload(server, key, f"{header}{one}")
    assert cut.body["detail"].startswith("upload was refused: the last line, 'end', is missing")
    nothing = await upload(server, key, "")
    assert (nothing.status, nothing.body["code"]) == (422, "file_refused")
    assert (await server.ask("GET", "/v1/reconciliations", key)).body == {"reconciliations": [], "next_cursor": None}


async def test_a_card_number_in_a_refused_file_is_not_repeated(server: RunningGateway, key: str) -> None:
    header, one, *rest = lines(await settled(server, key))
    answer = await upload(server, key, "".join([header, one.replace(",charge,", ",4242424242424242,"), *rest]))
    assert (answer.status, answer.body["code"]) == (422, "file_refused")
    assert b"4242" not in answer.raw
    named = await upload(server, key, "x", Content_Disposition='attachment; filename="4242424242424242.csv"')
    assert (named.status, named.body["code"]) == (422, "card_number_refused")


async def test_C17_a_file_that_is_too_large_is_not_read(server: RunningGateway, key: str) -> None:
    answer = await upload(server, key, "x" * 50_001)
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")


async def test_a_name_may_come_in_a_header_and_decides_nothing(server: RunningGateway, key: str) -> None:
    text = await settled(server, key)
    answer = await upload(server, key, text, Content_Disposition='attachment; filename="../day 1.pdf"')
    assert (answer.status, answer.body["name"]) == (201, "day 1.pdf")
    wrong = await upload(server, key, text, "?nmae=x")
    assert (wrong.status, wrong.body["code"]) == (422, "invalid_request")


async def test_a_mismatch_says_both_sides(server: RunningGateway, key: str) -> None:
    answer = await upload(server, key, missing(await settled(server, key)))
    (found,) = answer.body["mismatches"]
    assert (found["kind"], found["line"], found["currency"]) == ("missing_here", 3, "EUR")
    assert (found["ours"], found["the_files"], found["in_suspense"]) == (None, "12.34", "12.34")
    assert (found["closed_at"], answer.body["open_breaks"]) == (None, 1)


async def test_the_command_writes_what_the_api_answers(
    server: RunningGateway, key: str, database_url: str, tmp_path: Path
) -> None:
    """The same file, asked for both ways: a program cannot tell which one it reads."""
    text = missing(await settled(server, key))
    answer = await upload(server, key, text, "?name=settlement.csv")
    assert (answer.body["matched"], len(answer.body["mismatches"])) == (1, 1)
    path, report = tmp_path / "settlement.csv", tmp_path / "report.json"
    await asyncio.to_thread(path.write_text, text, "utf-8")
    asked = str(path), "--shop", "hats", "--by", "ada", "--format", "json", "--json", str(report)
    status, printed, _ = await reconcile(database_url, *asked, unrecorded_charge="queue")
    written = await asyncio.to_thread(report.read_text, "utf-8")
    assert (status, json.loads(printed), json.loads(written)) == (1, answer.body, answer.body)
    ageing = await server.ask("GET", "/v1/reports/ageing", key)
    _, printed, _ = await reconcile(database_url, "--ageing", "--shop", "hats", "--format", "json")
    assert json.loads(printed) | {"at": None} == ageing.body | {"at": None}


@pytest.mark.parametrize(("query", "accept"), [("?format=csv", None), ("", "text/csv"), ("", "text/csv;q=0.9, */*")])
async def test_H8_the_csv_computes_nothing(server: RunningGateway, key: str, query: str, accept: str | None) -> None:
    taken = await upload(server, key, missing(await settled(server, key)))
    headers = {} if accept is None else {"Accept": accept}
    path = f"/v1/reconciliations/{taken.body['reconciliation_id']}{query}"
    answer = await server.ask("GET", path, key, headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    total, found = csv.DictReader(io.StringIO(answer.raw.decode()))
    assert (total["row"], total["gross"]) == ("total", "24.68")
    assert (found["kind"], found["files"]) == ("missing_here", "12.34")
    assert all(not (cell or "").startswith(("=", "@")) for cell in found.values())
    assert "=ch_9" in found["about"]


@pytest.mark.parametrize(("query", "accept"), [("?format=html", "application/json"), ("", "text/html,*/*")])
async def test_the_page_needs_nothing_else(server: RunningGateway, key: str, query: str, accept: str) -> None:
    taken = await upload(server, key, missing(await settled(server, key)), "?name=%3Cb%3E.csv")
    path = f"/v1/reconciliations/{taken.body['reconciliation_id']}{query}"
    answer = await server.ask("GET", path, key, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.raw.decode()
    assert "&lt;b&gt;.csv" in page
    assert "<script" not in page
    assert "1 of 1 breaks are open." in page


async def test_files_are_listed_newest_first_page_by_page(server: RunningGateway, key: str) -> None:
    made = []
    for n in range(3):
        answer = await upload(server, key, await settled(server, key, f"c{n}"), f"?name=n{n}")
        made.append(answer.body["reconciliation_id"])
    first = await server.ask("GET", "/v1/reconciliations?limit=2", key)
    second = await server.ask("GET", f"/v1/reconciliations?limit=2&cursor={first.body['next_cursor']}", key)
    found: list[dict[str, Any]] = first.body["reconciliations"] + second.body["reconciliations"]
    assert [each["reconciliation_id"] for each in found] == made[::-1]
    assert second.body["next_cursor"] is None
    assert [(each["name"], each["open_breaks"]) for each in found] == [("n2", 0), ("n1", 0), ("n0", 0)]
    foreign = await server.ask("GET", f"/v1/payments?cursor={first.body['next_cursor']}", key)
    assert foreign.body["code"] == "invalid_cursor"


async def test_B7_nobody_sees_another_shop_s_or_mode_s_files(server: RunningGateway, key: str) -> None:
    taken = await upload(server, key, await settled(server, key))
    path = f"/v1/reconciliations/{taken.body['reconciliation_id']}"
    for other in (await server.make_key("coats"), await server.make_key(mode=Mode.LIVE)):
        assert (await server.ask("GET", path, other)).status == 404
        assert (await server.ask("GET", "/v1/reconciliations", other)).body["reconciliations"] == []
        assert (await server.ask("GET", "/v1/reports/ageing", other)).body["accounts"] == []
    assert (await server.ask("GET", path)).status == 401
    assert (await server.ask("POST", "/v1/reconciliations", data=b"x")).status == 401
    for wrong in ("rec_aaaaaaaaaaaaaaaaaaaaaaaaaa", "x", taken.body["reconciliation_id"][:-1]):
        assert (await server.ask("GET", f"/v1/reconciliations/{wrong}", key)).status == 404


async def test_H9_the_ageing_shows_what_is_left_until_the_bank_has_it(server: RunningGateway, key: str) -> None:
    text = await settled(server, key)
    before = (await server.ask("GET", "/v1/reports/ageing", key)).body
    (receivable,) = before["accounts"]
    assert (receivable["name"], receivable["balance"], receivable["undated"]) == (
        *("psp:simulator:receivable", "24.68", "0.00"),
    )
    assert receivable["aged"] == {
        "days_0_to_1": "24.68",
        "days_2_to_5": "0.00",
        "days_6_to_30": "0.00",
        "days_over_30": "0.00",
    }
    assert [(part["part"], part["items"]) for part in receivable["parts"]] == [("unsettled_records", 2)]
    await upload(server, key, text)
    (transit,) = (await server.ask("GET", "/v1/reports/ageing", key)).body["accounts"]
    assert (transit["name"], transit["balance"]) == ("psp:simulator:payouts_in_transit", "24.12")
    bank = await upload(server, key, statement(("24.12", "po_000001"), ("1.00", "rent")))
    assert (bank.body["provider"], bank.body["matched"], bank.body["open_breaks"]) == ("bank", 1, 1)
    (total,) = bank.body["totals"]
    assert (total["gross"], total["fees"], total["paid_out"]) == ("25.12", "0.00", "24.12")
    after = (await server.ask("GET", "/v1/reports/ageing", key)).body
    assert [(each["name"], each["balance"]) for each in after["accounts"]] == [("suspense:bank", "-1.00")]
    assert after["breaks"] == [
        {"kind": "unexplained", "days_0_to_1": 1, "days_2_to_5": 0, "days_6_to_30": 0, "days_over_30": 0}
    ]


async def test_G10_payments_go_on_while_a_file_is_compared(server: RunningGateway, key: str, owner: Any) -> None:
    """A file that waits for a lock holds one connection of the pool, however many are brought."""
    text = await settled(server, key)
    async with owner.transaction():
        await owner.execute("LOCK TABLE settlement_file IN ACCESS EXCLUSIVE MODE")
        uploads = [asyncio.create_task(upload(server, key, text, f"?name=n{n}")) for n in range(12)]
        paid = await asyncio.gather(
            *[server.pay(key, checkout(f"p{n}"), Idempotency_Key=f"key-p{n}") for n in range(5)]
        )
        assert [answer.status for answer in paid] == [201] * 5
        assert not any(task.done() for task in uploads)
    assert [answer.status for answer in await asyncio.gather(*uploads)] == [201] * 12


async def test_a_caller_that_goes_away_leaves_nothing_behind(server: RunningGateway, key: str) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"batch,line,type"
        raise aiohttp.ClientError("gone")

    with pytest.raises(aiohttp.ClientError):
        await server.session.post(
            f"{server.url}/v1/reconciliations", data=half(), headers={"Authorization": f"Bearer {key}"}
        )
    assert (await server.ask("GET", "/v1/reconciliations", key)).body["reconciliations"] == []
