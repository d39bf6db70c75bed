"""What tests of payouts stand on: sellers with money, and somewhere to pay it to."""

from datetime import timedelta
from uuid import uuid4

from tests.integration.outside import CALLER, World

from coatcheck.ledger import Account, Ledger, PostOutcome, Transfer, psp_receivable, seller_available, seller_pending
from coatcheck.payouts import PayoutAnswer, PayoutRequest, PayoutView

PERSON = "person ada"


async def fund(
    world: World, seller: str, amount_minor: int, currency: str = "EUR", provider: str = "simulator"
) -> None:
    """Put money into a seller's available balance, as a release would."""
    ledger, at = Ledger(world.store), world.clock.now()
    receivable = Account(CALLER.shop_id, CALLER.mode, psp_receivable(provider), currency)
    available = Account(CALLER.shop_id, CALLER.mode, seller_available(seller), currency)
    await ledger.open_accounts([receivable, available], at)
    transfer = Transfer(
        transfer_id=uuid4(),
        kind="funding",
        debit_account_id=receivable.account_id,
        credit_account_id=available.account_id,
        amount_minor=amount_minor,
        currency=currency,
        subject_id=uuid4(),
    )
    assert await ledger.post([transfer], at) == [PostOutcome.POSTED]


async def take_back(world: World, seller: str, amount_minor: int, currency: str = "EUR") -> None:
    """Take money out of a seller's available balance, as a refund after the release would."""
    at = world.clock.now()
    transfer = Transfer(
        transfer_id=uuid4(),
        kind="taking",
        debit_account_id=Account(CALLER.shop_id, CALLER.mode, seller_available(seller), currency).account_id,
        credit_account_id=Account(CALLER.shop_id, CALLER.mode, psp_receivable("simulator"), currency).account_id,
        amount_minor=amount_minor,
        currency=currency,
        subject_id=uuid4(),
    )
    assert await Ledger(world.store).post([transfer], at) == [PostOutcome.POSTED]


async def owe(world: World, seller: str, amount_minor: int, currency: str = "EUR") -> None:
    """Let a refund take a seller's pending account below zero."""
    ledger, at = Ledger(world.store), world.clock.now()
    pending = Account(CALLER.shop_id, CALLER.mode, seller_pending(seller), currency)
    receivable = Account(CALLER.shop_id, CALLER.mode, psp_receivable("simulator"), currency)
    await ledger.open_accounts([receivable, pending], at)
    transfer = Transfer(
        transfer_id=uuid4(),
        kind="taking",
        debit_account_id=pending.account_id,
        credit_account_id=receivable.account_id,
        amount_minor=amount_minor,
        currency=currency,
        subject_id=uuid4(),
    )
    assert await ledger.post([transfer], at) == [PostOutcome.POSTED]


async def house(world: World, seller: str, token: str = "dest_ok", currency: str = "EUR") -> str:
    """Give a seller somewhere to be paid to; returns the verdict."""
    return await world.gateway.payees.put_destination(CALLER, seller, currency, token, provider=None, by=PERSON)


async def seller_with(world: World, amount_minor: int, seller: str = "s1", currency: str = "EUR") -> str:
    """Make a seller who can be paid."""
    await fund(world, seller, amount_minor, currency)
    await house(world, seller, currency=currency)
    return seller


async def pay_out(
    world: World, amount_minor: int | None = None, *, seller: str = "s1", key: str = "p1", currency: str = "EUR"
) -> PayoutAnswer:
    """Ask for a payout, and run it to where it goes now."""
    asked = PayoutRequest(seller_account=seller, currency=currency, amount_minor=amount_minor)
    made = await world.gateway.payouts.request(CALLER, asked, key)
    if made.operations:
        await world.gateway.executor.start(made.operations)
    return made


async def payout_of(world: World, made: PayoutAnswer) -> PayoutView:
    """Read a payout that there is."""
    view = await world.gateway.payouts.read(made.payout_id)
    assert view is not None
    return view


async def schedule(
    world: World, seller: str, cron: str | None = "0 6 * * *", threshold_minor: int | None = None, currency: str = "EUR"
) -> str:
    """Say when a seller is paid unasked; returns the verdict."""
    return await world.gateway.payees.put_schedule(
        CALLER, seller, currency, cron=cron, threshold_minor=threshold_minor, by=PERSON
    )


async def pass_days(world: World, days: int = 1) -> None:
    """Let time pass."""
    world.clock.advance(timedelta(days=days))
