"""Imports run one way, from low to high, so that each part can be read, tested and exchanged by itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.data import ROOT

# From low to high. A package imports from lower rows and from itself, never from its own row or a higher one.
ROWS = (
    ("segany",),
    ("grounded.errors",),
    ("grounded.utils",),
    ("grounded.config",),
    ("grounded.query",),
    ("grounded.data",),
    ("grounded.models", "grounded.stages", "grounded.output"),  # a stage knows models by their protocols alone
    ("grounded.interactive",),
    ("grounded.pipeline",),
    ("grounded.video",),
    ("grounded.labelling",),
    ("grounded.evaluation", "grounded.experiments"),
    ("grounded.training",),
    ("grounded.engine",),
    ("grounded.ui",),
    ("grounded.cli",),
    ("grounded.__main__", "app", "recipes", "benchmarks"),
)
RANK = {package: rank for rank, row in enumerate(ROWS) for package in row}
# These work on stored values, and never load a model.
VALUES_ONLY = ("grounded.evaluation", "grounded.labelling.formats", "grounded.labelling.store")
MODELS = ("grounded.models", "grounded.pipeline")
# Optional or heavy dependency -> the files that may import it.
OWNERS = {
    "ray": ("grounded/labelling/engines/ray.py",),
    "gradio": ("grounded/ui/*.py", "grounded/cli/demo.py"),
    "groundingdino": ("grounded/models/detectors/original/package.py",),
    "accelerate": ("grounded/training/processes.py",),
    "peft": ("grounded/training/lora.py",),
    "pyarrow": ("grounded/labelling/formats/table.py",),
    "supervision": ("grounded/data/formats.py",),
    "open_clip": (
        "grounded/models/clip_checkpoint.py",
        "grounded/models/dense_clip.py",
        "recipes/*.py",
        "benchmarks/*.py",
    ),
    "pycocotools": (
        "segany/utils/rle.py",
        "grounded/evaluation/average_precision.py",  # COCO's own evaluator
        "grounded/evaluation/matching.py",  # IoU of boxes with crowds
        "recipes/*.py",
        "benchmarks/*.py",
    ),
}
SOURCES = sorted(path for top in ("segany", "grounded", "recipes", "benchmarks") for path in (ROOT / top).rglob("*.py"))
SOURCES += [path for path in (ROOT / "app.py",) if path.exists()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, for_types: bool = True) -> Iterator[str]:
    """Full names of all that a file imports, inside functions as well, and `for_types` under TYPE_CHECKING."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not for_types:
        tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package(name: str) -> str | None:
    """The package in ROWS that a dotted name lies in; None for other distributions and for `grounded` itself."""
    parts = name.split(".")
    return next((prefix for n in (2, 1) if (prefix := ".".join(parts[:n])) in RANK), None)


by_path = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


@by_path
def test_imports_run_from_low_to_high(path: Path):
    name = module_name(path)
    if name == "grounded":
        return  # its names are imported when they are used, see test_packages_are_imported_without_torch
    own = package(name)
    assert own is not None, f"{name} lies in no row: add its package to ROWS"
    for target in {package(name) for name in imported(path)} - {own, None}:
        assert RANK[target] < RANK[own], f"{name} imports {target}, which is not below {own}"


@by_path
def test_parts_that_work_on_values_load_no_model(path: Path):
    if module_name(path).startswith(VALUES_ONLY):
        loading = [name for name in imported(path) if name.startswith(MODELS)]
        assert not loading, f"{module_name(path)} imports {loading}"


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


def test_no_cycles_within_packages():
    """Modules of one package may import one another, but never in a circle, unless for the names of types alone."""
    modules = {module_name(path): set(imported(path, for_types=False)) for path in SOURCES}
    graph = {
        name: {
            target
            for target in modules
            if target != name
            and any(i == target or (i not in modules and i.rsplit(".", 1)[0] == target) for i in imports)
        }
        for name, imports in modules.items()
        if name not in ("grounded", "segany")
    }
    while graph:
        free = {name for name, targets in graph.items() if not targets & set(graph)}
        assert free, f"these import one another in a circle: {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in free}


@pytest.mark.parametrize("module", ["grounded", "grounded.cli.main", "grounded.config", "segany"])
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
