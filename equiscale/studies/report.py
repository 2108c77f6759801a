"""A self-contained report.html: what was found in words, the figures, the numbers, and how to make them again."""

import base64
import csv
import html
import io
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

CHARACTERS = 13  # of a title in an inch
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.found { background: #eef4ff; border-left: 4px solid #1f6feb; padding: .8rem 1rem }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .9rem } th, td { padding: .25rem .7rem; border-bottom: 1px solid #d0d7de }
td { text-align: right } th:first-child, td:first-child { text-align: left }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: .85rem }
"""


def save_figure(figure: Figure, path: pathlib.Path) -> str:
    """Write a PNG beside the report and return it as an <img> that needs no file; a long title is broken into lines."""
    if lines := figure.get_suptitle().splitlines():
        width = int(CHARACTERS * figure.get_figwidth())
        figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines), fontsize=10)
    figure.savefig(path, dpi=150)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a row, a column for every name that any row has; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(r, 'td') for r in rows)}</table>"


def percent_text(row: Mapping[str, Any]) -> str:
    """A percentage as it may be read: with its error, or as below its floor."""
    if row["below_floor"]:
        return f"< {row['floor']:.1e} % (floor)"
    error = 2 * row["percent_stderr"]
    digits = max(0, -_magnitude(error))
    if digits > 8:
        return f"{row['percent']:.1e} ± {error:.0e} %"
    return f"{row['percent']:.{digits}f} ± {error:.{digits}f} %"


def _magnitude(x: float) -> int:
    return int(f"{x:e}".split("e")[1]) if x > 0 else 0


def write_report(path: pathlib.Path, *, title: str, found: Sequence[str], sections: Sequence[tuple[str, str]]) -> None:
    """`found` are plain sentences, `sections` pairs of a heading and a body of HTML."""
    body = "".join(f"<h2>{html.escape(heading)}</h2>{content}" for heading, content in sections)
    sentences = " ".join(html.escape(sentence) for sentence in found)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<p class="found">{sentences}</p>{body}</body></html>'
    )
    path.write_text(page, encoding="utf-8")
