"""A gateway, its PSP, and files that arrive as they do through the API, the command and the nightly job."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.outside import CALLER, SETTINGS
from tests.integration.test_reconciliation import Desk

from coatcheck.reconciliation.files import Source
from coatcheck.reconciliation.report import Report
from coatcheck.simulator.records import Merchant
from coatcheck.store import Store
from coatcheck.wiring import make_watcher

if TYPE_CHECKING:
    from coatcheck.config import Settings
    from coatcheck.watcher import Watcher


class ArrivalDesk(Desk):
    """A desk whose files pass the rules of the settings."""

    def __init__(self, store: Store, directory: Path, *, dial: dict[str, Any] | None = None, **changed: Any) -> None:
        self.settings: Settings = replace(SETTINGS, **changed)
        super().__init__(store, directory, settings=self.settings, **(dial or {}))
        self.watcher: Watcher = make_watcher(self.world.gateway)

    @property
    def merchant(self) -> Merchant:
        """Whose settlements the PSP keeps for us."""
        return self.psp.bank.merchant("coatcheck", is_live=False)

    async def arrive(self, text: str, name: str = "file.csv") -> Report:
        path = self._directory / name
        path.write_text(text, "utf-8")
        source = Source(path=path, name=name, shop_id=CALLER.shop_id, mode=CALLER.mode, brought_by="person ada")
        return await self.world.gateway.arrivals.take(source)

    async def alerts(self) -> list[tuple[str, bool]]:
        """Look once: which alerts have opened (True) and closed."""
        changes = await self.watcher.watch_once()
        return sorted((change.alert.kind.value, change.is_opened) for change in changes)

    async def breaks(self, where: str = "closed_at IS NULL") -> list[str]:
        rows = await self.world.store.pool.fetch(
            f"SELECT kind FROM reconciliation_break WHERE {where} ORDER BY kind, line_no"
        )
        return [row["kind"] for row in rows]

    async def events(self, *kinds: str) -> list[str]:
        rows = await self.world.store.pool.fetch(
            "SELECT kind FROM event WHERE kind = ANY ($1) ORDER BY at, event_id", list(kinds)
        )
        return [row["kind"] for row in rows]
