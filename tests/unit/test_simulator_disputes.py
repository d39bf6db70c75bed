"""The simulator's disputes: their life, their money, what is answered, and that a restart remembers all of it."""

from typing import Any

import msgspec
import pytest
from tests.unit.simulator_desk import START, Desk
from tests.unit.test_simulator_settlements import close, file_of, read

from coatcheck.reconciliation.lines import LineKind
from coatcheck.simulator.disputes import DISPUTE_STATUSES

FEE = 1500


def open_dispute(desk: Desk, charge: str | None = None, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = desk.post("/admin/disputes", {"charge": charge or desk.charge(), **more})
    return made


def change(desk: Desk, dispute: dict[str, Any], verb: str, **body: Any) -> dict[str, Any]:
    after: dict[str, Any] = desk.post(f"/admin/disputes/{dispute['id']}/{verb}", body or None)
    return after


def test_a_dispute_takes_the_money_and_a_fee_and_freezes_the_charge() -> None:
    desk = Desk()
    dispute = open_dispute(desk)
    assert (dispute["status"], dispute["amount"], dispute["version"]) == ("needs_response", 1000, 1)
    assert [(each["amount"], each["fee"], each["currency"]) for each in dispute["movements"]] == [(-1000, FEE, "EUR")]
    assert desk.get(f"/v1/charges/{dispute['charge']}")["disputed"] is True
    assert desk.heard() == ["charge.succeeded", "dispute.opened", "dispute.funds_withdrawn"]
    assert desk.get("/admin/books")["charged_back"] == {"EUR": 1000}
    assert dispute["evidence_due"] == START + 7 * 86_400


@pytest.mark.parametrize(
    ("steps", "status", "net", "is_disputed"),
    [
        (["win"], "won", 0, False),
        (["review", "win"], "won", 0, False),
        (["lose"], "lost", -1000, True),
        (["win", "reopen"], "needs_response", -1000, True),
        (["win", "reopen", "lose"], "lost", -1000, True),
        (["lose", "reopen", "win"], "won", 0, False),
        (["reinstate"], "needs_response", 0, True),
    ],
)
def test_the_life_of_a_dispute(steps: list[str], status: str, net: int, is_disputed: bool) -> None:  # noqa: FBT001
    desk = Desk()
    dispute = open_dispute(desk)
    for verb in steps:
        dispute = change(desk, dispute, verb)
    assert (dispute["status"], dispute["version"]) == (status, 1 + len(steps))
    assert sum(each["amount"] for each in dispute["movements"]) == net
    assert desk.get(f"/v1/charges/{dispute['charge']}")["disputed"] is is_disputed
    assert len({each["id"] for each in dispute["movements"]}) == len(dispute["movements"])


def test_an_inquiry_takes_no_money_until_it_escalates() -> None:
    desk = Desk()
    inquiry = open_dispute(desk, inquiry=True)
    assert (inquiry["status"], inquiry["movements"]) == ("inquiry", [])
    assert desk.get(f"/v1/charges/{inquiry['charge']}")["disputed"] is False
    assert change(desk, inquiry, "escalate")["movements"][0]["amount"] == -1000
    other = open_dispute(desk, inquiry=True)
    assert change(desk, other, "close")["status"] == "closed"
    assert desk.refusal(f"/admin/disputes/{other['id']}/win") == (409, "dispute_not_changeable")


def test_the_status_may_go_without_the_money_and_the_money_without_the_status() -> None:
    desk = Desk()
    dispute = open_dispute(desk)
    assert len(change(desk, dispute, "win", move=False)["movements"]) == 1
    assert change(desk, dispute, "reinstate", return_fee=True)["movements"][1]["fee"] == -FEE
    assert desk.heard()[3:] == ["dispute.closed", "dispute.funds_reinstated"]


def test_D7_amount_and_currency_need_not_be_the_charge_s() -> None:
    desk = Desk()
    charge = desk.charge()
    first = open_dispute(desk, charge, amount=300)
    second = open_dispute(desk, charge, amount=1085, currency="USD", fee=0)
    assert (first["amount"], second["currency"], second["movements"][0]["currency"]) == (300, "USD", "USD")
    change(desk, first, "win")
    assert desk.get(f"/v1/charges/{charge}")["disputed"] is True
    change(desk, second, "win")
    assert desk.get(f"/v1/charges/{charge}")["disputed"] is False


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"charge": "ch_none"}, (404, "not_found")),
        ({"amount": 0}, (400, "invalid_amount")),
        ({"currency": "XYZ"}, (400, "invalid_currency")),
        ({"fee": -1}, (400, "invalid_request")),
        ({"due_s": -1}, (400, "invalid_request")),
        ({"color": "red"}, (400, "invalid_request")),
    ],
)
def test_what_is_no_dispute_is_refused(body: dict[str, Any], refusal: tuple[int, str]) -> None:
    desk = Desk()
    assert desk.refusal("/admin/disputes", {"charge": desk.charge(), **body}) == refusal
    assert desk.get("/admin/disputes")["data"] == []


def test_what_was_never_captured_cannot_be_disputed() -> None:
    desk = Desk()
    assert desk.refusal("/admin/disputes", {"charge": desk.authorize()}) == (409, "charge_not_disputable")
    assert desk.refusal("/admin/disputes/dp_none/win") == (404, "not_found")
    dispute = open_dispute(desk)
    assert desk.refusal(f"/admin/disputes/{dispute['id']}/dance") == (404, "not_found")


def test_evidence_is_taken_once_for_each_key_and_asks_for_a_decision() -> None:
    desk = Desk()
    dispute = open_dispute(desk)
    path = f"/v1/disputes/{dispute['id']}/evidence"
    said = {"reference": "evd_1", "texts": {"explanation": "worn"}, "submit": False}
    draft = desk.post(path, said, key="k1")
    assert (draft["status"], draft["evidence"]) == ("needs_response", ["evd_1"])
    assert desk.post(path, said, key="k1") == draft
    file = {"part": "receipt", "name": "r.pdf", "content_type": "application/pdf", "content": "JVBERi0="}
    after = desk.post(path, {"reference": "evd_2", "files": [file]})
    assert (after["status"], after["evidence"], after["version"]) == ("under_review", ["evd_1", "evd_2"], 3)
    assert desk.refusal(path, {"reference": "evd_3"}) == (409, "dispute_not_answerable")
    assert desk.send("POST", path, {"reference": "evd_3"}, account="test_other").status == 404


def test_an_accepted_dispute_is_lost() -> None:
    desk = Desk()
    inquiry = open_dispute(desk, inquiry=True)
    after = desk.post(f"/v1/disputes/{inquiry['id']}/accept", {"reference": "evd_1"})
    assert (after["status"], after["evidence"], after["movements"][0]["amount"]) == ("lost", ["evd_1"], -1000)
    assert desk.refusal(f"/v1/disputes/{inquiry['id']}/accept", {"reference": "evd_1"})[0] == 409


def test_who_does_not_answer_in_time_has_lost() -> None:
    desk = Desk()
    dispute = open_dispute(desk, due_s=100)
    desk.time += 99
    assert desk.get(f"/v1/disputes/{dispute['id']}")["status"] == "needs_response"
    desk.time += 1
    assert desk.get(f"/v1/disputes/{dispute['id']}")["status"] == "lost"
    other = open_dispute(desk, due_s=100)
    desk.post(f"/v1/disputes/{other['id']}/evidence", {"reference": "evd_1"})
    desk.time += 200
    assert desk.get(f"/v1/disputes/{other['id']}")["status"] == "under_review"


def test_disputes_are_found_by_reference_and_only_by_their_merchant() -> None:
    desk = Desk()
    dispute = open_dispute(desk, desk.charge(reference="op_7"))
    assert desk.get("/v1/disputes?reference=op_7")["data"] == [dispute]
    assert desk.send("GET", f"/v1/disputes/{dispute['id']}", account="test_other").status == 404
    assert desk.send("GET", "/v1/disputes", account="test_other").status == 400
    assert desk.send("PUT", "/v1/disputes").status == 405


def test_the_settlement_file_has_chargebacks_with_their_fees() -> None:
    desk = Desk()
    dispute = open_dispute(desk, desk.charge(amount=5000))
    change(desk, dispute, "win", return_fee=True)
    (batch,) = close(desk)
    found, totals = read(file_of(desk, batch["id"]))
    assert [(line.kind, line.provider_reference, line.gross_minor, line.fee_minor) for line in found[1:3]] == [
        (LineKind.CHARGEBACK, dispute["id"], -5000, FEE),
        (LineKind.CHARGEBACK_REVERSED, dispute["id"], 5000, -FEE),
    ]
    assert {line.reference for line in found[:3]} == {"op_1"}
    assert all(total.holds for total in totals)


def test_the_journal_rebuilds_disputes_and_says_the_same_again() -> None:
    desk = Desk()
    first = open_dispute(desk, due_s=100)
    change(desk, first, "win")
    change(desk, first, "reopen", due_s=50)
    second = open_dispute(desk, desk.charge(reference="op_2"))
    desk.post(f"/v1/disputes/{second['id']}/evidence", {"reference": "evd_1"}, key="k1")
    rebuilt = desk.rebuilt()
    assert rebuilt.disputes.page(0, 10) == desk.bank.disputes.page(0, 10)
    assert rebuilt.books()["charged_back"] == desk.bank.books()["charged_back"]
    assert rebuilt.merchant("shop", is_live=False).keys == desk.bank.merchant("shop", is_live=False).keys
    desk.time += 60
    assert [each.status for each in rebuilt.disputes.page(0, 10)] == ["lost", "under_review"]
    assert msgspec.to_builtins(rebuilt.disputes.page(0, 1)[0].movements)[-1]["amount"] == -1000


def test_every_status_can_be_reached() -> None:
    desk = Desk()
    seen = set()
    for steps in ([], ["review"], ["win"], ["lose"]):
        dispute = open_dispute(desk)
        for verb in steps:
            dispute = change(desk, dispute, verb)
        seen.add(dispute["status"])
    inquiry = open_dispute(desk, inquiry=True)
    seen |= {inquiry["status"], change(desk, inquiry, "close")["status"]}
    assert seen == set(DISPUTE_STATUSES)
