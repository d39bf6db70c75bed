"""The documents against the repository: a link, a command or a path that is named exists, and lists are complete."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from coatcheck import cli
from coatcheck.api.openapi import OPERATIONS
from coatcheck.config import Settings
from coatcheck.store.sql_files import sql_files

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Consequences", "What would change our mind"]

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```(\w*)\n(.*?)^```$|(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", re.DOTALL | re.MULTILINE)
_MAKE = re.compile(r"(?:^|[\s`(])make ([a-z][a-z-]*)")
_COATCHECK = re.compile(r"(?:^|[\s`(]|\.venv/bin/)coatcheck ([a-z-][^|&;)#\n]*)")
_FILE = re.compile(r"(?:python(?:3| -m)?|pytest) ((?:bench|tests)[/.][\w/.]+)|\b((?:src|tests|bench|docs)/[\w/.-]*\w)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_of(page: Path) -> Iterator[str]:
    """The code of a page: its fenced blocks, but for pictures, and what stands between backticks."""
    for language, block, span in _CODE.findall(page.read_text("utf-8")):
        if language != "mermaid":
            yield re.sub(r"\s*\\?\n\s*", " ", span) if span else block.replace("\\\n", " ")


def links_of(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [link for link in _LINK.findall(prose) if "://" not in link and not link.startswith("mailto:")]


def anchors_of(page: Path) -> set[str]:
    """The anchors that a code forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem_of_command(words: list[str]) -> str | None:
    """What is wrong with the words after `coatcheck`; None when the program knows the command and its options."""
    command: click.Command = cli.coatcheck
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {"-h", "--help", "--version", *[name for each in command.params for name in each.opts]}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    return f"no option {unknown[0]}" if unknown else None


def rows_of(page: str) -> list[list[str]]:
    lines = (ROOT / page).read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def first_cells(page: str, start: str, end: str | None = None) -> list[str]:
    """The names in the first column of the tables between two lines of a page."""
    text = (ROOT / page).read_text("utf-8").partition(start)[2]
    part = text.partition(end)[0] if end else text
    return re.findall(r"^\| `([\w-]+)` \|", part, flags=re.MULTILINE)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{name_of(page)} links to {link}, and there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)]
    assert [name_of(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_command_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = {target for code in code_of(page) for target in _MAKE.findall(code)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_coatcheck_command_and_option_exists(page: Path) -> None:
    for code in code_of(page):
        for line in _COATCHECK.findall(code):
            problem = problem_of_command(line.split())
            assert problem is None, f"{name_of(page)}: coatcheck {line}: {problem}"


def test_a_command_that_is_not_there_is_found() -> None:
    assert problem_of_command(["serve", "--port", "8080"]) is None
    assert problem_of_command(["keys", "create", "--shop", "hats"]) is None
    assert problem_of_command(["refund"]) == "no command refund"
    assert problem_of_command(["keys", "delete"]) == "no command delete"
    assert problem_of_command(["serve", "--prot", "8080"]) == "no option --prot"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_program_and_path_of_the_repository_exists(page: Path) -> None:
    for code in code_of(page):
        for program, path in _FILE.findall(code):
            is_module = program and not program.endswith(".py") and "/" not in program
            wanted = program.replace(".", "/") + ".py" if is_module else program or path
            assert (ROOT / wanted).exists(), f"{name_of(page)} names {wanted}"


def test_the_makefile_and_contributing_name_the_same_commands() -> None:
    told = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    listed = set(_MAKE.findall("\n".join(code_of(ROOT / "CONTRIBUTING.md"))))
    assert told - listed <= {"bench-growth"}


def test_every_address_of_the_api_is_in_the_changelog() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    missing = [f"{each.method.upper()} {each.path}" for each in OPERATIONS]
    assert [address for address in missing if f"`{address}`" not in text] == []


def test_the_readme_s_ports_are_those_of_the_defaults() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"--port {Settings().port} &" in text
    assert f"--port {Settings().simulator_url.rpartition(':')[2]} &" in text
    assert f"A lease ({Settings().lease_s} s)".lower() in text.lower()


def test_every_dependency_has_its_line() -> None:
    page = "docs/decisions/0001-libraries.md"
    configured = project()
    tools = configured["dependency-groups"]["dev"]
    assert first_cells(page, "# 0001", "What changing it needs") == configured["project"]["dependencies"]
    assert first_cells(page, "What changing it needs") == tools


def test_the_floors_are_those_that_the_linter_keeps() -> None:
    layers = project()["tool"]["importlinter"]["contracts"][0]["layers"]
    kept = {module: str(floor) for floor, layer in enumerate(layers, 1) for module in re.findall(r"\w+", layer)}
    told = {row[1].strip("`"): row[0] for row in rows_of("docs/architecture.md") if row[0].isdigit()}
    assert told == kept


def test_every_table_is_described() -> None:
    text = "\n".join(sql_files("schema").values())
    tables = set(re.findall(r"^CREATE (?:UNLOGGED )?TABLE (\w+)", text, flags=re.MULTILINE)) | {"schema_version"}
    assert set(first_cells("docs/architecture.md", "## Tables")) == tables


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_says_what_it_must(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == HEADINGS
    number = page.name.partition("-")[0]
    title = re.match(rf"# {number}\. (.+)\n", text)
    assert title is not None
    assert f"[{number}]({page.name})" in (page.parent / "README.md").read_text("utf-8")


def test_the_readme_has_every_figure_with_its_command() -> None:
    part = (ROOT / "README.md").read_text("utf-8").partition("<!-- figures: make bench -->")[2]
    rows = [row for row in part.partition("<!-- end of figures -->")[0].splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 9
    for row in rows:
        assert re.search(r"`(python -m bench\.\w+|make bench[a-z-]*)` \|$", row), row
