"""Writes the tables of settings into the pages: python docs/settings.py"""

import dataclasses
import importlib
from pathlib import Path

HERE = Path(__file__).parent


def table(algorithm: str) -> str:
    """Every setting of an algorithm with its default, meaning and source, as Markdown."""
    config = importlib.import_module(f"rlax_lab.{algorithm}").Config
    rows = ["| setting | default | |", "|---|---|---|"]
    for field in sorted(dataclasses.fields(config), key=lambda field: field.name):
        default = "none" if field.default is None else field.default
        rows.append(f"| `{field.name}` | {default} | {field.metadata['text']} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """A page with its table made anew, at its end."""
    lead, mark, rest = text.partition("<!-- settings of ")
    if not mark:
        return text
    algorithm = rest.partition(" ")[0]
    return f"{lead}{mark}{algorithm} -->\n\n{table(algorithm)}\n"


if __name__ == "__main__":
    for path in HERE.glob("*.md"):
        path.write_text(page(path.read_text()))
