"""A page on rules and policies side by side; it opens by a double click and needs no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlax_lab.errors import InputError

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; white-space: pre; }
tr:first-child { border-bottom: 1px solid #888; }
figure { margin: 1rem 0 2rem; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; }
footer { margin-top: 3rem; color: #555; font-size: 14px; overflow-wrap: anywhere; }
"""


def write(
    out: Path,
    title: str,
    about: str,
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[Path, str],
    stamp: Mapping[str, Any],
) -> Path:
    """Writes a page with all that it shows inside.

    Args:
      out: the file.
      title, about: what it is, and a sentence on how it was made.
      rows: of a table, from headings to cells.
      pictures: PNG files, and a sentence on each.
      stamp: what was run, where and with what.

    Raises:
      InputError: where it cannot be written.
    """
    figures = "\n".join(_figure(path, text) for path, text in pictures.items())
    facts = "<br>\n".join(
        f"{html.escape(str(name))}: {html.escape(str(value))}" for name, value in stamp.items()
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(about)}</p>
<div class="wide">
{_table(rows)}
</div>
{figures}
<footer>
{facts}
</footer>
</body>
</html>
"""
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error.strerror}.") from error
    return out


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    def line(cells: Any, kind: str) -> str:
        inside = "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells)
        return f"<tr>{inside}</tr>"

    lines = [line(rows[0], "th"), *(line(row.values(), "td") for row in rows)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(path: Path, text: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape(text)
    return (
        f'<figure>\n<img alt="{caption}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
