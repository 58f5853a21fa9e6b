import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grounded.cli.demo import demo
from grounded.ui import serving


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads would lie; what the command changes in the environment is undone."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "False")
    return tmp_path / "uploads"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(demo, [*map(str, arguments)])


def test_help():
    result = run("--help")
    assert result.exit_code == 0
    for option in ("--config", "--host", "--port", "--share", "--mcp", "--max-side", "--open-browser"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--config", "huge"], "no preset named 'huge'", id="unknown preset"),
        pytest.param(["--port", "99999"], "99999 is not in the range", id="port"),
        pytest.param(["--max-side", "1"], "1 is not in the range", id="max side"),
        pytest.param(["--none-such"], "No such option", id="unknown option"),
        pytest.param(["--mcp"], "pip install 'gradio[mcp]'", id="no packages for MCP"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "detector: {checkpoint: nobody/no-such-model}",
            "or get all of it: grounded download {config} --all",
            id="not downloaded",
        ),
        pytest.param("segmenter: {checkpoint: /none/such.pth}", "/none/such.pth", id="no such file"),
    ],
)
def test_missing_weights_are_one_line(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = tmp_path / "absent.yaml"
    config.write_text(text)
    result = run("--config", config)
    assert result.exit_code == 1
    *progress, error = result.stderr.splitlines()
    assert progress == [f"Loading the models of {config}"]
    assert error.startswith("Error: ") and message.format(config=config) in error


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("--port", port)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: port {port} is taken") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "folder", "message"),
    [
        pytest.param(["--host", "nonsense.invalid"], None, "the host must be an address of this machine", id="host"),
        pytest.param(["--host", "192.0.2.1"], None, "no port can be listened on", id="another machine's"),
        pytest.param([], "/dev/null/uploads", "no folder for uploads can be created at /dev/null", id="folder"),
    ],
)
def test_what_stops_the_app_is_one_line(
    arguments: list[str], folder: str | None, message: str, monkeypatch: pytest.MonkeyPatch
):
    if folder:
        monkeypatch.setenv("GRADIO_TEMP_DIR", folder)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}") and len(result.stderr.splitlines()) == 1


def test_an_error_of_a_library_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr(serving, "prepare", fail)
    result = run()
    assert (result.exit_code, result.stderr) == (1, "Error: RuntimeError: something odd\n")


def test_options_reach_the_server(monkeypatch: pytest.MonkeyPatch, own_folder: Path):
    served: list[Any] = []
    monkeypatch.setattr(serving, "serve", lambda app, limits, **options: served.append((limits, options)))
    result = run("--host", "0.0.0.0", "--port", 7999, "--share", "--max-side", 512, "--open-browser")
    assert result.exit_code == 0, result.output
    ((limits, options),) = served
    assert limits.max_side == 512
    given = {"host": "0.0.0.0", "port": 7999, "share": True, "mcp": False, "open_browser": True}
    assert given.items() <= options.items() and "theme" in options
    assert "Models ready after" in result.stderr
    assert own_folder.is_dir()
