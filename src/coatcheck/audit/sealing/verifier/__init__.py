"""Whether history is as it was sealed: a program of its own, read-only, that shares no code with the gateway.

It needs the database, the anchor file and the public key, and knows the format as docs/audit.md tells it.
"""

from coatcheck.audit.sealing.verifier.findings import Fault, Finding, Report
from coatcheck.audit.sealing.verifier.program import UnreadableError, verify, verify_database

__all__ = ["Fault", "Finding", "Report", "UnreadableError", "verify", "verify_database"]
