import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from coatcheck.clock import ManualClock
from coatcheck.risk import Assessor, RiskDecision, RiskSettings
from coatcheck.risk.velocity import count_failures
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest

START = datetime(2026, 10, 3, 12, 0, tzinfo=UTC)
SHOP = UUID(int=1)
SECRET = b"a secret of more than thirty-two characters"
SETTINGS = RiskSettings(
    max_amount_minor={"EUR": 100_00}, velocity_window_s=600, velocity_card=3, velocity_buyer=4, velocity_ip=5
)


def payment(card: str = "tok", buyer: str = "buyer", ip: str | None = "203.0.113.7", euros: int = 1) -> PaymentRequest:
    orders = (OrderRequest("po-1", "seller", euros * 100, "EUR", 0), OrderRequest("po-2", "seller", 100, "EUR", 0))
    return PaymentRequest(uuid4().hex, Buyer(buyer, ip=ip), card, orders)


async def fail(owner: asyncpg.Connection, subject: UUID | None, at: datetime, times: int = 1) -> None:
    await owner.executemany("INSERT INTO risk_failure (subject, at) VALUES ($1, $2)", [(subject, at)] * times)


async def test_failures_within_the_window_block_the_card_the_buyer_and_the_address(
    store: Store, owner: asyncpg.Connection
) -> None:
    clock = ManualClock(START)
    assessor = Assessor(store, clock, SETTINGS, SECRET)
    tried = assessor.subjects(SHOP, Mode.TEST, payment())
    assert tried.ip is not None
    for rule, subject, limit, same in (
        ("velocity_card", tried.card, 3, payment(buyer="other", ip=None)),
        ("velocity_buyer", tried.buyer, 4, payment(card="other", ip=None)),
        ("velocity_ip", tried.ip, 5, payment(card="other", buyer="other")),
    ):
        await fail(owner, subject, START, times=limit - 1)
        assert (await assessor.assess(SHOP, Mode.TEST, same)).decision is RiskDecision.ALLOW
        await fail(owner, subject, START)
        blocked = await assessor.assess(SHOP, Mode.TEST, same)
        assert blocked.decision is RiskDecision.BLOCK
        assert [signal.rule for signal in blocked.signals] == [rule]
    assert (await assessor.assess(SHOP, Mode.LIVE, payment())).decision is RiskDecision.ALLOW
    assert (await assessor.assess(uuid4(), Mode.TEST, payment())).decision is RiskDecision.ALLOW
    clock.advance(timedelta(seconds=600))
    assert (await assessor.assess(SHOP, Mode.TEST, payment())).decision is RiskDecision.ALLOW


async def test_the_decision_carries_the_subjects_to_count_a_decline_under(store: Store) -> None:
    assessor = Assessor(store, ManualClock(START), SETTINGS, SECRET)
    with_ip, without = payment(), payment(ip=None)
    assert (await assessor.assess(SHOP, Mode.TEST, with_ip)).subjects == assessor.subjects(
        SHOP, Mode.TEST, with_ip
    ).given
    assert len((await assessor.assess(SHOP, Mode.TEST, without)).subjects) == 2


async def test_the_amount_limit_counts_the_whole_payment(store: Store) -> None:
    assessor = Assessor(store, ManualClock(START), SETTINGS, SECRET)
    assert (await assessor.assess(SHOP, Mode.TEST, payment(euros=99))).decision is RiskDecision.ALLOW
    assert (await assessor.assess(SHOP, Mode.TEST, payment(euros=100))).decision is RiskDecision.BLOCK


async def test_many_payments_at_once_each_get_their_own_answer(store: Store, owner: asyncpg.Connection) -> None:
    sizes: list[int] = []
    assessor = Assessor(store, ManualClock(START), SETTINGS, SECRET, observe=lambda size, _: sizes.append(size))
    requests = [payment(card=f"tok-{n}", buyer=f"buyer-{n}", ip=None) for n in range(100)]
    for request in requests[::10]:
        await fail(owner, assessor.subjects(SHOP, Mode.TEST, request).card, START, times=3)
    decisions = await asyncio.gather(*[assessor.assess(SHOP, Mode.TEST, request) for request in requests])
    assert [n for n, decision in enumerate(decisions) if decision.decision is RiskDecision.BLOCK] == [
        *range(0, 100, 10)
    ]
    assert sum(sizes) == 100
    assert len(sizes) < 10


async def test_switched_off_the_rules_allow_everything_and_ask_nothing(store: Store) -> None:
    queries: list[int] = []
    assessor = Assessor(
        store, ManualClock(START), RiskSettings(enabled=False), SECRET, observe=lambda size, _: queries.append(size)
    )
    decision = await assessor.assess(SHOP, Mode.TEST, payment(euros=10**6))
    assert (decision.decision, decision.signals, decision.subjects) == (RiskDecision.ALLOW, (), ())
    assert queries == []


async def test_counting_stops_at_the_most_that_matters_and_forgets_what_is_old(
    store: Store, owner: asyncpg.Connection
) -> None:
    often, once, old, never = (uuid4() for _ in range(4))
    await fail(owner, often, START, times=50)
    await fail(owner, once, START)
    await fail(owner, old, START - timedelta(seconds=10), times=2)
    since = START - timedelta(seconds=10)
    assert await count_failures(store, [often, once, old, never], since, 7) == {often: 7, once: 1}
    assert await count_failures(store, [], since, 7) == {}


async def test_the_count_reads_the_index_however_large_the_table_is(store: Store, owner: asyncpg.Connection) -> None:
    await owner.execute(
        "INSERT INTO risk_failure SELECT gen_random_uuid(), $1::timestamptz FROM generate_series(1, 20000)", START
    )
    await owner.execute("ANALYZE risk_failure")
    plan = await owner.fetch(
        "EXPLAIN "
        + store.queries["risk_failures"]
        .replace("$1", "ARRAY[gen_random_uuid(), gen_random_uuid()]")
        .replace("$2", "'2026-10-03T00:00:00Z'::timestamptz")
        .replace("$3", "50")
    )
    text = "\n".join(row[0] for row in plan)
    assert "risk_failure_by_subject" in text
    assert "Seq Scan on risk_failure" not in text
