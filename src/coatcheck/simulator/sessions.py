"""The sessions of hosted pages: opened by a merchant, then paid, cancelled or expired, once.

A card that is declined charges nothing yet: the buyer may try another one. Only when the page is given up, its entries
are booked as declined charges.
"""

import math
from typing import TYPE_CHECKING

import msgspec

from coatcheck.simulator.records import (
    CANCELLED,
    COMPLETED,
    DECLINED,
    EXPIRED,
    OPEN,
    PENDING,
    SUCCEEDED,
    Booked,
    ChargeBody,
    Item,
    Merchant,
    Note,
    Refusal,
    Sending,
    Session,
    SessionCharge,
    SessionEnded,
    SessionEntry,
    SessionOpened,
    SessionTried,
    SessionView,
    add_position,
    newest_first,
)
from coatcheck.simulator.tokens import APPROVE, Behaviour, Manner

if TYPE_CHECKING:
    from coatcheck.simulator.bank import Bank

_BY_NOBODY = Sending(None, "", False, 0.0)  # a change that no merchant's request made


class Sessions:
    """Keeps the sessions of one bank; every change goes through the bank's entries."""

    def __init__(self, bank: "Bank", *, life_s: float) -> None:
        self._bank = bank
        self._life_s = life_s
        self._sessions: list[Session] = []
        self._opened_at: list[float] = []
        self._position_of: dict[str, int] = {}

    def open(
        self,
        merchant: Merchant,
        reference: str,
        items: tuple[Item, ...],
        return_url: str,
        *,
        origin: str,
        sending: Sending,
    ) -> SessionView:
        """Open a page at `origin` that charges the items when it is paid."""
        now = self._bank.now()
        session_id = self._bank.new_id("cs")
        session = Session(
            id=session_id,
            account=merchant.account,
            reference=reference,
            status=OPEN,
            url=f"{origin}/page/{session_id}",
            return_url=return_url,
            expires_at=math.ceil(now + self._life_s),
            livemode=merchant.is_live,
            items=items,
        )
        self._bank.enter(
            SessionOpened(
                account=merchant.account,
                at=now,
                key=sending.key,
                digest=sending.digest,
                is_error=sending.is_error,
                busy_s=sending.busy_s,
                session=session,
            )
        )
        return self.view(session)

    def get(self, session_id: str) -> Session:
        """Find any merchant's session. Raises Refusal."""
        self._bank.now()
        position = self._position_of.get(session_id)
        if position is None:
            raise Refusal(404, "not_found", f"There is no session {session_id}.")
        return self._sessions[position]

    def find(self, merchant: Merchant, session_id: str) -> SessionView | None:
        """Find a merchant's session by its id; it is visible at once."""
        self._bank.now()
        position = self._position_of.get(session_id)
        if position is None or position not in merchant.sessions.get(self._sessions[position].reference, ()):
            return None
        return self.view(self._sessions[position])

    def search(self, merchant: Merchant, reference: str, lag_s: float = 0) -> list[SessionView]:
        """List a merchant's sessions with a reference, newest first, leaving out those younger than the lag."""
        visible_at = self._bank.now() - lag_s
        positions = newest_first(merchant.sessions, reference, self._opened_at, visible_at)
        return [self.view(self._sessions[position]) for position in positions]

    def view(self, session: Session) -> SessionView:
        """Show a session as it is answered, with its charges as they now are."""
        return SessionView(
            id=session.id,
            reference=session.reference,
            status=session.status,
            url=session.url,
            return_url=session.return_url,
            expires_at=session.expires_at,
            livemode=session.livemode,
            charges=tuple(
                SessionCharge(
                    item.reference,
                    item.amount,
                    item.currency,
                    None if item.charge is None else self._bank.charge_of(item.charge),
                )
                for item in session.items
            ),
        )

    def pay(self, session_id: str, behaviour: Behaviour = APPROVE) -> Session:
        """Pay with a card, or take its decline down; a page that is paid stays as it is. Raises Refusal if it ended."""
        session = self.get(session_id)
        if session.status == COMPLETED:
            return session
        if session.status != OPEN:
            raise Refusal(409, "session_ended", f"The session is {session.status}.")
        if behaviour.manner is Manner.DECLINE:
            self._bank.enter(SessionTried(session_id, behaviour.decline_code, is_challenged=False))
            return self.get(session_id)
        status = PENDING if behaviour.manner is Manner.PENDING else SUCCEEDED
        return self._end(session, COMPLETED, self._bookings(session, status, None, behaviour), _BY_NOBODY)

    def challenge(self, session_id: str) -> Session:
        """Ask the buyer to confirm by 3-D Secure."""
        self._bank.enter(SessionTried(session_id, self.get(session_id).decline_code, is_challenged=True))
        return self.get(session_id)

    def cancel(self, session_id: str) -> Session:
        """Give the page up. Raises Refusal when it was paid or has expired."""
        session = self.get(session_id)
        if session.status == COMPLETED:
            raise Refusal(409, "session_completed", "The session was paid.")
        if session.status == EXPIRED:
            raise Refusal(409, "session_ended", "The session has expired.")
        return session if session.status == CANCELLED else self._give_up(session, CANCELLED, _BY_NOBODY)

    def expire(self, session_id: str, sending: Sending = _BY_NOBODY) -> Session:
        """End a page now; one that ended unpaid stays as it is. Raises Refusal when it was paid."""
        session = self.get(session_id)
        if session.status == COMPLETED:
            raise Refusal(409, "session_completed", "The session was paid.")
        if session.status == OPEN:
            return self._give_up(session, EXPIRED, sending)
        return self._end(session, session.status, (), sending)

    def run_out(self, session_id: str, at: float) -> None:
        """Let a page expire whose time is over."""
        position = self._position_of.get(session_id)
        if position is not None and self._sessions[position].status == OPEN:
            self._give_up(self._sessions[position], EXPIRED, _BY_NOBODY, at)

    def _give_up(self, session: Session, status: str, sending: Sending, at: float | None = None) -> Session:
        bookings: tuple[Booked, ...] = ()
        if session.decline_code is not None:
            bookings = self._bookings(session, DECLINED, session.decline_code, APPROVE, at)
        return self._end(session, status, bookings, sending, at)

    def _bookings(
        self, session: Session, status: str, decline_code: str | None, behaviour: Behaviour, at: float | None = None
    ) -> tuple[Booked, ...]:
        """Make out one charge for each item."""
        now = self._bank.now() if at is None else at
        merchant = self._bank.merchant(session.account, is_live=session.livemode)
        manner = behaviour.manner.value if behaviour.is_later else None
        bookings = []
        for ahead, item in enumerate(session.items, start=1):
            body = ChargeBody(
                item.amount, item.currency, behaviour.manner.value, item.reference, item.description, item.capture
            )
            note = Note(item.description, item.metadata) if item.metadata else None
            charge = self._bank.draft(
                merchant, body, status=status, decline_code=decline_code, now=now, manner=manner, ahead=ahead
            )
            bookings.append(
                Booked(
                    account=session.account,
                    at=now,
                    charge=charge,
                    answer=charge,
                    capture=item.capture,
                    manner=manner,
                    note=note,
                )
            )
        return tuple(bookings)

    def _end(
        self, session: Session, status: str, bookings: tuple[Booked, ...], sending: Sending, at: float | None = None
    ) -> Session:
        self._bank.enter(
            SessionEnded(
                account=session.account,
                at=self._bank.now() if at is None else at,
                key=sending.key,
                digest=sending.digest,
                is_error=sending.is_error,
                busy_s=sending.busy_s,
                id=session.id,
                status=status,
                charges=bookings,
            )
        )
        return self._sessions[self._position_of[session.id]]

    def apply(self, entry: SessionEntry) -> None:
        """Let a change of a session take effect."""
        match entry:
            case SessionOpened():
                self._apply_opened(entry)
            case SessionTried():
                position = self._position_of[entry.id]
                self._sessions[position] = msgspec.structs.replace(
                    self._sessions[position], decline_code=entry.decline_code, is_challenged=entry.is_challenged
                )
            case SessionEnded():
                self._apply_ended(entry)

    def _apply_opened(self, entry: SessionOpened) -> None:
        session = entry.session
        merchant = self._bank.merchant(entry.account, is_live=session.livemode)
        position = len(self._sessions)
        self._sessions.append(session)
        self._opened_at.append(entry.at)
        self._position_of[session.id] = position
        add_position(merchant.sessions, session.reference, position)
        self._bank.number()
        self._bank.set_due(session.expires_at, session.id, OPEN)
        self._bank.remember(merchant, entry, self.view(session))

    def _apply_ended(self, entry: SessionEnded) -> None:
        position = self._position_of[entry.id]
        session = self._sessions[position]
        is_change = session.status == OPEN
        for booked in entry.charges:
            self._bank.apply_charge(booked)
        if is_change:
            made: list[str | None] = [booked.charge.id for booked in entry.charges]
            made = made or [None] * len(session.items)
            items = tuple(
                msgspec.structs.replace(item, charge=charge) for item, charge in zip(session.items, made, strict=True)
            )
            session = msgspec.structs.replace(session, status=entry.status, items=items, is_challenged=False)
            self._sessions[position] = session
        view = self.view(session)
        self._bank.remember(self._bank.merchant(entry.account, is_live=session.livemode), entry, view)
        if is_change:
            self._bank.announce(f"session.{entry.status}", entry.account, entry.at, view)
