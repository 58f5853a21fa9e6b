import pickle
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from segany import CheckpointError, hub
from segany.hub import HubError, HubModel, commit_of, has_hash, hash_in_cache, remove_from_cache, split_revision
from tests.hub import COMMIT, fill_cache, hash_of, link_cache, nobody, serve, use_hub

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


# ---- Damage on the way ----


def flip(content: bytes) -> bytes:
    """The same length, and other contents."""
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"], ids=["a large file", "a small file"])
def test_a_file_that_is_damaged_on_its_way_is_fetched_once_more(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    times = []

    def damage_once(file: str, content: bytes) -> bytes:
        times.extend([file] if file == name else [])
        return flip(content) if times == [name] and file == name else content

    folder = folder_of(tmp_path / "model", "config.json", "model.safetensors", "vocab.txt")
    with serve({"owner/name": folder}, transmit=damage_once) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        found = MODEL.find()
        assert sorted(fetched) == sorted(["config.json", "model.safetensors", "vocab.txt", name])
    assert {file.name: file.read_text() for file in found.iterdir()} == {
        file.name: file.name for file in folder.iterdir()
    }


def test_a_file_that_is_damaged_again_is_refused_and_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def damage(name: str, content: bytes) -> bytes:
        return flip(content) if name == "model.safetensors" else content

    folder = folder_of(tmp_path / "model", "config.json", "model.safetensors")
    with serve({"owner/name": folder}, transmit=damage) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        with pytest.raises(HubError, match=r"model\.safetensors arrived damaged twice") as error:
            MODEL.find()
        assert "\n" not in str(error.value)
        assert sorted(fetched) == ["config.json", "model.safetensors", "model.safetensors"]
        assert MODEL.cached() is None
    assert not [path for path in cache.rglob("*") if path.is_file() and path.read_bytes() == flip(b"model.safetensors")]


def test_files_of_the_cache_are_compared_with_their_names(cache: Path, tmp_path: Path):
    snapshot = link_cache(cache, "owner/name", folder_of(tmp_path / "model", "config.json", "model.safetensors"))
    assert MODEL.find_damaged(snapshot) == {snapshot / "config.json": False, snapshot / "model.safetensors": False}
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(flip(blob.read_bytes()))
    assert MODEL.find_damaged(snapshot) == {snapshot / "config.json": False, snapshot / "model.safetensors": True}
    remove_from_cache([snapshot / "model.safetensors"])
    assert not blob.exists() and not (snapshot / "model.safetensors").is_symlink()
    assert MODEL.cached() is None


def test_without_links_nothing_is_compared(cache: Path, tmp_path: Path):
    snapshot = fill_cache(cache, "owner/name", folder_of(tmp_path / "model", "config.json", "model.safetensors"))
    assert MODEL.find_damaged(snapshot) == {}


@pytest.mark.parametrize(
    ("hash_name", "expected"),
    [
        pytest.param(hash_of("a.bin", b"contents"), True, id="SHA-256"),
        pytest.param(hash_of("a.json", b"contents"), True, id="SHA-1 of git"),
        pytest.param(hash_of("a.bin", b"others"), False, id="another SHA-256"),
        pytest.param(hash_of("a.json", b"others"), False, id="another SHA-1"),
        pytest.param("W-5f3c-2", None, id="an entity tag that is no hash"),
    ],
)
def test_hashes(hash_name: str, expected: bool | None, tmp_path: Path):
    (tmp_path / hash_name).write_bytes(b"contents")
    link = tmp_path / "file"
    link.symlink_to(hash_name)
    assert has_hash(link, hash_in_cache(link)) is expected
    assert hash_in_cache(tmp_path / hash_name) is None  # a plain file, whatever its name


# ---- Revisions ----


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("facebook/sam-vit-base", "facebook/sam-vit-base", None),
        ("facebook/sam-vit-base@v1.0", "facebook/sam-vit-base", "v1.0"),
        (f"facebook/sam-vit-base@{COMMIT}", "facebook/sam-vit-base", COMMIT),
        ("owner/name@refs/pr/3", "owner/name", "refs/pr/3"),
        ("owner/name@v1/file.pt", "owner/name/file.pt", "v1"),
        ("owner/name/file.pt@v1", "owner/name/file.pt", "v1"),
        ("ViT-B-32/laion2b@v1", "ViT-B-32/laion2b", "v1"),
        ("owner/name@", "owner/name@", None),
        ("/folder/me@home/model", "/folder/me@home/model", None),
        ("bundled:clip", "bundled:clip", None),
    ],
)
def test_split_revision(source: str, name: str, revision: str | None):
    assert split_revision(source) == (name, revision)


def test_a_revision_is_what_is_found(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = "f" * 40
    folder = folder_of(tmp_path / "model", "config.json", "model.safetensors")
    pinned, tagged = replace(MODEL, revision=other), replace(MODEL, revision="v1")
    with serve({"owner/name": folder}, revisions=[other, "v1"]) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        assert commit_of(MODEL.find()) == COMMIT
        assert pinned.cached() is None and tagged.cached() is None
        assert commit_of(pinned.find()) == other
        assert commit_of(tagged.find()) == COMMIT
        assert sorted(fetched) == ["config.json", "model.safetensors"]  # equal contents are fetched once
        with pytest.raises(HubError, match=r"cannot get owner/name@v2: .*the repository has no such revision"):
            replace(MODEL, revision="v2").find()
    use_hub(monkeypatch, cache)
    assert commit_of(pinned.find()) == other
    assert commit_of(tmp_path) is None


def test_models_that_need_others(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One repository names the other, as that of a CLIP model names its tokenizer."""
    tokenizer = HubModel("owner/tokenizer", needed=(("vocab.txt",),))
    model = replace(MODEL, others=lambda folder: (tokenizer,) if (folder / "config.json").is_file() else ())
    folders = {
        "owner/name": folder_of(tmp_path / "model", "config.json", "model.safetensors"),
        "owner/tokenizer": folder_of(tmp_path / "tokenizer", "vocab.txt", "README.md"),
    }
    with serve(folders) as (address, fetched):
        use_hub(monkeypatch, cache, address)
        folder = model.find()
        assert sorted(fetched) == ["config.json", "model.safetensors", "vocab.txt"]
        assert [file.name for file in model.files(folder)] == ["config.json", "model.safetensors", "vocab.txt"]
        assert not any(model.find_damaged(folder).values()) and len(model.find_damaged(folder)) == 3
    use_hub(monkeypatch, cache)
    assert model.find() == folder
    (tokenizer.find() / "vocab.txt").unlink()
    assert model.cached() is None
