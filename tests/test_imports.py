"""Imports run one way, from low to high, so that each part can be read, tested and exchanged by itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.data import ROOT

# A module may import modules of lower levels and of its own package; modules on BASE also one another, without cycles.
BASE = 2
LEVELS = {
    "segany": 1,
    "grounded": 0,  # the package itself: __version__ and lazy names, which cost nothing
    **dict.fromkeys(("grounded.errors", "grounded.files", "grounded.arrays", "grounded.schema"), BASE),
    **dict.fromkeys(("grounded.types", "grounded.instances", "grounded.phrases"), BASE),
    **dict.fromkeys(("grounded.settings", "grounded.config", "grounded.formats", "grounded.suppression"), BASE),
    **dict.fromkeys(("grounded.images", "grounded.timing", "grounded.answers", "grounded.cache"), BASE),
    **dict.fromkeys(("grounded.kept", "grounded.editing", "grounded.polygons"), BASE),
    **dict.fromkeys(("grounded.detectors", "grounded.clip", "grounded.prompts"), 3),
    **dict.fromkeys(("grounded.regions", "grounded.dense_clip", "grounded.refine", "grounded.fallback"), 3),
    **dict.fromkeys(("grounded.drawing", "grounded.cutouts"), 3),
    **dict.fromkeys(("grounded.loading", "grounded.download", "grounded.question"), 4),
    **dict.fromkeys(("grounded.corrections", "grounded.naming", "grounded.weights"), 5),
    "grounded.pipeline": 6,
    **dict.fromkeys(("grounded.video", "grounded.labelling", "grounded.evaluation", "grounded.writing"), 7),
    # Stored values, without any model; exports, reviews and evaluations read them.
    **dict.fromkeys((f"grounded.labelling.{name}" for name in ("records", "store", "reviews", "verdicts")), BASE),
    "grounded.ui": 8,
    "grounded.commands": 9,
    **dict.fromkeys(("grounded.cli", "app", "recipes", "benchmarks"), 10),
    "grounded.__main__": 11,
}
# These work on stored values, without any model.
VALUES_ONLY = ("grounded.evaluation", "grounded.labelling.export", "grounded.labelling.imports")
# Optional or heavy dependency -> the files that may import it.
_WITH_WIDGETS = ("messages", "endpoints", "serving", "demo", "*_tab", "*_panel", "controls", "events", "everything")
_WITH_WIDGETS += ("examples", "inputs", "theme")
OWNERS = {
    "ray": ("grounded/labelling/ray_engine.py",),
    "gradio": tuple(f"grounded/ui/{name}.py" for name in _WITH_WIDGETS),
    "groundingdino": ("grounded/detectors/groundingdino_py.py",),
    "av": ("grounded/video.py",),
}
SOURCES = sorted(path for top in ("segany", "grounded", "recipes", "benchmarks") for path in (ROOT / top).rglob("*.py"))
SOURCES += [path for path in (ROOT / "app.py",) if path.exists()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions and under TYPE_CHECKING as well."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> str | None:
    """The longest entry of LEVELS that a dotted name lies in; None for other packages."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in LEVELS), None)


def imported_rooms(path: Path) -> set[str]:
    own = room(module_name(path))
    return {target for name in imported(path) if (target := room(name)) and target not in (own, "grounded")}


by_path = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


@by_path
def test_imports_run_from_low_to_high(path: Path):
    name = module_name(path)
    own = room(name)
    assert own is not None and (own != "grounded" or name == "grounded"), f"{name} has no level: add it to LEVELS"
    if name == "grounded":
        return  # its names are imported when they are used, see test_packages_are_imported_without_torch
    for target in imported_rooms(path):
        allowed = LEVELS[target] < LEVELS[own] or LEVELS[target] == LEVELS[own] == BASE
        assert allowed, f"{name} (level {LEVELS[own]}) imports {target} (level {LEVELS[target]})"


@by_path
def test_parts_that_work_on_values_import_values_only(path: Path):
    if module_name(path).startswith(VALUES_ONLY):
        for target in imported_rooms(path):
            assert LEVELS[target] <= BASE, f"{module_name(path)} imports {target}"


@by_path
def test_segany_knows_no_words(path: Path):
    if module_name(path).split(".")[0] == "segany":
        foreign = {name.split(".")[0] for name in imported(path)} & {"transformers", "open_clip", "grounded"}
        assert not foreign, f"{path.name} imports {foreign}"


@by_path
def test_optional_dependencies_have_owners(path: Path):
    own = path.relative_to(ROOT)
    for name in {name.split(".")[0] for name in imported(path)} & set(OWNERS):
        assert any(fnmatchcase(own.as_posix(), owner) for owner in OWNERS[name]), f"{own} imports {name}"


def test_no_cycles_among_the_base_modules():
    graph = {
        module_name(path): {target for target in imported_rooms(path) if LEVELS[target] == BASE}
        for path in SOURCES
        if LEVELS.get(module_name(path)) == BASE
    }
    while graph:
        free = {name for name, targets in graph.items() if not targets & set(graph)}
        assert free, f"these import one another in a circle: {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in free}


@pytest.mark.parametrize("module", ["grounded", "grounded.cli", "grounded.config", "segany"])
def test_packages_are_imported_without_torch(module: str):
    code = f"import sys, {module}; print(*({{'torch', 'transformers', 'open_clip', 'gradio'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("package", ["grounded", "segany"])
def test_public_names_exist(package: str):
    module = __import__(package)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense
