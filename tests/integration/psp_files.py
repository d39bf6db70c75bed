"""Settlement files as the PSPs write them: each one's columns, signs, footers and habits, from the same plain rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.unit.test_formats_adyen import BARE, SETTLED
from tests.unit.test_formats_adyen import PAYOUT as ADYEN_PAYOUT
from tests.unit.test_formats_adyen import csv_of as adyen_csv
from tests.unit.test_formats_checkout import CHARGE as CHECKOUT_CHARGE
from tests.unit.test_formats_checkout import amounts as checkout_amounts
from tests.unit.test_formats_checkout import csv_of as checkout_csv
from tests.unit.test_formats_paypal import CH, HEAD
from tests.unit.test_formats_stripe import CHARGE as STRIPE_CHARGE
from tests.unit.test_formats_stripe import csv_of as stripe_csv

from coatcheck.providers.stripe_words import REFERENCE_KEY


@dataclass(frozen=True, kw_only=True)
class Row:
    """A movement of a PSP's balance, in hundredths. `asked`: what the buyer was asked for, where it was converted.

    `kind`: charge, refund, fee (of its own), Stripe's transfer and transfer_reversal, PayPal's conversion, or odd:
    something that nobody here has heard of. `name` is the PSP's own.
    """

    kind: str
    name: str
    reference: str = ""
    charge: str = ""
    gross: int = 0
    fee: int = 0
    currency: str = "EUR"
    asked: tuple[int, str] | None = None

    @property
    def net(self) -> int:
        return self.gross - self.fee


def major(minor: int) -> str:
    return f"{'-' if minor < 0 else ''}{abs(minor) // 100}.{abs(minor) % 100:02}"


def stripe_file(rows: Sequence[Row], batch: str = "1") -> str:
    """Stripe's payout reconciliation: each row names its payout, and none is the payout itself."""
    categories = {"odd": "other_adjustment"}
    whose = {"charge": "payment", "refund": "refund", "transfer": "transfer", "transfer_reversal": "transfer"}
    metadata = {kind: f"{each}_metadata[{REFERENCE_KEY}]" for kind, each in whose.items()}
    blank = dict.fromkeys(["charge_id", "payment_intent_id", "description", *metadata.values()], "")
    written = []
    for place, row in enumerate(rows, start=1):
        asked, currency = row.asked or (row.gross, row.currency)
        fields = {
            "automatic_payout_id": f"po_{batch}",
            "balance_transaction_id": f"txn_{batch}_{place}",
            "created_utc": f"2026-03-01 13:00:{place:02}",
            "currency": row.currency.lower(),
            "reporting_category": categories.get(row.kind, row.kind),
            "source_id": row.name if row.kind != "charge" else f"ch_of_{row.name}",
            "gross": major(row.gross if row.kind != "fee" else -row.fee),
            "fee": major(row.fee if row.kind != "fee" else 0),
            "net": major(row.net),
            "customer_facing_amount": major(asked),
            "customer_facing_currency": currency.lower(),
        }
        if row.kind in metadata:
            is_transfer = whose[row.kind] == "transfer"
            fields |= {metadata[row.kind]: row.reference}
            fields |= {} if is_transfer else {"payment_intent_id": row.charge or row.name}
        written.append(STRIPE_CHARGE | blank | fields)
    return stripe_csv(*written)


def adyen_file(rows: Sequence[Row], batch: str = "1") -> str:
    """Adyen's Settlement Detail Report: sides instead of signs, and the payout as the last row of the batch."""
    types = {"charge": "Settled", "refund": "Refunded", "fee": "Fee", "odd": "DepositCorrection"}
    written = []
    for place, row in enumerate(rows, start=1):
        bare = BARE | {"Batch Number": batch, "Creation Date": f"2026-03-01 14:00:{place:02}", "TimeZone": "CET"}
        fields = bare | {"Type": types[row.kind], "Net Currency": row.currency} | _sided("Net", "(NC)", row.net)
        if row.kind in ("charge", "refund"):
            asked, currency = row.asked or (row.gross, row.currency)
            fields |= {"Gross Currency": currency, "Markup (NC)": major(row.fee)} | _sided("Gross", "(GC)", asked)
            named = {"Psp Reference": row.charge or row.name, "Modification Reference": row.name}
            ours = {"charge": "Merchant Reference", "refund": "Modification Merchant Reference"}
            fields |= named | {"Merchant Reference": "op_charge", ours[row.kind]: row.reference}
        else:
            fields |= {"Modification Reference": row.name}
        written.append(fields)
    last = max(written, key=lambda row: row["Creation Date"])["Creation Date"]
    for currency in dict.fromkeys(row.currency for row in rows):
        due = sum(row.net for row in rows if row.currency == currency)
        text = {"Modification Reference": f'"TX{batch}93XT batch {batch}, HatsEU"', "Creation Date": last}
        zone = {"TimeZone": "CET", "Batch Number": batch, "Net Currency": currency}
        written.append(ADYEN_PAYOUT | text | zone | {"Net Debit (NC)": ""} | _sided("Net", "(NC)", -due))
    return adyen_csv(*written, columns=[*SETTLED, "Modification Merchant Reference", *_OTHER_SIDES])


_OTHER_SIDES = ("Gross Debit (GC)", "Net Debit (NC)", "Commission (NC)")


def _sided(what: str, unit: str, minor: int) -> dict[str, str]:
    return {f"{what} {'Credit' if minor >= 0 else 'Debit'} {unit}": major(abs(minor))}


def paypal_file(rows: Sequence[Row], batch: str = "1") -> str:
    """PayPal's STL: hundredths with CR and DR, footers of each section and the report, a withdrawal among the rows."""
    codes = {
        "charge": "T0006",
        "refund": "T1107",
        "fee": "T0106",
        "odd": "T9900",
        "conversion": "T0200",
        "payout": "T0400",
    }
    due = sum(row.net for row in rows if row.currency == "EUR")
    paid_out = [Row(kind="payout", name=f"WD0{batch}", gross=-due)] if due > 0 else []
    body: list[str] = []
    sums: dict[str, list[int]] = {}
    for place, row in enumerate([*rows, *paid_out], start=1):
        moved, fee = (-row.fee, 0) if row.kind == "fee" else (row.gross, row.fee)
        own = sums.setdefault(row.currency, [0, 0, 0, 0])
        own[moved < 0] += abs(moved)
        own[2 + (fee > 0)] += abs(fee)
        at = f"2026/03/01 13:00:{place:02} +0000"
        sides = "DR" if moved < 0 else "CR", "DR" if fee > 0 else "CR"
        body.append(
            f'"SB",{row.name},{row.reference},{row.charge},"{"TXN" if row.charge else ""}",{codes[row.kind]},{at},{at},'
            f'{sides[0]},{abs(moved)},"{row.currency}",{sides[1]},{abs(fee)},"{row.currency}","","","","",""'
        )
    start, end = (f"2026/03/01 {time} +0000" for time in ("00:00:00", "23:59:59"))
    section = f'"SH",{start},{end},"MERCHANT{batch}",""'
    totals = [f'"{currency}",{",".join(map(str, own))}' for currency, own in sums.items()]
    of_all = [f'"{name}",{total}' for name in ("SF", "RF") for total in totals]
    counts = f'"SC",{len(body)}', f'"RC",{len(body)}', f'"FF",{len(body)}'
    footers = *of_all[: len(sums)], counts[0], *of_all[len(sums) :], *counts[1:]
    return "".join(f"{line}\n" for line in (*HEAD, section, CH, *body, *footers))


def checkout_file(rows: Sequence[Row], batch: str = "1") -> str:
    """Checkout.com's breakdown: deductions below zero, fractions of a cent, and no row for the payout."""
    types = {"charge": "Charge", "refund": "Refund", "fee": "Fixed Fee", "odd": "Reserve Release"}
    written = []
    # A third of a cent more here and less there: over the payout it comes to nothing.
    parts = dict(
        zip([place for place, row in enumerate(rows, start=1) if row.fee and row.gross], (3333, -3333), strict=False)
    )
    for place, row in enumerate(rows, start=1):
        asked, currency = row.asked or (row.gross, row.currency)
        at = {"Processed On": f"2026-03-01T13:00:{place:02}", "Processed On UTC": f"2026-03-01T13:00:{place:02}"}
        named = {
            "Type": types[row.kind],
            "Payment ID": row.charge or row.name,
            "Action ID": f"act_{row.name}" if row.kind == "charge" else row.name,
            "Reference": row.reference,
            "Payout ID": f"00000000CF{batch}",
            "Holding Currency": row.currency,
            "Processing Currency": currency,
            "Gross In Processing Currency": major(asked),
            "Timezone": "UTC",
        }
        part = parts.get(place, 0) if len(parts) == 2 else 0
        written.append(CHECKOUT_CHARGE | at | named | _with_fraction(row, part))
    return checkout_csv(*written)


def _with_fraction(row: Row, part: int) -> dict[str, str]:
    """The amounts of a row with so many millionths of a unit taken beside its fee."""
    if not part:
        return checkout_amounts(major(row.gross), major(-row.fee), major(row.net))
    gross, fee = row.gross * 10_000, row.fee * 10_000 + part
    return checkout_amounts(*(_fine(each) for each in (gross, -fee, gross - fee)))


def _fine(millionths: int) -> str:
    whole, rest = divmod(abs(millionths), 1_000_000)
    return f"{'-' if millionths < 0 else ''}{whole}.{rest:06}"


@dataclass(frozen=True)
class Psp:
    """A PSP's name, how it writes its files, and what a bank's statement says of its payout."""

    name: str
    write: Callable[[Sequence[Row], str], str]
    of_the_bank: str


PSPS = (
    Psp("stripe", stripe_file, "STRIPE po_{} settlement"),
    Psp("adyen", adyen_file, "TX{0}93XT batch {0}, HatsEU"),
    Psp("paypal", paypal_file, "PAYPAL WD0{}"),
    Psp("checkout", checkout_file, "CHECKOUT LTD 00000000CF{}"),
)
