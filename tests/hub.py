"""The Hugging Face hub on this machine: its local cache, filled by hand, and a server that speaks its protocol."""

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".bin", ".pt", ".pth")  # what the hub keeps as large files


def use_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, address: str | None = None) -> None:
    """Let the client use this cache and the hub at this address for a test; without an address, offline mode is on."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", address is None)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    if address is not None:
        # Read from the environment when the client was imported.
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def nobody() -> str:
    """An address on this machine where no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def fill_cache(cache: Path, repo_id: str, folder: Path, revision: str = "main", commit: str = COMMIT) -> Path:
    """Put the files of `folder` where the cache keeps those of a repository. Returns their folder there."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(commit)
    return Path(shutil.copytree(folder, repository / "snapshots" / commit))


def link_cache(cache: Path, repo_id: str, folder: Path) -> Path:
    """As `fill_cache`, with files as links to their contents, which are named by their hash as the client does it."""
    snapshot = fill_cache(cache, repo_id, folder)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    for file in snapshot.iterdir():
        blob = file.rename(blobs / hash_of(file.name, file.read_bytes()))
        file.symlink_to(Path("..", "..", "blobs", blob.name))
    return snapshot


def hash_of(name: str, content: bytes) -> str:
    """The hash that the hub states of a file: SHA-256 of weights, git's SHA-1 of small files."""
    if name.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Log(list[str]):
    """The path of each file fetched; `requests` has the paths of all requests, for whatever."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []


@contextmanager
def serve(
    repositories: Mapping[str, Path],
    revisions: Collection[str] = (),
    transmit: Callable[[str, bytes], bytes] = lambda name, content: content,
) -> Iterator[tuple[str, Log]]:
    """Serve folders as repositories. Yields the address, and a list that grows by the path of each file fetched.

    Args:
        repositories: a folder for each repository.
        revisions: of all repositories, besides the main branch.
        transmit: what arrives of a file, given by its name and contents.
    """
    log, known = Log(), {"main", COMMIT, *revisions}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            log.requests.append(path)
            repo_id = next((repo_id for repo_id in repositories if f"/{repo_id}/" in f"{path}/"), None)
            if repo_id is None:
                return self.answer(404, X_Error_Code="RepoNotFound")
            revision = re.search(r"/(?:revision|tree|resolve)/([^/]+)", path)
            name = revision[1] if revision else "main"
            if name not in known:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            commit = name if re.fullmatch("[0-9a-f]{40}", name) else COMMIT
            files = sorted(file for file in repositories[repo_id].iterdir() if file.is_file())
            if "/tree/" in path:
                body = json.dumps([describe_entry(file) for file in files]).encode()
                return self.answer(200, body, Content_Type="application/json", X_Repo_Commit=commit)
            if path.startswith("/api/"):
                siblings = [describe_sibling(file) for file in files]
                info = {"_id": "0", "id": repo_id, "sha": commit, "siblings": siblings, "tags": []}
                return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            file = repositories[repo_id] / path.rpartition("/")[2]
            if not file.is_file():
                return self.answer(404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            etag = f'"{hash_of(file.name, content)}"'
            if self.command == "GET":
                log.append(file.name)
                content = transmit(file.name, content)
            return self.answer(200, content, ETag=etag, X_Repo_Commit=commit)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


def describe_entry(file: Path) -> dict[str, object]:
    """A file in the list of a repository's tree."""
    digest, size = hash_of(file.name, file.read_bytes()), file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": file.name, "size": size, "oid": digest[:40]}
    return entry | ({"lfs": {"oid": digest, "size": size, "pointerSize": 130}} if file.name.endswith(_LARGE) else {})


def describe_sibling(file: Path) -> dict[str, object]:
    """A file in the description of a repository."""
    digest, size = hash_of(file.name, file.read_bytes()), file.stat().st_size
    entry: dict[str, object] = {"rfilename": file.name, "size": size, "blobId": digest[:40]}
    return entry | ({"lfs": {"sha256": digest, "size": size, "pointerSize": 130}} if file.name.endswith(_LARGE) else {})
