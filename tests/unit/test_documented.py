"""The tables of docs/ against the program, in both directions."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

import coatcheck
from coatcheck import states
from coatcheck.config import SETTINGS, show
from coatcheck.errors import ErrorCode
from coatcheck.events import EventKind
from coatcheck.metrics import Metrics
from coatcheck.providers.outcome import OutcomeKind

DOCS = Path(__file__).parents[2] / "docs"
Row = dict[str, str]
# Words of the design that are explained once and must stay so.
WORDS = """
    shop, payment, payment order, operation, attempt, authorization, charge, capture, void, refund, dispute, chargeback,
    provider, settlement, payout, account, transfer, debit, credit, hold, wallet, break, dead letter, transaction
"""


def tables_of(page: str) -> Iterator[tuple[str, list[Row]]]:
    """Each table of a page with the heading above it."""
    heading, names, rows = "", [""], list[Row]()
    for line in [*(DOCS / page).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if names == [""]:
                names = cells
            elif not set(line) <= set("|-: "):
                assert len(cells) == len(names), f"{page}: a row with {len(cells)} cells for {len(names)}: {line}"
                rows.append(dict(zip(names, cells, strict=True)))
        elif rows:
            yield heading, rows
            names, rows = [""], []


def documented(page: str, column: str) -> dict[str, Row]:
    """The rows of every table that has such a first column, by it."""
    found = [row for _, rows in tables_of(page) for row in rows if next(iter(row)) == column]
    by_name = {row[column].strip("`"): row for row in found}
    assert found, f"{page} has no table of {column}"
    assert len(by_name) == len(found), f"{page} describes something twice"
    for name, row in by_name.items():
        assert all(row.values()), f"{page}: {name} has an empty cell"
    return by_name


def families() -> dict[str, Metric]:
    named = {}
    for family in Metrics().registry.collect():
        if family.name.startswith("coatcheck_"):
            named[family.name + ("_total" if family.type == "counter" else "")] = family
    return named


def _is_vocabulary(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, StrEnum) and each is not StrEnum


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert documented("settings.md", "setting").keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_documented_as_it_is(name: str) -> None:
    row, about = documented("settings.md", "setting")[name], SETTINGS[name]
    assert row["variable"] == f"`{about.variable}`"
    default = show(about.default)
    assert row["default"] == ("-" if default == "-" else f"`{default}`")
    assert row["must be"] == about.rule.expects
    assert row["meaning"] == about.meaning


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = documented("errors.md", "code")
    assert {code: row["status"] for code, row in rows.items()} == {each.code: str(each.status) for each in ErrorCode}


def test_every_event_kind_is_documented_and_nothing_else() -> None:
    assert documented("events.md", "event").keys() == {kind.value for kind in EventKind}


def test_every_metric_is_documented_with_its_type() -> None:
    rows = documented("metrics.md", "metric")
    assert {name: row["type"] for name, row in rows.items()} == {name: each.type for name, each in families().items()}


def test_every_metric_is_documented_with_its_labels() -> None:
    metrics = Metrics()
    for name, row in documented("metrics.md", "metric").items():
        labels = metrics.registry._names_to_collectors[name]._labelnames  # type: ignore[attr-defined]
        assert row["labels"] == (", ".join(labels) or "-"), name


def test_a_log_line_has_the_level_that_whoever_is_on_call_reads_of_it() -> None:
    """The lines whose level stands beside their name in the code; the rest get theirs from what went wrong."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(coatcheck.__file__).parent.rglob("*.py"))
    in_code = re.findall(r'\blog\.(debug|info|warning|error|critical)\(\s*"([a-z_]+)"', source)
    rows = [row for heading, table in tables_of("operations.md") if heading == "Logs" for row in table]
    levels = {name: row["level"].split(", ") for row in rows for name in re.findall(r"`([a-z_]+)`", row["event"])}
    assert [(name, level) for level, name in in_code if name in levels and level not in levels[name]] == []
    assert {"decision_refused", "answer_refused", "ready"} <= levels.keys() & {name for _, name in in_code}


def test_every_value_of_the_vocabulary_is_in_the_glossary() -> None:
    enums: list[type[StrEnum]] = [OutcomeKind, *filter(_is_vocabulary, vars(states).values())]
    in_code = {each.__name__: {member.value for member in each} for each in enums}
    in_glossary = {
        heading: {row["value"] for row in rows} for heading, rows in tables_of("glossary.md") if heading != "Words"
    }
    assert in_glossary == in_code


def test_every_word_of_the_design_is_in_the_glossary() -> None:
    assert documented("glossary.md", "word").keys() >= {word.strip() for word in WORDS.split(",")}
