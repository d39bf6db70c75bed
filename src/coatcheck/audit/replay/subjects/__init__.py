"""The subjects beside the money path, one in each module, as `SUBJECT`. docs/replay.md says how to add another."""

from importlib import import_module
from pkgutil import iter_modules

from coatcheck.audit.replay.subject import Subject

SUBJECTS: tuple[Subject, ...] = tuple(
    import_module(f"{__name__}.{module.name}").SUBJECT
    for module in sorted(iter_modules(__path__), key=lambda m: m.name)
)
