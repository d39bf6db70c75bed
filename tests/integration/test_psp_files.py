"""The files of real PSPs, from the file to the bank: matched, broken, posted, and every clearing account at zero."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.integration.outside import CALLER, SETTINGS, Answer, ScriptedProvider, World, approved, declined
from tests.integration.psp_files import PSPS, Psp, Row
from tests.integration.test_bank_statements import statement
from tests.integration.test_reconciliation import kinds

from coatcheck.audit.replay import Difference, replay
from coatcheck.ids import OPERATION, order_id_of, print_id
from coatcheck.ledger import Ledger
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent
from coatcheck.reconciliation.ageing import read_ageing
from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.report import Report
from coatcheck.states import OperationKind
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest

QUEUED = {"status": "queue", "missing_here": "queue"}


def called(name: str, answer: Answer = approved) -> Answer:
    """An answer in which the PSP gives the thing this name."""

    def say(intent: Intent) -> Outcome:
        return msgspec.structs.replace(answer(intent), provider_reference=name)

    return say


class Office:
    """A gateway whose PSP is one of the real ones by name, and what finance does with that PSP's files."""

    def __init__(self, store: Store, directory: Path, psp: Psp, rules: Mapping[str, str] = QUEUED) -> None:
        self.psp, self._directory = psp, directory
        self.provider = ScriptedProvider(payout_token="acct_[a-z]+")
        self.provider.name = psp.name
        # There is no adapter of some of them: their files are read all the same.
        settings = replace(SETTINGS, provider=psp.name, break_rules=rules)  # type: ignore[arg-type]
        self.world = World(store, self.provider, settings=settings)

    async def charge(
        self, name: str, minor: int = 5000, currency: str = "EUR", answer: Callable[[Intent], Outcome] = approved
    ) -> str:
        """Charge an order; the PSP calls the charge by its name. Returns our reference there."""
        self.provider.charges.append(called(name, answer))
        order = OrderRequest(name, f"seller-{name}", minor, currency, minor // 10)
        await self.world.pay(PaymentRequest(name, Buyer("buyer-1", country="GB"), "tok_approve", (order,)), name)
        return await self._reference_of(name, OperationKind.CHARGE)

    async def refund(self, name: str, of: str, minor: int) -> str:
        self.provider.acts.setdefault(OperationKind.REFUND, []).append(called(name))
        await self.world.refund(of, minor, name)
        return await self._reference_of(of, OperationKind.REFUND)

    async def _reference_of(self, order: str, kind: OperationKind) -> str:
        order_id = order_id_of(CALLER.shop_id, CALLER.mode, order)
        sought = "SELECT operation_id FROM operation WHERE order_id = $1 AND kind = $2"
        return print_id(OPERATION, await self.world.store.pool.fetchval(sought, order_id, kind.value))

    async def take(self, *rows: Row, batch: str = "1", name: str = "file.csv") -> Report:
        return await self.arrive(self.psp.write(rows, batch), name)

    async def arrive(self, text: str, name: str) -> Report:
        path = self._directory / name
        path.write_text(text, "utf-8")
        source = Source(path=path, name=name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="ada")
        return await self.world.gateway.arrivals.take(source)

    async def bank(self, minor: int, batch: str = "1", currency: str = "EUR") -> Report:
        """The bank says that a payout has arrived."""
        text = statement((f"{minor // 100}.{minor % 100:02}", self.psp.of_the_bank.format(batch)))
        return await self.arrive(text.replace('Ccy="EUR"', f'Ccy="{currency}"'), f"statement {batch} {currency}.xml")

    async def standing(self) -> dict[str, int]:
        """What the accounts hold that settlements move, sellers' and commission aside."""
        found = await Ledger(self.world.store).trial_balance(CALLER.shop_id, CALLER.mode)
        assert all(each.difference_minor == 0 for each in found)
        return {
            f"{account.name} {each.currency}".replace(f":{self.psp.name}", ""): account.balance_minor
            for each in found
            for account in each.accounts
            if account.balance_minor and not account.name.startswith(("seller:", "platform:commission"))
        }

    async def is_true(self) -> None:
        """The books hold, replay, and nothing in the clearing accounts is without a name and an age."""
        assert await self.world.violations() == {}
        found: list[Difference] = []
        await replay(self.world.store, found.append)
        assert found == []
        ageing = await read_ageing(self.world.store, self.world.clock, CALLER.shop_id, CALLER.mode)
        assert [each for each in ageing.accounts if each.undated_minor or each.kind == "fx"] == []


@pytest.fixture(params=PSPS, ids=[psp.name for psp in PSPS])
def office(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Office:
    return Office(store, tmp_path, request.param)


def office_of(name: str, store: Store, directory: Path, rules: Mapping[str, str] = QUEUED) -> Office:
    (psp,) = [psp for psp in PSPS if psp.name == name]
    return Office(store, directory, psp, rules)


async def test_H9_a_file_that_agrees_leaves_nothing_behind_once_the_bank_has_its_payout(office: Office) -> None:
    rows = [
        Row(kind="charge", name="A1", reference=await office.charge("A1", 5000), gross=5000, fee=100),
        Row(kind="charge", name="B2", reference=await office.charge("B2", 2000), gross=2000, fee=50),
        Row(kind="refund", name="R3", reference=await office.refund("R3", "A1", 1500), charge="A1", gross=-1500),
        Row(kind="fee", name="F4", fee=30),
    ]
    report = await office.take(*rows)
    assert (kinds(report), report.matched, report.provider) == ([], 4, office.psp.name)
    assert [each.payout_minor for each in report.totals] == [5320]
    fees = {"platform:psp_fees EUR": 180}
    assert await office.standing() == fees | {"psp:payouts_in_transit EUR": 5320}
    arrived = await office.bank(5320)
    assert (kinds(arrived), arrived.matched) == ([], 1)
    assert await office.standing() == fees | {"bank:DE02120300000000202051 EUR": 5320}
    await office.is_true()
    assert (await office.take(*rows)).is_repeat


async def test_H5_every_break_of_a_file_is_named_and_what_is_left_comes_to_nothing(office: Office) -> None:
    ours, other = await office.charge("A1", 5000), await office.charge("B2", 2000)
    refused = await office.charge("D3", 900, answer=declined)
    back = await office.refund("R4", "A1", 1500)
    found = await office.take(
        Row(kind="charge", name="A1", reference=ours, gross=5000, fee=100),
        Row(kind="charge", name="B2", reference=other, gross=2100, fee=50),
        Row(kind="charge", name="A1", reference=ours, gross=5000, fee=100),
        Row(kind="charge", name="X5", reference="not-of-ours", gross=700, fee=10),
        Row(kind="charge", name="A6", reference=ours, gross=5000, fee=100),
        Row(kind="charge", name="D3", reference=refused, gross=900, fee=20),
        Row(kind="refund", name="R4", reference=back, charge="A1", gross=-1400),
        Row(kind="refund", name="R7", charge="A1", gross=-300),
        Row(kind="odd", name="O8", gross=250),
    )
    assert [(each.kind, each.suspense_minor) for each in found.mismatches] == [
        ("amount", 100),
        ("duplicate_line", 5000),
        ("missing_here", 700),
        ("duplicate_charge", 5000),
        ("status", 900),
        ("amount", 100),
        ("missing_here", -300),
        ("unexplained", 250),
    ]
    assert found.matched == 1
    net, fees = 5000 + 2100 + 5000 + 700 + 5000 + 900 - 1400 - 300 + 250 - 380, 380
    assert await office.standing() == {
        "psp:payouts_in_transit EUR": net,
        "platform:psp_fees EUR": fees,
        "suspense EUR": -sum(each.suspense_minor for each in found.mismatches),
    }
    assert (await office.bank(net)).is_clean
    assert "psp:payouts_in_transit EUR" not in await office.standing()
    await office.is_true()


# What the PSP has converted. PayPal does not tell it on the line of the payment.
CONVERTING = ("stripe", "adyen", "checkout")


@pytest.mark.parametrize("name", CONVERTING)
async def test_E8_what_is_settled_in_another_currency_passes_through_the_fx_account(
    name: str, store: Store, tmp_path: Path
) -> None:
    office = office_of(name, store, tmp_path)
    rows = [
        Row(
            kind="charge",
            name="A1",
            reference=await office.charge("A1", 10_000, "USD"),
            gross=9000,
            fee=200,
            asked=(10_000, "USD"),
        ),
        Row(kind="charge", name="B2", reference=await office.charge("B2", 2000), gross=2000, fee=50),
        Row(
            kind="refund",
            name="R3",
            reference=await office.refund("R3", "A1", 3000),
            charge="A1",
            gross=-2750,
            asked=(-3000, "USD"),
        ),
    ]
    report = await office.take(*rows)
    assert (kinds(report), report.matched) == ([], 3)
    paid = 9000 + 2000 - 2750 - 250
    position = {"fx USD": 7000, "fx EUR": -6250, "platform:psp_fees EUR": 250}
    assert await office.standing() == position | {"psp:payouts_in_transit EUR": paid}
    assert (await office.bank(paid)).is_clean
    assert await office.standing() == position | {"bank:DE02120300000000202051 EUR": paid}
    await office.is_true()


async def test_E8_a_conversion_in_two_lines_passes_through_fx_and_half_of_one_is_a_break(
    store: Store, tmp_path: Path
) -> None:
    office = office_of("paypal", store, tmp_path)
    ours = await office.charge("A1", 10_000, "USD")
    charge = Row(kind="charge", name="A1", reference=ours, gross=10_000, fee=300, currency="USD")
    taken = Row(kind="conversion", name="C2", charge="A1", gross=-9700, currency="USD")
    given = Row(kind="conversion", name="C3", charge="A1", gross=8800)
    half = await office.take(charge, taken, name="half.csv")
    assert kinds(half) == ["unexplained"]
    assert (await office.standing())["suspense USD"] == 9700
    await office.is_true()
    whole = await office.take(charge, taken, given, name="whole.csv")
    assert (kinds(whole), whole.matched) == ([], 3)
    position = {"fx USD": 9700, "fx EUR": -8800, "platform:psp_fees USD": 300}
    assert await office.standing() == position | {"psp:payouts_in_transit EUR": 8800}
    assert (await office.bank(8800)).is_clean
    assert await office.standing() == position | {"bank:DE02120300000000202051 EUR": 8800}
    await office.is_true()
    # Both in one currency, or both one way, are no conversion.
    odd = await office.take(
        replace(taken, charge="B9"), replace(given, gross=-1, charge="B9"), batch="2", name="odd.csv"
    )
    assert kinds(odd) == ["unexplained"] * 2


async def test_E8_H4_a_batch_issued_again_at_another_rate_posts_the_difference(store: Store, tmp_path: Path) -> None:
    office = office_of("adyen", store, tmp_path)
    ours = await office.charge("A1", 10_000, "USD")
    first = Row(kind="charge", name="A1", reference=ours, gross=9000, fee=200, asked=(10_000, "USD"))
    await office.take(first)
    assert (await office.standing())["fx EUR"] == -9000
    await office.take(replace(first, gross=9100), name="another rate.csv")
    position = {"fx USD": 10_000, "fx EUR": -9100, "platform:psp_fees EUR": 200}
    assert await office.standing() == position | {"psp:payouts_in_transit EUR": 8900}
    await office.is_true()
    # It was no conversion at all: the account's dollars were never changed.
    again = await office.take(replace(first, gross=10_000, currency="USD", asked=None), name="none.csv")
    assert kinds(again) == []
    assert await office.standing() == {"psp:payouts_in_transit USD": 9800, "platform:psp_fees USD": 200}
    await office.is_true()


async def test_E8_a_break_of_a_converted_line_is_told_in_what_the_buyer_was_charged(
    store: Store, tmp_path: Path
) -> None:
    """Amounts of two currencies are never held against each other, and neither receivable keeps anything."""
    office = office_of("stripe", store, tmp_path)
    ours, other = await office.charge("A1", 10_000, "USD"), await office.charge("B2", 4000, "USD")
    report = await office.take(
        Row(kind="charge", name="A1", reference=ours, gross=8910, fee=200, asked=(9900, "USD")),
        Row(kind="charge", name="B2", reference=other, gross=3600, fee=100, asked=(4000, "GBP")),
        Row(kind="charge", name="X3", reference="not-of-ours", gross=450, fee=10, asked=(500, "USD")),
    )
    assert [
        (each.kind, each.currency, each.expected_minor, each.stated_minor, each.suspense_minor)
        for each in report.mismatches
    ] == [
        ("amount", "USD", 10_000, 9900, -100),
        ("currency", "GBP", 4000, 4000, 4000),
        ("missing_here", "USD", None, 500, 500),
    ]
    standing = await office.standing()
    assert standing == {
        "psp:payouts_in_transit EUR": 8910 + 3600 + 450 - 310,
        "platform:psp_fees EUR": 310,
        "psp:receivable USD": 4000,  # ours of the second: nobody has told of these dollars
        "fx USD": 9900 + 500,
        "fx GBP": 4000,
        "fx EUR": -(8910 + 3600 + 450),
        "suspense USD": 100 - 500,
        "suspense GBP": -4000,
    }
    await office.is_true()
    await office.world.gateway.corrections.close([report.mismatches[0].break_id], "ada", "a discount of the PSP's")
    assert (await office.standing())["psp:receivable USD"] == 4100
    await office.is_true()


async def test_E8_parts_in_two_currencies_are_not_added_up(store: Store, tmp_path: Path) -> None:
    office = office_of("stripe", store, tmp_path)
    ours = await office.charge("A1", 10_000, "USD")
    report = await office.take(
        Row(kind="charge", name="A1", reference=ours, gross=5400, asked=(6000, "USD")),
        Row(kind="charge", name="A1", reference=ours, gross=4000),
    )
    assert [(each.kind, each.currency, each.suspense_minor) for each in report.mismatches] == [
        ("amount", "USD", -4000),
        ("duplicate_line", "EUR", 4000),
    ]
    await office.is_true()


async def test_E8_H5_parts_of_a_converted_charge_in_one_file_are_one_record(store: Store, tmp_path: Path) -> None:
    office = office_of("adyen", store, tmp_path)
    ours = await office.charge("A1", 10_000, "USD")
    report = await office.take(
        Row(kind="charge", name="A1", reference=ours, gross=5400, asked=(6000, "USD")),
        Row(kind="charge", name="A1", reference=ours, gross=3700, asked=(4000, "USD")),
    )
    assert (kinds(report), report.matched) == ([], 2)
    assert await office.standing() == {"psp:payouts_in_transit EUR": 9100, "fx USD": 10_000, "fx EUR": -9100}
    await office.is_true()
