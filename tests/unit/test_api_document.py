"""The OpenAPI document says what the routes, the Structs and the error codes say."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from coatcheck.api import app
from coatcheck.api.edge import JSON, PROBLEM_JSON
from coatcheck.api.openapi import OPERATIONS, make_document
from coatcheck.api.schema import _HEADERS, _STYLE_DIGEST, _page, _page_of
from coatcheck.errors import ErrorCode
from coatcheck.money import EXPONENTS
from coatcheck.validation import (
    parse_cancel_request,
    parse_capture_request,
    parse_payment_request,
    parse_refund_request,
)

DOCUMENT: dict[str, Any] = json.loads(json.dumps(make_document()))
EVERY = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def described(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def test_every_route_below_v1_is_described_and_nothing_else() -> None:
    routes = {
        (path.replace(":str}", "}"), method.lower())
        for handler in app._HANDLERS
        for path in handler.paths
        for method in handler.http_methods
        if path.startswith("/v1")
    }
    assert routes == set(EVERY)
    for operation in OPERATIONS:
        paths = {path.replace(":str}", "}") for path in operation.handler.paths}
        assert paths == {operation.path}
        assert {method.lower() for method in operation.handler.http_methods} == {operation.method}


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = json.dumps(DOCUMENT)
    used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert used == DOCUMENT["components"]["schemas"].keys()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "method"), EVERY)
def test_an_operation_says_all_that_an_integrator_needs(path: str, method: str) -> None:
    operation = described(path, method)
    assert operation["summary"].endswith(".")
    assert {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"} == set(
        re.findall(r"{(\w+)}", path)
    )
    assert all(parameter["description"] for parameter in operation["parameters"])
    assert {"401", "422", "500", "503"} <= operation["responses"].keys()
    for status, answer in operation["responses"].items():
        assert answer["content"].keys() - {"text/csv", "text/html", "application/pdf"} == {
            JSON if status < "3" else PROBLEM_JSON
        }
    assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
    assert "Retry-After" in operation["responses"]["503"]["headers"]


def test_every_error_code_of_the_api_is_told_under_its_status() -> None:
    told = set()
    for path, method in EVERY:
        for status, answer in described(path, method)["responses"].items():
            for code in answer["content"].get(PROBLEM_JSON, {}).get("examples", {}):
                assert str(ErrorCode[code.upper()].status) == status
                told.add(code)
    # Of no operation: what is not taken, and what providers are told.
    assert told == {code.code for code in ErrorCode} - {"method_not_allowed", "webhook_refused"}
    problem = DOCUMENT["components"]["schemas"]["ProblemBody"]
    assert set(problem["properties"]["code"]["enum"]) == {code.code for code in ErrorCode}


def test_the_post_of_a_payment_is_described_with_its_headers_and_answers() -> None:
    operation = described("/v1/payments", "post")
    assert {"201", "202", "400", "401", "408", "409", "413", "415", "422"} <= operation["responses"].keys()
    assert {parameter["name"] for parameter in operation["parameters"]} == {"Idempotency-Key", "Prefer"}
    assert "Idempotent-Replayed" in operation["responses"]["201"]["headers"]
    assert "Retry-After" in operation["responses"]["409"]["headers"]
    body = operation["requestBody"]
    assert body["required"] is True
    assert body["content"][JSON]["schema"]["$ref"].endswith("/CreatePayment")
    currency = DOCUMENT["components"]["schemas"]["CreatePaymentOrder"]["properties"]["currency"]
    assert set(currency["enum"]) == set(EXPONENTS)
    assert DOCUMENT["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    assert DOCUMENT["security"] == [{"api_key": []}]


def test_the_example_is_a_request_the_gateway_takes() -> None:
    example = described("/v1/payments", "post")["requestBody"]["content"][JSON]["example"]
    asked = parse_payment_request(json.dumps(example).encode(), body_depth=16, orders_limit=100)
    assert [order.amount_minor for order in asked.orders] == [12_995, 9_500]
    schema = {"$ref": "#/components/schemas/CreatePayment", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize(
    ("path", "parse"),
    [
        ("/v1/payments/{payment_id}/capture", parse_capture_request),
        ("/v1/payments/{payment_id}/cancel", parse_cancel_request),
        ("/v1/refunds", parse_refund_request),
    ],
)
def test_B3_what_acts_on_a_payment_has_a_key_that_never_expires_and_a_right_example(path: str, parse: Any) -> None:
    operation = described(path, "post")
    assert {"400", "401", "404", "408", "409", "413", "415", "422"} <= operation["responses"].keys()
    (key,) = [each for each in operation["parameters"] if each["name"] == "Idempotency-Key"]
    assert "for ever" in key["description"]
    assert "idempotency_key_missing" in operation["responses"]["400"]["content"][PROBLEM_JSON]["examples"]
    parse(json.dumps(operation["requestBody"]["content"][JSON]["example"]).encode(), body_depth=16, orders_limit=100)


def test_every_link_leads_to_an_operation_that_takes_what_it_gives() -> None:
    by_id = {described(path, method)["operationId"]: described(path, method) for path, method in EVERY}
    links = [
        link
        for path, method in EVERY
        for answer in described(path, method)["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    linked = {link["operationId"] for link in links}
    assert {"capture_payment", "cancel_payment", "create_refund", "get_refund", "list_refunds", "get_payment"} <= linked
    for link in links:
        target = by_id[link["operationId"]]
        assert link.get("parameters", {}).keys() <= {each["name"] for each in target["parameters"]}
        if "requestBody" in link:
            name = target["requestBody"]["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
            assert link["requestBody"].keys() <= DOCUMENT["components"]["schemas"][name]["properties"].keys()


def test_a_parameter_that_is_needed_is_described_as_such() -> None:
    needed = {each["name"]: each["required"] for each in described("/v1/refunds", "get")["parameters"]}
    assert needed == {"payment_order_id": True, "limit": False, "cursor": False}


def test_the_page_shows_every_operation_and_body_and_asks_nothing_of_the_internet() -> None:
    page = _page().decode()
    for path, method in EVERY:
        assert f"{method.upper()}</span> <code>{path.replace('{', '{')}</code>" in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="{name}"' in page
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == {"/schema/openapi.json"}
    assert "<script" not in page
    assert "http://" not in page
    assert _STYLE_DIGEST in _HEADERS["Content-Security-Policy"]


def test_the_page_escapes_what_it_shows() -> None:
    tricky = json.loads(json.dumps(DOCUMENT).replace("The trial balance.", "<b>&amp;`<i>`"))
    page = _page_of(tricky)
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;amp;<code>&lt;i&gt;</code>" in page
