"""The judge of the drill: what clients were told, what the PSP's books say and what the database says, compared.

It imports nothing of the gateway; its arithmetic is its own. An order and its charge are matched by currency and
amount, which no two orders of an installation share. All amounts and differences are in minor units.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from coatcheck.drill.evidence import PspBooks, PspCharge, Rows, printed
from coatcheck.drill.journal import FINAL, Asked, AskedPayout
from coatcheck.drill.judge_books import judge_books, judge_disputes, judge_payouts
from coatcheck.drill.verdict import Verdict

_LIVE: Final = frozenset({"succeeded", "authorized"})
# A refund that arrived may be sent back by the buyer's bank; the PSP's books must then say so, too.
_REFUND_MAY_BECOME: Final = {("PENDING", "SUCCEEDED"), ("PENDING", "FAILED"), ("SUCCEEDED", "FAILED")}

_Sum = tuple[str, int]  # currency and amount: names an order
_Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the witnesses of one installation said."""

    asked: Mapping[str, Asked]
    asked_payouts: Mapping[str, AskedPayout]
    rows: Rows
    books: PspBooks


def judge(evidence: Evidence) -> Verdict:
    """Compare everything with everything. Pure: asks nobody."""
    verdict = Verdict(payments=evidence.rows.payments)
    charges = _charges_by_sum(evidence.books)
    _judge_orders(evidence, charges, verdict)
    _judge_strangers(evidence.rows, charges, verdict)
    _judge_the_psps_word(evidence, verdict)
    _judge_checkouts(evidence, verdict)
    _judge_refunds(evidence, verdict)
    _judge_undecided(evidence, verdict)
    _judge_replay(evidence.rows, verdict)
    judge_books(evidence.rows, evidence.books, verdict)
    judge_payouts(evidence.asked_payouts, evidence.rows, evidence.books, verdict)
    judge_disputes(evidence.rows, evidence.books, verdict)
    return verdict


def judge_adopted(rows: Rows, books: PspBooks) -> Verdict:
    """Hold that restored books know of all money that the PSP moved, before any client has asked for it again."""
    verdict = Verdict()
    _judge_strangers(rows, _charges_by_sum(books), verdict)
    refunds = {printed("op", row["operation_id"]) for row in rows.refunds if row["operation_id"] is not None}
    payouts = {printed("op", row["operation_id"]) for row in rows.payouts if row["operation_id"] is not None}
    for action in books.actions:
        if action.kind == "refund" and action.status == "succeeded" and action.reference not in refunds:
            verdict.find("lost", f"{action.action_id} ({action.reference}) at the PSP is a refund that was not adopted")
    for payout in books.payouts:
        if payout.status == "paid" and payout.reference not in payouts:
            verdict.find("lost", f"{payout.payout_id} ({payout.reference}) at the PSP is a payout that was not adopted")
    return verdict


def _charges_by_sum(books: PspBooks) -> dict[_Sum, list[PspCharge]]:
    charges: dict[_Sum, list[PspCharge]] = defaultdict(list)
    for charge in books.charges:
        charges[charge.currency, charge.amount_minor].append(charge)
    return charges


def _took(charge: PspCharge) -> bool:
    """Whether a charge took money, or holds it."""
    return charge.status in _LIVE or charge.captured_minor > 0


# Orders against the PSP


def _judge_orders(evidence: Evidence, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    wanted = {order.payment_order_id: order for asked in evidence.asked.values() for order in asked.orders}
    for row in evidence.rows.orders:
        verdict.orders[row["status"]] += 1
        order = wanted.get(row["payment_order_id"])
        if order is None or (order.seller_account, order.amount_minor, order.commission_minor, order.currency) != (
            *(row["seller_account"], row["amount_minor"], row["commission_minor"]),
            row["currency"],
        ):
            verdict.find(None, f"{row['payment_order_id']} is not as anybody asked for it")
        made = [charge for charge in charges.get((row["currency"], row["amount_minor"]), ()) if _took(charge)]
        if len(made) > 1:
            names = ", ".join(charge.charge_id for charge in made)
            verdict.find("charged_twice", f"{row['payment_order_id']} was charged as {names}")
        _judge_order(row, made, verdict)


def _judge_order(row: _Row, made: Sequence[PspCharge], verdict: Verdict) -> None:
    """Hold one order against its charge: the same money taken, the same money given back, the same state."""
    name, status = row["payment_order_id"], row["status"]
    there = (sum(charge.captured_minor for charge in made), sum(charge.refunded_minor for charge in made))
    here = (row["captured_minor"], row["refund_reserved_minor"])
    if here != there:
        verdict.find("lost", f"{name} is {status}: captured and given back {here} here, {there} at the PSP")
        return
    if status == "SUCCESS" and not there[0]:
        verdict.find("lost", f"{name} is SUCCESS here and nothing was taken at the PSP")
    is_held = any(charge.status == "authorized" for charge in made)
    if status in ("FAILED", "CANCELLED") and made:
        verdict.find("lost", f"{name} is {status} here and {made[0].charge_id} is {made[0].status} at the PSP")
    elif is_held != (status == "AUTHORIZED"):
        held = "holds money for it" if is_held else "holds nothing for it"
        verdict.find("unresolved", f"{name} is {status} here and the PSP {held}")


def _judge_strangers(rows: Rows, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    """Count money that the PSP took for no order as lost."""
    known = {(row["currency"], row["amount_minor"]) for row in rows.orders}
    for made in (made for each, made in charges.items() if each not in known):
        for charge in made:
            if _took(charge):
                verdict.find("lost", f"{charge.charge_id} ({charge.reference}) at the PSP belongs to no order")


def _judge_the_psps_word(evidence: Evidence, verdict: Verdict) -> None:
    """Take what the PSP's own books call wrong."""
    names = {"done_twice": "charged_twice", "paid_out_twice": "payouts_twice", "over_captured": None}
    for wrong, references in evidence.books.wrongs.items():
        for reference in references:
            verdict.find(names.get(wrong, wrong), f"{reference} is {wrong.replace('_', ' ')} by the PSP's books")
    if forged := evidence.books.faults.get("webhook_forged_accepted"):
        verdict.find(None, f"{forged} forged webhooks were accepted")


# Clients against the rows


def _judge_checkouts(evidence: Evidence, verdict: Verdict) -> None:
    rows = {row["payment_order_id"]: row for row in evidence.rows.orders}
    orders = {row["order_id"]: str(row["order_id"]) for row in evidence.rows.orders}
    for checkout_id, asked in evidence.asked.items():
        if not asked.is_answered:
            verdict.find("unresolved", f"{checkout_id}: its client was never given an end")
        for name, told in asked.told.items():
            row = rows.get(name)
            if row is None:
                verdict.find("lost", f"{name} was answered, and there is no such order")
                continue
            rebuilt = evidence.rows.rebuilt.orders.get(orders[row["order_id"]])
            _judge_told(row, told.statuses, verdict, is_late=rebuilt is not None and rebuilt.is_late)
    _judge_joint(evidence.rows.orders, verdict)


def _judge_told(row: _Row, statuses: Sequence[str], verdict: Verdict, *, is_late: bool) -> None:
    """Hold that a final status stays once it was told; only the PSP's later word makes a success of it."""
    heard = [*statuses, row["status"]] if row["status"] in FINAL else list(statuses)
    for before, after in pairwise(heard):
        if before != after and not (after == "SUCCESS" and is_late):
            name = "lost" if before == "SUCCESS" else None
            verdict.find(name, f"{row['payment_order_id']} was told as {before} and then as {after}")
    if statuses and row["status"] not in FINAL and row["status"] != "AUTHORIZED":
        verdict.find("unresolved", f"{row['payment_order_id']} was told as {statuses[-1]} and is {row['status']}")


def _judge_joint(rows: Sequence[_Row], verdict: Verdict) -> None:
    """Hold that an all-or-nothing checkout keeps all its orders' money or none, and leaves none authorized."""
    checkouts: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        if row["on_failure"] == "all_or_nothing":
            checkouts[row["checkout_id"]].append(row)
    for checkout_id, orders in checkouts.items():
        keeps = [row["captured_minor"] > row["refund_reserved_minor"] for row in orders]
        has_failed = any(row["status"] in ("FAILED", "CANCELLED") for row in orders)
        if has_failed and any(keeps):
            verdict.find(None, f"{checkout_id} is all or nothing, and keeps the money of some orders only")
        if any(row["status"] == "AUTHORIZED" for row in orders):
            verdict.find("unresolved", f"{checkout_id} is all or nothing, and left authorized")


def _judge_refunds(evidence: Evidence, verdict: Verdict) -> None:
    asked: Counter[Any] = Counter()
    arrived: Counter[Any] = Counter()
    actions = {action.reference: action for action in evidence.books.actions if action.kind == "refund"}
    rows = {printed("rf", row["refund_id"]): row for row in evidence.rows.refunds}
    for name, row in rows.items():
        asked[row["order_id"]] += row["amount_minor"] if row["status"] != "FAILED" else 0
        arrived[row["order_id"]] += row["amount_minor"] if row["status"] == "SUCCEEDED" else 0
        made = None if row["operation_id"] is None else actions.get(printed("op", row["operation_id"]))
        has_arrived = made is not None and made.status == "succeeded" and made.amount_minor == row["amount_minor"]
        if (row["status"] == "SUCCEEDED") != has_arrived:
            there = "unknown" if made is None else made.status
            verdict.find("lost", f"refund {name} is {row['status']} here and {there} at the PSP")
    for row in evidence.rows.orders:
        if max(asked[row["order_id"]], arrived[row["order_id"]]) > row["captured_minor"]:
            verdict.find("over_refunded", f"{row['payment_order_id']}: more was given back than captured")
    for told, status in ((told, status) for each in evidence.asked.values() for told, status in each.refunds.items()):
        now = rows[told]["status"] if told in rows else "unknown"
        if now != status and (status, now) not in _REFUND_MAY_BECOME:
            verdict.find("lost", f"refund {told} was told as {status} and is {now}")


def _judge_undecided(evidence: Evidence, verdict: Verdict) -> None:
    waiting = {row["order_id"] for row in evidence.rows.undecided}
    for row in evidence.rows.undecided:
        what = f"{row['kind']} {printed('op', row['operation_id'])} is {row['status']}: {row['cause']}"
        verdict.find("unresolved", what)
    for row in evidence.rows.orders:
        if row["status"] not in FINAL and row["status"] != "AUTHORIZED" and row["order_id"] not in waiting:
            verdict.find("unresolved", f"{row['payment_order_id']} is {row['status']} and nobody works on it")


# The replay


def _judge_replay(rows: Rows, verdict: Verdict) -> None:
    for what in _replay_differences(rows):
        verdict.find("replay_difference", what)


def _replay_differences(rows: Rows) -> Iterator[str]:
    """Name every order, refund and account that is not what the events alone make of it."""
    rebuilt = rows.rebuilt
    yield from rebuilt.orphans
    orders = {str(row["order_id"]): row for row in rows.orders}
    for order_id in orders.keys() | rebuilt.orders.keys():
        row, made = orders.get(order_id), rebuilt.orders.get(order_id)
        if row is None or made is None:
            yield f"order {order_id} is {'not a row' if row is None else 'in no event'}"
            continue
        counts = ("authorized_minor", "captured_minor", "refund_reserved_minor", "refunded_minor")
        here = (row["status"], *[row[name] for name in counts], row["refund_commission_minor"])
        if here != (made.status, *made.totals()):
            yield f"{row['payment_order_id']} is {here}; its events make it {(made.status, *made.totals())}"
    refunds = {str(row["refund_id"]): row["status"] for row in rows.refunds}
    for refund_id in refunds.keys() | rebuilt.refunds.keys():
        if refunds.get(refund_id) != rebuilt.refunds.get(refund_id):
            yield f"refund {refund_id} is {refunds.get(refund_id)}; by its events {rebuilt.refunds.get(refund_id)}"
    payouts = {str(row["payout_id"]): row["status"] for row in rows.payouts}
    for payout_id in payouts.keys() | rebuilt.payouts.keys():
        if payouts.get(payout_id) != rebuilt.payouts.get(payout_id):
            yield f"payout {payout_id} is {payouts.get(payout_id)}; by its events {rebuilt.payouts.get(payout_id)}"
    counters = ("debits_posted_minor", "credits_posted_minor", "debits_pending_minor", "credits_pending_minor")
    accounts = {str(row["account_id"]): [row[name] for name in counters] for row in rows.accounts}
    for account_id in accounts.keys() | rebuilt.accounts.keys():
        here_minor = accounts.get(account_id, [0, 0, 0, 0])
        made_minor = list(rebuilt.accounts.get(account_id, [0, 0, 0, 0]))
        if here_minor != made_minor:
            yield f"account {account_id} has {here_minor}; its events make it {made_minor}"
