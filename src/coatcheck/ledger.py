"""The double-entry ledger: accounts, transfers and holds. The database posts; this module speaks of what to post.

docs/ledger.md has the accounts, the table of postings and what each outcome means.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.ids import account_id_of, time_ordered_ids
from coatcheck.states import Mode
from coatcheck.store import Batcher, Store

MAX_AMOUNT_MINOR = 2**53 - 1  # what JSON readers that count in doubles still read exactly
_BIGINT_BOUND = 2**63
# Another batch wrote the same transfer_id, or the server asks for another try: run again, idempotent by the ids.
_WORTH_ANOTHER_TRY = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_TRIES = 3
_ACCOUNTS_REMEMBERED = 100_000

_AccountKey = tuple[UUID, Mode, str, str]


class AccountKind(StrEnum):
    """What an account is for; the table account_kind says which side makes it grow and whether it may be overdrawn."""

    PSP_RECEIVABLE = "psp_receivable"
    PSP_PAYOUTS_IN_TRANSIT = "psp_payouts_in_transit"
    BANK = "bank"
    SELLER_PENDING = "seller_pending"
    SELLER_AVAILABLE = "seller_available"
    SELLER_RESERVE = "seller_reserve"
    PAYOUTS_IN_TRANSIT = "payouts_in_transit"
    PLATFORM_COMMISSION = "platform_commission"
    PLATFORM_PSP_FEES = "platform_psp_fees"
    PLATFORM_DISPUTE_FEES = "platform_dispute_fees"
    SUSPENSE = "suspense"
    FX = "fx"


class Phase(StrEnum):
    """How a transfer counts: at once, as a hold, or as the end of (a part of) a hold."""

    POSTED = "posted"
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"


class TransferKind(StrEnum):
    """What a transfer is for."""

    CHARGE = "charge"
    COMMISSION = "commission"
    REFUND = "refund"
    COMMISSION_REFUND = "commission_refund"
    REFUND_RETURN = "refund_return"
    COMMISSION_REFUND_RETURN = "commission_refund_return"
    CHARGEBACK = "chargeback"
    CHARGEBACK_REVERSED = "chargeback_reversed"
    DISPUTE_FEE = "dispute_fee"
    DISPUTE_FEE_REVERSED = "dispute_fee_reversed"
    PSP_PAYOUT = "psp_payout"
    PSP_FEE = "psp_fee"
    CONVERSION = "conversion"
    BANK_CREDIT = "bank_credit"
    BANK_DEBIT = "bank_debit"
    UNEXPLAINED = "unexplained"
    EXPLAINED = "explained"
    RELEASE = "release"
    RESERVE = "reserve"
    RESERVE_RELEASE = "reserve_release"
    OFFSET = "offset"
    PAYOUT = "payout"
    PAYOUT_PAID = "payout_paid"
    PAYOUT_FAILED = "payout_failed"
    PAYOUT_RETURNED = "payout_returned"


class PostOutcome(StrEnum):
    """What became of one transfer. POSTED and EXISTS mean that the books have it, once."""

    POSTED = "posted"
    EXISTS = "exists"
    EXISTS_DIFFERENTLY = "exists_differently"
    MALFORMED = "malformed"
    INVALID_AMOUNT = "invalid_amount"
    SAME_ACCOUNT = "same_account"
    UNKNOWN_ACCOUNT = "unknown_account"
    CURRENCY_MISMATCH = "currency_mismatch"
    WORLD_MISMATCH = "world_mismatch"
    UNKNOWN_HOLD = "unknown_hold"
    HOLD_MISMATCH = "hold_mismatch"
    HOLD_EXCEEDED = "hold_exceeded"
    OVERDRAWN = "overdrawn"
    OVERFLOW = "overflow"

    @property
    def is_booked(self) -> bool:
        """Whether the books have the transfer."""
        return self in (PostOutcome.POSTED, PostOutcome.EXISTS)


# In a batch these are judged cautiously, by what the rows before might take; a row on its own gets the last word.
_CAUTIOUS = frozenset(
    {PostOutcome.OVERDRAWN, PostOutcome.HOLD_EXCEEDED, PostOutcome.OVERFLOW, PostOutcome.UNKNOWN_HOLD}
)


class LedgerRefusedError(Exception):
    """The ledger did not take a transfer that the books need; nothing of the transaction may stay."""


class AccountName(msgspec.Struct, frozen=True):
    """An account as the postings speak of it; with a shop, a mode and a currency it is one row."""

    name: str
    kind: AccountKind


class Account(msgspec.Struct, frozen=True):
    """One account: one shop, one mode, one currency."""

    shop_id: UUID
    mode: Mode
    name: AccountName
    currency: str

    @property
    def account_id(self) -> UUID:
        """The hash of all that names the account."""
        return account_id_of(self.shop_id, self.mode, self.name.name, self.currency)


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """An amount (minor units) of one currency, from one debit account to one credit account.

    A hold is named by the transfer that made it: `hold_id` of a capture or a release is that transfer's id.
    `subject_id` is what the movement is about (a payment, a refund, a payout).
    """

    transfer_id: UUID
    kind: str
    debit_account_id: UUID
    credit_account_id: UUID
    amount_minor: int
    currency: str
    subject_id: UUID
    phase: Phase = Phase.POSTED
    hold_id: UUID | None = None


class Balance(msgspec.Struct, frozen=True):
    """One account's line in a trial balance (minor units); pending is what holds may still post."""

    account_id: UUID
    name: str
    kind: AccountKind
    debits_posted_minor: int
    credits_posted_minor: int
    debits_pending_minor: int
    credits_pending_minor: int
    balance_minor: int


class TrialBalance(msgspec.Struct, frozen=True):
    """All accounts of one currency; the two totals are equal or the books are wrong."""

    currency: str
    accounts: Sequence[Balance]
    total_debits_minor: int
    total_credits_minor: int

    @property
    def difference_minor(self) -> int:
        """Debits less credits: zero."""
        return self.total_debits_minor - self.total_credits_minor


def psp_receivable(provider: str) -> AccountName:
    """Name what a PSP has collected and owes us."""
    return AccountName(f"psp:{provider}:receivable", AccountKind.PSP_RECEIVABLE)


def psp_payouts_in_transit(provider: str) -> AccountName:
    """Name what a PSP has paid out and our bank has not confirmed."""
    return AccountName(f"psp:{provider}:payouts_in_transit", AccountKind.PSP_PAYOUTS_IN_TRANSIT)


def bank(account: str) -> AccountName:
    """Name our account at a bank."""
    return AccountName(f"bank:{account}", AccountKind.BANK)


def seller_pending(seller: str) -> AccountName:
    """Name what a seller earned and cannot be paid yet."""
    return AccountName(f"seller:{seller}:pending", AccountKind.SELLER_PENDING)


def seller_available(seller: str) -> AccountName:
    """Name what a seller can be paid."""
    return AccountName(f"seller:{seller}:available", AccountKind.SELLER_AVAILABLE)


def seller_reserve(seller: str) -> AccountName:
    """Name what is kept of a seller's releases for a while, against refunds and disputes."""
    return AccountName(f"seller:{seller}:reserve", AccountKind.SELLER_RESERVE)


def payouts_in_transit(seller: str) -> AccountName:
    """Name what is on its way to a seller; one account each, so that a wallet can tell whose it is."""
    return AccountName(f"payouts:in_transit:{seller}", AccountKind.PAYOUTS_IN_TRANSIT)


def platform_commission() -> AccountName:
    """Name what the platform earned."""
    return AccountName("platform:commission", AccountKind.PLATFORM_COMMISSION)


def platform_psp_fees() -> AccountName:
    """Name what PSPs charged the platform."""
    return AccountName("platform:psp_fees", AccountKind.PLATFORM_PSP_FEES)


def platform_dispute_fees() -> AccountName:
    """Name what disputes cost the platform."""
    return AccountName("platform:dispute_fees", AccountKind.PLATFORM_DISPUTE_FEES)


def suspense(provider: str) -> AccountName:
    """Name the differences with a PSP that nobody has explained yet."""
    return AccountName(f"suspense:{provider}", AccountKind.SUSPENSE)


def fx(provider: str) -> AccountName:
    """Name what a PSP has changed: what it took of one currency, and what it gave for that in another."""
    return AccountName(f"fx:{provider}", AccountKind.FX)


@lru_cache(maxsize=10_000)
def charge_accounts(provider: str, seller: str) -> tuple[AccountName, AccountName, AccountName]:
    """Name the accounts a charged order moves money between: receivable, the seller's pending, commission."""
    return psp_receivable(provider), seller_pending(seller), platform_commission()


class Ledger:
    """The books of every shop and mode: post, open, read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def post(self, transfers: Sequence[Transfer], at: datetime) -> list[PostOutcome]:
        """Post a batch in one commit and say of each transfer what became of it, in the same order.

        One bad transfer never fails its neighbours. Idempotent on transfer_id; `at` is not part of what is compared.
        Rows a batch can only judge cautiously (near a balance's floor or a hold's rest) are tried again on their own,
        in order, each in its own commit. Locks: the accounts, in id order.
        """
        outcomes = await self._post_batch(transfers, at)
        if len(transfers) > 1:
            for place, outcome in enumerate(outcomes):
                if outcome in _CAUTIOUS:
                    outcomes[place] = (await self._post_batch([transfers[place]], at))[0]
        return outcomes

    async def post_within(self, connection: Any, transfers: Sequence[Transfer], at: datetime) -> None:
        """Post within the caller's transaction, all or nothing.

        Raises LedgerRefusedError, which must end that transaction. Idempotent on transfer_id. Locks: the accounts, in
        id order.
        """
        rows = await connection.fetch(self._store.queries["ledger_post"], *_columns(transfers), at)
        refused = {PostOutcome(outcome) for _, outcome in rows} - {PostOutcome.EXISTS}
        if refused:
            raise LedgerRefusedError(f"the ledger refused transfers: {', '.join(sorted(refused))}")

    async def _post_batch(self, transfers: Sequence[Transfer], at: datetime) -> list[PostOutcome]:
        query, columns = self._store.queries["ledger_post"], _columns(transfers)
        for attempt in range(1, _TRIES + 1):
            try:
                rows = await self._store.pool.fetch(query, *columns, at)
                break
            except _WORTH_ANOTHER_TRY:
                if attempt == _TRIES:
                    raise
        outcomes = [PostOutcome.POSTED] * len(transfers)
        for position, outcome in rows:
            outcomes[position - 1] = PostOutcome(outcome)
        return outcomes

    async def open_accounts(self, accounts: Iterable[Account], at: datetime) -> set[UUID]:
        """Open those that are not open yet, each with its audit event; returns the ids of the newly opened.

        Idempotent. Raises asyncpg.UniqueViolationError when an id already stands for an account of another name.
        """
        distinct = {account.account_id: account for account in accounts}
        opened = await self._store.pool.fetch(
            self._store.queries["ledger_open_accounts"],
            list(distinct),
            [account.shop_id for account in distinct.values()],
            [account.mode.value for account in distinct.values()],
            [account.name.name for account in distinct.values()],
            [account.name.kind.value for account in distinct.values()],
            [account.currency for account in distinct.values()],
            at,
            time_ordered_ids(at, len(distinct)),
            EventKind.ACCOUNT_OPENED.value,
        )
        return {row["account_id"] for row in opened}

    async def trial_balance(self, shop_id: UUID, mode: Mode) -> list[TrialBalance]:
        """Read every account of a shop and mode, by currency; each currency's totals must agree."""
        rows = await self._store.pool.fetch(self._store.queries["ledger_trial_balance"], shop_id, mode.value)
        by_currency: dict[str, list[Balance]] = {}
        for currency, kind, *rest in rows:
            by_currency.setdefault(currency, []).append(Balance(rest[0], rest[1], AccountKind(kind), *rest[2:]))
        return [
            TrialBalance(
                currency,
                accounts,
                sum(account.debits_posted_minor for account in accounts),
                sum(account.credits_posted_minor for account in accounts),
            )
            for currency, accounts in by_currency.items()
        ]


class AccountBook:
    """Knows which accounts are open, so that the hot path asks the database only about new ones."""

    def __init__(self, store: Store, clock: Clock, *, batch_size: int = 512) -> None:
        self._ledger = Ledger(store)
        self._clock = clock
        self._open: set[_AccountKey] = set()
        # A shop that comes with all its sellers, and a gateway that has just started, meet many at once.
        self._opening = Batcher(self._open_batch, size=batch_size, lanes=1 if batch_size > 1 else 8)

    async def ensure(self, shop_id: UUID, mode: Mode, wanted: Iterable[tuple[AccountName, str]]) -> None:
        """See to it that these accounts (name, currency) are open. Idempotent; commits on its own, with others' wishes.

        Raises asyncpg.UniqueViolationError when an id already stands for an account of another name.
        """
        missing = {
            (shop_id, mode, name.name, currency): Account(shop_id, mode, name, currency)
            for name, currency in wanted
            if (shop_id, mode, name.name, currency) not in self._open
        }
        if missing:
            await self._opening.submit(missing)

    async def _open_batch(self, wishes: Sequence[Mapping[_AccountKey, Account]]) -> list[None]:
        missing = {key: account for wish in wishes for key, account in wish.items()}
        await self._ledger.open_accounts(missing.values(), self._clock.now())
        if len(self._open) + len(missing) > _ACCOUNTS_REMEMBERED:
            self._open.clear()
        self._open.update(missing)
        return [None] * len(wishes)


def _columns(transfers: Sequence[Transfer]) -> tuple[list[object] | None, ...]:
    # The usual batch neither makes nor ends a hold; two columns less to send are felt.
    is_plain = all(transfer.phase is Phase.POSTED and transfer.hold_id is None for transfer in transfers)
    # An amount no bigint can carry is sent as NULL: the database calls both an invalid amount.
    return (
        [transfer.transfer_id for transfer in transfers],
        [transfer.kind for transfer in transfers],
        None if is_plain else [transfer.phase for transfer in transfers],
        None if is_plain else [transfer.hold_id for transfer in transfers],
        [transfer.debit_account_id for transfer in transfers],
        [transfer.credit_account_id for transfer in transfers],
        [
            amount if -_BIGINT_BOUND <= (amount := transfer.amount_minor) < _BIGINT_BOUND else None
            for transfer in transfers
        ],
        [transfer.currency for transfer in transfers],
        [transfer.subject_id for transfer in transfers],
    )
