"""Tables in LaTeX (booktabs, amssymb, graphicx) and, where ``pdflatex`` exists, in one PDF.

Only packages of Debian's texlive-latex-recommended are used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from introprior.errors import UserError
from introprior.operations.files import written
from introprior.reporting.tables.layout import Entry, Table

TIMEOUT = 120
"""Seconds after which a compilation is given up."""

_PHRASES = {
    "β_rec": r"$\beta_{\mathrm{rec}}$",
    "β_kl": r"$\beta_{\mathrm{kl}}$",
    "β_neg": r"$\beta_{\mathrm{neg}}$",
    "r_entropy": r"$r_{\mathrm{entropy}}$",
}
_CHARACTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "✓": r"$\checkmark$", "✗": r"$\times$",
    "×": r"$\times$", "−": r"$-$", "≤": r"$\leq$", "√": r"$\surd$", "²": r"$^2$", "β": r"$\beta$", "†": r"\dag{}",
    "–": "--", "“": "``", "”": "''", "’": "'", "\n": " ",
}  # fmt: skip

_PREAMBLE = r"""\documentclass{article}
\usepackage[margin=0.5in]{geometry}
\usepackage{booktabs,amssymb,graphicx,caption}
\pagestyle{empty}
\begin{document}
\captionsetup{width=0.8\linewidth}
"""


def escape(text: str) -> str:
    """``text`` so that LaTeX prints it as it reads; what no font here has is shown as its code point."""
    for phrase, command in _PHRASES.items():
        head, found, tail = text.partition(phrase)
        if found:
            return escape(head) + command + escape(tail)
    return "".join(_CHARACTERS.get(c, c if ord(c) < 0x100 else f"U+{ord(c):04X}") for c in text)


def fragment(table: Table) -> str:
    """A ``table*`` float with caption and label, ready for \\input; shrunk where it is larger than the page."""
    stubs, columns = len(table.stubs), len(table.headings[-1].texts)
    lines = [_head(table, index) for index in range(len(table.headings))]
    for block in table.blocks:
        lines.append(r"\midrule")
        for position, (labels, row) in enumerate(zip(table.labels(block), block, strict=True)):
            if position and any(labels[:-1]):
                lines.append(r"\addlinespace[2pt]")
            lines.append(_line([*map(escape, labels), *map(_entry, row.entries)]))
    body = "\n".join(lines)
    return rf"""% Needs \usepackage{{booktabs,amssymb,graphicx}}
\begin{{table*}}[p]
\centering
\footnotesize
\setlength{{\tabcolsep}}{{4pt}}
\sbox0{{%
\begin{{tabular}}{{@{{}}{"l" * stubs}{"c" * columns}@{{}}}}
\toprule
{body}
\bottomrule
\end{{tabular}}}}%
\ifdim\wd0>\linewidth\sbox0{{\resizebox{{\linewidth}}{{!}}{{\usebox0}}}}\fi
\ifdim\dimexpr\ht0+\dp0>0.85\textheight\sbox0{{\resizebox*{{!}}{{0.85\textheight}}{{\usebox0}}}}\fi
\usebox0
\caption{{{escape(table.caption)}}}
\label{{tab:{table.label}}}
\end{{table*}}
"""


def _head(table: Table, index: int) -> str:
    """A line of the table's head, with rules under groups of columns."""
    heading, last = table.headings[index], index == len(table.headings) - 1
    stub = [escape(text) if last else "" for text in table.stubs]
    if heading.title:
        stub[-1] = escape(heading.title)
    cells, rules, position = [], "", len(stub) + 1
    for text, width in table.spans(index):
        cells.append(escape(text) if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{escape(text)}}}")
        if width > 1 and not last:
            rules += rf"\cmidrule(lr){{{position}-{position + width - 1}}}"
        position += width
    return _line([*stub, *cells]) + f" {rules}" * bool(rules)


def pdflatex_available() -> bool:
    """Whether this machine can make ``tables.pdf``."""
    return shutil.which("pdflatex") is not None


def compile_tables(paths: Iterable[str | Path], output: str | Path) -> None:
    """Compile tables into a PDF, one a page; the same tables give the same bytes.

    Args:
        paths: files of :func:`fragment`, numbered by their names.
        output: where to write.

    Raises:
        UserError: pdflatex is missing, fails or takes longer than :data:`TIMEOUT` seconds; a file cannot be read.
    """
    pages = []
    for path in map(Path, paths):
        try:
            pages.append(f"\\renewcommand{{\\thetable}}{{{escape(_number(path))}}}\n{path.read_text()}\\clearpage\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read ({error}); run again to make it anew") from error
    if not pages:
        raise UserError(f"{output}: no tables to compile; name at least one")
    if not pdflatex_available():
        raise UserError(
            f"{output}: pdflatex not found; install a TeX system (Debian: texlive-latex-recommended), or read the "
            "tables in Markdown"
        )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tables.tex").write_text(_PREAMBLE + "\n".join(pages) + "\\end{document}\n")
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
        try:
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{output}: pdflatex took longer than {TIMEOUT} s; look for what it waits for") from None
        if run.returncode:
            complaints = [line.removeprefix("! ") for line in run.stdout.splitlines() if line.startswith("!")]
            complaint = (complaints or [f"exit status {run.returncode}"])[0]
            raise UserError(f"{output}: pdflatex failed ({complaint}); delete the .tex files and run again")
        with written(output) as temporary:
            shutil.copyfile(Path(folder, "tables.pdf"), temporary)


def _number(path: Path) -> str:
    """What a table's file name says about its number: ``table1_vs_paper.tex`` is ``1, beside the paper``."""
    name = path.stem.removeprefix("table")
    return name.removesuffix("_vs_paper") + ", beside the paper" * name.endswith("_vs_paper")


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    if entry.bold:
        text = rf"\textbf{{\boldmath {text}}}"
    return rf"{text} {{\scriptsize ({escape(entry.note)})}}" if entry.note else text
