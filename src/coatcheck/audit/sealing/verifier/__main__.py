"""The verifier alone: `python -m coatcheck.audit.sealing.verifier --database-url URL --anchor FILE --public-key FILE`.

What `coatcheck audit verify` says, from a machine that has no gateway and no settings of one.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from coatcheck.audit.sealing.verifier.program import UnreadableError, verify_database

_FOUND, _UNUSABLE = 1, 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Verify, print every finding and the outcome in a line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="verifier", description="whether history is as it was sealed; it only reads")
    parser.add_argument("--database-url", required=True, help="the database, as any role that may read it")
    parser.add_argument("--anchor", required=True, type=Path, help="the anchor file")
    parser.add_argument(
        "--public-key", required=True, type=Path, action="append", help="who may have sealed; may be repeated"
    )
    options = parser.parse_args(arguments)
    try:
        report = asyncio.run(verify_database(options.database_url, options.anchor, options.public_key))
    except UnreadableError as error:
        print(f"verifier: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return _UNUSABLE
    for told in (*report.findings, report.line):
        print(told)  # noqa: T201
    return 0 if report.is_ok else _FOUND


if __name__ == "__main__":
    sys.exit(run())
