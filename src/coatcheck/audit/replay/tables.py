"""The tables of the money path that are compared: their columns, where a replay's rows wait, and the SQL that compares.

`books` has those of the other subjects as well.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from coatcheck.audit.replay.bodies import Said
from coatcheck.audit.replay.rows import (
    AccountRow,
    AdoptedPaymentRow,
    CheckoutDecisionRow,
    OperationRow,
    OrderRow,
    PaymentRow,
    PayoutRow,
    RefundRow,
    TransferRow,
)

ROW = "row"  # the column of a difference that is a whole row's: one side does not have it

_COUNTERS = ("debits_posted_minor", "credits_posted_minor", "debits_pending_minor", "credits_pending_minor")
# Compared as another type: what has no = of its own, or is padded, as text; sums as what cannot overflow.
_AS = MappingProxyType(
    dict.fromkeys(("metadata", "risk_signals", "currency"), "text") | dict.fromkeys(_COUNTERS, "numeric")
)
# Shown by their digest: the frozen body of a request is long, and names the buyer's payment token.
_AS_DIGEST = frozenset({"body"})
_NONE: Mapping[str, str] = MappingProxyType({})

_WALLETS = """
SELECT shop_id, mode, seller, currency,
       coalesce(sum(credit_minor) FILTER (WHERE kind = 'seller_pending'), 0) AS pending_minor,
       coalesce(sum(credit_minor - debits_pending_minor) FILTER (WHERE kind = 'seller_available'), 0)
           AS available_minor,
       coalesce(sum(credit_minor) FILTER (WHERE kind = 'seller_reserve'), 0) AS reserve_minor,
       coalesce(sum(credit_minor) FILTER (WHERE kind = 'payouts_in_transit'), 0) AS in_payout_minor
  FROM (SELECT *, credits_posted_minor - debits_posted_minor AS credit_minor,
               CASE kind WHEN 'seller_pending' THEN substring(name FROM '^seller:(.*):pending$')
                         WHEN 'seller_available' THEN substring(name FROM '^seller:(.*):available$')
                         WHEN 'seller_reserve' THEN substring(name FROM '^seller:(.*):reserve$')
                         WHEN 'payouts_in_transit' THEN substring(name FROM '^payouts:in_transit:(.*)$') END AS seller
          FROM {accounts}) AS account_of
 WHERE seller IS NOT NULL
 GROUP BY shop_id, mode, seller, currency
"""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A temporary table of a replay. It has the columns of `like`, a SELECT that is not run, and none of its rules.

    `row`: what the fold makes for it, its fields named as the columns; None where SQL fills it.
    """

    name: str
    like: str
    row: type[msgspec.Struct] | None = None

    def make(self) -> str:
        """Write the statement that makes it."""
        made = f"CREATE TEMPORARY TABLE {place_of(self.name)} ON COMMIT DROP"
        return f"{made} AS SELECT * FROM ({self.like}) AS s WITH NO DATA"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table to compare, by its key. `replayed` and `stored` are SELECTs of the same columns of the same types.

    `place`: where the replay's rows wait; None where `replayed` reads from another's. `instead`: what to compare a
    column with, in terms of the replay's row r and the stored row s, where an event can leave a choice.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    replayed: str
    stored: str
    place: Place | None = None
    instead: Mapping[str, str] = _NONE

    @property
    def every_column(self) -> tuple[str, ...]:
        """The key and what is compared."""
        return (*self.key, *self.columns)

    def count(self) -> str:
        """Write the SELECT that counts the stored rows."""
        return f"SELECT count(*) FROM ({self.stored}) AS s"

    def differences(self) -> str:
        """Write the SELECT of key, column, replayed and stored value, for every column that differs."""
        side = ", ".join(f"{self._of_replay(name)} AS r_{name}, s.{name} AS s_{name}" for name in self.columns)
        meets = " AND ".join(f"r.{name} = s.{name}" for name in self.key)
        key = ", ' ', ".join(f"coalesce(r.{name}, s.{name})" for name in self.key)
        here = f"r.{self.key[0]} IS NOT NULL AS is_replayed, s.{self.key[0]} IS NOT NULL AS is_stored"
        every_r = ", ".join(f"r_{name}" for name in self.columns)
        every_s = ", ".join(f"s_{name}" for name in self.columns)
        values = ", ".join(f"('{name}', {_shown(name, 'r')}, {_shown(name, 's')})" for name in self.columns)
        return f"""
            SELECT pair.key, told.name AS column, told.replayed, told.stored, pair.is_stored
              FROM (SELECT concat({key}) AS key, {here}, {side}
                      FROM ({self.replayed}) AS r FULL JOIN ({self.stored}) AS s ON {meets}) AS pair
             CROSS JOIN LATERAL (
                   SELECT v.* FROM (VALUES {values}) AS v (name, replayed, stored)
                    WHERE is_replayed AND is_stored AND v.replayed IS DISTINCT FROM v.stored
                   UNION ALL
                   SELECT '{ROW}', CASE WHEN is_replayed THEN 'is there' END, CASE WHEN is_stored THEN 'is there' END
                    WHERE is_replayed IS DISTINCT FROM is_stored) AS told
             WHERE is_replayed IS DISTINCT FROM is_stored OR ROW({every_r}) IS DISTINCT FROM ROW({every_s})
             ORDER BY pair.key, told.name
        """

    def _of_replay(self, name: str) -> str:
        return self.instead.get(name, f"r.{name}")


def _shown(name: str, side: str) -> str:
    value = f"{side}_{name}"
    return f"'sha256 ' || encode(sha256({value}), 'hex')" if name in _AS_DIGEST else f"{value}::text"


def place_of(name: str) -> str:
    """Name the temporary table in which the replay's rows of a table wait."""
    return f"replayed_{name}"


def _select(names: Iterable[str], source: str, types: Mapping[str, str] = _AS) -> str:
    columns = [f"{name}::{types[name]} AS {name}" if name in types else name for name in names]
    return f"SELECT {', '.join(columns)} FROM {source}"


def columns_of(row: type[msgspec.Struct]) -> tuple[str, ...]:
    """Name the columns that a row has: its fields, without the transfers of a row that is an event's own body."""
    moved = columns_of(Said) if issubclass(row, Said) and row is not Said else ()
    return tuple(field.name for field in msgspec.structs.fields(row) if field.name not in moved)


def table_of(
    name: str,
    row: type[msgspec.Struct],
    *,
    keys: int = 1,
    as_text: Iterable[str] = (),
    working: Mapping[str, str] = _NONE,
    more: tuple[str, ...] = (),
    is_folded: bool = True,
    instead: Mapping[str, str] = _NONE,
) -> Table:
    """Describe a table whose key is its first column, or the first `keys`; rows of that kind are what the fold makes.

    `as_text`: columns without an = of their own, as json. `working`: columns of the replay's side alone, by type.
    `more`: columns that SQL fills; then, or where it makes the whole row, `is_folded` is false.
    """
    columns = tuple(column for column in columns_of(row) if column not in working) + more
    types = _AS | dict.fromkeys(as_text, "text")
    stored = _select(columns, f"public.{name}", types)
    like = "".join(f", NULL::{type_} AS {column}" for column, type_ in working.items())
    return Table(
        name=name,
        key=columns[:keys],
        columns=columns[keys:],
        replayed=f"SELECT {', '.join((*columns, *working))} FROM pg_temp.{place_of(name)}",
        stored=stored,
        place=Place(name=name, like=f"SELECT s.*{like} FROM ({stored}) AS s", row=row if is_folded else None),
        instead=instead,
    )


_HOLD_COLUMNS = (
    "debit_account_id",
    "credit_account_id",
    "currency",
    "amount_minor",
    "captured_minor",
    "released_minor",
)
_WALLET_KEY = ("shop_id", "mode", "seller", "currency")
_WALLET_COLUMNS = ("pending_minor", "available_minor", "reserve_minor", "in_payout_minor")

PAYMENT = table_of("payment", PaymentRow)
PAYMENT_ORDER = table_of("payment_order", OrderRow)
OPERATION = table_of(
    "operation",
    OperationRow,
    working=MappingProxyType({"was_decided": "boolean"}),
)
REFUND = table_of("refund", RefundRow)
PAYOUT = table_of("payout", PayoutRow)
ADOPTED_PAYMENT = table_of("adopted_payment", AdoptedPaymentRow)
CHECKOUT_DECISION = table_of("checkout_decision", CheckoutDecisionRow)
ACCOUNT = table_of("account", AccountRow, more=_COUNTERS, is_folded=False)
TRANSFER = table_of("transfer", TransferRow)
_HOLDS = (
    "SELECT hold_id, debit_account_id, credit_account_id, currency, amount_minor, "
    "captured_minor::numeric AS captured_minor, released_minor::numeric AS released_minor FROM public.hold"
)
HOLD = Table(
    name="hold",
    key=("hold_id",),
    columns=_HOLD_COLUMNS,
    replayed=f"SELECT {', '.join(('hold_id', *_HOLD_COLUMNS))} FROM pg_temp.{place_of('hold')}",
    stored=_HOLDS,
    place=Place(name="hold", like=_HOLDS),
)
BALANCE = Table(
    name="wallet_balance",
    key=_WALLET_KEY,
    columns=_WALLET_COLUMNS,
    replayed=_WALLETS.format(accounts=f"pg_temp.{place_of('account')}"),
    stored=_WALLETS.format(accounts=f"({_select(ACCOUNT.every_column, 'public.account')}) AS stored_account"),
)

MONEY_PATH = (
    *(PAYMENT, PAYMENT_ORDER, OPERATION, REFUND, CHECKOUT_DECISION, ADOPTED_PAYMENT, PAYOUT),
    *(TRANSFER, HOLD, ACCOUNT, BALANCE),
)

# Accounts as they were opened, before their counters are summed up.
OPENED = Place(name="account_opened", like=_select(columns_of(AccountRow), "public.account"), row=AccountRow)

# A hold is what its transfers say, and so is a counter. Two accounts or amounts of one hold would be two rows of it.
SUMS = (
    f"""
    INSERT INTO pg_temp.{place_of("hold")} ({", ".join(HOLD.every_column)})
    SELECT made.transfer_id, made.debit_account_id, made.credit_account_id, made.currency, made.amount_minor,
           coalesce(ended.captured, 0), coalesce(ended.released, 0)
      FROM pg_temp.{place_of("transfer")} AS made
      LEFT JOIN (SELECT hold_id, sum(amount_minor) FILTER (WHERE phase = 'captured') AS captured,
                        sum(amount_minor) FILTER (WHERE phase = 'released') AS released
                   FROM pg_temp.{place_of("transfer")} WHERE hold_id IS NOT NULL GROUP BY hold_id) AS ended
        ON ended.hold_id = made.transfer_id
     WHERE made.phase = 'held'
    """,
    f"""
    INSERT INTO pg_temp.{place_of("account")} ({", ".join(ACCOUNT.every_column)})
    SELECT coalesce(opened.account_id, moved.account_id), opened.shop_id, opened.mode, opened.name, opened.kind,
           opened.currency, opened.opened_at, coalesce(moved.debits_posted, 0), coalesce(moved.credits_posted, 0),
           coalesce(moved.debits_pending, 0), coalesce(moved.credits_pending, 0)
      FROM pg_temp.{place_of(OPENED.name)} AS opened
      FULL JOIN (
           SELECT account_id, sum(posted * debit) AS debits_posted, sum(posted * credit) AS credits_posted,
                  sum(pending * debit) AS debits_pending, sum(pending * credit) AS credits_pending
             FROM pg_temp.{place_of("transfer")} AS t
            CROSS JOIN LATERAL (VALUES (t.debit_account_id, 1, 0), (t.credit_account_id, 0, 1))
                    AS leg (account_id, debit, credit)
            CROSS JOIN LATERAL (
                  SELECT CASE WHEN t.phase IN ('posted', 'captured') THEN t.amount_minor ELSE 0 END AS posted,
                         CASE t.phase WHEN 'posted' THEN 0 WHEN 'held' THEN t.amount_minor ELSE -t.amount_minor END
                             AS pending) AS moves
            GROUP BY account_id) AS moved
        ON moved.account_id = opened.account_id
    """,
)
