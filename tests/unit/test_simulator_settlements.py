"""The simulator pays out what it owes, once, and writes a file of it that our own format reads back."""

import pytest
from tests.unit.simulator_desk import Desk

from coatcheck.reconciliation.formats.simulator import SimulatorFormat
from coatcheck.reconciliation.lines import ControlTotal, FileRefusedError, LineKind, SettlementLine


def charge(desk: Desk, reference: str, amount: int = 1_000, currency: str = "EUR", **more: object) -> str:
    body = {"amount": amount, "currency": currency, "token": "tok_approve", "reference": reference, **more}
    made: str = desk.post("/v1/charges", body)["id"]
    return made


def close(desk: Desk) -> list[dict[str, object]]:
    closed: list[dict[str, object]] = desk.post("/admin/close-batches?account=shop")["data"]
    return closed


def file_of(desk: Desk, batch_id: object) -> str:
    reply = desk.send("GET", f"/v1/settlements/{batch_id}/file")
    assert reply.status == 200
    return reply.body.decode()


def read(text: str) -> tuple[list[SettlementLine], list[ControlTotal]]:
    items = list(SimulatorFormat().read(iter([text])))
    lines = [item for item in items if isinstance(item, SettlementLine)]
    return lines, [item for item in items if isinstance(item, ControlTotal)]


def test_what_was_captured_and_given_back_is_paid_out_once() -> None:
    desk = Desk()
    charge(desk, "op_1")
    refunded = charge(desk, "op_2", 2_000)
    desk.post(f"/v1/charges/{refunded}/refund", {"amount": 500, "reference": "op_3"})
    held = charge(desk, "op_4", 3_000, capture=False)
    desk.post(f"/v1/charges/{held}/capture", {"amount": 1_200, "reference": "op_5", "final": True})
    (batch,) = close(desk)
    assert (batch["lines"], batch["gross"], batch["fee"]) == (4, 1_000 + 2_000 - 500 + 1_200, 25 + 40 + 0 + 28)
    lines, totals = read(file_of(desk, batch["id"]))
    assert [(line.kind, line.reference, line.gross_minor) for line in lines] == [
        (LineKind.CHARGE, "op_1", 1_000),
        (LineKind.CHARGE, "op_2", 2_000),
        (LineKind.REFUND, "op_3", -500),
        (LineKind.CHARGE, "op_5", 1_200),
        (LineKind.PAYOUT, None, -(3_700 - 93)),
    ]
    assert [total.holds for total in totals] == [True] * 4
    assert close(desk) == []
    assert desk.get("/v1/settlements")["data"] == [batch]


def test_each_currency_has_a_batch_of_its_own_with_its_own_decimals() -> None:
    desk = Desk()
    for amount, currency in ((1_005, "EUR"), (700, "JPY"), (12_345, "KWD")):
        charge(desk, f"op_{currency}", amount, currency)
    batches = close(desk)
    assert [batch["currency"] for batch in batches] == ["EUR", "JPY", "KWD"]
    texts = [file_of(desk, batch["id"]) for batch in batches]
    assert [text.splitlines()[1].rsplit(",", 3)[1] for text in texts] == ["10.05", "700", "12.345"]
    assert [read(text)[0][0].gross_minor for text in texts] == [1_005, 700, 12_345]


def test_D6_a_refund_that_came_back_is_a_movement_of_its_own() -> None:
    desk = Desk()
    charged = charge(desk, "op_1")
    refund = desk.post(f"/v1/charges/{charged}/refund", {"amount": 1_000, "reference": "op_2"})["id"]
    close(desk)
    desk.post(f"/admin/fail-refund/{refund}")
    (batch,) = close(desk)
    lines, _ = read(file_of(desk, batch["id"]))
    assert (lines[0].kind, lines[0].reference, lines[0].gross_minor) == (LineKind.REFUND_RETURNED, "op_2", 1_000)


def test_what_is_pending_declined_or_only_reserved_is_not_paid_out() -> None:
    desk = Desk()
    pending = charge(desk, "op_1", token="tok_pending")
    charge(desk, "op_2", token="tok_decline_do_not_honor")
    charge(desk, "op_3", capture=False)
    assert close(desk) == []
    desk.post(f"/admin/settle/{pending}", {"status": "succeeded"})
    (batch,) = close(desk)
    assert batch["gross"] == 1_000


def test_the_journal_brings_the_same_batches_back() -> None:
    desk = Desk()
    charge(desk, "op_1")
    (batch,) = close(desk)
    charge(desk, "op_2")
    again = desk.new_bank()
    for entry in desk.entries:
        again.apply(entry)
    merchant = again.merchant("shop", is_live=False)
    assert again.settlements.batches(merchant) == desk.bank.settlements.batches(merchant)
    assert "".join(again.settlements.file(merchant, str(batch["id"]))) == file_of(desk, batch["id"])
    assert again.settlements.has_open(merchant)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/v1/settlements/st_000009/file", "not_found"),
        ("GET", "/v1/settlements/st_000001", "not_found"),
        ("POST", "/v1/settlements", "method_not_allowed"),
        ("POST", "/admin/close-batches?mode=both", "invalid_request"),
    ],
)
def test_what_is_not_there_is_refused(method: str, target: str, code: str) -> None:
    assert f'"{code}"'.encode() in Desk().send(method, target).body


@pytest.fixture
def text() -> str:
    desk = Desk()
    charge(desk, "op_1")
    charge(desk, "op_2", 2_000)
    (batch,) = close(desk)
    return file_of(desk, batch["id"])


def test_H2_a_file_that_was_cut_anywhere_is_refused(text: str) -> None:
    whole = text.rstrip("\n")
    for end in range(len(whole)):
        with pytest.raises(FileRefusedError):
            read(whole[:end])
    assert read(whole) == read(text)


def test_H2_a_line_that_is_missing_or_changed_shows_in_the_totals(text: str) -> None:
    header, first, second, payout, end = text.splitlines(keepends=True)
    with pytest.raises(FileRefusedError, match="fetch it again"):
        read(header + second + payout + end)
    changed = first.replace("10.00,0.25,9.75", "11.00,0.25,10.75")
    assert [total.holds for total in read(header + changed + second + payout + end)[1]] == [False, True, False, True]
    doubled = read(header + first + second + second + payout + end)[1]
    assert [total.holds for total in doubled] == [False, False, False, False]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("10.00,0.25", "10.001,0.25", "more decimals"),
        ("10.00,0.25", "1e3,0.25", "no amount"),
        ("10.00,0.25", "10.00,0.26", "is not net"),
        ("EUR,10.00", "EUX,10.00", "currency"),
        (",charge,ch_", ",gift,ch_", "no type"),
        ("Z,EUR,10.00", "?,EUR,10.00", "no time"),
        ("st_000001,1,", "st_000002,1,", "another batch"),
    ],
)
def test_H8_what_cannot_be_read_exactly_is_refused_with_its_line(text: str, old: str, new: str, problem: str) -> None:
    with pytest.raises(FileRefusedError, match=problem) as refused:
        read(text.replace(old, new, 1))
    assert refused.value.line_no in (2, 3)
