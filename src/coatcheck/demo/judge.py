"""The judge: three witnesses, compared. What the shoppers asked, what the PSP's books say, what the gateway says.

Nothing here uses the gateway's own code. An order and its charge at the PSP are matched by currency and amount, which
no two orders of an evening share. All amounts and differences are in minor units.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from coatcheck.demo.evening import Evening, Order, minor_units
from coatcheck.demo.month import Month
from coatcheck.demo.shoppers import Answer

_SUCCEEDED = "succeeded"
_RECEIVABLE = "psp:simulator:receivable"
_FINAL: Final = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
_FINDINGS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class PspCharge:
    """One line of the PSP's books."""

    charge_id: str
    reference: str
    status: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the witnesses said. `payments` and `answers` are by checkout_id, as the gateway's API gave them."""

    evening: Evening
    answers: Mapping[str, Sequence[Answer]]
    refusals: Sequence[str]
    payments: Mapping[str, Mapping[str, Any]]
    charges: Sequence[PspCharge]
    references_charged_twice: frozenset[str]
    wallets: Mapping[str, Sequence[Mapping[str, str]]]
    trial_balance: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Verdict:
    """What came out. `findings` say in words whatever is not as it must be; without any the evening is proved."""

    asked: int
    charged: int = 0
    declined: int = 0
    charged_twice: int = 0
    lost: int = 0
    unresolved: int = 0
    ledger_difference: int = 0
    wallet_difference: int = 0
    of_other_evenings: int = 0
    charged_minor: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    findings_in_all: int = 0
    month: Month = field(default_factory=Month)

    @property
    def is_ok(self) -> bool:
        """Whether the promise was kept."""
        failures = (self.charged_twice, self.lost, self.unresolved, self.ledger_difference, self.wallet_difference)
        is_evening_ok = not any(failures) and not self.findings_in_all and self.asked == self.charged + self.declined
        return is_evening_ok and self.month.is_ok

    @property
    def proof(self) -> str:
        """The line to look for."""
        return (
            f"PROOF asked={self.asked} charged={self.charged} charged_twice={self.charged_twice} lost={self.lost} "
            f"unresolved={self.unresolved} ledger_difference={self.ledger_difference} "
            f"wallet_difference={self.wallet_difference} {self.month.proof} ok={str(self.is_ok).lower()}"
        )

    def close(self, month: Month) -> None:
        """Add what came of the month's end."""
        self.month = month
        for finding in month.findings:
            self.find(finding)

    def find(self, what: str) -> None:
        """Keep a finding."""
        self.findings_in_all += 1
        if len(self.findings) < _FINDINGS_SHOWN:
            self.findings.append(what)


_Sum = tuple[str, int]  # currency and amount: names an order of the evening
_Purse = tuple[str, str]  # seller and currency


def judge(evidence: Evidence) -> Verdict:
    """Compare what was asked, what was charged and what the gateway says. Pure: asks nobody."""
    evening = evidence.evening
    verdict = Verdict(asked=sum(1 for _ in evening.orders))
    charges = _charges_by_sum(evidence, verdict)
    _judge_orders(evidence, charges, verdict)
    _judge_strangers(evening, charges, verdict)
    _judge_answers(evidence, verdict)
    _judge_wallets(evidence, charges, verdict)
    _judge_ledger(evidence, charges, verdict)
    return verdict


def _charges_by_sum(evidence: Evidence, verdict: Verdict) -> dict[_Sum, list[PspCharge]]:
    """Sort the successful charges of this evening by what they are for."""
    charges: dict[_Sum, list[PspCharge]] = defaultdict(list)
    for charge in evidence.charges:
        if charge.status != _SUCCEEDED:
            continue
        # Work that an interrupted evening left behind is finished in the next one; a first evening has no such excuse.
        if evidence.evening.number > 1 and not evidence.evening.has_lane_of(charge.amount_minor):
            verdict.of_other_evenings += 1
            continue
        charges[charge.currency, charge.amount_minor].append(charge)
        verdict.charged_minor[charge.currency] += charge.amount_minor
    return charges


def _judge_orders(evidence: Evidence, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    for checkout in evidence.evening.checkouts:
        payment = evidence.payments.get(checkout.checkout_id)
        told = {} if payment is None else {told["payment_order_id"]: told for told in payment["payment_orders"]}
        if payment is not None and told.keys() != {order.payment_order_id for order in checkout.orders}:
            verdict.find(f"{checkout.checkout_id}: the gateway shows other orders than were asked for")
        for order in checkout.orders:
            made = charges.get((order.currency, order.amount_minor), ())
            _judge_order(order, told.get(order.payment_order_id), made, verdict)
            if len(made) > 1 or any(charge.reference in evidence.references_charged_twice for charge in made):
                verdict.charged_twice += 1
                verdict.find(
                    f"{order.payment_order_id} was charged twice: {', '.join(each.charge_id for each in made)}"
                )


def _judge_order(order: Order, told: Mapping[str, Any] | None, made: Sequence[PspCharge], verdict: Verdict) -> None:
    status = "unknown" if told is None else told["status"]
    verdict.charged += len(made) == 1
    if told is None or status not in _FINAL:
        verdict.unresolved += 1
        verdict.find(f"{order.payment_order_id} is not decided: it is {status}")
        return
    if not _shows_what_was_asked(order, told):
        verdict.find(f"{order.payment_order_id}: the gateway shows another amount, currency, commission or seller")
    if status != "SUCCESS":
        verdict.declined += not made
        if made:
            verdict.lost += 1
            verdict.find(f"{order.payment_order_id} is {status} here and was charged as {made[0].charge_id}")
    elif not any(charge.charge_id == told["provider_reference"] for charge in made):
        verdict.lost += 1
        verdict.find(f"{order.payment_order_id} is SUCCESS here and {told['provider_reference']} is no charge of it")


def _shows_what_was_asked(order: Order, told: Mapping[str, Any]) -> bool:
    return (
        told["currency"] == order.currency
        and told["seller_account"] == order.seller_account
        and minor_units(told["amount"], order.currency) == order.amount_minor
        and minor_units(told["commission"], order.currency) == order.commission_minor
    )


def _judge_strangers(evening: Evening, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    """Count money that was taken and belongs to no order as lost."""
    asked = {(order.currency, order.amount_minor) for order in evening.orders}
    for charge in chain.from_iterable(made for name, made in charges.items() if name not in asked):
        verdict.lost += 1
        verdict.find(f"{charge.charge_id} at the PSP belongs to no order")


def _judge_answers(evidence: Evidence, verdict: Verdict) -> None:
    """Hold every answer against the others, and against what the gateway says in the end."""
    for refusal in evidence.refusals:
        verdict.find(f"refused: {refusal}")
    for checkout in evidence.evening.checkouts:
        answers = evidence.answers.get(checkout.checkout_id, ())
        if not answers:
            verdict.find(f"{checkout.checkout_id} was never answered")
            continue
        bodies = [answer.body for answer in answers]
        in_the_end = evidence.payments.get(checkout.checkout_id)
        if in_the_end is not None:
            bodies.append(dict(in_the_end))
        named = {_essence(body) for body in bodies}
        if len(named) > 1:
            verdict.find(f"{checkout.checkout_id} was answered in {len(named)} ways: {sorted(named)}")
        # A second click at the same time may overtake the first; then both are the first answer's.
        if len(answers) - sum(answer.is_replay for answer in answers) > 1:
            verdict.find(f"{checkout.checkout_id} was answered twice as if it were new")


def _essence(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """Say what every answer to a checkout must agree in."""
    orders = sorted(
        (order["payment_order_id"], order["status"], order["decline_code"] or "", order["provider_reference"] or "")
        for order in body["payment_orders"]
    )
    return body["payment_id"], body["checkout_id"], body["status"], tuple(orders)


def _judge_wallets(evidence: Evidence, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    """Hold each seller's wallet against what the PSP took for that seller, less commission."""
    expected: Counter[_Purse] = Counter()
    for order in evidence.evening.orders:
        if charges.get((order.currency, order.amount_minor)):
            expected[order.seller_account, order.currency] += order.amount_minor - order.commission_minor
    shown: Counter[_Purse] = Counter()
    for seller, balances in evidence.wallets.items():
        for balance in balances:
            currency = balance["currency"]
            for part in ("pending", "available", "in_payout"):
                shown[seller, currency] += minor_units(balance[part], currency)
    for seller, currency in sorted(expected.keys() | shown.keys()):
        difference = abs(shown[seller, currency] - expected[seller, currency])
        if difference:
            verdict.wallet_difference += difference
            verdict.find(f"the wallet of {seller} is off by {difference} minor units of {currency}")


def _judge_ledger(evidence: Evidence, charges: Mapping[_Sum, Sequence[PspCharge]], verdict: Verdict) -> None:
    """Hold the books against themselves (debits are credits) and against the PSP (what it owes us)."""
    taken: Counter[str] = Counter()
    for charge in chain.from_iterable(charges.values()):
        taken[charge.currency] += charge.amount_minor
    books = {str(each["currency"]): each for each in evidence.trial_balance}
    for currency in sorted(books.keys() | taken.keys()):
        for what, difference in _ledger_differences(currency, books.get(currency), taken[currency]):
            if difference:
                verdict.ledger_difference += abs(difference)
                verdict.find(f"the ledger is off by {abs(difference)} minor units of {currency}: {what}")


def _ledger_differences(currency: str, book: Mapping[str, Any] | None, taken_minor: int) -> Iterator[tuple[str, int]]:
    if book is None:
        yield "it has no accounts", taken_minor
        return
    debits = credits_ = owed = 0
    for account in book["accounts"]:
        debit, credit = minor_units(account["debits"], currency), minor_units(account["credits"], currency)
        debits, credits_ = debits + debit, credits_ + credit
        owed += debit - credit if account["name"] == _RECEIVABLE else 0
        balance = abs(minor_units(account["balance"], currency))
        yield f"the balance of {account['name']} is not its debits and credits", balance - abs(debit - credit)
    yield "debits and credits differ", debits - credits_
    yield "the total of debits is not that of the accounts", minor_units(book["debits"], currency) - debits
    yield "the total of credits is not that of the accounts", minor_units(book["credits"], currency) - credits_
    yield "the PSP owes another sum than it took", owed - taken_minor
