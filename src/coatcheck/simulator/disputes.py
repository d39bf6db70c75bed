"""Disputes at the simulated PSP: opened by a cardholder, answered by the merchant, decided by an admin.

How a dispute stands and which money moved are two things: an admin may move either without the other. Each change gives
the dispute a new `version`, so that whoever hears of two knows which is later.
"""

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from coatcheck.simulator.bodies import check_dispute, read
from coatcheck.simulator.records import (
    Charge,
    Dispute,
    DisputeChanged,
    Funds,
    Merchant,
    Refusal,
    Sending,
    add_position,
    newest_first,
    positions_since,
)
from coatcheck.simulator.settlements import Movement

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank

INQUIRY, NEEDS_RESPONSE, UNDER_REVIEW = "inquiry", "needs_response", "under_review"
WON, LOST, CLOSED = "won", "lost", "closed"
DISPUTE_STATUSES: Final = (INQUIRY, NEEDS_RESPONSE, UNDER_REVIEW, WON, LOST, CLOSED)
_OPEN: Final = frozenset({INQUIRY, NEEDS_RESPONSE, UNDER_REVIEW})
_OVER: Final = frozenset({WON, LOST, CLOSED})
_FREEZING: Final = frozenset({NEEDS_RESPONSE, UNDER_REVIEW, LOST})
_DUE_S: Final = 7 * 86_400
_FEE: Final = 1_500
_BY_NOBODY: Final = Sending(None, "", False, 0.0)  # a change that no merchant's request made


class DisputeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How an admin has a charge disputed. `amount` and `currency`: the charge's, where left out."""

    charge: str
    amount: int | None = None
    currency: str | None = None
    fee: int = _FEE
    reason: str = "fraudulent"
    due_s: int = _DUE_S
    inquiry: bool = False
    withdraw: bool = True


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How an admin moves a dispute on. `move`: whether the money goes along with the status."""

    move: bool = True
    return_fee: bool = False
    due_s: int = _DUE_S


class AnswerBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of evidence. `submit`: it is to be decided now."""

    reference: str
    texts: dict[str, str] = {}
    files: Annotated[list["FileBody"], msgspec.Meta(max_length=50)] = []
    submit: bool = True


class FileBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A document of the evidence; its content in base64."""

    part: str
    name: str
    content_type: str
    content: bytes


_decode_dispute = msgspec.json.Decoder(DisputeBody).decode
_decode_change = msgspec.json.Decoder(ChangeBody).decode
_decode_answer = msgspec.json.Decoder(AnswerBody).decode


class Disputes:
    """Keeps the disputes of one bank; every change goes through the bank's entries."""

    def __init__(self, bank: "Bank") -> None:
        self._bank = bank
        self._disputes: list[Dispute] = []
        self._opened_at: list[float] = []
        self._position_of: dict[str, int] = {}
        self._of_charge: dict[str, tuple[int, ...]] = {}
        self._by_reference: dict[tuple[str, bool], dict[str, tuple[int, ...]]] = {}

    # asking

    def get(self, dispute_id: str) -> Dispute:
        """Find any merchant's dispute. Raises Refusal."""
        self._bank.now()
        position = self._position_of.get(dispute_id)
        if position is None:
            raise Refusal(404, "not_found", f"There is no dispute {dispute_id}.")
        return self._disputes[position]

    def find(self, merchant: Merchant, dispute_id: str) -> Dispute | None:
        """Find a merchant's dispute by its id."""
        self._bank.now()
        position = self._position_of.get(dispute_id)
        if position is None or not self._is_of(position, merchant):
            return None
        return self._disputes[position]

    def search(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[Dispute]:
        """List the disputes of a merchant's charges with a reference, newest first."""
        visible_at = self._bank.now() - lag_s
        mine = self._by_reference.get((merchant.account, merchant.is_live), {})
        return [self._disputes[each] for each in newest_first(mine, reference, self._opened_at, visible_at)]

    def opened_since(
        self, merchant: Merchant, since: float, after: int, limit: int
    ) -> tuple[list[Dispute], int | None]:
        """List a merchant's disputes opened at or after a time, oldest first, from a place; the next page's place."""
        self._bank.now()
        positions = positions_since(self._opened_at, since, after)
        mine = list(islice((each for each in positions if self._is_of(each, merchant)), limit + 1))
        return [self._disputes[each] for each in mine[:limit]], mine[limit] if len(mine) > limit else None

    def _is_of(self, position: int, merchant: Merchant) -> bool:
        return self._bank.owner_of(self._disputes[position].charge) is merchant

    def page(self, start: int, limit: int) -> list[Dispute]:
        """List disputes of all merchants, oldest first, from a position."""
        self._bank.now()
        return self._disputes[start : start + limit]

    @property
    def count(self) -> int:
        """How many disputes there are."""
        return len(self._disputes)

    # what a cardholder, a bank or the time does

    def open(self, raw_body: bytes) -> Dispute:
        """Have a charge disputed. Raises Refusal."""
        return self._open(read(_decode_dispute, raw_body))

    def open_whole(self, charge_id: str) -> Charge:
        """Have all of a charge disputed, once. Raises Refusal."""
        charge = self._bank.charge_of(charge_id)
        if charge.disputed:
            raise Refusal(409, "charge_not_disputable", "The charge is disputed already.")
        self._open(DisputeBody(charge_id))
        return self._bank.charge_of(charge_id)

    def _open(self, body: DisputeBody) -> Dispute:
        now = self._bank.now()
        charge = self._bank.charge_of(body.charge)
        amount = charge.amount_captured if body.amount is None else body.amount
        currency = charge.currency if body.currency is None else body.currency
        if not charge.amount_captured:
            raise Refusal(409, "charge_not_disputable", f"The charge is {charge.status}: nothing was captured.")
        check_dispute(amount, currency, body.fee, body.due_s)
        is_taken = body.withdraw and not body.inquiry
        dispute = Dispute(
            id=self._bank.new_id("dp"),
            charge=charge.id,
            reference=charge.reference,
            amount=amount,
            currency=currency,
            fee=body.fee,
            reason=body.reason,
            status=INQUIRY if body.inquiry else NEEDS_RESPONSE,
            evidence_due=int(now) + body.due_s,
            livemode=charge.livemode,
            created=int(now),
            version=1,
        )
        told = ("dispute.opened",)
        return self._enter(dispute, told, _BY_NOBODY, now, moved=self._funds(dispute, -1) if is_taken else None)

    def change(self, dispute_id: str, verb: str, raw_body: bytes) -> Dispute:
        """Move a dispute on as a bank would. Raises Refusal."""
        body = read(_decode_change, raw_body) if raw_body else ChangeBody()
        now, dispute = self._bank.now(), self.get(dispute_id)
        check_dispute(dispute.amount, dispute.currency, dispute.fee, body.due_s)
        is_out = sum(each.amount for each in dispute.movements) < 0
        ways = {
            "escalate": ({INQUIRY}, NEEDS_RESPONSE, -1),
            "review": ({INQUIRY, NEEDS_RESPONSE}, UNDER_REVIEW, 0),
            "win": (_OPEN - {INQUIRY}, WON, 1 if is_out else 0),
            "lose": (_OPEN - {INQUIRY}, LOST, 0 if is_out else -1),
            "close": ({INQUIRY}, CLOSED, 0),
            "reopen": (_OVER, NEEDS_RESPONSE, 0 if is_out else -1),
            "withdraw": (_OPEN | _OVER, dispute.status, -1),
            "reinstate": (_OPEN | _OVER, dispute.status, 1),
        }
        if verb not in ways:
            raise Refusal(404, "not_found", "There is nothing at this address.")
        before, status, sign = ways[verb]
        if dispute.status not in before:
            raise Refusal(409, "dispute_not_changeable", f"The dispute is {dispute.status}.")
        due = int(now) + body.due_s if verb in ("escalate", "reopen") else dispute.evidence_due
        after = msgspec.structs.replace(dispute, status=status, evidence_due=due)
        moved = self._funds(after, sign, return_fee=body.return_fee) if sign and body.move else None
        return self._enter(after, self._told(dispute, after), _BY_NOBODY, now, moved=moved)

    def run_out(self, dispute_id: str, due: float) -> None:
        """Lose a dispute that nobody has answered in time."""
        position = self._position_of.get(dispute_id)
        dispute = None if position is None else self._disputes[position]
        if dispute is None or dispute.status != NEEDS_RESPONSE or dispute.evidence_due != int(due):
            return
        after = msgspec.structs.replace(dispute, status=LOST)
        is_out = sum(each.amount for each in dispute.movements) < 0
        moved = None if is_out else self._funds(after, -1)
        self._enter(after, self._told(dispute, after), _BY_NOBODY, due, moved=moved)

    # what the merchant does

    def answer(self, dispute_id: str, merchant: Merchant, raw_body: bytes, sending: Sending) -> Dispute:
        """Take evidence. Raises Refusal."""
        body = read(_decode_answer, raw_body)
        dispute = self._answerable(dispute_id, merchant)
        after = msgspec.structs.replace(
            dispute,
            evidence=(*dispute.evidence, body.reference),
            status=UNDER_REVIEW if body.submit and dispute.status == NEEDS_RESPONSE else dispute.status,
        )
        return self._enter(after, self._told(dispute, after), sending, self._bank.now())

    def accept(self, dispute_id: str, merchant: Merchant, reference: str, sending: Sending) -> Dispute:
        """Let the cardholder have it: the dispute is lost. Raises Refusal."""
        dispute = self._answerable(dispute_id, merchant)
        after = msgspec.structs.replace(dispute, evidence=(*dispute.evidence, reference), status=LOST)
        is_out = sum(each.amount for each in dispute.movements) < 0
        moved = None if is_out else self._funds(after, -1)
        return self._enter(after, self._told(dispute, after), sending, self._bank.now(), moved=moved)

    def _answerable(self, dispute_id: str, merchant: Merchant) -> Dispute:
        dispute = self.find(merchant, dispute_id)
        if dispute is None:
            raise Refusal(404, "not_found", f"There is no dispute {dispute_id}.")
        if dispute.status not in (INQUIRY, NEEDS_RESPONSE):
            raise Refusal(409, "dispute_not_answerable", f"The dispute is {dispute.status}.")
        return dispute

    # changes

    def _funds(self, dispute: Dispute, sign: int, *, return_fee: bool = False) -> Funds:
        fee = dispute.fee if sign < 0 else -dispute.fee if return_fee else 0
        now = int(self._bank.now())
        return Funds(self._bank.new_id("df"), sign * dispute.amount, fee, dispute.currency, now)

    def _told(self, before: Dispute, after: Dispute) -> tuple[str, ...]:
        if after.status in _OVER and before.status != after.status:
            return ("dispute.closed",)
        return ("dispute.updated",) if before != after else ()

    def _enter(
        self, after: Dispute, told: tuple[str, ...], sending: Sending, now: float, *, moved: Funds | None = None
    ) -> Dispute:
        """Write a change down, with the money that goes along with it."""
        if moved is not None:
            told = (*told, "dispute.funds_withdrawn" if moved.amount < 0 else "dispute.funds_reinstated")
            after = msgspec.structs.replace(after, movements=(*after.movements, moved))
        if after.id in self._position_of:
            after = msgspec.structs.replace(after, version=after.version + 1)
        self._bank.enter(
            DisputeChanged(
                account=self._bank.owner_of(after.charge).account,
                at=now,
                key=sending.key,
                digest=sending.digest,
                is_error=sending.is_error,
                busy_s=sending.busy_s,
                dispute=after,
                moved=moved,
                told=told,
            )
        )
        return after

    def apply(self, entry: DisputeChanged) -> None:
        """Let a change of a dispute take effect."""
        dispute = entry.dispute
        merchant = self._bank.owner_of(dispute.charge)
        position = self._position_of.get(dispute.id)
        if position is None:
            position = self._position_of[dispute.id] = len(self._disputes)
            self._disputes.append(dispute)
            self._opened_at.append(entry.at)
            add_position(self._of_charge, dispute.charge, position)
            mine = self._by_reference.setdefault((merchant.account, merchant.is_live), {})
            add_position(mine, dispute.reference, position)
        self._disputes[position] = dispute
        self._bank.number()
        self._bank.remember(merchant, entry, dispute)
        if dispute.status == NEEDS_RESPONSE and dispute.evidence_due is not None:
            self._bank.set_due(dispute.evidence_due, dispute.id, NEEDS_RESPONSE)
        if entry.moved is not None:
            self._move(merchant, dispute, entry.moved)
        standing = {self._disputes[each].status for each in self._of_charge[dispute.charge]}
        self._bank.set_disputed(dispute.charge, is_disputed=bool(standing & _FREEZING), at=entry.at)
        for kind in entry.told:
            self._bank.announce(kind, merchant.account, entry.at, dispute)

    def _move(self, merchant: Merchant, dispute: Dispute, moved: Funds) -> None:
        kind = "chargeback" if moved.amount < 0 else "chargeback_reversed"
        about = (kind, dispute.id, dispute.charge, dispute.reference, moved.created)
        self._bank.settlements.move(merchant, Movement(*about, moved.currency, moved.amount, moved.fee))
        self._bank.count_chargeback(moved)
