"""The judge: the PSP's books, the plan and the database's rows, compared by plain SQL and sums.

It shares no code with the gateway's money path: it knows the tables' names and how an id is printed, and nothing else.
"""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
from tests.simulation.plan import PlannedCheckout, PlannedOrder
from tests.simulation.psp import Entry

from coatcheck.simulator.bank import Charge

INVARIANTS: Final = Path(__file__).parents[2] / "src/coatcheck/sql/invariants"
_MARGIN: Final = timedelta(minutes=5)
_SHOWN: Final = 15


class Fault(StrEnum):
    """What the judge may find."""

    CHARGED_TWICE = "charged twice"
    LOST = "charged, and not a success here"
    FAILED_WHILE_CHARGED = "FAILED here and charged at the PSP"
    NOT_CHARGED = "SUCCESS here and not charged at the PSP"
    NEVER_SAID = "decided here, and the PSP never said so"
    WRONG_AMOUNT = "another amount or currency"
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
    faults: Counter[Fault] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def find(self, fault: Fault, what: object) -> None:
        """Keep a finding."""
        self.faults[fault] += 1
        if self.faults[fault] <= _SHOWN:
            self.findings.append(f"{fault}: {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the judge is given besides the database."""

    plan: Sequence[PlannedCheckout]
    charges: Sequence[Charge]
    diary: Mapping[str, Entry]
    protests: Sequence[str]
    window: timedelta


_ORDERS = """
SELECT o.payment_order_id, o.seller_account, o.amount_minor, o.commission_minor, o.currency::text, o.status,
       o.decline_code, o.provider_reference, p.checkout_id, c.operation_id, c.status AS operation_status, c.cause,
       c.amount_minor AS asked_minor, c.currency::text AS asked_currency, c.created_at
  FROM payment_order AS o JOIN payment AS p USING (payment_id) LEFT JOIN operation AS c USING (order_id)
"""
_LEDGER = """
SELECT a.name, a.currency::text, sum(CASE WHEN t.credit_account_id = a.account_id THEN t.amount_minor
                                          ELSE -t.amount_minor END)::bigint AS moved_minor,
       min(a.credits_posted_minor - a.debits_posted_minor) AS balance_minor
  FROM account AS a JOIN transfer AS t ON a.account_id IN (t.debit_account_id, t.credit_account_id)
 GROUP BY a.account_id, a.name, a.currency
"""


async def judge(owner: asyncpg.Connection, evidence: Evidence) -> Verdict:
    """Compare everything with everything."""
    verdict = Verdict()
    for protest in evidence.protests:
        verdict.find(Fault.PROTEST, protest)
    rows = await owner.fetch(_ORDERS)
    _judge_orders(rows, evidence, verdict)
    _judge_ledger(await owner.fetch(_LEDGER), rows, evidence, verdict)
    for file in sorted(INVARIANTS.glob("*.sql")):
        for row in await owner.fetch(file.read_text("utf-8")):
            verdict.find(Fault.INVARIANT, f"{file.stem}: {dict(row)}")
    return verdict


async def history(owner: asyncpg.Connection, evidence: Evidence, verdict: Verdict) -> list[str]:
    """Tell what became of the first order that something was found about, by our events and by the PSP's diary."""
    row = await owner.fetchrow(
        """SELECT payment_id, operation_id FROM payment_order JOIN operation USING (order_id, payment_id)
            WHERE payment_order_id = ANY (regexp_split_to_array($1, '[^a-z0-9-]+'))""",
        " ".join(verdict.findings),
    )
    if row is None:
        return []
    events = await owner.fetch(
        """SELECT at, kind, left(body::text, 400) AS body FROM event
            WHERE subject_id = $1 AND body->>'operation_id' = $2 ORDER BY event_id""",
        row["payment_id"],
        str(row["operation_id"]),
    )
    told = [f"{event['at']} {event['kind']} {event['body']}" for event in events]
    return sorted(told + evidence.diary.get(printed(row["operation_id"]), Entry()).log)


def printed(operation_id: UUID) -> str:
    """Print an operation's id as it goes to the PSP: base32 of its 128 bits (RFC 4648), small letters."""
    return "op_" + base64.b32encode(operation_id.bytes).decode().rstrip("=").lower()


def _judge_orders(rows: Sequence[Any], evidence: Evidence, verdict: Verdict) -> None:
    planned = {order.payment_order_id: (checkout, order) for checkout in evidence.plan for order in checkout.orders}
    charges: dict[str, list[Charge]] = defaultdict(list)
    for charge in evidence.charges:
        if charge.status == "succeeded":
            charges[charge.reference].append(charge)
    references = set()
    for row in rows:
        verdict.orders[_kind_of(row)] += 1
        plan = planned.get(row["payment_order_id"])
        if plan is None or not _is_as_asked(row, *plan):
            verdict.find(Fault.STRANGE, dict(row))
        if row["operation_id"] is None:
            if row["status"] != "FAILED" or row["decline_code"] != "risk_blocked":
                verdict.find(Fault.ASKED_THOUGH_BLOCKED, dict(row))
            continue
        reference = printed(row["operation_id"])
        references.add(reference)
        made = charges.get(reference, [])
        _judge_charges(row, made, verdict)
        _judge_status(row, made, evidence.diary.get(reference, Entry()), evidence.window, verdict)
    for reference in (charges.keys() | evidence.diary.keys()) - references:
        verdict.find(Fault.STRANGE, f"{reference} is known at the PSP and nowhere here")


def _kind_of(row: Any) -> str:
    is_undecided = row["operation_status"] in ("OPEN", "UNRESOLVED")
    return str(row["operation_status"] if is_undecided else row["status"])


def _is_as_asked(row: Any, checkout: PlannedCheckout, order: PlannedOrder) -> bool:
    asked = (checkout.checkout_id, order.seller_account, order.amount_minor, order.commission_minor, order.currency)
    written = tuple(row[name] for name in ("checkout_id", "seller_account", "amount_minor", "commission_minor"))
    return asked == (*written, row["currency"])


def _judge_charges(row: Any, made: Sequence[Charge], verdict: Verdict) -> None:
    name = row["payment_order_id"]
    if len(made) > 1:
        verdict.find(Fault.CHARGED_TWICE, f"{name}: {[charge.id for charge in made]}")
    for charge in made:
        if (charge.amount, charge.currency, charge.livemode) != (row["amount_minor"], row["currency"], False):
            verdict.find(Fault.WRONG_AMOUNT, f"{name}: {charge}")
    if (row["asked_minor"], row["asked_currency"]) not in ((row["amount_minor"], row["currency"]), (None, None)):
        verdict.find(Fault.WRONG_AMOUNT, f"{name}: its operation has {row['asked_minor']} {row['asked_currency']}")


def _judge_status(row: Any, made: Sequence[Charge], entry: Entry, window: timedelta, verdict: Verdict) -> None:
    name, status, is_open = row["payment_order_id"], row["status"], row["operation_status"] in ("OPEN", "UNRESOLVED")
    if status == "SUCCESS":
        if not any(charge.id == row["provider_reference"] for charge in made):
            verdict.find(Fault.NOT_CHARGED, f"{name}: {row['provider_reference']}")
        if "succeeded" not in entry.told:
            verdict.find(Fault.NEVER_SAID, f"{name} is SUCCESS")
    elif status == "FAILED":
        if made:
            verdict.find(Fault.FAILED_WHILE_CHARGED, f"{name}: {made[0].id}")
        if "declined" not in entry.told:
            verdict.find(Fault.NEVER_SAID, f"{name} is FAILED")
    elif not is_open or row["operation_status"] == "OPEN":
        verdict.find(Fault.NOT_FINAL, f"{name} is {status}, its operation {row['operation_status']}: {row['cause']}")
    elif not entry.lies:
        _judge_unresolved(row, made, entry, window, verdict)


def _judge_unresolved(row: Any, made: Sequence[Charge], entry: Entry, window: timedelta, verdict: Verdict) -> None:
    """An order that nobody lied about may be left to a person only if it was looked for in vain after the window."""
    name = row["payment_order_id"]
    window_ends_at = (row["created_at"] + window - _MARGIN).timestamp()
    if made:
        verdict.find(Fault.LOST, f"{name} was charged as {made[0].id} and waits for a person: {row['cause']}")
    if entry.last_look_up_at is None or entry.last_look_up_at < window_ends_at:
        verdict.find(Fault.UNRESOLVED_TOO_SOON, f"{name}: {row['cause']}, {entry}")


def _judge_ledger(accounts: Iterable[Any], orders: Iterable[Any], evidence: Evidence, verdict: Verdict) -> None:
    """Each account holds what the successful orders gave it; each currency adds up to nothing."""
    wanted: Counter[tuple[str, str]] = Counter()
    for order in orders:
        if order["status"] == "SUCCESS":
            amount, commission, currency = order["amount_minor"], order["commission_minor"], order["currency"]
            wanted["psp:simulator:receivable", currency] -= amount
            wanted[f"seller:{order['seller_account']}:pending", currency] += amount - commission
            wanted["platform:commission", currency] += commission
    sums: Counter[str] = Counter()
    found: set[tuple[str, str]] = set()
    for account in accounts:
        name, currency = account["name"], account["currency"]
        found.add((name, currency))
        sums[currency] += account["moved_minor"]
        said = {account["moved_minor"], account["balance_minor"], wanted[name, currency]}
        if len(said) > 1:
            fault = Fault.WALLET if name.startswith("seller:") else Fault.LEDGER
            verdict.find(fault, f"{name} {currency}: {dict(account)}, its orders say {wanted[name, currency]}")
    for currency, total in sums.items():
        if total:
            verdict.find(Fault.LEDGER, f"{currency} is out of balance by {total}")
    for account in {account for account, amount in wanted.items() if amount} - found:
        verdict.find(Fault.LEDGER, f"{account} has no transfers")
    _judge_totals(wanted, evidence, verdict)


def _judge_totals(wanted: Mapping[tuple[str, str], int], evidence: Evidence, verdict: Verdict) -> None:
    """What the PSP owes us is what it took, but for charges whose answers were refused."""
    taken: Counter[str] = Counter()
    for charge in evidence.charges:
        entry = evidence.diary.get(charge.reference, Entry())
        lied = entry.lies and "succeeded" not in entry.told
        if charge.status == "succeeded" and not lied:
            taken[charge.currency] += charge.amount
    booked = {currency: -amount for (name, currency), amount in wanted.items() if name.startswith("psp:")}
    if dict(taken) != booked:
        verdict.find(Fault.LEDGER, f"the PSP took {dict(taken)}, the receivable accounts say {booked}")
