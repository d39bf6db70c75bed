"""The file formats that are known, one module each, recognised by content and never by name."""

from typing import Final

from coatcheck.reconciliation.formats.adyen import AdyenSettlementDetail
from coatcheck.reconciliation.formats.bai2 import Bai2
from coatcheck.reconciliation.formats.camt053 import Camt053
from coatcheck.reconciliation.formats.checkout import CheckoutSettlementBreakdown
from coatcheck.reconciliation.formats.mt940 import Mt940
from coatcheck.reconciliation.formats.paypal import PayPalSettlement
from coatcheck.reconciliation.formats.simulator import SimulatorFormat
from coatcheck.reconciliation.formats.stripe import StripeItemized
from coatcheck.reconciliation.lines import FileRefusedError, Format

FORMATS: Final[tuple[Format, ...]] = (
    *(SimulatorFormat(), StripeItemized(), AdyenSettlementDetail(), PayPalSettlement(), CheckoutSettlementBreakdown()),
    *(Camt053(), Mt940(), Bai2()),
)


def format_of(head: str) -> Format:
    """Find the one format of a file that begins like this. Raises FileRefusedError when none or several claim it."""
    claiming = [each for each in FORMATS if each.recognises(head)]
    if len(claiming) == 1:
        return claiming[0]
    known = ", ".join(each.name for each in FORMATS)
    found = "none of the formats" if not claiming else " and ".join(each.name for each in claiming)
    raise FileRefusedError(f"its beginning fits {found}; known are {known}")
