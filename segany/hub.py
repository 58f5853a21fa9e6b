"""Models on the Hugging Face hub: used from the local cache, or downloaded and compared with their hashes.

The cache is checked first; then one request with a short timeout checks whether the hub can be reached. The client's
own functions would retry for half a minute per file.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from segany.errors import CheckpointError

# Seconds until the hub counts as unreachable. Applies to the first, small request only, not to the download.
TIMEOUT = 5.0
_BLOCK_SIZE = 1 << 20  # bytes that are read at a time
_SHA256 = re.compile(r"[0-9a-f]{64}")  # of a large file's contents
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # of a small file, as git names it
# "owner/name@revision", "owner/name@revision/file" and "owner/name/file@revision". A revision is a commit, a tag or a
# branch, or a reference such as refs/pr/1.
_REVISION = r"@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[\w.-]+)"
_WITH_REVISION = re.compile(rf"(?P<name>[^/@]+/[^/@]+(?:/[^/@]+)?){_REVISION}(?P<file>(?:/[^/@]+)?)")
_T = TypeVar("_T")


class HubError(CheckpointError):
    """A model is not in the local cache and cannot be downloaded, for the given `reason`."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def _no_others(folder: Path) -> "tuple[HubModel, ...]":
    return ()


@dataclass(frozen=True)
class HubModel:
    """The files of a model in a repository on the hub.

    repo_id  the repository, as "owner/name"
    needed   for each required file its possible names, best first
    extra    patterns of optional files
    instead  end of the error message: what the user can do if the hub is unreachable
    revision  a commit, tag or branch; None for the newest commit of the main branch
    local    what a local copy is, for messages; by default a folder with the needed files
    others   models in other repositories without which this one does not load, told from its folder
    """

    repo_id: str
    needed: tuple[tuple[str, ...], ...]
    extra: tuple[str, ...] = ()
    instead: str = "give the path of a local folder that holds them"
    revision: str | None = None
    local: str = ""
    others: "Callable[[Path], tuple[HubModel, ...]]" = _no_others

    @property
    def name(self) -> str:
        """The repository with the revision, if one is given."""
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"

    @property
    def wanted(self) -> str:
        """The needed files as text."""
        return ", ".join(" or ".join(names) for names in self.needed)

    @property
    def local_copy(self) -> str:
        """What a local copy is, as text."""
        return self.local or f"a folder with {self.wanted}"

    def find(self) -> Path:
        """Return the folder of the model in the local cache, and download it first if necessary.

        Raises:
            HubError: the hub cannot be reached, or the files are not available.
        """
        return self.cached() or self.download()

    def cached(self) -> Path | None:
        """Return the folder of the model in the local cache, or None if a file is missing. Makes no request."""
        folder = self._cached_folder()
        return None if folder is None or any(one.cached() is None for one in self.others(folder)) else folder

    def download(self, timeout: float = TIMEOUT, replaced: Collection[Path] = ()) -> Path:
        """Download missing files and return their folder in the local cache. Interrupted downloads are resumed.

        All files of the model are compared with the hashes that the hub states. One that was damaged on its way is
        fetched once more.

        Args:
            timeout: seconds until a hub that does not respond counts as unreachable.
            replaced: damaged files in the cache, to be removed and fetched again if the hub can be reached.

        Raises:
            HubError: the hub cannot be reached, the files are not available, or a file arrives damaged twice.
        """
        folder = self._download_own(timeout, replaced)
        for one in self.others(folder):
            one.download(timeout)
        return folder

    def files(self, folder: Path) -> list[Path]:
        """Return the model's files in the folder returned by `find`, and those of the other models that it needs."""
        others = [(one, one.cached()) for one in self.others(folder)]
        return self._own_files(folder) + [file for one, other in others if other for file in one.files(other)]

    def find_damaged(self, folder: Path) -> dict[Path, bool]:
        """Compare the files in the folder returned by `find` with the hashes by which the cache names them.

        Returns:
            for each file whether it is damaged. A file that the cache does not name by a hash is left out, as where
            the file system has no links.
        """
        found = {file: has_hash(file, hash_in_cache(file)) for file in self.files(folder)}
        return {file: not intact for file, intact in found.items() if intact is not None}

    def _download_own(self, timeout: float, replaced: Collection[Path]) -> Path:
        from huggingface_hub import HfApi

        def ask() -> Any:
            return HfApi().model_info(self.repo_id, revision=self.revision, timeout=timeout, files_metadata=True)

        try:
            info = _call_with_timeout(timeout, ask)
            stated = {sibling.rfilename: _stated_hash(sibling) for sibling in info.siblings or ()}
            chosen, absent = self._choose(stated)
            reason, cause = f"the repository has no {' and no '.join(absent)}", None
            if not absent:
                remove_from_cache(replaced)
                folder, damaged = self._fetch(chosen, stated)
                if damaged:
                    folder, damaged = self._fetch(chosen, stated)
                if not damaged:
                    return folder
                names = " and ".join(file.name for file in damaged)
                reason = f"{names} arrived damaged twice: the contents are not those on the hub"
        except Exception as error:  # errors of the hub, the network and the disk have no common base class
            reason, cause = _reason(error, timeout), error
        raise HubError(
            f"cannot get {self.name}: it is not in the local cache, and {reason}; wanted {self.wanted}: {self.instead}",
            reason,
        ) from cause

    def _fetch(self, names: Collection[str], stated: Mapping[str, str | None]) -> tuple[Path, list[Path]]:
        """Download what is missing. Returns the folder, and the files that arrived damaged and were removed again.

        Args:
            names: of the needed files.
            stated: the hash of each file on the hub; where it states none, the cache may name one.
        """
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(self.repo_id, revision=self.revision, allow_patterns=[*names, *self.extra]))
        hashes = {file: stated.get(file.name) or hash_in_cache(file) for file in self._own_files(folder)}
        damaged = [file for file, expected in hashes.items() if has_hash(file, expected) is False]
        remove_from_cache(damaged)
        return folder, damaged

    def _cached_folder(self) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        options: dict[str, Any] = {"revision": self.revision, "local_files_only": True}
        try:
            folder = Path(snapshot_download(self.repo_id, allow_patterns=[], **options))
            chosen, absent = self._choose({path.name for path in folder.iterdir() if path.is_file()})
            if absent:
                return None
            # Fails if the cache knows the repository's file list and an interrupted download left out extra files.
            snapshot_download(self.repo_id, allow_patterns=[*chosen, *self.extra], **options)
        except (LocalEntryNotFoundError, ValueError):  # ValueError: not a valid hub id
            return None
        return folder

    def _own_files(self, folder: Path) -> list[Path]:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        chosen, _ = self._choose(names)
        extra = {name for name in names for pattern in self.extra if fnmatch(name, pattern)}
        return [folder / name for name in sorted({*chosen, *extra})]

    def _choose(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the best of `names` for each needed file, and descriptions of needed files that are absent."""
        best = [next((name for name in group if name in names), None) for group in self.needed]
        absent = [" or ".join(group) for group, name in zip(self.needed, best, strict=True) if name is None]
        return [name for name in best if name is not None], absent


# ---- Revisions ----


def split_revision(source: str) -> tuple[str, str | None]:
    """Split "owner/name@revision" into the name and the revision, which is None where none is given.

    Of one file in a repository both "owner/name@revision/file" and "owner/name/file@revision" are read.
    """
    match = _WITH_REVISION.fullmatch(source)
    return (match["name"] + match["file"], match["revision"]) if match else (source, None)


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder in the cache of the hub; None for a folder elsewhere."""
    return folder.name if folder.parent.name == "snapshots" and _GIT_SHA1.fullmatch(folder.name) else None


# ---- Hashes ----


def hash_in_cache(file: Path) -> str | None:
    """Return the hash by which the cache of the hub names the contents of a file, or None if it names none.

    A file in the cache is a link to its contents, which have the hash as their name. Where a file system has no links,
    the contents lie in the file's own place and nothing tells their hash.
    """
    blob = _find_blob(file)
    name = "" if blob is None else blob.name
    return name if _SHA256.fullmatch(name) or _GIT_SHA1.fullmatch(name) else None


def has_hash(file: Path, expected: str | None) -> bool | None:
    """Whether the contents of a file have a hash: SHA-256 or, in 40 digits, git's SHA-1. None for an unknown hash."""
    if expected is None:
        return None
    if _SHA256.fullmatch(expected):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_SIZE):
            digest.update(block)
    return digest.hexdigest() == expected


def remove_from_cache(files: Collection[Path]) -> None:
    """Remove files in the cache of the hub together with their contents, so that they are downloaded again."""
    for file in files:
        contents = {file.resolve(), _find_blob(file) or file}  # the client may keep contents at a third place
        for path in (file, *contents):
            path.unlink(missing_ok=True)


def _find_blob(file: Path) -> Path | None:
    """What a file in the cache is a link to, if it is one."""
    return file.parent / os.readlink(file) if file.is_symlink() else None


def _stated_hash(sibling: Any) -> str | None:
    """The hash that the hub states of a file: SHA-256 of a large one, git's SHA-1 of a small one."""
    stated = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    return stated if stated and (_SHA256.fullmatch(stated) or _GIT_SHA1.fullmatch(stated)) else None


# ---- Requests ----


def _call_with_timeout(seconds: float, call: Callable[[], _T]) -> _T:
    """Run `call` in a thread, or raise TimeoutError: DNS lookups and retries over addresses ignore other timeouts."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    return outcome.result(seconds)


def _reason(error: Exception, timeout: float) -> str:
    """Describe in one line why a request to the hub failed."""
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE)"
    # By module name, which starts alike in all versions of the client: its network errors have no built-in base class.
    is_network_error = type(error).__module__.startswith("httpx")
    is_timeout = is_network_error and any(base.__name__ == "TimeoutException" for base in type(error).__mro__)
    if is_timeout or isinstance(error, (TimeoutError, FutureTimeoutError)):
        return f"the hub did not answer within {timeout:g} s"
    if isinstance(error, GatedRepoError):
        return "access to it must be granted first"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository that is public"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return f"there is no connection to the hub ({line})" if is_network_error else line
