"""`python -m coatcheck.simulator`: the simulated PSP from a shell, one flag per setting and per chaos dial field."""

import argparse
from pathlib import Path

import msgspec

from coatcheck.simulator.bank import AUTHORIZATION_LIFE_S, SESSION_LIFE_S
from coatcheck.simulator.chaos import Dial
from coatcheck.simulator.server import DAY_S, SimulatorSettings, is_address, run
from coatcheck.simulator.webhooks import DEFAULT_SECRET


def _settings(arguments: list[str] | None = None) -> SimulatorSettings:
    parser = argparse.ArgumentParser(prog="python -m coatcheck.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key-window-s", type=float, default=DAY_S, help="how long an idempotency key is remembered")
    parser.add_argument("--slow-s", type=float, default=3, help="how long tok_slow takes")
    parser.add_argument("--no-cache-errors", action="store_true", help="store only 2xx answers under a key")
    parser.add_argument("--books", type=Path, help="journal file, so that the books survive a restart")
    parser.add_argument("--authorization-life-s", type=float, default=AUTHORIZATION_LIFE_S, help="until it expires")
    parser.add_argument("--session-life-s", type=float, default=SESSION_LIFE_S, help="how long a hosted page is open")
    parser.add_argument("--webhook-url", help="where events are sent; without it none are")
    parser.add_argument("--webhook-secret", default=DEFAULT_SECRET, help="what signs them")
    fields = msgspec.structs.fields(Dial)
    for field in fields:
        kind = float if field.name.endswith("_share") else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    given = vars(parser.parse_args(arguments))
    try:
        dial = msgspec.convert({field.name: given[field.name] for field in fields}, Dial)
    except msgspec.ValidationError as error:
        parser.error(str(error))
    if given["webhook_url"] is not None and not is_address(given["webhook_url"]):
        parser.error("--webhook-url takes an http or https address")
    return SimulatorSettings(
        host=given["host"],
        port=given["port"],
        key_window_s=given["key_window_s"],
        cache_errors=not given["no_cache_errors"],
        slow_s=given["slow_s"],
        books=given["books"],
        authorization_life_s=given["authorization_life_s"],
        session_life_s=given["session_life_s"],
        webhook_url=given["webhook_url"],
        webhook_secret=given["webhook_secret"],
        dial=dial,
    )


if __name__ == "__main__":
    run(_settings())
