import pickle
import socket
import time
from pathlib import Path

import pytest

from segany import CheckpointError, hub
from segany.hub import HubError, HubModel
from tests.hub import fill_cache, nobody, serve, use_hub

MODEL = HubModel(
    "owner/name", needed=(("config.json",), ("model.safetensors", "pytorch_model.bin")), extra=("vocab.*",)
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that nobody serves."""
    use_hub(monkeypatch, tmp_path / "cache", nobody())
    return tmp_path / "cache"


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(name)
    return path


@pytest.mark.parametrize(
    ("files", "found"),
    [
        pytest.param(["config.json", "model.safetensors"], True, id="complete"),
        pytest.param(["config.json", "pytorch_model.bin"], True, id="under another name"),
        pytest.param(["config.json", "pytorch_model.bin", "model.safetensors", "vocab.txt", "x"], True, id="and more"),
        pytest.param(["config.json"], False, id="no weights"),
        pytest.param(["model.safetensors"], False, id="no config"),
        pytest.param([], False, id="empty"),
    ],
)
def test_cache_is_looked_into_first(files: list[str], found: bool, cache: Path, tmp_path: Path):
    snapshot = fill_cache(cache, "owner/name", folder_of(tmp_path / "model", *files))
    assert MODEL.cached() == (snapshot if found else None)
    if found:
        assert MODEL.find() == snapshot
    else:
        with pytest.raises(HubError):
            MODEL.find()


def test_files_are_those_of_the_model(tmp_path: Path):
    folder = folder_of(
        tmp_path / "m", "config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "README.md"
    )
    assert [file.name for file in MODEL.files(folder)] == ["config.json", "model.safetensors", "vocab.txt"]


def test_no_connection_is_told_at_once(cache: Path, caplog: pytest.LogCaptureFixture):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="it is not in the local cache, and there is no connection") as error:
        MODEL.find()
    assert time.monotonic() - start < 10  # by itself, the client tries for more than 20 s
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(
        "wanted config.json, model.safetensors or pytorch_model.bin: give the path of a local folder that holds them"
    )
    assert not caplog.records


@pytest.mark.parametrize("bound", ["the whole", "the client"])
def test_a_hub_that_does_not_answer(bound: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever limit is reached first, that of the whole or the client's own for a part of it, the reason is one."""
    if bound == "the client":
        monkeypatch.setattr(hub, "_call_with_timeout", lambda seconds, call: call())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(monkeypatch, cache, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(HubError, match=r"the hub did not answer within 0\.2 s"):
            MODEL.download(timeout=0.2)
        assert time.monotonic() - start < 5  # by itself, the client waits for 10 s


def test_offline_mode(cache: Path, monkeypatch: pytest.MonkeyPatch):
    use_hub(monkeypatch, cache)
    with pytest.raises(HubError, match="offline mode is on") as error:
        MODEL.find()
    assert error.value.reason == "offline mode is on (HF_HUB_OFFLINE)"
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.reason) == (str(error.value), error.value.reason)


def test_download_takes_the_best_of_each_file_and_no_more(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "README.md"]
    with serve({"owner/name": folder_of(tmp_path / "model", *names)}) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        folder = MODEL.find()
        assert sorted(fetched) == ["config.json", "model.safetensors", "vocab.txt"]
        assert {file.name: file.read_text() for file in folder.iterdir()} == {name: name for name in fetched}
        assert MODEL.find() == MODEL.cached() == folder
        assert len(fetched) == 3
        # An extra file that an interruption cost is noticed, and fetched alone.
        (folder / "vocab.txt").unlink()
        assert MODEL.cached() is None
        assert MODEL.find() == folder
        assert (folder / "vocab.txt").read_text() == "vocab.txt"
    assert MODEL.find() == folder


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        pytest.param("owner/other", "the hub has no such repository", id="no repository"),
        pytest.param("owner/name", "the repository has no model.safetensors or pytorch_model.bin", id="no weights"),
    ],
)
def test_what_the_hub_does_not_have(
    repository: str, message: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve({repository: folder_of(tmp_path / "model", "config.json")}) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        with pytest.raises(HubError, match=message):
            MODEL.find()
        assert fetched == []
