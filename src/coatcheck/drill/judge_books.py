"""The judge of the books: the ledger, payouts and disputes against what the PSP and its settlement files say.

It imports nothing of the gateway; its arithmetic is its own. All amounts and differences are in minor units.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

from coatcheck.drill.evidence import PspBooks, PspPayout, Rows, printed
from coatcheck.drill.journal import AskedPayout
from coatcheck.drill.verdict import Verdict

_MAY_NOT_BE_BELOW_ZERO: Final = frozenset({"seller_available", "seller_reserve", "payouts_in_transit"})
_CLEARING: Final = ("psp:simulator:receivable", "psp:simulator:payouts_in_transit", "suspense")
_STATUS_THERE: Final = {"paid": "PAID", "failed": "FAILED", "returned": "RETURNED"}
_STATUS_OF_A_DISPUTE: Final = {"won": "WON", "lost": "LOST"}

_Balances = Counter[tuple[str, str]]  # credits less debits, by whose it is and currency


def judge_books(rows: Rows, books: PspBooks, verdict: Verdict) -> None:
    """Hold counters against transfers, debits against credits, and every balance against the outside world."""
    sums, seen = _added_up(rows, verdict)
    for (what, currency), difference in sums.items():
        if difference:
            verdict.find("ledger_difference", f"{currency}, {what}: debits are not credits", abs(difference))
    expected = _expected(rows, books)
    for whose, currency in expected.keys() | seen.keys():
        if difference := abs(expected[whose, currency] - seen[whose, currency]):
            verdict.find("ledger_difference", f"{whose} {currency} is not what the outside world says", difference)
    for (whose, currency), left in seen.items():
        if left and whose in _CLEARING:
            verdict.find("clearing_open", f"{whose} {currency} has {left} left", abs(left))
    for row in rows.breaks:
        where = f"line {row['line_no']} of {row['batch']}"
        verdict.find("breaks_open", f"a break is open, {row['kind']}, {where}: {row['detail']}")


def _added_up(rows: Rows, verdict: Verdict) -> tuple[Counter[tuple[str, str]], _Balances]:
    """Add up debits less credits, and every balance; holds each account against its transfers and its floor."""
    sums: Counter[tuple[str, str]] = Counter()
    seen: _Balances = Counter()
    for account in rows.accounts:
        currency = account["currency"]
        debits, credits_ = account["debits_posted_minor"], account["credits_posted_minor"]
        sums["posted", currency] += debits - credits_
        sums["pending", currency] += account["debits_pending_minor"] - account["credits_pending_minor"]
        seen[_whose(account["name"]), currency] += credits_ - debits
        moved = account["moved_debit_minor"] - debits, account["moved_credit_minor"] - credits_
        if difference := abs(moved[0]) + abs(moved[1]):
            verdict.find("ledger_difference", f"{account['name']} {currency} is not its transfers", difference)
        if account["kind"] in _MAY_NOT_BE_BELOW_ZERO and credits_ - debits - account["debits_pending_minor"] < 0:
            verdict.find("overdrawn", f"{account['name']} {currency} is below zero")
    return sums, seen


def _whose(name: str) -> str:
    """Say whose an account is: all accounts of a seller are one here, and all of ours at banks."""
    parts = name.split(":")
    match parts[0]:
        case "seller":
            return f"seller {parts[1]}"
        case "payouts":
            return f"seller {parts[2]}"
        case "bank" | "suspense":
            return parts[0]
    return name


def _expected(rows: Rows, books: PspBooks) -> _Balances:
    """Work out what everybody should have, from the orders and refunds, and from the PSP's books and files."""
    expected = _of_orders(rows)
    for charge in books.charges:
        expected["psp:simulator:receivable", charge.currency] -= charge.captured_minor - charge.refunded_minor
    sellers = _seller_by_charge(rows, books)
    for dispute in books.disputes:
        currency = dispute.currency
        expected["psp:simulator:receivable", currency] += dispute.taken_minor + dispute.fee_minor
        expected["platform:dispute_fees", currency] -= dispute.fee_minor
        expected[f"seller {sellers.get(dispute.charge_id)}", currency] -= dispute.taken_minor
    for currency in books.fees.keys() | books.paid_out.keys():
        fee, paid_out = books.fees.get(currency, 0), books.paid_out.get(currency, 0)
        expected["psp:simulator:receivable", currency] += fee + paid_out
        expected["platform:psp_fees", currency] -= fee
        expected["bank", currency] -= paid_out
    for payout in books.payouts:
        if payout.status == "paid":
            expected[f"seller {_seller_of(payout)}", payout.currency] -= payout.amount_minor
            expected["bank", payout.currency] += payout.amount_minor
    return expected


def _of_orders(rows: Rows) -> _Balances:
    """Work out what orders and refunds alone gave sellers and the platform."""
    returned: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for refund in rows.refunds:
        if refund["status"] == "SUCCEEDED":
            returned[refund["order_id"]][0] += refund["amount_minor"]
            returned[refund["order_id"]][1] += refund["commission_minor"]
    expected: _Balances = Counter()
    for row in rows.orders:
        currency, captured = row["currency"], row["captured_minor"]
        refunded, commission_back = returned[row["order_id"]]
        commission = row["commission_minor"] * captured // row["amount_minor"]
        expected["platform:commission", currency] += commission - commission_back
        expected[f"seller {row['seller_account']}", currency] += (captured - commission) - (refunded - commission_back)
    return expected


def _seller_by_charge(rows: Rows, books: PspBooks) -> dict[str, str]:
    """Find whose each charge is, by currency and amount, which no two orders share."""
    sellers = {(row["currency"], row["amount_minor"]): row["seller_account"] for row in rows.orders}
    return {charge.charge_id: sellers.get((charge.currency, charge.amount_minor), "") for charge in books.charges}


def _seller_of(payout: PspPayout) -> str:
    return payout.destination.partition(".")[2]


def judge_payouts(asked: Mapping[str, AskedPayout], rows: Rows, books: PspBooks, verdict: Verdict) -> None:
    """Hold every payout against the PSP's: paid once, to whom it was for, and to the minor unit."""
    there: dict[str, list[PspPayout]] = defaultdict(list)
    for payout in books.payouts:
        there[payout.reference].append(payout)
    for row in rows.payouts:
        made = there.pop("" if row["operation_id"] is None else printed("op", row["operation_id"]), [])
        _judge_payout(row, made, verdict)
        verdict.done["payouts"] += row["status"] == "PAID"
    for reference, strangers in there.items():
        if any(payout.status != "failed" for payout in strangers):
            verdict.find("lost", f"the PSP has a payout {reference} to {strangers[0].destination}, and the books not")
    whose = {printed("out", row["payout_id"]): (row["seller_account"], row["currency"]) for row in rows.payouts}
    for key, wanted in asked.items():
        for told in wanted.told:
            if whose.get(told) != (wanted.seller_account, wanted.currency):
                verdict.find("lost", f"payout {told} was told for {key}, and is not there like that")


def _judge_payout(row: Mapping[str, Any], made: list[PspPayout], verdict: Verdict) -> None:
    name = f"payout {printed('out', row['payout_id'])}"
    live = [payout for payout in made if payout.status in ("paid", "pending")]
    if len(live) > 1:
        verdict.find("payouts_twice", f"{name} was paid as {', '.join(payout.payout_id for payout in live)}")
    said = {_STATUS_THERE.get(payout.status, "PENDING") for payout in made} or {"FAILED"}  # refused, and never made
    if row["status"] not in said or (row["status"] != "PAID" and "PAID" in said):
        verdict.find("lost", f"{name} is {row['status']} here and {sorted(said)} at the PSP")
    for payout in live:
        what = (_seller_of(payout), payout.currency, payout.amount_minor)
        if what != (row["seller_account"], row["currency"], row["amount_minor"]):
            verdict.find("lost", f"{name} is of another seller or amount at the PSP: {what}")


def judge_disputes(rows: Rows, books: PspBooks, verdict: Verdict) -> None:
    """Hold every dispute's money against the PSP's, and how it ended, where the books say that it has."""
    here = {row["provider_reference"]: row for row in rows.disputes}
    for dispute in books.disputes:
        verdict.done["disputes"] += 1
        row = here.pop(dispute.dispute_id, None)
        moved = (dispute.taken_minor, dispute.fee_minor)
        if row is None:
            verdict.find("lost", f"dispute {dispute.dispute_id} took {moved} at the PSP and is not known here")
            continue
        if (row["taken_minor"], row["fee_minor"]) != moved:
            found = (row["taken_minor"], row["fee_minor"])
            verdict.find("lost", f"dispute {dispute.dispute_id} took {found} by the books and {moved} at the PSP")
        ended = _STATUS_OF_A_DISPUTE.get(dispute.status)
        if row["status"] in ("WON", "LOST") and row["status"] != ended and dispute.taken_minor:
            verdict.find("lost", f"dispute {dispute.dispute_id} is {row['status']} here and {dispute.status} there")
    for reference in here:
        verdict.find("lost", f"dispute {reference} is known here and not at the PSP")
    if rows.evidence_waiting:
        verdict.find("unresolved", f"{rows.evidence_waiting} answers to disputes were not passed on")
