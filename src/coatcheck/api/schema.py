"""`/schema`: the OpenAPI document, for machines as JSON and for people as one page without a script.

The page is written here and asks nothing of the internet: a gateway often runs where there is none.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

from litestar import MediaType, Response, get

from coatcheck.api.edge import encode
from coatcheck.api.openapi import make_document

OPENAPI_JSON = "application/vnd.oai.openapi+json"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: #f4f4f2; padding: .8rem; overflow-x: auto; border-radius: 4px }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd }
h2 { margin-top: 2.5rem } h3 { margin-top: 2rem }
.method { font-weight: 700; color: #0b5c46 }
nav li { list-style: none } nav ul { padding: 0 }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #e4e4e4 } pre { background: #262626 } th, td { border-color: #444 }
  a { color: #8fd3bf } .method { color: #8fd3bf }
}
"""
_STYLE_DIGEST = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@cache
def _document() -> bytes:
    return encode(make_document())


@cache
def _page() -> bytes:
    return _page_of(json.loads(_document())).encode()


@get("/schema/openapi.json")
async def openapi_json() -> Response[bytes]:
    """Serve the OpenAPI document."""
    return Response(_document(), media_type=OPENAPI_JSON)


@get("/schema")
async def schema_page() -> Response[bytes]:
    """Serve the same document as a page."""
    return Response(_page(), media_type=MediaType.HTML, headers=_HEADERS)


def _page_of(document: Mapping[str, Any]) -> str:
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document["components"]["schemas"]
    listed = "".join(
        f'<li><a href="#{operation["operationId"]}"><code>{escape(name)}</code></a> {escape(operation["summary"])}</li>'
        for name, operation in operations
    )
    key = document["components"]["securitySchemes"]["api_key"]["description"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Coatcheck API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>Coatcheck API {escape(document['info']['version'])}</h1><p>{_prose(document['info']['description'])}</p>"
        f"<p>Every request carries <code>Authorization: Bearer cck_test_...</code>. {_prose(key)}</p>"
        '<p>For machines: <a href="/schema/openapi.json">OpenAPI 3.1 as JSON</a>.</p>'
        f"<nav><ul>{listed}</ul></nav>"
        + "".join(_operation(name, operation) for name, operation in operations)
        + "<h2>Bodies</h2>"
        + "".join(_schema(name, schema) for name, schema in schemas.items())
        + "</body></html>\n"
    )


def _operation(name: str, operation: Mapping[str, Any]) -> str:
    method, _, path = name.partition(" ")
    parts = [
        f'<h2 id="{operation["operationId"]}"><span class="method">{method}</span> <code>{escape(path)}</code></h2>',
        f"<p>{_prose(operation['summary'])}</p><p>{_prose(operation.get('description', ''))}</p>",
    ]
    if operation["parameters"]:
        rows = [
            (each["name"], f"{each['in']}{', required' if each['required'] else ''}", _kind_of(each["schema"]), each)
            for each in operation["parameters"]
        ]
        parts.append(
            _table(
                ("parameter", "in", "form", "meaning"),
                [
                    (f"<code>{escape(given)}</code>", place, form, _prose(each["description"]))
                    for given, place, form, each in rows
                ],
            )
        )
    if "requestBody" in operation:
        ((media_type, content),) = operation["requestBody"]["content"].items()
        example = json.dumps(content["example"], indent=2)
        parts.append(f"<p>Body, <code>{media_type}</code>: {_kind_of(content['schema'])}</p>")
        parts.append(f"<pre>{escape(example)}</pre>")
    answers = [
        (
            f"<code>{status}</code>",
            _kind_of(next(iter(answer["content"].values()))["schema"]),
            _prose(answer["description"]),
        )
        for status, answer in operation["responses"].items()
    ]
    return "".join(parts) + _table(("status", "body", "meaning"), answers)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    head = f'<h3 id="{name}">{name}</h3><p>{_prose(schema.get("description", ""))}</p>'
    if "enum" in schema:
        return head + f"<p>{', '.join(f'<code>{escape(str(each))}</code>' for each in schema['enum'])}</p>"
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _kind_of(part) + ("" if field in required else ", optional"),
            _prose(_description_of(part)),
        )
        for field, part in schema["properties"].items()
    ]
    return head + _table(("field", "form", "meaning"), rows)


def _kind_of(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a schema takes, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind_of(choice) for choice in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind_of(schema['items'])}"
    if "enum" in schema:
        return "one of " + ", ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind = str(schema.get("format") or schema.get("type", "anything"))
    low, high = schema.get("minimum", schema.get("minLength")), schema.get("maximum", schema.get("maxLength"))
    bounds = f" of {low} to {high}" if low is not None and high is not None else ""
    return escape({"string": "text", "date-time": "time", "object": "object"}.get(kind, kind) + bounds)


def _description_of(schema: Mapping[str, Any]) -> str:
    inner = [choice.get("description", "") for choice in schema.get("anyOf", ())]
    return str(schema.get("description") or " ".join(inner).strip())


def _prose(text: str) -> str:
    """Escape a text, and set what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
