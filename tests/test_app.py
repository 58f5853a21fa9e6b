"""The app as a Space starts it: `python app.py` in a clone, in a process of its own and without the checks of tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import gradio
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.data import ROOT

CAT = ROOT / "examples" / "cat.jpg"


@pytest.mark.slow
def test_the_app_starts_answers_and_leaves_nothing(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary), "GRADIO_TEMP_DIR": ""}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "torch")  # PyTorch's own, which it keeps
    environment.pop("GROUNDED_CONFIG", None)
    before = set(ROOT.iterdir())
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(120, process.kill)  # else a server that never starts would be waited for
        watchdog.start()
        try:
            assert process.stderr is not None
            said = []
            while not said or "The app is at" not in said[-1]:
                said.append(process.stderr.readline())
                assert said[-1], "".join(said)
            assert said[-1] == f"The app is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
            assert "Loading the models of photo\n" in said and "Warming up\n" in said
            client = Client(f"http://127.0.0.1:{port}/", verbose=False)
            result = client.predict(handle_file(CAT), "a cat", api_name="/segment")
            assert [instance["phrase"] for instance in result["instances"]] == ["a cat"]
            assert len(list(temporary.rglob("cat.jpg"))) >= 1
            for settings, message in (
                ({"box_threshold": "much"}, "box_threshold must be float or null, got str 'much'"),
                ({"mode": ["box"]}, "mode must be one of box, text, box+text"),
                ({"text": 7}, "text must be a string"),
            ):
                with pytest.raises(AppError, match=re.escape(message)):
                    client.predict(**{"image": handle_file(CAT), "text": "a cat", **settings}, api_name="/segment")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
            assert "Traceback" not in process.stderr.read()
        finally:
            watchdog.cancel()
            process.kill()
    assert list(temporary.iterdir()) == []
    assert {path for path in ROOT.iterdir() if path.name != "__pycache__"} <= before


def test_requirements_are_the_dependencies():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]


def test_the_front_matter_of_the_space():
    guide = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n---\n(.*?)---\n```", guide, re.DOTALL)
    front = yaml.safe_load(text)
    assert (ROOT / front["app_file"]).is_file() and front["sdk"] == "gradio"
    assert front["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert front["license"] == "apache-2.0" and len(front["short_description"]) <= 60
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not readme.startswith("---") or readme.startswith(f"---\n{text}---\n")
