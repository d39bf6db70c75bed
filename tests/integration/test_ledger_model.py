"""ledger_post against a model that posts one transfer after the other in plain Python."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from uuid import UUID, uuid4

import msgspec
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from coatcheck.ledger import (
    MAX_AMOUNT_MINOR,
    Account,
    Ledger,
    Phase,
    Transfer,
    psp_receivable,
    seller_available,
    seller_pending,
)
from coatcheck.states import Mode
from coatcheck.store import Store

AT = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
# A batch may refuse these out of caution; a row on its own may not.
CAUTIOUS = {"overdrawn", "hold_exceeded", "overflow", "unknown_hold"}


@dataclass
class Book:
    """One account of the model."""

    account: Account
    has_floor: bool
    debits: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})  # by "is pending"
    credits: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def counters(self) -> tuple[int, int, int, int]:
        return self.debits[False], self.credits[False], self.debits[True], self.credits[True]


@dataclass
class Model:
    """The rules of the ledger, one transfer at a time."""

    books: dict[UUID, Book]
    transfers: dict[UUID, Transfer] = field(default_factory=dict)
    rests: dict[UUID, int] = field(default_factory=dict)  # of holds

    def post(self, transfer: Transfer) -> str:
        reason = self.refusal(transfer)
        if reason is None:
            self.apply(transfer)
        return reason or "posted"

    def refusal(self, transfer: Transfer) -> str | None:
        known = self.transfers.get(transfer.transfer_id)
        if known is not None:
            return "exists" if known == transfer else "exists_differently"
        return self.own_fault(transfer) or self.lack_of_room(transfer)

    def own_fault(self, transfer: Transfer) -> str | None:
        debit, credit = self.books.get(transfer.debit_account_id), self.books.get(transfer.credit_account_id)
        if not 1 <= transfer.amount_minor <= MAX_AMOUNT_MINOR:
            return "invalid_amount"
        if transfer.debit_account_id == transfer.credit_account_id:
            return "same_account"
        if debit is None or credit is None:
            return "unknown_account"
        if not transfer.currency == debit.account.currency == credit.account.currency:
            return "currency_mismatch"
        is_one_world = (debit.account.shop_id, debit.account.mode) == (credit.account.shop_id, credit.account.mode)
        return None if is_one_world else "world_mismatch"

    def lack_of_room(self, transfer: Transfer) -> str | None:
        if transfer.phase in (Phase.CAPTURED, Phase.RELEASED):
            return self.hold_refusal(transfer)
        return self.room_refusal(transfer, self.books[transfer.debit_account_id])

    def hold_refusal(self, transfer: Transfer) -> str | None:
        assert transfer.hold_id is not None
        hold = self.transfers.get(transfer.hold_id)
        if hold is None or hold.phase is not Phase.HELD:
            return "unknown_hold"
        if (hold.debit_account_id, hold.credit_account_id) != (transfer.debit_account_id, transfer.credit_account_id):
            return "hold_mismatch"
        return "hold_exceeded" if transfer.amount_minor > self.rests[transfer.hold_id] else None

    def room_refusal(self, transfer: Transfer, debit: Book) -> str | None:
        balance = debit.credits[False] - debit.debits[False] - debit.debits[True]
        return "overdrawn" if debit.has_floor and transfer.amount_minor > balance else None

    def apply(self, transfer: Transfer) -> None:
        self.transfers[transfer.transfer_id] = transfer
        pending = {Phase.POSTED: 0, Phase.HELD: 1, Phase.CAPTURED: -1, Phase.RELEASED: -1}[transfer.phase]
        posted = 1 if transfer.phase in (Phase.POSTED, Phase.CAPTURED) else 0
        for side in (
            self.books[transfer.debit_account_id].debits,
            self.books[transfer.credit_account_id].credits,
        ):
            side[False] += posted * transfer.amount_minor
            side[True] += pending * transfer.amount_minor
        if transfer.phase is Phase.HELD:
            self.rests[transfer.transfer_id] = transfer.amount_minor
        elif transfer.hold_id is not None:
            self.rests[transfer.hold_id] -= transfer.amount_minor


def accounts_of(shop_id: UUID) -> list[Book]:
    return [
        Book(Account(shop_id, Mode.LIVE, psp_receivable("p"), "EUR"), has_floor=False),
        Book(Account(shop_id, Mode.LIVE, seller_pending("a"), "EUR"), has_floor=False),
        Book(Account(shop_id, Mode.LIVE, seller_available("a"), "EUR"), has_floor=True),
        Book(Account(shop_id, Mode.LIVE, seller_available("b"), "EUR"), has_floor=True),
        Book(Account(shop_id, Mode.LIVE, seller_available("b"), "USD"), has_floor=True),
        Book(Account(shop_id, Mode.TEST, seller_available("b"), "EUR"), has_floor=True),
    ]


def wild(accounts: list[UUID], ids: list[UUID]) -> st.SearchStrategy[Transfer]:
    """Anything at all: most of it is refused."""
    ending = st.sampled_from((Phase.CAPTURED, Phase.RELEASED))
    phases = st.one_of(
        st.tuples(st.sampled_from((Phase.POSTED, Phase.HELD)), st.none()), st.tuples(ending, st.sampled_from(ids))
    )
    return st.builds(
        lambda phase, **rest: Transfer(phase=phase[0], hold_id=phase[1], subject_id=ids[0], **rest),
        phases,
        transfer_id=st.sampled_from(ids),
        kind=st.sampled_from(("charge", "commission")),
        debit_account_id=st.sampled_from(accounts),
        credit_account_id=st.sampled_from(accounts),
        amount_minor=st.sampled_from((1, 50, 0, -1, MAX_AMOUNT_MINOR + 1)),
        currency=st.sampled_from(("EUR", "USD")),
    )


def sensible(accounts: list[UUID], ids: list[UUID]) -> st.SearchStrategy[Transfer]:
    """Money comes in and moves between two accounts with a floor, posted or held."""
    pairs = [(accounts[0], accounts[2]), (accounts[2], accounts[3]), (accounts[3], accounts[2])]
    return st.builds(
        lambda pair, **rest: Transfer(
            kind="charge",
            debit_account_id=pair[0],
            credit_account_id=pair[1],
            currency="EUR",
            subject_id=ids[0],
            **rest,
        ),
        st.sampled_from(pairs),
        transfer_id=st.sampled_from(ids),
        phase=st.sampled_from((Phase.POSTED, Phase.HELD)),
        amount_minor=st.integers(1, 100),
    )


@st.composite
def batches(draw: st.DrawFn, accounts: list[UUID], ids: list[UUID]) -> list[list[Transfer]]:
    """Draw batches over few accounts and few ids, so that rows meet: repeats, and ends of holds made before."""
    drawn: list[Transfer] = []

    def transfer() -> Transfer:
        holds = [earlier for earlier in drawn if earlier.phase is Phase.HELD]
        choice = draw(st.sampled_from(("sensible", "sensible", "end a hold", "end a hold", "repeat", "wild")))
        if choice == "repeat" and drawn:
            return draw(st.sampled_from(drawn))
        if choice == "end a hold" and holds:
            hold = draw(st.sampled_from(holds))
            return msgspec.structs.replace(
                hold,
                transfer_id=draw(st.sampled_from(ids)),
                hold_id=hold.transfer_id,
                phase=draw(st.sampled_from((Phase.CAPTURED, Phase.RELEASED))),
                amount_minor=draw(st.integers(1, max(1, hold.amount_minor))),
            )
        return draw((wild if choice == "wild" else sensible)(accounts, ids))

    sizes = draw(st.lists(st.sampled_from((1, 1, 2, 5, 12)), min_size=2, max_size=8))
    while len(drawn) < sum(sizes):
        drawn.append(transfer())
    return [drawn[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


async def raw_post(store: Store, batch: list[Transfer]) -> list[str]:
    rows = await store.pool.fetch(
        "SELECT outcome FROM ledger_post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY position",
        [transfer.transfer_id for transfer in batch],
        [transfer.kind for transfer in batch],
        [transfer.phase for transfer in batch],
        [transfer.hold_id for transfer in batch],
        [transfer.debit_account_id for transfer in batch],
        [transfer.credit_account_id for transfer in batch],
        [transfer.amount_minor for transfer in batch],
        [transfer.currency for transfer in batch],
        [transfer.subject_id for transfer in batch],
        AT,
    )
    return [row["outcome"] for row in rows]


async def assert_equal_books(store: Store, model: Model) -> None:
    rows = await store.pool.fetch(
        """SELECT account_id, debits_posted_minor, credits_posted_minor, debits_pending_minor, credits_pending_minor
           FROM account WHERE account_id = ANY ($1)""",
        list(model.books),
    )
    assert {row[0]: tuple(row)[1:] for row in rows} == {key: book.counters() for key, book in model.books.items()}
    stored = await store.pool.fetch(
        "SELECT transfer_id FROM transfer WHERE debit_account_id = ANY ($1)", list(model.books)
    )
    assert {row[0] for row in stored} == set(model.transfers)
    holds = await store.pool.fetch(
        "SELECT hold_id, amount_minor - captured_minor - released_minor FROM hold WHERE debit_account_id = ANY ($1)",
        list(model.books),
    )
    assert {row[0]: row[1] for row in holds} == model.rests


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_E7_E8_any_batches_post_what_the_model_posts(store: Store, data: st.DataObject) -> None:
    """Raw batches are never too generous, and refuse only out of caution what the model would post.

    A row refused out of caution is then posted on its own, where the answer must be the model's.
    """
    books = accounts_of(uuid4())
    model = Model({book.account.account_id: book for book in books})
    ledger = Ledger(store)
    await ledger.open_accounts([book.account for book in books], AT)
    offset = uuid4().int >> 64 << 64
    ids = [UUID(int=offset + n) for n in range(30)]
    for batch in data.draw(batches([*model.books, UUID(int=offset)], ids)):
        outcomes = await raw_post(store, batch)
        cautious, posted_ids = [], set()
        for transfer, outcome in zip(batch, outcomes, strict=True):
            event(outcome)
            if outcome in CAUTIOUS and len(batch) > 1:
                cautious.append(transfer)
                continue
            # A row with a fault of its own is told that, also when its id was taken earlier in the same batch.
            fault = model.own_fault(transfer) if transfer.transfer_id in posted_ids else None
            assert outcome == (fault or model.post(transfer)), transfer
            if outcome == "posted":
                posted_ids.add(transfer.transfer_id)
        for transfer in cautious:
            assert [outcome.value for outcome in await ledger.post([transfer], AT)] == [model.post(transfer)]
        await assert_equal_books(store, model)
    for name, query in store.invariants.items():
        if name.startswith("ledger_"):
            assert await store.pool.fetch(query) == [], name
