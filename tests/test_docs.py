"""The documentation names what exists."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from introprior.experiment.config import Configuration, load
from introprior.experiment.protocol import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "config/README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/reference/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", re.sub(r"`[^`]*`", "", page.read_text()))
    missing = []
    for target, anchor in links:
        place = page.parent / target if target else page
        there = "://" in target or place.exists()
        if there and anchor and place.suffix == ".md":
            there = anchor in {f"#{heading(line)}" for line in place.read_text().splitlines() if line.startswith("#")}
        missing += [] if there else [target + anchor]
    assert not missing


def heading(line):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


def test_every_option_of_the_protocol_is_explained_with_both_presets():
    presets = [
        {key: value for role in preset.model_dump().values() for key, value in role.items()}
        for preset in (PRESETS["authors"], PRESETS["text"])
    ]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", (ROOT / "docs/fidelity.md").read_text(), re.MULTILINE))
    assert set(rows) == set(presets[0])
    for option, row in rows.items():
        shown = [cell.strip(" `") for cell in row.split("|")[:2]]
        assert shown == [str(preset[option]).lower() for preset in presets]


def test_configurations_on_pages_are_valid():
    """Those that name a dataset or prior of the page's own are tested with it: test_the_page_on_..."""
    found = []
    for page in (page for page in PAGES if not page.name.startswith(("add-", "as-", "your-"))):
        for indent, block in re.findall(r"^( *)```yaml\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            text = re.sub(f"^{indent}", "", block, flags=re.MULTILINE)
            values = next(yaml.safe_load_all(text))
            if values.keys() <= Configuration.model_fields.keys():
                found.append(load(values))
    assert len(found) >= 3


def test_snakemake_understands_the_commands_on_pages():
    """Options that take several values take what follows them, targets too."""
    cli = pytest.importorskip("snakemake.cli")
    parser, found = cli.get_argument_parser(), []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(r"^ *(?:\w+=\S+ )?snakemake (.*)$", text, re.MULTILINE):
            given, _ = parser.parse_known_args(shlex.split(command, comments=True))
            assert [pair for pair in given.config or [] if "=" not in pair] == [], command
            assert [str(path) for path in given.configfile or [] if path.suffix != ".yaml"] == [], command
            found.append(given.targets)
    assert sum(map(bool, found)) > 10


def test_what_pages_make_exists():
    makefile = (ROOT / "Makefile").read_text()
    found = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "demo-all"} <= found
    for target in found:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
