"""The witnesses: the database's tables, read by SQL of the drill's own, and the PSP's books, by its admin API."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import aiohttp
import asyncpg
import msgspec

from coatcheck.drill.plan import minor_units
from coatcheck.drill.rebuild import Rebuilt

_PAGE: Final = 1_000
_WRONGS: Final = ("charged_twice", "done_twice", "over_captured", "over_refunded", "paid_out_twice")
PSP_KEY: Final[Mapping[str, str]] = {"Authorization": "Bearer sk_sim_test_coatcheck"}
# Of a line of the PSP's settlement file (docs/simulator.md).
TYPE, ID, OCCURRED_AT, CURRENCY, FEE, NET = 2, 3, 6, 7, 9, 10
_ROWS_AT_ONCE: Final = 5_000

_ORDERS: Final = """
SELECT o.order_id, o.payment_order_id, p.checkout_id, p.on_failure, o.seller_account, o.currency::text AS currency,
       o.amount_minor, o.commission_minor, o.status, o.provider_reference, o.authorized_minor, o.captured_minor,
       o.refund_reserved_minor, o.refunded_minor, o.refund_commission_minor
  FROM payment_order AS o LEFT JOIN payment AS p USING (payment_id)
"""
_REFUNDS: Final = """
SELECT r.refund_id, r.order_id, r.amount_minor, r.commission_minor, r.status, o.operation_id
  FROM refund AS r LEFT JOIN operation AS o USING (refund_id)
"""
_UNDECIDED: Final = """
SELECT operation_id, order_id, kind, status, cause FROM operation WHERE status NOT IN ('APPROVED', 'DECLINED')
"""
_PAYOUTS: Final = """
SELECT p.payout_id, p.key, p.seller_account, p.currency::text AS currency, p.amount_minor, p.status, o.operation_id
  FROM payout AS p LEFT JOIN operation AS o ON o.order_id = p.payout_id
"""
_DISPUTES: Final = """
SELECT d.dispute_id, d.order_id, d.provider_reference, d.status,
       coalesce(-sum(m.gross_minor), 0)::bigint AS taken_minor, coalesce(sum(m.fee_minor), 0)::bigint AS fee_minor
  FROM dispute AS d LEFT JOIN dispute_movement AS m USING (dispute_id) GROUP BY d.dispute_id
"""
_BREAKS: Final = "SELECT kind, batch, line_no, detail FROM reconciliation_break WHERE closed_at IS NULL"
_EVIDENCE: Final = "SELECT dispute_id FROM dispute_evidence WHERE status = 'PENDING'"
_ACCOUNTS: Final = """
SELECT a.account_id, a.name, a.kind, a.currency::text AS currency, a.debits_posted_minor, a.credits_posted_minor,
       a.debits_pending_minor, a.credits_pending_minor,
       coalesce(d.posted, 0)::bigint AS moved_debit_minor, coalesce(c.posted, 0)::bigint AS moved_credit_minor
  FROM account AS a
  LEFT JOIN (SELECT debit_account_id AS account_id,
                    sum(amount_minor) FILTER (WHERE phase IN ('posted', 'captured')) AS posted
               FROM transfer GROUP BY 1) AS d USING (account_id)
  LEFT JOIN (SELECT credit_account_id AS account_id,
                    sum(amount_minor) FILTER (WHERE phase IN ('posted', 'captured')) AS posted
               FROM transfer GROUP BY 1) AS c USING (account_id)
"""
# What an event is about comes first, wherever the rows lie.
_BEGINNINGS: Final = (
    "kind IN ('payment.accepted', 'payment.adopted', 'payment.recognised', 'payout.requested', 'payout.adopted')"
)
_EVENTS: Final = f"SELECT kind, body::text AS body FROM event WHERE ({_BEGINNINGS}) = $1"
# A gateway that has work, an event that waits, an authorization that is about to be asked about.
_WAITING: Final = """
SELECT (SELECT count(*) FROM lease) + (SELECT count(*) FROM inbox_lease WHERE due_at IS NOT NULL)
       + (SELECT count(*) FROM authorization_watch WHERE due_at <= clock_timestamp() + interval '15 seconds')
       + (SELECT count(*) FROM dispute_evidence WHERE status = 'PENDING')
"""


@dataclass(frozen=True, slots=True)
class PspCharge:
    """One charge in the PSP's books; amounts in minor units."""

    charge_id: str
    reference: str
    status: str
    currency: str
    amount_minor: int
    captured_minor: int
    refunded_minor: int


@dataclass(frozen=True, slots=True)
class PspAction:
    """One capture, void or refund in the PSP's books."""

    action_id: str
    kind: str
    charge_id: str
    reference: str
    status: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class PspDispute:
    """One dispute in the PSP's books: what it took and has not given back, and the fees of it."""

    dispute_id: str
    charge_id: str
    currency: str
    status: str
    taken_minor: int
    fee_minor: int


@dataclass(frozen=True, slots=True)
class PspPayout:
    """One payout to a seller in the PSP's books."""

    payout_id: str
    reference: str
    destination: str
    currency: str
    amount_minor: int
    status: str


@dataclass(frozen=True, slots=True)
class PspBooks:
    """What the PSP says. `wrongs`: references, by what the PSP itself calls them (charged_twice, over_refunded ...).

    `fees` of charges and `paid_out` to us, by currency, are what all its settlement files say.
    """

    charges: Sequence[PspCharge]
    actions: Sequence[PspAction]
    disputes: Sequence[PspDispute]
    payouts: Sequence[PspPayout]
    fees: Mapping[str, int]
    paid_out: Mapping[str, int]
    wrongs: Mapping[str, Sequence[str]]
    faults: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database says, as its rows are."""

    payments: int
    orders: Sequence[Mapping[str, Any]]
    refunds: Sequence[Mapping[str, Any]]
    payouts: Sequence[Mapping[str, Any]]
    disputes: Sequence[Mapping[str, Any]]
    breaks: Sequence[Mapping[str, Any]]
    evidence_waiting: int
    undecided: Sequence[Mapping[str, Any]]
    accounts: Sequence[Mapping[str, Any]]
    rebuilt: Rebuilt = field(default_factory=Rebuilt)


class Witnesses:
    """The PSP and the database of one installation, asked directly: no proxy and no gateway in between."""

    def __init__(self, database_url: str, simulator_url: str) -> None:
        self._database_url = database_url
        self._simulator_url = simulator_url

    async def read_rows(self, *, with_events: bool = True) -> Rows:
        """Read the whole database, on one snapshot."""
        connection = await asyncpg.connect(self._database_url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                rebuilt = Rebuilt()
                for begins in (True, False) if with_events else ():
                    async for event in connection.cursor(_EVENTS, begins, prefetch=_ROWS_AT_ONCE):
                        rebuilt.hear(event["kind"], msgspec.json.decode(event["body"]))
                return Rows(
                    payments=await connection.fetchval("SELECT count(*) FROM payment"),
                    orders=await _rows(connection, _ORDERS),
                    refunds=await _rows(connection, _REFUNDS),
                    payouts=await _rows(connection, _PAYOUTS),
                    disputes=await _rows(connection, _DISPUTES),
                    breaks=await _rows(connection, _BREAKS),
                    evidence_waiting=len(await _rows(connection, _EVIDENCE)),
                    undecided=await _rows(connection, _UNDECIDED),
                    accounts=await _rows(connection, _ACCOUNTS),
                    rebuilt=rebuilt,
                )
        finally:
            await connection.close()

    async def read_books(self) -> PspBooks:
        """Read all of the PSP's books."""
        async with aiohttp.ClientSession(base_url=self._simulator_url, trust_env=False) as session:
            books = await _read(session, "/admin/books")
            fees, paid_out = await _settled(session)
            return PspBooks(
                charges=[
                    PspCharge(
                        each["id"],
                        each["reference"],
                        each["status"],
                        each["currency"],
                        each["amount"],
                        each["amount_captured"],
                        each["amount_refunded"],
                    )
                    for each in await _pages(session, "/admin/charges")
                ],
                actions=[
                    PspAction(*[each[name] for name in ("id", "object", "charge", "reference", "status", "amount")])
                    for each in await _pages(session, "/admin/actions")
                ],
                disputes=[_dispute(each) for each in await _pages(session, "/admin/disputes")],
                payouts=[_payout(each) for each in await _pages(session, "/admin/payouts")],
                fees=fees,
                paid_out=paid_out,
                wrongs={name: books[name] for name in _WRONGS},
                faults=books["faults"],
            )

    async def read_faults(self) -> Mapping[str, int]:
        """Ask the PSP what it did wrong on purpose."""
        async with aiohttp.ClientSession(base_url=self._simulator_url, trust_env=False) as session:
            counted: Mapping[str, int] = (await _read(session, "/admin/books"))["faults"]
            return counted

    async def count_waiting(self) -> int:
        """Count what somebody still works on, here or at the PSP, and events on their way; 0 is quiet."""
        connection = await asyncpg.connect(self._database_url)
        try:
            waiting: int = await connection.fetchval(_WAITING)
        finally:
            await connection.close()
        async with aiohttp.ClientSession(base_url=self._simulator_url, trust_env=False) as session:
            on_the_way: int = (await _read(session, "/admin/webhooks"))["pending"]
        return waiting + on_the_way

    async def set_dial(self, dial: Mapping[str, Any]) -> None:
        """Turn the PSP's chaos dial."""
        async with (
            aiohttp.ClientSession(base_url=self._simulator_url, trust_env=False) as session,
            session.put("/admin/chaos", data=msgspec.json.encode(dial)) as response,
        ):
            response.raise_for_status()

    async def settle_pending(self, dice: Any) -> int:
        """Decide, as a bank would after a while, the charges that are pending at the PSP. Returns how many."""
        async with aiohttp.ClientSession(base_url=self._simulator_url, trust_env=False) as session:
            if not (await _read(session, "/admin/books"))["statuses"].get("pending"):
                return 0
            settled = 0
            for reference in await _read(session, "/admin/references?status=pending"):
                settled += await _settle(session, reference, dice)
            return settled


async def _rows(connection: asyncpg.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(query)]


async def _settle(session: aiohttp.ClientSession, reference: str, dice: Any) -> int:
    """Decide the pending charges under a reference: four of five succeed."""
    settled = 0
    async with session.get(f"/v1/charges?reference={reference}", headers=PSP_KEY) as response:
        found = msgspec.json.decode(await response.read()).get("data", []) if response.ok else []
    for charge in found:
        if charge["status"] == "pending":
            status = "declined" if dice.random() < 0.2 else "succeeded"  # noqa: PLR2004
            async with session.post(f"/admin/settle/{charge['id']}", json={"status": status}) as response:
                settled += response.ok
    return settled


async def _pages(session: aiohttp.ClientSession, path: str) -> list[dict[str, Any]]:
    """Read a list to its end."""
    lines: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = await _read(session, f"{path}?cursor={cursor}&limit={_PAGE}")
        lines += page["data"]
        cursor = page["next_cursor"]
    return lines


def _dispute(found: Mapping[str, Any]) -> PspDispute:
    moved = found["movements"]
    return PspDispute(
        dispute_id=found["id"],
        charge_id=found["charge"],
        currency=found["currency"],
        status=found["status"],
        taken_minor=-sum(each["amount"] for each in moved),
        fee_minor=sum(each["fee"] for each in moved),
    )


def _payout(found: Mapping[str, Any]) -> PspPayout:
    return PspPayout(*[found[name] for name in ("id", "reference", "destination", "currency", "amount", "status")])


async def _settled(session: aiohttp.ClientSession) -> tuple[Counter[str], Counter[str]]:
    """Add up the fees of charges, and what was paid out to us, of every settlement file; by currency."""
    fees: Counter[str] = Counter()
    paid_out: Counter[str] = Counter()
    for batch in (await _read(session, "/v1/settlements"))["data"]:
        async with session.get(f"/v1/settlements/{batch['id']}/file", headers=PSP_KEY) as response:
            response.raise_for_status()
            async for line in response.content:
                row = line.decode().rstrip().split(",")
                kind, currency = row[TYPE], row[CURRENCY]
                if kind in ("charge", "capture"):
                    fees[currency] += minor_units(row[FEE], currency)
                elif kind == "payout":
                    paid_out[currency] -= minor_units(row[NET], currency)
    return fees, paid_out


async def _read(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path, headers=PSP_KEY) as response:
        response.raise_for_status()
        return msgspec.json.decode(await response.read(), type=dict[str, Any])


def printed(prefix: str, value: UUID) -> str:
    """Print an id as the PSP and the API show it: base32 (RFC 4648) of its 128 bits, in small letters."""
    number = int.from_bytes(value.bytes, "big") << 2
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return f"{prefix}_" + "".join(alphabet[number >> shift & 31] for shift in range(125, -1, -5))
