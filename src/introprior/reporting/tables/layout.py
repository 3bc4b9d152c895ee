"""A table as the reader sees it, written once in Unicode: Markdown is made here, LaTeX in ``latex``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import NamedTuple

TICK, CROSS = "✓", "✗"


class Entry(NamedTuple):
    """One place of a table: ``0.51 ± 0.15``, whether it's the best of its row, a smaller remark like ``4/5 seeds``."""

    text: str
    bold: bool = False
    note: str = ""


class Row(NamedTuple):
    """A row: its labels from left to right, then its entries."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]


class Heading(NamedTuple):
    """One line of the table's head: what it tells (may be empty) and the text over each column."""

    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        number: as in the paper, e.g. ``1``.
        label: its name in files and LaTeX, e.g. ``table1``.
        caption: sentences that make the table readable by itself.
        stubs: heads of the label columns.
        headings: lines of the head; neighbours with the same text under the same text are one.
        blocks: rows in groups, set apart by rules.
    """

    number: str
    label: str
    caption: str
    stubs: tuple[str, ...]
    headings: tuple[Heading, ...]
    blocks: tuple[tuple[Row, ...], ...]

    def spans(self, line: int) -> list[tuple[str, int]]:
        """Text and width of each group of columns in heading ``line``; a titled heading has no groups wider than 1."""
        if self.headings[line].title:
            return [(text, 1) for text in self.headings[line].texts]
        above = [heading.texts for heading in self.headings[: line + 1]]
        return [(group[-1], len(list(columns))) for group, columns in groupby(zip(*above, strict=True))]

    def labels(self, block: Sequence[Row]) -> list[tuple[str, ...]]:
        """The labels of a block's rows, blank where they only repeat the row above."""
        shown: list[tuple[str, ...]] = []
        above = ((), *(row.labels for row in block))
        for row, previous in zip(block, above, strict=False):
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(row.labels, previous, strict=False))))
            shown.append(("",) * same + row.labels[same:])
        return shown


def markdown(table: Table) -> str:
    """The table in Markdown: a caption and one pipe table, whose head joins the untitled headings."""
    heads = [heading.texts for heading in table.headings if not heading.title]
    columns = [", ".join(dict.fromkeys(filter(None, parts))) for parts in zip(*heads, strict=True)]
    stubs = len(table.stubs)
    lines = [[*table.stubs, *columns], [":---"] * stubs + [":---:"] * len(columns)]
    lines += [[*[""] * (stubs - 1), title, *texts] for title, texts in table.headings if title]
    for block in table.blocks:
        for labels, row in zip(table.labels(block), block, strict=True):
            lines.append([*labels, *map(_marked, row.entries)])
    body = "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)
    return f"**Table {table.number}.** {_escaped(table.caption)}\n\n{body}\n"


def _marked(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.bold else entry.text
    return f"{text} ({entry.note})" if entry.note else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
