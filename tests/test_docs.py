"""The documentation names what exists."""

import re
from pathlib import Path

import pytest

from introprior.experiment import protocols

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "config/README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/reference/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", page.read_text()))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_option_of_the_protocol_is_explained_with_both_presets():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", (ROOT / "docs/fidelity.md").read_text(), re.MULTILINE))
    assert set(rows) == set(protocols.CHOICES)
    for option, row in rows.items():
        shown = [cell.strip(" `") for cell in row.split("|")[:2]]
        presets = [getattr(protocols.PRESETS[name], option) for name in ("authors", "text")]
        assert shown == [str(value).lower() if isinstance(value, bool) else value for value in presets]


def test_the_readmes_commands_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    rules = "".join(path.read_text() for path in ROOT.glob("workflow/rules/*.smk"))
    named = set(re.findall(r"^snakemake .*?\b(table\d|figure\d)\b", text, re.MULTILINE))
    assert named
    for rule in named:
        # Rules of tables and figures are made in a loop, of descriptions by number or name.
        described = re.escape(rule.removeprefix("table"))
        assert re.search(rf'^rule {rule}\b|^    "?{described}"?: \(', rules, re.MULTILINE)
