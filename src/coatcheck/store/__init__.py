"""PostgreSQL, the only store: pool, embedded server, group commit, migrations and the SQL files."""

from coatcheck.store.batch import Batcher, again
from coatcheck.store.database import Store, StoreError, is_away, open_store

__all__ = ["Batcher", "Store", "StoreError", "again", "is_away", "open_store"]
