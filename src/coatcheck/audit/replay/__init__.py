"""The replay: the state of the money path, rebuilt from the audit events alone and compared with what is stored.

docs/replay.md says of every table and column whether it is rebuilt, from what, or why not.
"""

from coatcheck.audit.replay.replaying import Difference, Replayed, replay

__all__ = ["Difference", "Replayed", "replay"]
