"""Tables in LaTeX (booktabs, amssymb, graphicx) and, where ``pdflatex`` exists, in one PDF.

Only packages of Debian's texlive-latex-recommended are used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from introprior.errors import UserError
from introprior.operations.files import written
from introprior.reporting.tables.layout import Entry, Table

_SIGNS = {
    "β_rec": r"$\beta_{\mathrm{rec}}$", "β_kl": r"$\beta_{\mathrm{kl}}$", "β_neg": r"$\beta_{\mathrm{neg}}$",
    "r_entropy": r"$r_{\mathrm{entropy}}$",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "✓": r"$\checkmark$", "✗": r"$\times$",
    "×": r"$\times$", "−": r"$-$", "≤": r"$\leq$", "√": r"$\surd$", "²": r"$^2$", "β": r"$\beta$", "†": r"\dag{}",
    "–": "--", "“": "``", "”": "''", "’": "'", "\n": " ",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)) + "|[^\x00-\xff]")

_PREAMBLE = r"""\documentclass{article}
\usepackage[margin=0.5in]{geometry}
\usepackage{booktabs,amssymb,graphicx,caption}
\pagestyle{empty}
\begin{document}
\captionsetup{width=0.8\linewidth}
"""


def escape(text: str) -> str:
    """``text`` so that LaTeX prints it as it reads; what no font here has is shown as its code point."""
    return _SIGN.sub(lambda sign: _SIGNS[sign[0]] if sign[0] in _SIGNS else f"U+{ord(sign[0]):04X}", text)


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
        paths: files of :func:`fragment`, numbered by their names: ``table1_vs_paper.tex`` is ``1, beside the paper``.
        output: where to write.

    Raises:
        UserError: pdflatex is missing or fails.
    """
    if not pdflatex_available():
        raise UserError(
            f"{output}: pdflatex not found; install a TeX system (Debian: texlive-latex-recommended), or read the "
            "tables in Markdown"
        )
    pages = []
    for path in map(Path, paths):
        number = path.stem.removeprefix("table").replace("_vs_paper", ", beside the paper")
        pages.append(
            f"\\renewcommand{{\\thetable}}{{{escape(number)}}}\n{path.read_text(encoding='utf-8')}\\clearpage\n"
        )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
    with tempfile.TemporaryDirectory() as folder, written(output) as temporary:
        Path(folder, "tables.tex").write_text(_PREAMBLE + "\n".join(pages) + "\\end{document}\n", encoding="utf-8")
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace"
        )
        if run.returncode:
            said = re.search(r"^! (.*)", run.stdout, re.MULTILINE)
            complaint = said[1] if said else f"exit status {run.returncode}"
            raise UserError(f"{output}: pdflatex failed ({complaint}); delete the .tex files and run again")
        shutil.copyfile(Path(folder, "tables.pdf"), temporary)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    if entry.bold:
        text = rf"\textbf{{\boldmath {text}}}"
    return rf"{text} {{\scriptsize ({escape(entry.note)})}}" if entry.note else text
