"""Public names of a package that are imported on first use, so that importing the package stays fast."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach_stub(package: str, init_file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the names that `__init__.pyi` imports available in a package, each imported when it is first used.

    The stub beside `__init__.py` is the only list of public names. Type checkers and editors read the same file. This
    is the convention of Scientific Python's SPEC 1 (package `lazy_loader`), as in

        __getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

    Args:
        package: `__name__` of the package.
        init_file: `__file__` of the package, the path of its `__init__.py`.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.
    """
    stub = ast.parse(Path(init_file).with_suffix(".pyi").read_text(encoding="utf-8"))
    modules = {
        alias.name: str(node.module) for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    public_names = sorted(modules)

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return get_attribute, lambda: public_names, public_names
