import importlib
import sys
from pathlib import Path

import pytest

from segany.utils.lazy import attach_stub

INIT = "from segany.utils.lazy import attach_stub\n__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with two public names in one module."""
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    imports = [f"from lazy_example.numbers import {name} as {name}\n" for name in ("ONE", "double")]
    (folder / "__init__.pyi").write_text('"""Public names."""\n' + "".join(imports))
    (folder / "numbers.py").write_text("ONE = 1\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("lazy_example")
    for name in [name for name in sys.modules if name.startswith("lazy_example")]:
        del sys.modules[name]


def test_names_are_imported_on_first_use(package):
    assert "lazy_example.numbers" not in sys.modules
    assert package.__all__ == dir(package) == ["ONE", "double"]
    assert package.double(package.ONE) == 2
    assert "lazy_example.numbers" in sys.modules


def test_star_import(package):
    names: dict[str, object] = {}
    exec("from lazy_example import *", names)
    assert names["ONE"] == 1


def test_other_names_are_refused(package):
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'two'"):
        _ = package.two


def test_a_stub_is_required(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        attach_stub("lazy_example", str(tmp_path / "__init__.py"))
