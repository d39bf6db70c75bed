"""The running API against its own OpenAPI document: Schemathesis sends what the document allows and what it forbids."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.integration.running import gateway_server, run_gateway, simulator_url

from coatcheck.store import Store

__all__ = ["gateway_server", "simulator_url"]

SEED = 20260501
EXAMPLES_MOST = 15
PAID_LEAST = 5

# What the document cannot say: at least one of two places has the idempotency key (400), a cursor is one of ours (400),
# amounts fit their currency, ids are distinct, nothing looks like a card number (422).
CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "404", "409", "422"]
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_schemathesis_finds_no_5xx_and_no_violation_of_the_schema(
    store: Store, simulator_url: str, tmp_path: Path
) -> None:
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    async with run_gateway(store, simulator_url, settings={"risk_enabled": False, "webhooks_shop": "hats"}) as server:
        key = await server.make_key()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", f"{server.url}/schema/openapi.json", "--header", f"Authorization: Bearer {key}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--mode", "all"),
            *("--max-examples", str(EXAMPLES_MOST), "--seed", str(SEED), "--generation-deterministic"),
            *("--continue-on-failure", "--max-response-time", "10", "--no-color"),
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()
        seen = set(server.gateway.metrics.http_requests)
    assert process.returncode == 0, told.decode()
    # It has been inside, not only at the door: paid, read what was paid, and been refused for every kind of reason.
    rows = await store.pool.fetch("SELECT status, count(*) AS orders FROM payment_order GROUP BY status")
    orders = {row["status"]: row["orders"] for row in rows}
    assert min(orders.get(status, 0) for status in ("SUCCESS", "FAILED")) >= PAID_LEAST, orders
    assert seen >= {("/v1/payments", status) for status in ("200", "201", "400", "401", "415", "422")}
    for route in ("/v1/payments/{payment_id}", "/v1/payment_orders/{payment_order_id}"):
        assert seen >= {(route, status) for status in ("200", "401", "404")}, route
    for act in ("capture", "cancel"):
        assert seen >= {
            (f"/v1/payments/{{payment_id}}/{act}", status) for status in ("200", "400", "401", "404", "409")
        }
    assert seen >= {("/v1/refunds", status) for status in ("200", "201", "400", "401", "404", "409", "422")}
    assert orders.get("CANCELLED", 0) >= 1, orders
    assert await store.pool.fetchval("SELECT count(*) FROM refund WHERE status = 'SUCCEEDED'") >= 1
