"""Payments: a checkout becomes rows (the intent), and a PSP's decision becomes status, ledger and events."""

from coatcheck.payments.acts import Act, Acts, ActVerdict
from coatcheck.payments.commits import Acceptance, Payments, Verdict
from coatcheck.payments.views import OrderView, PaymentView, order_view

__all__ = ["Acceptance", "Act", "ActVerdict", "Acts", "OrderView", "PaymentView", "Payments", "Verdict", "order_view"]
