import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grounded.cli.browse import browse
from grounded.labelling.review import log, server
from tests.grounded.labelling.review.runs import example_run
from tests.grounded.labelling.reviewed import make_review


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return example_run(tmp_path)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(browse, [*map(str, arguments)])


def test_help():
    result = invoke("--help")
    assert result.exit_code == 0
    for option in ("--images", "--port", "--host", "--config", "--device", "--report", "--static", "--limit"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--config", "huge"], "no preset named 'huge'", id="preset"),
        pytest.param(["--port", "0"], "0 is not in the range", id="port"),
        pytest.param(["--limit", "0", "--static", "a.html"], "0 is not in the range", id="limit"),
        pytest.param(["--images", "/none"], "/none", id="no such images"),
        pytest.param(["--none-such"], "No such option", id="option"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, run: Path):
    result = invoke(run, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr


def test_folders_that_hold_no_run(tmp_path: Path):
    result = invoke(tmp_path, "--report")
    assert (result.exit_code, result.stderr) == (1, f"Error: {tmp_path} holds no run: there is no run.json\n")
    assert invoke(tmp_path / "none").exit_code == 2


def test_report(run: Path):
    log.append_reviews(run, make_review("accept", 0, "picnic.png"), make_review("reject", 1, "picnic.png"))
    result = invoke(run, "--report")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["reviewed"] == 2 and report["rejected_share"] == 0.5 and report["above_0.9"] == 1


def test_reviews_that_cannot_be_read(run: Path):
    (run / "reviews.jsonl").write_text("what?\n")
    result = invoke(run, "--report")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert "reviews.jsonl, byte 0: not a review" in result.stderr


def test_static(run: Path, tmp_path: Path):
    result = invoke(run, "--static", tmp_path / "sheet.html", "--limit", 2)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{tmp_path / 'sheet.html'}: 2 images\n"
    assert (tmp_path / "sheet.html").read_text().count("<figure>") == 2


def test_images_that_were_moved(run: Path, tmp_path: Path):
    shutil.move(run.parent / "images", tmp_path / "moved")
    result = invoke(run, "--static", tmp_path / "sheet.html")
    assert result.exit_code == 0 and "Say with --images where the images are now" in result.stderr
    grey = len((tmp_path / "sheet.html").read_bytes())
    result = invoke(run, "--static", tmp_path / "sheet.html", "--images", tmp_path / "moved")
    assert result.exit_code == 0 and "--images" not in result.stderr
    assert len((tmp_path / "sheet.html").read_bytes()) > 1.3 * grey


def test_a_port_that_is_taken(run: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke(run, "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot listen on 127.0.0.1, port ") and result.stderr.count("\n") == 1


def test_options_reach_the_server(run: Path, monkeypatch: pytest.MonkeyPatch):
    served: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda *given: served.append(given))
    assert invoke(run, "--host", "::1", "--device", "cpu", "--config", "tiny").exit_code == 0
    ((session, host, listener),) = served
    assert host == "::1" and listener.family == socket.AF_INET6
    assert session.folder == run and session.segmenter.config.device == "cpu" and not session.segmenter.is_loaded
    assert session.source.get("picnic.png").startswith(b"\x89PNG")
