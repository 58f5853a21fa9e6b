"""The Python of the README runs as it stands, one block after the other."""

import re
import shutil
from pathlib import Path

import pytest

from tests.data import ROOT

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 3
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "overlay.png").stat().st_size > 0
    assert set(names["people"].labels.tolist()) == {"a person"}
    assert len(names["everything"]) > 0
