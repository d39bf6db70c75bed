"""What the simulated PSP keeps: charges, actions on them, idempotency keys and the books. In memory, time injected.

Idempotency keys belong to a merchant account and live for `key_window_s`. After that a key is really forgotten: the
same key charges again, as at real PSPs. What runs out by itself (authorizations, sessions, pending refunds) does so at
the next look after its time.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable
from itertools import islice

import msgspec

from coatcheck.simulator.actions import ID_PREFIXES, Decision, after_action, after_expiry, after_failure
from coatcheck.simulator.disputes import Disputes
from coatcheck.simulator.payouts import Payouts
from coatcheck.simulator.records import (
    AUTHORIZED,
    CAPTURE,
    DECLINED,
    FAILED,
    PENDING,
    REFUND,
    SUCCEEDED,
    VOID,
    Acted,
    Action,
    ActionDecided,
    Answer,
    Batch,
    BatchClosed,
    Booked,
    Charge,
    ChargeBody,
    ChargeExpired,
    DisputeChanged,
    Done,
    Entry,
    Funds,
    Happening,
    Keyed,
    KeysForgotten,
    Made,
    Merchant,
    Note,
    PaidOut,
    PayoutDecided,
    Refusal,
    RememberedKey,
    Reset,
    Sending,
    SessionEnded,
    SessionOpened,
    SessionTried,
    Settled,
    add_position,
    newest_first,
    positions_since,
)
from coatcheck.simulator.sessions import Sessions
from coatcheck.simulator.settlements import Movement, Settlements
from coatcheck.simulator.tally import Tally
from coatcheck.simulator.tokens import Manner

__all__ = [
    "DECLINED",
    "PENDING",
    "SUCCEEDED",
    "Bank",
    "Charge",
    "ChargeBody",
    "Entry",
    "KeysForgotten",
    "Merchant",
    "Refusal",
    "RememberedKey",
    "Reset",
    "Settled",
]

AUTHORIZATION_LIFE_S = 7 * 86_400
SESSION_LIFE_S = 1_800
_SHORT_LIFE_S = 1  # of tok_authorization_expires

_encode = msgspec.json.Encoder().encode
_decode_note = msgspec.json.Decoder(Note).decode


class Bank:
    """Charges cards, remembers keys and keeps the books. Every change is an Entry, so a journal can rebuild it.

    `tell`, when set, hears what the PSP tells its merchants, after it has taken effect.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        key_window_s: float,
        series: str = "",
        record: Callable[[Entry], None] | None = None,
        authorization_life_s: float = AUTHORIZATION_LIFE_S,
        session_life_s: float = SESSION_LIFE_S,
    ) -> None:
        self.key_window_s = key_window_s
        self.record = record
        self.tell: Callable[[Happening], None] | None = None
        self._clock = clock
        self._series = series
        self._serial = 0
        self._authorization_life_s = authorization_life_s
        self._session_life_s = session_life_s
        self._clear()

    def _clear(self) -> None:
        self.faults: Counter[str] = Counter()
        self._merchants: dict[tuple[str, bool], Merchant] = {}
        self._charges: list[Charge] = []
        self._booked_at: list[float] = []
        self._owners: list[Merchant] = []
        self._position_of: dict[str, int] = {}
        self._manners: dict[str, str] = {}  # of the charges whose token decides what happens later
        self._authorize_only: set[str] = set()
        self._actions: list[Action] = []
        self._acted_at: list[float] = []
        self._action_position_of: dict[str, int] = {}
        self._notes: dict[int, bytes] = {}  # what merchants wrote, as JSON, by the charge's position
        self._endings: dict[int, tuple[bool, dict[str, str] | None]] = {}  # of actions, by position
        self._dues: list[tuple[float, str, str]] = []  # when, whose status, and the status it must still have
        self._tally = Tally()
        self.settlements = Settlements()
        self.sessions = Sessions(self, life_s=self._session_life_s)
        self.disputes = Disputes(self)
        self.payouts = Payouts(self)

    # time and names

    def now(self) -> float:
        """Tell the time, after letting run out what has run out by then."""
        now = self._clock()
        while self._dues and self._dues[0][0] <= now:
            at, name, status = heapq.heappop(self._dues)
            if name.startswith("cs_"):
                self.sessions.run_out(name, at)
            elif name.startswith("dp_"):
                self.disputes.run_out(name, at)
            elif name.startswith("po_"):
                self.payouts.run_out(name, status, at)
            elif name in self._action_position_of:
                self._run_out_action(name, status, at)
            elif name in self._position_of and self._charges[self._position_of[name]].status == status:
                self.enter(ChargeExpired(name, at))
        return now

    def _run_out_action(self, name: str, status: str, at: float) -> None:
        if self._actions[self._action_position_of[name]].status != status:
            return
        if status == PENDING:
            self.enter(ActionDecided(name, SUCCEEDED, None, at))
        else:
            self.enter(ActionDecided(name, FAILED, "bank_returned", at))

    def set_due(self, at: float, name: str, status: str) -> None:
        """Let something run out at a time, if it then still has this status."""
        heapq.heappush(self._dues, (at, name, status))

    def new_id(self, prefix: str, ahead: int = 1) -> str:
        """Name the next thing, or the one so many after it. An id is never given twice."""
        return f"{prefix}_{self._series}{self._serial + ahead:08d}"

    def number(self) -> None:
        """Count one more thing that got an id."""
        self._serial += 1

    def announce(self, kind: str, account: str, at: float, thing: Answer) -> None:
        """Tell the merchant."""
        if self.tell is not None:
            self.tell(Happening(kind, account, at, thing, self._serial))

    # merchants and keys

    def merchant(self, account: str, *, is_live: bool) -> Merchant:
        """Find a merchant account, opening it on first use."""
        found = self._merchants.get((account, is_live))
        if found is None:
            found = self._merchants[account, is_live] = Merchant(account, is_live=is_live)
        return found

    def recall(self, merchant: Merchant, key: str, digest: str) -> RememberedKey | None:
        """Find what a key replays; None when it is new or its window is over. Raises Refusal on misuse of the key."""
        remembered = merchant.keys.get(key)
        if remembered is None:
            return None
        now = self._clock()
        if now - remembered.created_at >= self.key_window_s:
            del merchant.keys[key]
            return None
        if remembered.digest != digest:
            raise Refusal(422, "idempotency_key_reused", "This key was used for another request.")
        if now < remembered.busy_until:
            raise Refusal(409, "idempotency_key_in_use", "The first request with this key is still running.")
        return remembered

    def remember(self, merchant: Merchant, entry: Keyed, answer: Answer) -> None:
        """Keep what an entry's key replays, if the entry has one."""
        if entry.key is not None:
            merchant.keys[entry.key] = RememberedKey(
                entry.digest, entry.at, entry.at + entry.busy_s, answer, entry.is_error
            )

    def forget_keys(self) -> int:
        """Forget all idempotency keys at once; returns how many there were."""
        count = sum(len(merchant.keys) for merchant in self._merchants.values())
        self.enter(KeysForgotten())
        return count

    def reset(self) -> None:
        """Forget everything: charges, keys and books."""
        self.enter(Reset())

    # charges

    def charge(
        self,
        merchant: Merchant,
        body: ChargeBody,
        *,
        status: str,
        decline_code: str | None,
        key: str | None,
        digest: str,
        is_error: bool,
        busy_s: float,
        answer_as: Callable[[Charge], Charge] | None = None,
        manner: str | None = None,
    ) -> Charge:
        """Charge or authorize a card now and return what is answered: the charge, or what `answer_as` makes of it.

        The key, unless None, replays that answer; `is_error` makes it replay a server error instead. `manner` names
        the token when it decides what happens to the charge later.
        """
        now = self.now() if self._dues else self._clock()
        charge = self.draft(merchant, body, status=status, decline_code=decline_code, now=now, manner=manner)
        note = None if body.metadata is None else Note(body.description, body.metadata)
        answer = answer_as(charge) if answer_as else charge
        if self.record is not None:
            entry = Booked(
                account=merchant.account,
                at=now,
                charge=charge,
                key=key,
                digest=digest,
                answer=answer,
                is_error=is_error,
                busy_s=busy_s,
                capture=body.capture,
                manner=manner,
                note=note,
            )
            self.record(entry)
        # What apply_charge does, without an Entry that nobody keeps.
        if key is not None:
            merchant.keys[key] = RememberedKey(digest, now, now + busy_s, answer, is_error)
        if manner is not None or not body.capture:
            self._note_later(charge, manner, capture=body.capture)
        self._book(merchant, charge, now, note)
        return answer

    def draft(
        self,
        merchant: Merchant,
        body: ChargeBody,
        *,
        status: str,
        decline_code: str | None,
        now: float,
        manner: str | None,
        ahead: int = 1,
    ) -> Charge:
        """Make out a charge that is not yet booked; `status` succeeded means authorized where nothing is captured."""
        captured, expires_at = 0, None
        if status == SUCCEEDED:
            if body.capture:
                captured = body.amount
            else:
                status, expires_at = AUTHORIZED, self._expiry(now, manner)
        return Charge(
            f"ch_{self._series}{self._serial + ahead:08d}",
            status,
            body.amount,
            body.currency,
            body.reference,
            decline_code,
            merchant.is_live,
            int(now),
            captured,
            0,
            expires_at,
        )

    def _expiry(self, now: float, manner: str | None) -> int:
        life_s = _SHORT_LIFE_S if manner == Manner.AUTHORIZATION_EXPIRES else self._authorization_life_s
        return math.ceil(now + life_s)

    def settle(self, charge_id: str, status: str, decline_code: str | None = None) -> Charge:
        """Decide a pending charge. Raises Refusal when it is unknown or already decided."""
        now = self.now()
        charge = self.charge_of(charge_id)
        if charge.status != PENDING:
            raise Refusal(409, "not_pending", f"The charge is already {charge.status}.")
        expires_at = None
        if status == SUCCEEDED and charge_id in self._authorize_only:
            status, expires_at = AUTHORIZED, self._expiry(now, self._manners.get(charge_id))
        self.enter(Settled(charge_id, status, decline_code, now, expires_at))
        return self.charge_of(charge_id)

    def expire(self, charge_id: str) -> Charge:
        """Let an authorization run out now. Raises Refusal."""
        now = self.now()
        charge = self.charge_of(charge_id)
        if charge.status != AUTHORIZED:
            raise Refusal(409, "charge_not_authorized", f"The charge is {charge.status}.")
        self.enter(ChargeExpired(charge_id, now))
        return self.charge_of(charge_id)

    def charge_of(self, charge_id: str) -> Charge:
        """Find any merchant's charge by its id. Raises Refusal."""
        position = self._position_of.get(charge_id)
        if position is None:
            raise Refusal(404, "not_found", f"There is no charge {charge_id}.")
        return self._charges[position]

    def owner_of(self, charge_id: str) -> Merchant:
        """Tell whose charge it is."""
        return self._owners[self._position_of[charge_id]]

    def set_disputed(self, charge_id: str, *, is_disputed: bool, at: float) -> None:
        """Mark a charge as disputed, or as not disputed any more."""
        charge = self._charges[self._position_of[charge_id]]
        if charge.disputed != is_disputed:
            self._change(msgspec.structs.replace(charge, disputed=is_disputed), None, at)

    def count_chargeback(self, moved: Funds) -> None:
        """Count what a dispute took, or gave back."""
        self._tally.charge_back(moved.currency, -moved.amount)

    def find(self, merchant: Merchant, charge_id: str) -> Charge | None:
        """Find a merchant's charge by its id; it is visible at once."""
        self.now()
        position = self._position_of.get(charge_id)
        if position is None or self._owners[position] is not merchant:
            return None
        return self._charges[position]

    def search(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[Charge]:
        """List a merchant's charges with a reference, newest first, leaving out those younger than the lag."""
        visible_at = self.now() - lag_s
        positions = newest_first(merchant.by_reference, reference, self._booked_at, visible_at)
        return [self._charges[position] for position in positions]

    def made_since(self, merchant: Merchant, since: float, after: int, limit: int) -> tuple[list[Made], int | None]:
        """List a merchant's charges made at or after a time, oldest first, from a place; the next page's place."""
        self.now()
        positions = positions_since(self._booked_at, since, after)
        mine = list(islice((each for each in positions if self._owners[each] is merchant), limit + 1))
        return [self._made(position) for position in mine[:limit]], mine[limit] if len(mine) > limit else None

    def made(self, merchant: Merchant, charge_id: str) -> Made | None:
        """Find a merchant's charge with what the merchant wrote on it."""
        return None if self.find(merchant, charge_id) is None else self._made(self._position_of[charge_id])

    def _made(self, position: int) -> Made:
        written = self._notes.get(position)
        note = Note() if written is None else _decode_note(written)
        return Made(self._charges[position], note.description, note.metadata)

    def page(self, start: int, limit: int) -> list[Charge]:
        """List charges of all merchants, oldest first, from a position."""
        self.now()
        return self._charges[start : start + limit]

    @property
    def charge_count(self) -> int:
        """How many charges there are, of any status."""
        return len(self._charges)

    # actions

    def act(
        self,
        merchant: Merchant,
        charge_id: str,
        decide: Callable[[Charge, str | None], Decision],
        reference: str,
        sending: Sending,
    ) -> Action:
        """Capture, void or refund a charge as `decide` says of it. Raises Refusal, also on a charge of another's."""
        now = self.now()
        charge = self.find(merchant, charge_id)
        if charge is None:
            raise Refusal(404, "not_found", f"There is no charge {charge_id}.")
        decision = decide(charge, self._manners.get(charge_id))
        action = Action(
            self.new_id(ID_PREFIXES[decision.kind]),
            decision.kind,
            charge_id,
            decision.amount,
            charge.currency,
            reference,
            decision.status,
            decision.failure_code,
            charge.livemode,
            int(now),
        )
        self.enter(
            Acted(
                account=merchant.account,
                at=now,
                key=sending.key,
                digest=sending.digest,
                is_error=sending.is_error,
                busy_s=sending.busy_s,
                action=action,
                is_final=decision.is_final,
                due_at=None if decision.due_s is None else now + decision.due_s,
                metadata=sending.metadata,
            )
        )
        return action

    def settle_refund(self, refund_id: str, status: str) -> Action:
        """Decide a pending refund. Raises Refusal when it is unknown or already decided."""
        now = self.now()
        refund = self._refund_of(refund_id)
        if refund.status != PENDING:
            raise Refusal(409, "not_pending", f"The refund is already {refund.status}.")
        self.enter(ActionDecided(refund_id, status, "refund_declined" if status == FAILED else None, now))
        return self._refund_of(refund_id)

    def fail_refund(self, refund_id: str) -> Action:
        """Let a refund that succeeded come back from the cardholder's bank. Raises Refusal."""
        now = self.now()
        refund = self._refund_of(refund_id)
        if refund.status != SUCCEEDED:
            raise Refusal(409, "refund_not_succeeded", f"The refund is {refund.status}.")
        self.enter(ActionDecided(refund_id, FAILED, "bank_returned", now))
        return self._refund_of(refund_id)

    def _refund_of(self, refund_id: str) -> Action:
        position = self._action_position_of.get(refund_id)
        if position is None or self._actions[position].object != REFUND:
            raise Refusal(404, "not_found", f"There is no refund {refund_id}.")
        return self._actions[position]

    def find_action(self, merchant: Merchant, action_id: str) -> Action | None:
        """Find a merchant's capture, void or refund by its id; it is visible at once."""
        self.now()
        position = self._action_position_of.get(action_id)
        if position is None:
            return None
        action = self._actions[position]
        return action if position in merchant.actions.get(action.reference, ()) else None

    def search_actions(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[Action]:
        """List a merchant's actions with a reference, newest first, leaving out those younger than the lag."""
        visible_at = self.now() - lag_s
        positions = newest_first(merchant.actions, reference, self._acted_at, visible_at)
        return [self._actions[position] for position in positions]

    def done_since(self, merchant: Merchant, since: float, after: int, limit: int) -> tuple[list[Done], int | None]:
        """List a merchant's captures, voids and refunds, as `made_since` lists charges."""
        self.now()
        positions = positions_since(self._acted_at, since, after)
        mine = list(islice((each for each in positions if self._is_of(each, merchant)), limit + 1))
        return [self._done(position) for position in mine[:limit]], mine[limit] if len(mine) > limit else None

    def done(self, merchant: Merchant, action_id: str) -> Done | None:
        """Find a merchant's capture, void or refund with what the merchant wrote on it."""
        found = self.find_action(merchant, action_id)
        return None if found is None else self._done(self._action_position_of[action_id])

    def _is_of(self, position: int, merchant: Merchant) -> bool:
        return self._owners[self._position_of[self._actions[position].charge]] is merchant

    def _done(self, position: int) -> Done:
        final, metadata = self._endings.get(position, (False, None))
        return Done(self._actions[position], final, metadata)

    def page_actions(self, start: int, limit: int) -> list[Action]:
        """List actions of all merchants, oldest first, from a position."""
        self.now()
        return self._actions[start : start + limit]

    @property
    def action_count(self) -> int:
        """How many captures, voids and refunds there are, failed ones too."""
        return len(self._actions)

    # settlements

    def close_batches(self, merchant: Merchant) -> list[Batch]:
        """Close what a merchant is owed into settlements and pay it out; returns them."""
        now = self.now()
        known = len(self.settlements.batches(merchant))
        if self.settlements.has_open(merchant):
            self.enter(BatchClosed(merchant.account, merchant.is_live, now))
        return self.settlements.batches(merchant)[known:]

    def _moved(self, kind: str, thing: Charge | Action, charge: str, amount: int, at: float) -> None:
        owner = self._owners[self._position_of[charge]]
        self.settlements.move(owner, Movement(kind, thing.id, charge, thing.reference, at, thing.currency, amount))

    # the books

    def books(self) -> dict[str, object]:
        """Sum up what was really charged, captured and refunded, and name every reference that went wrong."""
        self.now()
        return {
            "charges": len(self._charges),
            **self._tally.report(),
            **self.payouts.report(),
            "faults": dict(self.faults),
        }

    def references(self, status: str | None) -> dict[str, tuple[int, int, str]]:
        """Map each reference to [count, amount, currency] of its charges, of one status or of all."""
        self.now()
        found: dict[str, tuple[int, int, str]] = {}
        for charge in self._charges:
            if status is None or charge.status == status:
                count, amount, currency = found.get(charge.reference, (0, 0, charge.currency))
                same = currency if currency == charge.currency else "mixed"
                found[charge.reference] = (count + 1, amount + charge.amount, same)
        return found

    # changes

    def enter(self, entry: Entry) -> None:
        """Write a change down, then let it take effect."""
        if self.record is not None:
            self.record(entry)
        self.apply(entry)

    def apply(self, entry: Entry) -> None:
        """Let a change take effect: a new one, or one read back from the journal."""
        match entry:
            case Booked():
                self.apply_charge(entry)
            case Acted() | ActionDecided():
                self._apply_to_action(entry)
            case Settled() | ChargeExpired():
                self._apply_to_charge(entry)
            case DisputeChanged():
                self.disputes.apply(entry)
            case SessionOpened() | SessionTried() | SessionEnded():
                self.sessions.apply(entry)
            case PaidOut() | PayoutDecided() | BatchClosed():
                self._apply_paid_out(entry)
            case KeysForgotten():
                for merchant in self._merchants.values():
                    merchant.keys.clear()
            case Reset():
                self._clear()

    def _apply_paid_out(self, entry: PaidOut | PayoutDecided | BatchClosed) -> None:
        if isinstance(entry, BatchClosed):
            self.settlements.close(entry.account, entry.at, is_live=entry.livemode)
        else:
            self.payouts.apply(entry)

    def apply_charge(self, entry: Booked) -> None:
        """Let a charge take effect."""
        merchant = self.merchant(entry.account, is_live=entry.charge.livemode)
        self.remember(merchant, entry, entry.answer)
        self._note_later(entry.charge, entry.manner, capture=entry.capture)
        self._book(merchant, entry.charge, entry.at, entry.note)

    def _note_later(self, charge: Charge, manner: str | None, *, capture: bool) -> None:
        if manner is not None:
            self._manners[charge.id] = manner
        if not capture:
            self._authorize_only.add(charge.id)
            self._set_expiry(charge)

    def _book(self, merchant: Merchant, charge: Charge, at: float, note: Note | None) -> None:
        position = len(self._charges)
        if note is not None:
            self._notes[position] = _encode(note)
        self._charges.append(charge)
        self._booked_at.append(at)
        self._owners.append(merchant)
        self._position_of[charge.id] = position
        add_position(merchant.by_reference, charge.reference, position)
        self._serial += 1
        self._tally.add(charge)
        if charge.amount_captured:
            self._moved("charge", charge, charge.id, charge.amount_captured, at)
        if self.tell is not None:
            self.announce(f"charge.{charge.status}", merchant.account, at, charge)

    def _set_expiry(self, charge: Charge) -> None:
        if charge.status == AUTHORIZED and charge.expires_at is not None:
            self.set_due(charge.expires_at, charge.id, AUTHORIZED)

    def _apply_to_charge(self, entry: Settled | ChargeExpired) -> None:
        match entry:
            case Settled():
                self._apply_settled(entry)
            case ChargeExpired():
                self._change(after_expiry(self.charge_of(entry.id)), "charge.expired", entry.at)

    def _apply_settled(self, entry: Settled) -> None:
        pending = self.charge_of(entry.id)
        decided = msgspec.structs.replace(
            pending,
            status=entry.status,
            decline_code=entry.decline_code,
            amount_captured=pending.amount if entry.status == SUCCEEDED else 0,
            expires_at=entry.expires_at,
        )
        self._set_expiry(decided)
        if decided.amount_captured:
            self._moved("charge", decided, decided.id, decided.amount_captured, entry.at)
        self._change(decided, f"charge.{entry.status}", entry.at)

    def _apply_to_action(self, entry: Acted | ActionDecided) -> None:
        if isinstance(entry, Acted):
            self._apply_action(entry)
        else:
            self._apply_decided(entry)

    def _apply_action(self, entry: Acted) -> None:
        action = entry.action
        merchant = self.merchant(entry.account, is_live=action.livemode)
        position = len(self._actions)
        self._actions.append(action)
        self._acted_at.append(entry.at)
        self._action_position_of[action.id] = position
        if entry.is_final or entry.metadata is not None:
            self._endings[position] = entry.is_final, entry.metadata
        add_position(merchant.actions, action.reference, position)
        self._serial += 1
        self.remember(merchant, entry, action)
        if entry.due_at is not None:
            self.set_due(entry.due_at, action.id, action.status)
        self._tally.act(action)
        if action.status == SUCCEEDED and action.object != VOID:
            is_capture = action.object == CAPTURE
            amount = action.amount if is_capture else -action.amount
            self._moved(action.object, action, action.charge, amount, entry.at)
        self.announce(f"{action.object}.{action.status}", entry.account, entry.at, action)
        if action.status != FAILED:
            changed = after_action(self.charge_of(action.charge), action, is_final=entry.is_final)
            told = None if action.object == REFUND else "charge.voided" if action.object == VOID else "charge.captured"
            self._change(changed, told, entry.at)

    def _apply_decided(self, entry: ActionDecided) -> None:
        position = self._action_position_of[entry.id]
        before = self._actions[position]
        decided = msgspec.structs.replace(before, status=entry.status, failure_code=entry.failure_code)
        self._actions[position] = decided
        if entry.status == SUCCEEDED:
            self._moved("refund", decided, decided.charge, -decided.amount, entry.at)
        elif before.status == SUCCEEDED:
            self._moved("refund_returned", decided, decided.charge, decided.amount, entry.at)
        if entry.status == FAILED:
            self._tally.undo(decided)
            self._change(after_failure(self.charge_of(decided.charge), decided), None, entry.at)
        owner = self._owners[self._position_of[decided.charge]]
        self.announce(f"refund.{entry.status}", owner.account, entry.at, decided)

    def _change(self, after: Charge, told: str | None, at: float) -> None:
        """Put a charge in the place of what it was."""
        position = self._position_of[after.id]
        self._tally.change(self._charges[position], after)
        self._charges[position] = after
        if told is not None:
            self.announce(told, self._owners[position].account, at, after)
