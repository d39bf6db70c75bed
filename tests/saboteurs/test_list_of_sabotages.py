"""The list of sabotages against the tree: each can still be done, and its test still exists."""

import ast
import re
from pathlib import Path
from typing import Final

import pytest
from tests.saboteurs.sabotages import SABOTAGES, Sabotage

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src/coatcheck"


def name_of(sabotage: Sabotage) -> str:
    return sabotage.name.replace(" ", "-")


def names_of_tests_in(path: Path) -> set[str]:
    """The names of a module's tests."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, functions)}


@pytest.mark.parametrize("sabotage", list(SABOTAGES), ids=name_of)
def test_a_sabotage_breaks_one_line_that_is_there_and_names_a_test_that_exists(sabotage: Sabotage) -> None:
    text = (SOURCE / sabotage.path).read_text("utf-8")
    assert text.count(sabotage.old) == 1, f"{sabotage.path} has it {text.count(sabotage.old)} times"
    assert sabotage.new != sabotage.old
    path, _, name = sabotage.test.partition("::")
    assert name in names_of_tests_in(ROOT / "tests" / path)


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert len(SABOTAGES) >= 30
    assert len({sabotage.name for sabotage in SABOTAGES}) == len(SABOTAGES)


@pytest.mark.parametrize("sabotage", [each for each in SABOTAGES if each.path.endswith(".py")], ids=name_of)
def test_a_sabotaged_module_is_still_python(sabotage: Sabotage) -> None:
    """A test that failed because of a syntax error would prove nothing."""
    text = (SOURCE / sabotage.path).read_text("utf-8")
    ast.parse(text.replace(sabotage.old, sabotage.new))


def test_the_page_lists_every_sabotage_with_its_test() -> None:
    text = (ROOT / "docs/saboteurs.md").read_text("utf-8")
    listed = re.findall(r"^\| (.+?) \| ([A-I][0-9]+) \| `(.+?)` \|$", text, flags=re.MULTILINE)
    assert listed == [(each.name, each.hazard, each.test.rpartition("::")[2]) for each in SABOTAGES]
