"""Loaded by Schemathesis: makes a checkout that fits the document's shape also fit what a shape cannot say.

Without it nearly every generated checkout ends at the door (an amount with decimals its currency does not have, no key
in either place), and nothing behind it is tried. Cases that are wrong on purpose are left alone.
"""

import copy
import hashlib
import json
from typing import Any

import schemathesis

TOKENS = ("tok_approve", "tok_approve.visa", "tok_decline_do_not_honor", "tok_nobody-knows")


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    del context, kwargs
    is_checkout = case.operation.method == "post" and isinstance(case.body, dict)
    if is_checkout and case.meta is not None and case.meta.generation.mode.is_positive:
        make_sense_of(case)


def make_sense_of(case: schemathesis.Case[Any]) -> None:
    body: Any = copy.deepcopy(case.body)  # one example may be the body of many cases
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    try:
        body["checkout_id"] = f"{body['checkout_id'][:60]}-{digest[:20]}"
        for place, order in enumerate(body["payment_orders"]):
            order["payment_order_id"] = f"{order['payment_order_id'][:60]}-{digest[:20]}-{place}"
            order["seller_account"] = order["seller_account"].replace(":", ".")
            order["amount"] = "12"
            order["commission"] = "1" if order.get("commission") else None
        known = {"email": "ada@shop.example", "country": "GB", "ip": "203.0.113.7"}
        body["buyer"] |= {name: value for name, value in known.items() if body["buyer"].get(name)}
        body["payment_method"]["token"] = TOKENS[int(digest[0], 16) % len(TOKENS)]
    except (KeyError, TypeError, AttributeError):
        return  # not a whole checkout after all: a probe of the request's form
    case.body = body
    if body.get("idempotency_key"):
        body["idempotency_key"] = digest
    else:
        case.headers["Idempotency-Key"] = digest
