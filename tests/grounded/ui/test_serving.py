"""A real server on loopback, asked by `gradio_client` and by plain HTTP."""

import base64
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.ui import serving
from grounded.ui.actions import Actions
from grounded.ui.api import ENDPOINT_SETTINGS, ENDPOINTS, Api, add_endpoints
from grounded.ui.state import Limits
from tests.data import PICNIC, ROOT, picnic_truth
from tests.http_server import image_server

# By which a third burst may raise the resident memory: 1.3 MB an image. Until then allocators take what they keep.
# Fifty requests that each left their embeddings, of the image and of three windows, would keep 200 MB. The allocator
# holds on to some tens of megabytes more or less from one burst to the next.
MEMORY_BOUND = 128 * 2**20


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "no_proxy", "NO_PROXY"):
            patch.setenv(name, "")
        handler = signal.getsignal(signal.SIGTERM)
        yield serving.prepare()
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def url(actions: Actions, folder: Path) -> Iterator[str]:
    serving.warm_up(actions)
    with gr.Blocks() as demo:
        add_endpoints(actions)
    with serving.running(demo, actions.limits) as address:
        yield address
    assert not folder.exists()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def found(client: Client) -> dict[str, Any]:
    return client.predict(handle_file(PICNIC), "a dog. pizza", api_name="/segment")


@pytest.fixture
def broken(tmp_path: Path) -> Any:
    (tmp_path / "broken.png").write_bytes(b"no image")
    return handle_file(tmp_path / "broken.png")


def overlap_with_the_dog(result: dict[str, Any]) -> float:
    """IoU of the true dog with the instance that overlaps it most."""
    truth = picnic_truth()["dog"][0]
    return max(float((mask & truth).sum() / (mask | truth).sum()) for mask in Instances.from_dict(result).masks)


def test_segment(found: dict[str, Any]):
    assert found["phrases"] == ["a dog", "pizza"] and found["image"]["file"] == "picnic.png"
    assert overlap_with_the_dog(found) > 0.7
    assert found["models"]["detector"] == "bundled:detector" and found["seconds"]["detect"] > 0


def test_refine(client: Client, found: dict[str, Any]):
    corrected = client.predict(
        image=handle_file(PICNIC), result=found, index=0, points=[[440, 250]], labels=[1], api_name="/refine"
    )
    assert corrected["instances"][0]["mask"] != found["instances"][0]["mask"]
    assert overlap_with_the_dog(corrected) > 0.7


def test_automatic(client: Client):
    result = client.predict(image=handle_file(PICNIC), words="dog", points_per_side=6, api_name="/automatic")
    assert result["phrases"] == ["dog", "unnamed"]
    assert overlap_with_the_dog(result) > 0.7


def test_label(client: Client, found: dict[str, Any], broken: Any):
    results = client.predict(images=[broken, handle_file(PICNIC)], text="a dog. pizza", api_name="/label")
    assert results[0] == {"file": "broken.png", "error": "broken.png is not an image in a known format"}
    assert results[1]["instances"] == found["instances"]
    assert client.predict(images=[], text="a dog", api_name="/label") == []


def test_addresses_stand_for_uploads(client: Client, found: dict[str, Any], folder: Path):
    address = f"data:image/png;base64,{base64.b64encode(PICNIC.read_bytes()).decode()}"
    (result,) = client.predict(images=[address], text="a dog. pizza", api_name="/label")
    assert result["instances"] == found["instances"]
    assert list(folder.rglob("file.png")) == []  # nothing else would ever remove it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        pytest.param("segment", {"text": " "}, "the text holds no phrase", id="empty text"),
        pytest.param("segment", {"image": "broken"}, "broken.png is not an image in a known format", id="broken"),
        pytest.param("segment", {"image": None}, "images and clips must be uploaded files", id="no file"),
        pytest.param(
            "segment",
            {"image": "http://127.0.0.1/a.png"},
            "addresses are not fetched here, got http://127.0.0.1/a.png: upload the file",
            id="address",
        ),
        pytest.param("segment", {"image": "data:image/png;base64,?"}, "image is not an image", id="no base64"),
        pytest.param("segment", {"box_threshold": 7.0}, "box_threshold must lie in [0, 1], got 7.0", id="threshold"),
        pytest.param("refine", {"index": 99}, "index must be one of 2 instances", id="index"),
        pytest.param("refine", {"result": "{not json"}, "the result is not JSON", id="no JSON"),
        pytest.param("refine", {"result": {"image": 1}}, "a result must hold the key 'phrases'", id="wrong JSON"),
        pytest.param("refine", {"points": [[1, 9999]]}, "must lie", id="point"),
        pytest.param("automatic", {"image": "broken"}, "broken.png is not an image in a known format", id="automatic"),
        pytest.param("automatic", {"points_per_side": 500}, "must be at most 64, got 500", id="points_per_side"),
        pytest.param("label", {"text": ""}, "the text holds no phrase", id="label"),
        pytest.param("label", {"images": "x"}, "images must be a list of uploaded files, got str", id="no list"),
    ],
)
def test_bad_input_is_reported_in_plain_words(
    client: Client,
    found: dict[str, Any],
    broken: Any,
    name: str,
    changes: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture,
):
    opened = handle_file(PICNIC)
    good: dict[str, dict[str, Any]] = {
        "segment": {"image": opened, "text": "a dog"},
        "refine": {"image": opened, "result": found, "index": 0, "points": [[440, 250]]},
        "automatic": {"image": opened},
        "label": {"images": [opened], "text": "a dog"},
    }
    given = {key: broken if value == "broken" else value for key, value in changes.items()}
    with pytest.raises(AppError) as caught:
        client.predict(**{**good[name], **given}, api_name=f"/{name}")
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value) + "".join(capfd.readouterr())


def test_endpoints_and_their_parameters_are_documented(client: Client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(endpoints) == sorted(f"/{name}" for name in ENDPOINTS)
    for endpoint in endpoints.values():
        assert len(endpoint["description"]) > 20
        for parameter in endpoint["parameters"]:
            assert len(parameter["python_type"]["description"]) > 10, parameter["parameter_name"]
    parameters = {p["parameter_name"]: p for p in endpoints["/segment"]["parameters"]}
    assert parameters["image"]["python_type"]["type"] == "filepath"
    assert [name for name, p in parameters.items() if not p["parameter_has_default"]] == ["image", "text"]


SETTINGS = [None] * len(ENDPOINT_SETTINGS)


def post(url: str, path: str, data: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}gradio_api/{path}", json.dumps(data).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_files_of_the_server_cannot_be_read(url: str):
    for image in ({"path": str(PICNIC), "meta": {"_type": "gradio.FileData"}}, {"path": str(PICNIC)}, str(PICNIC)):
        event = post(url, "call/segment", {"data": [image, "a dog", *SETTINGS]})["event_id"]
        with urllib.request.urlopen(f"{url}gradio_api/call/segment/{event}", timeout=60) as answer:
            text = answer.read().decode()
        assert "event: error" in text and "instances" not in text


def test_the_server_fetches_nothing_for_its_users(url: str):
    """Neither for an upload that names an address as its place, nor by the route of files."""
    with image_server() as other:
        address = f"{other.url}/image/a.png"
        upload = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        for name, image in (("segment", upload), ("label", [upload]), ("segment", address), ("label", [address])):
            event = post(url, f"call/{name}", {"data": [image, "a dog", *SETTINGS]})["event_id"]
            with urllib.request.urlopen(f"{url}gradio_api/call/{name}/{event}", timeout=60) as answer:
                text = answer.read().decode()
            assert "event: error" in text and "addresses are not fetched here" in text
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}gradio_api/file={address}", timeout=60)
        assert caught.value.code == 403
        assert other.requests == []


def test_no_request_bypasses_the_queue(url: str):
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, "run/segment", {"data": [None, "a dog"]})
    assert caught.value.code == 404


def distinct(count: int, folder: Path) -> list[Path]:
    """Images that differ in size and in what is in view."""
    whole = Image.open(PICNIC).convert("RGB")
    paths = [folder / f"image-{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        left, top = 3 * i, 2 * i
        whole.crop((left, top, left + 440 - i, top + 340 + i)).resize((220 + i, 160 + 2 * i)).save(path)
    return paths


def burst(url: str, sources: list[Path], users: int) -> list[dict[str, Any]]:
    """Ask about all images at once, by several users; the answers in the order of the images."""
    clients = [Client(url, verbose=False) for _ in range(users)]
    jobs = [
        clients[i % users].submit(handle_file(opened), "a dog. watermelon", api_name="/segment")
        for i, opened in enumerate(sources)
    ]
    return [job.result(timeout=600) for job in jobs]


def check_burst(results: list[dict[str, Any]], sources: list[Path], actions: Actions) -> None:
    for opened, result in zip(sources, results, strict=True):
        assert result["image"]["file"] == opened.name
        assert (result["image"]["width"], result["image"]["height"]) == Image.open(opened).size
        alone = Api(actions).segment(opened, "a dog. watermelon")
        assert result["instances"] == alone["instances"]


def resident() -> int:
    """Bytes of memory that this process holds, server, models and clients together."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_every_result_belongs_to_its_request(url: str, actions: Actions, tmp_path: Path):
    sources = distinct(6, tmp_path)
    results = burst(url, sources, users=3)
    assert sum(len(result["instances"]) for result in results) > 0
    check_burst(results, sources, actions)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_a_burst_of_fifty(url: str, actions: Actions, tmp_path: Path):
    sources = distinct(50, tmp_path)
    check_burst(burst(url, sources, users=10), sources, actions)
    burst(url, sources, users=10)
    before = resident()
    assert len(burst(url, sources, users=10)) == 50
    assert resident() - before < MEMORY_BOUND


# From here on servers without models.


@pytest.fixture
def small() -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.api(len_of_file, api_name="length")
    return demo


def len_of_file(file: dict) -> int:
    return Path(file["path"]).stat().st_size


def test_uploads_beyond_the_limit_are_refused(small: gr.Blocks, folder: Path, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, 2 * 2**20, dtype=np.uint8).tobytes()
    (tmp_path / "little.bin").write_bytes(noise[: 2**19])
    with serving.running(small, Limits(max_file_mb=1)) as address:
        client = Client(address, verbose=False)
        assert client.predict(handle_file(tmp_path / "little.bin"), api_name="/length") == 2**19
        with pytest.raises(urllib.error.HTTPError) as caught:
            upload(address, "large.bin", noise)
        assert caught.value.code == 413
        assert [path.name for path in folder.rglob("*.bin")] == ["little.bin"]
    assert not folder.exists()


def test_how_it_is_served(small: gr.Blocks, folder: Path):
    with serving.running(small):
        assert small.max_file_size == Limits().max_file_mb * 2**20
        assert small._queue.max_size >= 100 and small.delete_cache == serving.DELETE_CACHE
        assert not (small.analytics_enabled or small.run_history or small.api_open or small.share)
        assert small.server_name == "127.0.0.1"


def test_a_port_that_is_taken(small: gr.Blocks):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(serving.ServingError, match=f"port {port} is taken"), serving.running(small, port=port):
            pytest.fail("it runs")
        with pytest.raises(serving.ServingError, match=f"port {port} is taken"):
            serving.check_port(port, "127.0.0.1")
    serving.check_port(port, "127.0.0.1")
    serving.check_port(None, None)
    with pytest.raises(serving.ServingError, match="no port can be listened on"):
        serving.check_port(None, "192.0.2.1")  # an address for documentation, which no machine has


@pytest.mark.parametrize(
    ("host", "variables"),
    [
        pytest.param(None, {"http_proxy": "http://127.0.0.1:1"}, id="of http"),
        pytest.param("0.0.0.0", {"ALL_PROXY": "http://127.0.0.1:1", "NO_PROXY": "intern.example"}, id="of everything"),
    ],
)
def test_behind_a_proxy(host: str | None, variables: dict[str, str], small: gr.Blocks, monkeypatch: pytest.MonkeyPatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with serving.running(small, host=host):
        assert small.is_running
    for name in ("no_proxy", "NO_PROXY"):
        listed = os.environ[name].split(",")
        assert {"localhost", "127.0.0.1", "::1", host or "localhost"} <= set(listed)
        assert variables.get("NO_PROXY", "localhost") in listed


@pytest.mark.parametrize(
    ("proxy", "is_left_out"),
    [("http://127.0.0.1:1", False), ("127.0.0.1:1", False), ("socks://127.0.0.1:1", True), ("", False)],
)
def test_proxies_that_gradio_cannot_use_are_left_out(
    proxy: str, is_left_out: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    serving.prepare()
    assert ("ALL_PROXY" not in os.environ) == is_left_out
    assert capsys.readouterr().err.startswith("Warning: ALL_PROXY is left out") == is_left_out


@pytest.mark.parametrize("host", ["nonsense.invalid", "a" * 70 + ".invalid", "999.1.1.1"])
def test_no_address_of_this_machine(host: str):
    with pytest.raises(serving.ServingError, match="the host must be an address of this machine"):
        serving.check_port(None, host)


def test_a_launch_that_fails_is_one_line(small: gr.Blocks, monkeypatch: pytest.MonkeyPatch):
    def fail(**options: Any) -> None:
        raise ValueError("not\nthere")

    monkeypatch.setattr(small, "launch", fail)
    with (
        pytest.raises(serving.ServingError, match=r"^the app could not be started: ValueError: not there$"),
        serving.running(small),
    ):
        pytest.fail("it runs")


def test_mcp_without_its_packages(small: gr.Blocks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gradio\[mcp\]'"), serving.running(small, mcp=True):
        pytest.fail("it runs")


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("has_spaces", [False, True], ids=["elsewhere", "on ZeroGPU"])
def test_gpu_in_all_forms(has_spaces: bool, monkeypatch: pytest.MonkeyPatch):
    durations: list[int] = []

    def lend(duration: int) -> Any:
        durations.append(duration)
        return lambda function: lambda *arguments: function(*arguments)

    monkeypatch.setattr(serving, "_spaces", SimpleNamespace(GPU=lend) if has_spaces else None)
    wrapped = [serving.gpu(double), serving.gpu()(double), serving.gpu(duration=120)(double)]
    assert [function(3) for function in wrapped] == [6, 6, 6]
    assert durations == ([60, 60, 120] if has_spaces else [])
    assert has_spaces or all(function is double for function in wrapped)


SERVER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what the background of a shell would ignore
from grounded.ui import serving
serving.prepare()
import gradio as gr
with gr.Blocks() as demo:
    gr.Button().click(lambda: None)
serving.serve(demo, port={port})
"""


def upload(url: str, name: str, data: bytes) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    request = urllib.request.Request(
        f"{url}gradio_api/upload",
        head.encode() + data + b"\r\n--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    urllib.request.urlopen(request, timeout=60).close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_nothing_stays_after_ctrl_c(tmp_path: Path):
    port = free_port()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "GRADIO_TEMP_DIR": ""}
    command = [sys.executable, "-c", SERVER.format(port=port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == f"The app is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
            upload(f"http://127.0.0.1:{port}/", "a.txt", b"mine")
            assert len(list(tmp_path.rglob("a.txt"))) == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
            assert process.stderr.read().splitlines()[-1] == "Stopped"
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []
