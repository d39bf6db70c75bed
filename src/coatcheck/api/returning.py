"""The buyer's way back from the provider's page: what he may have done there is asked about now, not in its own time.

That he came back proves nothing, so nothing is decided here and no provider is called: the look-up that was due later
is due at once, and what it brings goes the one way in that a webhook's word and any other look-up's take (hazard C15).
"""

from coatcheck.api.gateway import Gateway
from coatcheck.ids import operation_id_of, order_id_of
from coatcheck.operations import first_kind_of
from coatcheck.payments import PaymentView
from coatcheck.states import OrderStatus


async def ask_about_page(gateway: Gateway, view: PaymentView) -> bool:
    """Have a payment that waits for its buyer at the provider looked up at once; True when that is under way now.

    Touches no other payment. May be called with every reading: the provider is asked no oftener than
    `Operations.hurry` says. The caller has shown that he may see the payment.
    """
    if view.redirect_url is None:
        return False
    kind = first_kind_of(view.capture, view.on_failure)
    waiting = [
        operation_id_of(order_id_of(view.shop_id, view.mode, order.payment_order_id), kind)
        for order in view.orders
        if order.status is OrderStatus.PENDING
    ]
    if not await gateway.operations.hurry(waiting):
        return False
    gateway.executor.wake()
    return True
