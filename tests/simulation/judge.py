"""The judge: the PSP's books, the plan and the database's rows, compared by plain SQL and sums.

It shares no code with the gateway's money path: it knows the tables' names and how an id is printed, and nothing else.
"""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
from tests.simulation.plan import Manner, PlannedCheckout, PlannedOrder, What
from tests.simulation.psp import WINDOW, Entry

from coatcheck.simulator.records import AUTHORIZED, DECLINED, FAILED, PENDING, Action, Charge

INVARIANTS: Final = Path(__file__).parents[2] / "src/coatcheck/sql/invariants"
_MARGIN: Final = timedelta(minutes=5)
_SHOWN: Final = 15
_UNDECIDED: Final = ("OPEN", "PENDING", "UNRESOLVED")
# The PSP's word that it was asked for more than there was: what its till refused, ours should have.
_ASKED_TOO_MUCH: Final = ("refund_exceeds_captured", "amount_too_large")


class Fault(StrEnum):
    """What the judge may find."""

    CHARGED_TWICE = "charged or reserved twice"
    DONE_TWICE = "captured, voided or refunded twice"
    PAGED_TWICE = "the buyer was sent to two pages for one payment"
    LOST = "done at the PSP, and not here"
    FAILED_WHILE_CHARGED = "FAILED or CANCELLED here, and charged or reserved at the PSP"
    NOT_CHARGED = "done here, and not at the PSP"
    NEVER_SAID = "decided here, and the PSP never said so"
    WRONG_AMOUNT = "another amount or currency"
    REFUNDED_OTHERWISE = "refunded here and refunded there are not the same"
    ASKED_TOO_MUCH = "asked to capture or refund more than there was"
    HALF_TAKEN = "all or nothing, and a part was kept"
    LEFT_LYING = "all or nothing, all reserved, and nobody captured"
    NOT_FINAL = "neither final nor waiting for a person"
    UNRESOLVED_TOO_SOON = "left to a person without need"
    STRANGE = "not what was asked for"
    ASKED_THOUGH_BLOCKED = "blocked by the risk rules, and the PSP was asked"
    LEDGER = "the ledger"
    WALLET = "a wallet"
    INVARIANT = "an invariant"
    PROTEST = "a client protests"


@dataclass(slots=True)
class Verdict:
    """What came out: how many orders there are of each kind, and whatever is not as it must be."""

    orders: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def find(self, fault: Fault, what: object) -> None:
        """Keep a finding."""
        self.faults[fault] += 1
        if self.faults[fault] <= _SHOWN:
            self.findings.append(f"{fault}: {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the judge is given besides the database.

    `lapsed`: references of authorizations that the PSP ended early. `pages`: where buyers were sent, by checkout.
    """

    plan: Sequence[PlannedCheckout]
    charges: Sequence[Charge]
    actions: Sequence[Action]
    pages: Mapping[str, Sequence[str]]
    lapsed: AbstractSet[str]
    diary: Mapping[str, Entry]
    protests: Sequence[str]


@dataclass(slots=True)
class Case:
    """All there is about one order, here and at the PSP."""

    row: Any
    charges: list[Charge]
    operations: list[Any]
    refunds: list[Any]
    waited: bool = False  # for a person, once

    @property
    def name(self) -> str:
        """The order's name."""
        return str(self.row["payment_order_id"])

    @property
    def is_open(self) -> bool:
        """Whether something about it is undecided here."""
        return any(operation["status"] in _UNDECIDED for operation in self.operations)

    @property
    def captured_there(self) -> int:
        """What the PSP took for it."""
        return sum(charge.amount_captured for charge in self.charges)

    @property
    def refunded_there(self) -> int:
        """What the PSP gave back, or is about to."""
        return sum(charge.amount_refunded for charge in self.charges)


_ORDERS = """
SELECT o.order_id, o.payment_id, o.payment_order_id, o.seller_account, o.amount_minor, o.commission_minor,
       o.currency::text, o.status, o.decline_code, o.captured_minor, o.refunded_minor, p.checkout_id
  FROM payment_order AS o JOIN payment AS p USING (payment_id)
"""
_OPERATIONS = """
SELECT operation_id, order_id, kind, status, cause, decline_code, amount_minor, currency::text, target_reference,
       refund_id, created_at
  FROM operation ORDER BY created_at, operation_id
"""
_REFUNDS = "SELECT refund_id, order_id, key, amount_minor, commission_minor, currency::text, status FROM refund"
_WAITED = """
SELECT DISTINCT (body->>'order_id')::uuid AS order_id FROM event
 WHERE kind IN ('operation.unresolved', 'operation.answer_refused')
"""
_LEDGER = """
SELECT a.name, a.currency::text,
       coalesce(sum(CASE WHEN t.credit_account_id = a.account_id THEN t.amount_minor ELSE -t.amount_minor END)
                FILTER (WHERE t.phase IN ('posted', 'captured')), 0)::bigint AS moved_minor,
       min(a.credits_posted_minor - a.debits_posted_minor) AS balance_minor,
       min(a.credits_pending_minor - a.debits_pending_minor) AS held_minor
  FROM account AS a JOIN transfer AS t ON a.account_id IN (t.debit_account_id, t.credit_account_id)
 GROUP BY a.account_id, a.name, a.currency
"""


# What each payment moved on each account.
_MOVED = """
SELECT t.subject_id AS payment_id, a.name, a.currency::text,
       sum(CASE WHEN t.credit_account_id = a.account_id THEN t.amount_minor ELSE -t.amount_minor END)::bigint
           AS moved_minor
  FROM transfer AS t JOIN account AS a ON a.account_id IN (t.debit_account_id, t.credit_account_id)
 WHERE t.phase IN ('posted', 'captured')
 GROUP BY t.subject_id, a.account_id, a.name, a.currency
"""
_HELD = """
SELECT t.subject_id AS payment_id, a.name, a.currency::text,
       sum((h.amount_minor - h.captured_minor - h.released_minor)
           * CASE WHEN h.credit_account_id = a.account_id THEN 1 ELSE -1 END)::bigint AS moved_minor
  FROM hold AS h
  JOIN transfer AS t ON t.transfer_id = h.hold_id
  JOIN account AS a ON a.account_id IN (h.debit_account_id, h.credit_account_id)
 GROUP BY t.subject_id, a.account_id, a.name, a.currency
"""


async def judge(owner: asyncpg.Connection, evidence: Evidence) -> Verdict:
    """Compare everything with everything, as it is at one moment."""
    async with owner.transaction(isolation="repeatable_read", readonly=True):
        return await _judge_all(owner, evidence)


async def _judge_all(owner: asyncpg.Connection, evidence: Evidence) -> Verdict:
    verdict = Verdict()
    for protest in evidence.protests:
        verdict.find(Fault.PROTEST, protest)
    cases = await _open_cases(owner, evidence)
    planned = {order.payment_order_id: (checkout, order) for checkout in evidence.plan for order in checkout.orders}
    actions = _by_reference(evidence.actions)
    for case in cases.values():
        verdict.orders["UNRESOLVED" if case.is_open else str(case.row["status"])] += 1
        _judge_plan(case, planned.get(case.name), verdict)
        _judge_charges(case, verdict)
        for operation in case.operations:
            verdict.operations[f"{operation['kind']} {operation['status']}"] += 1
            _judge_operation(case, operation, actions, evidence, verdict)
        _judge_order(case, verdict)
    _judge_checkouts(cases.values(), evidence, verdict)
    _judge_strangers(cases.values(), evidence, verdict)
    _judge_ledger(await owner.fetch(_LEDGER), cases.values(), verdict)
    _judge_totals(await owner.fetch(_LEDGER), cases.values(), evidence, verdict)
    if verdict.faults[Fault.LEDGER] or verdict.faults[Fault.WALLET]:
        _judge_each_payment(await owner.fetch(_MOVED), await owner.fetch(_HELD), cases.values(), verdict)
    for file in sorted(INVARIANTS.glob("*.sql")):
        for row in await owner.fetch(file.read_text("utf-8")):
            verdict.find(Fault.INVARIANT, f"{file.stem}: {dict(row)}")
    return verdict


async def history(owner: asyncpg.Connection, evidence: Evidence, verdict: Verdict) -> list[str]:
    """Tell what became of the first order that something was found about, by our events and by the PSP's diary."""
    row = await owner.fetchrow(
        """SELECT order_id, payment_id FROM payment_order
            WHERE payment_order_id = ANY (regexp_split_to_array($1, '[^a-z0-9-]+')) OR strpos($1, order_id::text) > 0
            LIMIT 1""",
        " ".join(verdict.findings),
    )
    if row is None:
        return []
    operations = await owner.fetch("SELECT operation_id, kind FROM operation WHERE order_id = $1", row["order_id"])
    events = await owner.fetch(
        """SELECT at, kind, left(body::text, 400) AS body FROM event
            WHERE subject_id = $1 AND (body->>'order_id' = $2 OR body->>'order_id' IS NULL) ORDER BY event_id""",
        row["payment_id"],
        str(row["order_id"]),
    )
    told = [f"{event['at']} {event['kind']} {event['body']}" for event in events]
    for operation in operations:
        entry = evidence.diary.get(printed(operation["operation_id"]), Entry())
        told += [f"{line} ({operation['kind']})" for line in entry.log]
    return sorted(told)


def printed(operation_id: UUID) -> str:
    """Print an operation's id as it goes to the PSP: base32 of its 128 bits (RFC 4648), small letters."""
    return "op_" + base64.b32encode(operation_id.bytes).decode().rstrip("=").lower()


async def _open_cases(owner: asyncpg.Connection, evidence: Evidence) -> dict[UUID, Case]:
    cases = {row["order_id"]: Case(row, [], [], []) for row in await owner.fetch(_ORDERS)}
    charges: dict[str, list[Charge]] = defaultdict(list)
    for charge in evidence.charges:
        charges[charge.reference].append(charge)
    for row in await owner.fetch(_OPERATIONS):
        case = cases[row["order_id"]]
        case.operations.append(row)
        if row["kind"] in ("charge", "authorize"):
            case.charges.extend(charges.get(printed(row["operation_id"]), ()))
    for row in await owner.fetch(_REFUNDS):
        cases[row["order_id"]].refunds.append(row)
    for row in await owner.fetch(_WAITED):
        cases[row["order_id"]].waited = True
    return cases


def _by_reference(actions: Iterable[Action]) -> dict[str, list[Action]]:
    found: dict[str, list[Action]] = defaultdict(list)
    for action in actions:
        found[action.reference].append(action)
    return found


# what was asked for


def _judge_plan(case: Case, planned: tuple[PlannedCheckout, PlannedOrder] | None, verdict: Verdict) -> None:
    row = case.row
    if planned is None:
        verdict.find(Fault.STRANGE, dict(row))
        return
    checkout, order = planned
    asked = (checkout.checkout_id, order.seller_account, order.amount_minor, order.commission_minor, order.currency)
    written = tuple(row[name] for name in ("checkout_id", "seller_account", "amount_minor", "commission_minor"))
    if asked != (*written, row["currency"]):
        verdict.find(Fault.STRANGE, dict(row))
    wishes = [
        (step.what, step.key, amount)
        for step in checkout.steps
        for name, amount in step.amounts_minor
        if name == case.name
    ]
    for refund in case.refunds:
        amounts = [amount for what, key, amount in wishes if what is What.REFUND and key == refund["key"]]
        is_ours = checkout.manner is Manner.TOGETHER and refund["key"] == f"all-or-nothing {row['order_id']}"
        if not is_ours and refund["amount_minor"] not in amounts and None not in amounts:
            verdict.find(Fault.STRANGE, f"{case.name}: {dict(refund)}")
    for operation in case.operations:
        if operation["kind"] == "capture":
            amounts = [amount for what, _, amount in wishes if what is What.CAPTURE]
            is_ours = checkout.manner is Manner.TOGETHER and operation["amount_minor"] == order.amount_minor
            if not is_ours and operation["amount_minor"] not in amounts and None not in amounts:
                verdict.find(Fault.STRANGE, f"{case.name}: {dict(operation)}")


# what became of each order


def _judge_charges(case: Case, verdict: Verdict) -> None:
    if not case.operations and (case.row["status"], case.row["decline_code"]) != ("FAILED", "risk_blocked"):
        verdict.find(Fault.ASKED_THOUGH_BLOCKED, dict(case.row))
    made = [charge for charge in case.charges if charge.status != DECLINED]
    if len(made) > 1:
        verdict.find(Fault.CHARGED_TWICE, f"{case.name}: {[charge.id for charge in made]}")
    for charge in made:
        if (charge.amount, charge.currency, charge.livemode) != (case.row["amount_minor"], case.row["currency"], False):
            verdict.find(Fault.WRONG_AMOUNT, f"{case.name}: {charge}")
    for operation in case.operations:
        if operation["currency"] != case.row["currency"] or operation["amount_minor"] > case.row["amount_minor"]:
            verdict.find(Fault.WRONG_AMOUNT, f"{case.name}: {dict(operation)}")
    if sum(operation["kind"] in ("charge", "authorize") for operation in case.operations) > 1:
        verdict.find(Fault.CHARGED_TWICE, f"{case.name} has several charges here")
    if case.refunded_there > case.captured_there or case.captured_there > case.row["amount_minor"] * max(len(made), 1):
        verdict.find(Fault.ASKED_TOO_MUCH, f"{case.name}: {case.charges}")


def _judge_operation(
    case: Case,
    operation: Any,
    actions: Mapping[str, Sequence[Action]],
    evidence: Evidence,
    verdict: Verdict,
) -> None:
    reference, status = printed(operation["operation_id"]), operation["status"]
    entry = evidence.diary.get(reference, Entry())
    what = f"{case.name}, its {operation['kind']} {reference}"
    done = [action for action in actions.get(reference, ()) if action.status != FAILED]
    starts = operation["kind"] in ("charge", "authorize")
    if len(done) > 1:
        verdict.find(Fault.DONE_TWICE, f"{what}: {done}")
    is_over = operation["decline_code"] == "charge_not_authorized" and case.captured_there == case.row["amount_minor"]
    if is_over or operation["decline_code"] in _ASKED_TOO_MUCH:
        verdict.find(Fault.ASKED_TOO_MUCH, f"{what}: {operation['decline_code']}")
    if status in _UNDECIDED:
        _judge_undecided(case, operation, entry, is_done=bool(_live(case) if starts else done), verdict=verdict)
        return
    is_ended_by_void = starts and operation["decline_code"] == "cancelled"
    if status not in entry.told and not is_ended_by_void:
        verdict.find(Fault.NEVER_SAID, f"{what} is {status}")
    if not starts:
        _judge_done(operation, done, what, verdict)


def _judge_done(operation: Any, done: Sequence[Action], what: str, verdict: Verdict) -> None:
    """A decided capture, void or refund was done at the PSP, or was not."""
    status = operation["status"]
    ends_a_page = operation["kind"] == "void" and str(operation["target_reference"]).startswith("cs_")
    if status == "APPROVED" and not done and not ends_a_page:
        verdict.find(Fault.NOT_CHARGED, f"{what} is {status}")
    if status == "DECLINED" and done:
        verdict.find(Fault.LOST, f"{what} is {status}: {done}")
    for action in done:
        if (action.amount, action.currency) != (operation["amount_minor"], operation["currency"]):
            verdict.find(Fault.WRONG_AMOUNT, f"{what}: {action}")


def _live(case: Case) -> list[Charge]:
    """The charges that took money, hold it or still may."""
    return [charge for charge in case.charges if charge.amount_captured or charge.status in (AUTHORIZED, PENDING)]


def _judge_undecided(case: Case, operation: Any, entry: Entry, *, is_done: bool, verdict: Verdict) -> None:
    """What nobody lied about may be left to a person only if it was looked for in vain after the window."""
    what = f"{case.name}, its {operation['kind']} {printed(operation['operation_id'])}"
    if operation["status"] != "UNRESOLVED":
        # Whether an authorization still lives cannot be said before its capture or void is known.
        is_first = operation["kind"] == "authorize"
        if not (is_first and any(other["status"] == "UNRESOLVED" for other in case.operations)):
            verdict.find(Fault.NOT_FINAL, f"{what} is {operation['status']}: {operation['cause']}")
        return
    if entry.lies:
        return
    window_ends_at = (operation["created_at"] + WINDOW - _MARGIN).timestamp()
    if is_done:
        verdict.find(Fault.LOST, f"{what} was done and waits for a person: {operation['cause']}")
    if entry.last_look_up_at is None or entry.last_look_up_at < window_ends_at:
        verdict.find(Fault.UNRESOLVED_TOO_SOON, f"{what}: {operation['cause']}, {entry.last_look_up_at}")


def _judge_order(case: Case, verdict: Verdict) -> None:
    """What is final here is final there, and the same money has moved."""
    if case.is_open:
        return  # each of its operations was judged
    status, here = case.row["status"], (case.row["captured_minor"], case.row["refunded_minor"])
    what = f"{case.name} is {status} with {here} captured and refunded, at the PSP: {case.charges}"
    if status not in ("SUCCESS", "FAILED", "CANCELLED"):
        verdict.find(Fault.NOT_FINAL, what)
    if case.captured_there > here[0]:
        verdict.find(Fault.LOST, what)
    if case.captured_there < here[0] or (status == "SUCCESS") is not bool(here[0]):
        verdict.find(Fault.NOT_CHARGED, what)
    if case.refunded_there != here[1]:
        verdict.find(Fault.REFUNDED_OTHERWISE, what)
    if status in ("FAILED", "CANCELLED") and _live(case):
        verdict.find(Fault.FAILED_WHILE_CHARGED, what)
    if any(charge.status in (AUTHORIZED, PENDING) for charge in case.charges):
        verdict.find(Fault.NOT_FINAL, what)


# what became of each checkout


def _judge_checkouts(cases: Iterable[Case], evidence: Evidence, verdict: Verdict) -> None:
    by_checkout: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_checkout[case.row["checkout_id"]].append(case)
    for checkout in evidence.plan:
        parts = by_checkout.get(checkout.checkout_id, [])
        if checkout.manner is Manner.TOGETHER and parts and not any(case.is_open for case in parts):
            _judge_together(checkout, parts, evidence, verdict)
    for checkout_id, pages in evidence.pages.items():
        if len(pages) > 1:
            verdict.find(Fault.PAGED_TWICE, f"{checkout_id}: {pages}")


def _judge_together(checkout: PlannedCheckout, parts: Sequence[Case], evidence: Evidence, verdict: Verdict) -> None:
    """All of it or nothing, by the money that stayed at the PSP. A refund that came back is a person's turn."""
    came_back = any(refund["status"] == "FAILED" for case in parts for refund in case.refunds)
    failed = any(case.row["status"] != "SUCCESS" for case in parts)
    kept = [case.name for case in parts if case.captured_there > case.refunded_there]
    if failed and kept and not came_back:
        verdict.find(Fault.HALF_TAKEN, f"{kept} of {[(case.name, case.row['status']) for case in parts]}")
    was_cancelled = any(step.what is What.CANCEL for step in checkout.steps)
    was_reserved = all(charge.status != DECLINED for case in parts for charge in case.charges)
    lapsed = any(charge.reference in evidence.lapsed for case in parts for charge in case.charges)
    was_tried = any(operation["kind"] == "capture" for case in parts for operation in case.operations)
    is_clear = all(case.charges and not case.waited for case in parts)
    if is_clear and was_reserved and not (was_cancelled or lapsed or was_tried):
        verdict.find(Fault.LEFT_LYING, [(case.name, case.row["status"]) for case in parts])


def _judge_strangers(cases: Iterable[Case], evidence: Evidence, verdict: Verdict) -> None:
    ours = {printed(operation["operation_id"]) for case in cases for operation in case.operations}
    there = {charge.reference for charge in evidence.charges} | {action.reference for action in evidence.actions}
    asked = {reference for reference in evidence.diary if reference.startswith("op_")}
    for reference in (there | asked) - ours:
        verdict.find(Fault.STRANGE, f"{reference} is known at the PSP and nowhere here")


# the books


def _judge_ledger(accounts: Iterable[Any], cases: Iterable[Case], verdict: Verdict) -> None:
    """Each account holds what the orders and refunds gave it; each currency adds up to nothing."""
    wanted, held = _wanted(cases)
    sums: Counter[str] = Counter()
    found: set[tuple[str, str]] = set()
    for account in accounts:
        name, currency = account["name"], account["currency"]
        found.add((name, currency))
        sums[currency] += account["moved_minor"]
        said = {account["moved_minor"], account["balance_minor"], wanted[name, currency]}
        if len(said) > 1 or account["held_minor"] != held[name, currency]:
            fault = Fault.WALLET if name.startswith("seller:") else Fault.LEDGER
            wish = f"{wanted[name, currency]} and {held[name, currency]} held"
            verdict.find(fault, f"{name} {currency}: {dict(account)}, its orders say {wish}")
    for currency, total in sums.items():
        if total:
            verdict.find(Fault.LEDGER, f"{currency} is out of balance by {total}")
    for missing in {account for account, amount in [*wanted.items(), *held.items()] if amount} - found:
        verdict.find(Fault.LEDGER, f"{missing} has no transfers")


def _judge_each_payment(moves: Iterable[Any], holds: Iterable[Any], cases: Iterable[Case], verdict: Verdict) -> None:
    """Name the payments whose transfers and holds are not what their rows say, once the books are known wrong."""
    parts: dict[UUID, list[Case]] = defaultdict(list)
    for case in cases:
        parts[case.row["payment_id"]].append(case)
    moved, held = _by_payment(moves), _by_payment(holds)
    for payment_id, orders in parts.items():
        names = " ".join([order.name for order in orders])
        is_moved, is_held = _wanted(orders)
        for what, is_so, wanted in (("moved", moved[payment_id], is_moved), ("holds", held[payment_id], is_held)):
            if +wanted != +is_so or -wanted != -is_so:
                verdict.find(Fault.LEDGER, f"{names} : {what} {dict(is_so)}, its orders say {dict(wanted)}")


def _by_payment(rows: Iterable[Any]) -> dict[UUID, Counter[tuple[str, str]]]:
    found: dict[UUID, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in rows:
        found[row["payment_id"]][row["name"], row["currency"]] = row["moved_minor"]
    return found


def _wanted(cases: Iterable[Case]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Add up what the rows of orders and refunds say each account must have moved, and must hold."""
    moved: Counter[tuple[str, str]] = Counter()
    held: Counter[tuple[str, str]] = Counter()
    for case in cases:
        row = case.row
        amount, commission, captured = row["amount_minor"], row["commission_minor"], row["captured_minor"]
        earned = commission * captured // amount
        _move(moved, row, captured, earned)
        if row["status"] == "AUTHORIZED":
            _move(held, row, amount - captured, commission - earned)
        for refund in case.refunds:
            if refund["status"] == "SUCCEEDED":
                _move(moved, row, -refund["amount_minor"], -refund["commission_minor"])
    return moved, held


def _move(accounts: Counter[tuple[str, str]], order: Any, amount: int, commission: int) -> None:
    accounts["psp:simulator:receivable", order["currency"]] -= amount
    accounts[f"seller:{order['seller_account']}:pending", order["currency"]] += amount - commission
    accounts["platform:commission", order["currency"]] += commission


def _judge_totals(accounts: Iterable[Any], cases: Iterable[Case], evidence: Evidence, verdict: Verdict) -> None:
    """What the PSP owes us is what it took and did not give back; of what waits for a person, what is known here."""
    taken: Counter[str] = Counter()
    for charge in evidence.charges:
        taken[charge.currency] += charge.amount_captured - charge.amount_refunded
    for case in cases:
        if case.is_open:
            here = case.row["captured_minor"] - case.row["refunded_minor"]
            taken[case.row["currency"]] += here - case.captured_there + case.refunded_there
    booked = {
        account["currency"]: -account["balance_minor"] for account in accounts if account["name"].startswith("psp:")
    }
    for currency in taken.keys() | booked.keys():
        if taken[currency] != booked.get(currency, 0):
            owed = booked.get(currency, 0)
            verdict.find(Fault.LEDGER, f"the PSP keeps {taken[currency]} {currency}, the receivable says {owed}")
