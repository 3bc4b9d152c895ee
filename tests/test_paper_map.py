"""docs/paper-map.md covers the whole paper, and every one of its entries leads somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper-map.md").read_text()
EQUATIONS = 106
ENTRY = re.compile(r"`([\w/]+\.py): (\w+)`")


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of the table below a heading, without its head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    for line in lines:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names |= {getattr(target, "name", getattr(target, "id", None)) for target in targets}
    return names


def numbers(text: str) -> list[int]:
    """``1-3, 5`` as 1, 2, 3, 5."""
    ends = [list(map(int, part.split("-"))) for part in text.split(", ")]
    return [number for first, *last in ends for number in range(first, (last or [first])[0] + 1)]


def test_every_equation_is_there_once_and_in_order():
    found = [number for equation, *_ in rows("Equations") for number in numbers(equation)]
    assert found == list(range(1, EQUATIONS + 1))


def test_every_statement_table_and_figure_is_there():
    statements = " ".join(row[0] for row in rows("Statements"))
    for name in ("Assumptions 1-4", "Theorems 1-4", "Lemmas 1-6", "Propositions 1-2", "Conjecture 1"):
        assert name in statements
    assert sorted(number for table, *_ in rows("Tables") for number in numbers(table)) == [1, 2, 3, 4, 5]
    assert [figure for figure, *_ in rows("Figures")] == [*"123456", "S2", "S3"]


def test_what_is_no_proof_has_code_and_a_test():
    for heading in ("Equations", "Statements", "Tables", "Figures"):
        for row in rows(heading):
            code, test = row[-2 if heading in ("Equations", "Statements") else 1], row[-1]
            assert code == "*proof*" or (ENTRY.search(code) and ENTRY.search(test)), row
            for entry in re.findall(r"`([^`]+: [^`]+)`", code + test):
                assert ENTRY.fullmatch(f"`{entry}`"), f"{entry} is not followed"


@pytest.mark.parametrize("entry", sorted(set(ENTRY.findall(PAGE))), ids=": ".join)
def test_entries_lead_somewhere(entry):
    file, name = entry
    path = ROOT / "tests" / file if file.startswith("test_") else ROOT / "src" / "introprior" / file
    assert name in defined(path)


def test_rules_exist():
    rules = "".join(path.read_text() for path in ROOT.glob("workflow/rules/*.smk"))
    named = {
        rule for heading in ("Tables", "Figures") for row in rows(heading) for rule in re.findall(r"`(\w+)`", row[2])
    }
    assert named
    for rule in named:
        generated = rule.startswith("table") and 'f"table{number}"' in rules
        assert generated or re.search(rf'^rule {rule}:|"{rule}": \(', rules, re.MULTILINE), rule
