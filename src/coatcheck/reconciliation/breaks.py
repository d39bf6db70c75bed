"""Breaks by hand: what nothing else explains is explained by two people (maker-checker, hazard I1).

The first says which account the money in suspense belongs to, how that is known, and where it can be seen; the second
confirms it. Then the break is closed, the money moves there and the events tell of both people, in one commit.
"""

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NoReturn
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import print_id, random_id, time_ordered_ids
from coatcheck.ledger import (
    AccountBook,
    AccountName,
    bank,
    platform_commission,
    platform_dispute_fees,
    platform_psp_fees,
    psp_payouts_in_transit,
    psp_receivable,
    seller_pending,
)
from coatcheck.pan import contains_card_number
from coatcheck.reconciliation.closing import Closing
from coatcheck.reconciliation.files import BANK
from coatcheck.reconciliation.report import Break
from coatcheck.states import Mode
from coatcheck.store import Store

BREAK: Final = "brk"
PROPOSAL: Final = "prop"
_PROPOSAL_LIFE: Final = timedelta(hours=24)
_TEXT_MOST: Final = 500
_ACCOUNT_MOST: Final = 128
_FIRST: Final = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))

log = structlog.get_logger("coatcheck.breaks")


class BreakKind(StrEnum):
    """What sort of difference it is; docs/reconciliation.md says what opens each."""

    MISSING_HERE = "missing_here"
    MISSING_AT_PSP = "missing_at_psp"
    AMOUNT = "amount"
    CURRENCY = "currency"
    STATUS = "status"
    DUPLICATE_LINE = "duplicate_line"
    DUPLICATE_CHARGE = "duplicate_charge"
    UNEXPLAINED = "unexplained"
    CONTROL_TOTAL = "control_total"
    FEE = "fee"
    LATE = "late"


class BreakStatus(StrEnum):
    """Whether anybody still has to look at it."""

    OPEN = "open"
    CLOSED = "closed"


class Destination(StrEnum):
    """Where the money of a break belongs. `nothing`: none stands in suspense for it."""

    FEE = "fee"
    DISPUTE_FEE = "dispute_fee"
    COMMISSION = "commission"
    SELLER = "seller"
    BANK = "bank"
    RECEIVABLE = "receivable"
    PAYOUT = "payout"
    NOTHING = "nothing"


# Of these somebody must say whose; of the others nobody may. A PSP is the break's own, unless that is a bank's.
_NEEDS_ACCOUNT: Final[Mapping[Destination, str]] = {
    Destination.SELLER: "the seller's account, as the shop calls it",
    Destination.BANK: "the account at the bank, as its statements call it",
}
_OF_A_PSP: Final = (Destination.RECEIVABLE, Destination.PAYOUT)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What one person says a break is. `account`: whose, where the destination leaves that open."""

    destination: Destination
    note: str
    evidence: str
    account: str | None = None


class BreakProposal(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation that counts when another person confirms it before `expires_at`."""

    proposal_id: UUID
    destination: Destination
    account: str | None
    account_name: str | None
    note: str
    evidence: str
    proposed_by: str
    proposed_at: datetime
    expires_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None


class ListedBreak(msgspec.Struct, frozen=True, kw_only=True):
    """A break with whose it is, the file that it is of, and what somebody has said of it."""

    found: Break
    shop_id: UUID
    mode: Mode
    provider: str
    file_name: str | None
    proposal: BreakProposal | None


class BreakQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which breaks: of one shop and mode or, for whoever runs the gateway, of all."""

    shop_id: UUID | None = None
    mode: Mode | None = None
    status: BreakStatus | None = None
    kind: BreakKind | None = None
    provider: str | None = None


class Breaks:
    """Lists breaks, and closes those that two people have explained."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._closing = Closing(store, clock)
        self._accounts = AccountBook(store, clock)

    async def find(
        self, query: BreakQuery, *, after: tuple[datetime, UUID] | None = None, limit: int = 20
    ) -> list[ListedBreak]:
        """Find breaks, oldest first, after a place."""
        return await self._find(query, after or _FIRST, limit)

    async def read(self, break_id: UUID, query: BreakQuery) -> ListedBreak | None:
        """Show one break; None when there is none of that id for whoever asks."""
        found = await self._find(query, _FIRST, 1, only=break_id)
        return found[0] if found else None

    async def _find(
        self, query: BreakQuery, after: tuple[datetime, UUID], limit: int, *, only: UUID | None = None
    ) -> list[ListedBreak]:
        rows = await self._store.pool.fetch(
            self._store.queries["break_list"],
            *(query.shop_id, None if query.mode is None else query.mode.value, *after, limit),
            None if query.status is None else query.status is BreakStatus.OPEN,
            *(None if query.kind is None else query.kind.value, query.provider, only),
        )
        return [_listed(row) for row in rows]

    async def propose(self, break_id: UUID, query: BreakQuery, said: Explanation, by: str) -> BreakProposal:
        """Say what a break is, for a second person to confirm within 24 hours. Posts nothing.

        Idempotent on who says what; one's own earlier proposal is replaced. Raises CoatcheckError. Locks: the break.
        """
        listed = await self._open_one(break_id, query)
        said = _tidy(said)
        target = _target_of(listed, said)
        at = self._clock.now()
        verdict = await self._store.pool.fetchval(
            "SELECT propose_break_resolution($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            *(at, break_id, random_id(), said.destination.value, said.account, None if target is None else target.name),
            *(said.note, said.evidence, by, at + _PROPOSAL_LIFE, time_ordered_ids(at, 1)[0]),
        )
        if verdict in ("settled", "unknown"):
            raise _settled(break_id)
        if verdict == "taken":
            _refuse(_VERDICTS["taken"])
        proposed = await self.read(break_id, query)
        if proposed is None or proposed.proposal is None:  # rows of this table are replaced, never deleted
            raise CoatcheckError(ErrorCode.INTERNAL, "The proposal's row is gone. Check the database.")
        return proposed.proposal

    async def confirm(self, break_id: UUID, proposal_id: UUID, query: BreakQuery, by: str) -> ListedBreak:
        """Confirm what another person said: the break is closed and its money moves, in one commit.

        Posts one transfer out of suspense. Idempotent on the proposal and the person. Raises CoatcheckError: the same
        person, an expired or replaced proposal. Locks: the files of the break's provider, the break, the accounts.
        """
        listed = await self._read_or_refuse(break_id, query)
        proposal = listed.proposal
        if proposal is None or proposal.proposal_id != proposal_id:
            _refuse(_VERDICTS["unknown"])
        target = _target_of(listed, proposal)
        if target is not None and listed.found.currency is not None:
            await self._accounts.ensure(listed.shop_id, listed.mode, [(target, listed.found.currency)])
        at = self._clock.now()
        async with self._store.pool.acquire() as connection, connection.transaction():
            verdict = await connection.fetchval(
                "SELECT confirm_break_resolution($1, $2, $3, $4, $5)",
                *(at, break_id, proposal_id, by, time_ordered_ids(at, 1)[0]),
            )
            if verdict == "confirmed":
                who = f"{proposal.proposed_by} and {by}"
                await self._closing.close_within(connection, [break_id], who, proposal.note, target)
        if verdict == "settled":
            raise _settled(break_id)
        if verdict not in ("confirmed", "exists"):
            _refuse(_VERDICTS[verdict])
        if verdict == "confirmed":
            log.warning("break_resolved_by_hand", found=print_id(BREAK, break_id), confirmed_by=by)
        return await self._read_or_refuse(break_id, query)

    async def _read_or_refuse(self, break_id: UUID, query: BreakQuery) -> ListedBreak:
        listed = await self.read(break_id, query)
        if listed is None:
            raise CoatcheckError(ErrorCode.NOT_FOUND, f"No break {print_id(BREAK, break_id)}: it is unknown here.")
        return listed

    async def _open_one(self, break_id: UUID, query: BreakQuery) -> ListedBreak:
        listed = await self._read_or_refuse(break_id, query)
        if listed.found.closed_at is not None:
            raise _settled(break_id)
        return listed


_VERDICTS: Final = {
    "unknown": "There is no such proposal any more: it was replaced, or was for another break. Look at the one that is "
    "there now.",
    "taken": "Somebody else has proposed what it is. Look at that proposal: confirm it, have its author change it, or "
    "wait until it expires.",
    "expired": "The proposal is older than 24 hours. Look into it again and make a new one.",
    "same_person": "A second person must confirm: whoever proposed it cannot. Another API key or another name is "
    "needed.",
}


def _settled(break_id: UUID) -> CoatcheckError:
    return CoatcheckError(
        ErrorCode.BREAK_RESOLUTION_NOT_POSSIBLE,
        f"The break {print_id(BREAK, break_id)} is closed: a file, the provider or two people have explained it.",
    )


def _refuse(detail: str) -> NoReturn:
    raise CoatcheckError(ErrorCode.BREAK_RESOLUTION_NOT_POSSIBLE, detail)


def _tidy(said: Explanation) -> Explanation:
    """Read what somebody has written. Raises CoatcheckError INVALID_REQUEST with every problem."""
    note, evidence = (" ".join(text.split()) for text in (said.note, said.evidence))
    problems = [
        Problem(f"/{name}", f"Say {what} in 1 to {_TEXT_MOST} characters, without any card number.")
        for name, what, text in (
            ("note", "what it is", note),
            ("evidence", "how you know, and where it can be seen", evidence),
        )
        if not _is_plain(text, _TEXT_MOST)
    ]
    account = said.account
    if account is not None and (not _is_plain(account, _ACCOUNT_MOST) or " " in account):
        problems.append(Problem("/account", f"Write 1 to {_ACCOUNT_MOST} printable characters without spaces."))
    if problems:
        raise CoatcheckError(ErrorCode.INVALID_REQUEST, problems[0].detail, problems)
    return msgspec.structs.replace(said, note=note, evidence=evidence)


def _is_plain(text: str, most: int) -> bool:
    is_normal = unicodedata.is_normalized("NFC", text)
    return is_normal and 1 <= len(text) <= most and text.isprintable() and not contains_card_number(text)


def _target_of(listed: ListedBreak, said: Explanation | BreakProposal) -> AccountName | None:
    """Find the account that the money of a break belongs to. Raises CoatcheckError INVALID_REQUEST."""
    destination, account = said.destination, said.account
    if (destination is Destination.NOTHING) is (listed.found.suspense_minor != 0):
        stands = "no money of it stands in suspense: say nothing" if listed.found.suspense_minor == 0 else "say where"
        _wrong("/destination", f"Of this break {stands} as its destination.")
    if destination in _NEEDS_ACCOUNT and account is None:
        _wrong("/account", f"Name {_NEEDS_ACCOUNT[destination]}.")
    is_of_bank = listed.provider == BANK
    if destination in _OF_A_PSP:
        if is_of_bank is (account is None):
            _wrong("/account", "Name the provider." if is_of_bank else "Leave it out: the provider is the break's own.")
        provider = account if is_of_bank and account is not None else listed.provider
        of_psp = psp_receivable if destination is Destination.RECEIVABLE else psp_payouts_in_transit
        return of_psp(provider)
    if destination not in _NEEDS_ACCOUNT and account is not None:
        _wrong("/account", "Leave it out: there is one such account.")
    return _named(destination, account or "")


def _named(destination: Destination, account: str) -> AccountName | None:
    return {
        Destination.FEE: platform_psp_fees(),
        Destination.DISPUTE_FEE: platform_dispute_fees(),
        Destination.COMMISSION: platform_commission(),
        Destination.SELLER: seller_pending(account),
        Destination.BANK: bank(account),
    }.get(destination)


def _wrong(pointer: str, detail: str) -> NoReturn:
    raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, [Problem(pointer, detail)])


def _listed(row: asyncpg.Record) -> ListedBreak:
    found = Break(**{name: row[name] for name in Break.__struct_fields__})
    return ListedBreak(
        found=found,
        shop_id=row["shop_id"],
        mode=Mode(row["mode"]),
        provider=row["provider"],
        file_name=row["file_name"],
        proposal=None if row["proposal_id"] is None else _proposal_of(row),
    )


def _proposal_of(row: asyncpg.Record) -> BreakProposal:
    names = [name for name in BreakProposal.__struct_fields__ if name != "destination"]
    return BreakProposal(destination=Destination(row["destination"]), **{name: row[name] for name in names})
