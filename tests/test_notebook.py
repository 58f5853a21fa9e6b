"""The notebook of the examples runs offline, from top to bottom, and shows tables and images by itself."""

import shutil
from pathlib import Path

import pytest

from tests.data import ROOT

nbformat = pytest.importorskip("nbformat", reason="the notebook needs nbformat")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 8
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None
        compile(cell.source, cell.id, "exec")


@pytest.mark.slow
def test_it_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbclient = pytest.importorskip("nbclient", reason="the notebook needs nbclient")
    pytest.importorskip("ipykernel", reason="the notebook needs ipykernel")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")  # an address for documentation, which nothing answers at
    shutil.copy(ROOT / "examples" / "astronaut.jpg", tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert len(tables) == 2 and "a person" in tables[0] and tables[0].count("<img ") >= 1
    assert sum("image/png" in data for data in shown) == 5
