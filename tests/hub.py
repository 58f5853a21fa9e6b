"""The Hugging Face hub on this machine: its local cache, filled by hand, and a server that speaks its protocol."""

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def fill_cache(cache: Path, repo_id: str, folder: Path) -> Path:
    """Put the files of `folder` where the cache keeps those of a repository. Returns their folder there."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, repository / "snapshots" / COMMIT))


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as repositories. Yields the address, and a list that grows by the path of each file fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            repo_id = next((repo_id for repo_id in repositories if f"/{repo_id}" in path), None)
            if repo_id is None:
                return self.answer(404, X_Error_Code="RepoNotFound")
            files = sorted(file for file in repositories[repo_id].iterdir() if file.is_file())
            if "/tree/" in path:
                entries = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40} for file in files
                ]
                return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            if path.startswith("/api/"):
                siblings = [{"rfilename": file.name} for file in files]
                info = {"_id": "0", "id": repo_id, "sha": COMMIT, "siblings": siblings, "tags": []}
                return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            file = repositories[repo_id] / path.rpartition("/")[2]
            if not file.is_file():
                return self.answer(404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            if self.command == "GET":
                fetched.append(file.name)
            return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
