"""The pages under docs/: their code runs, their tables are those of the program."""

import re
from pathlib import Path

import pytest

from docs import settings

PAGES = sorted(settings.HERE.glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)
    if path.stem == "README":
        first, last = names["lengths"][:, 0].mean(), names["lengths"][:, -1].mean()
        assert last > 2 * first


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_are_up_to_date(path: Path) -> None:
    """Their tables of settings, and what they link to."""
    text = path.read_text()
    assert text == settings.page(text), "run python docs/settings.py"
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (path.parent / link).exists(), link
