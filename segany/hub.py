"""Models on the Hugging Face hub: used from the local cache, or downloaded.

The cache is checked first; then one request with a short timeout checks whether the hub can be reached. The client's
own functions would retry for half a minute per file.
"""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import TypeVar

from segany.errors import CheckpointError

# Seconds until the hub counts as unreachable. Applies to the first, small request only, not to the download.
TIMEOUT = 5.0
_T = TypeVar("_T")


class HubError(CheckpointError):
    """A model is not in the local cache and cannot be downloaded, for the given `reason`."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class HubModel:
    """The files of a model in a repository on the hub.

    repo_id  the repository, as "owner/name"
    needed   for each required file its possible names, best first
    extra    patterns of optional files
    instead  end of the error message: what the user can do if the hub is unreachable
    """

    repo_id: str
    needed: tuple[tuple[str, ...], ...]
    extra: tuple[str, ...] = ()
    instead: str = "give the path of a local folder that holds them"

    @property
    def wanted(self) -> str:
        """The needed files as text."""
        return ", ".join(" or ".join(names) for names in self.needed)

    def find(self) -> Path:
        """Return the folder of the model in the local cache, and download it first if necessary.

        Raises:
            HubError: the hub cannot be reached, or the files are not available.
        """
        return self.cached() or self.download()

    def cached(self) -> Path | None:
        """Return the folder of the model in the local cache, or None if a file is missing. Makes no request."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.repo_id, allow_patterns=[], local_files_only=True))
            chosen, absent = self._choose({path.name for path in folder.iterdir() if path.is_file()})
            if absent:
                return None
            # Fails if the cache knows the repository's file list and an interrupted download left out extra files.
            snapshot_download(self.repo_id, allow_patterns=[*chosen, *self.extra], local_files_only=True)
        except (LocalEntryNotFoundError, ValueError):  # ValueError: not a valid hub id
            return None
        return folder

    def download(self, timeout: float = TIMEOUT) -> Path:
        """Download missing files and return their folder in the local cache. Interrupted downloads are resumed.

        Args:
            timeout: seconds until a hub that does not respond counts as unreachable.

        Raises:
            HubError: the hub cannot be reached, or the files are not available.
        """
        from huggingface_hub import HfApi, snapshot_download

        try:
            info = _call_with_timeout(timeout, lambda: HfApi().model_info(self.repo_id, timeout=timeout))
            chosen, absent = self._choose({sibling.rfilename for sibling in info.siblings or ()})
            if not absent:
                return Path(snapshot_download(self.repo_id, allow_patterns=[*chosen, *self.extra]))
            reason, cause = f"the repository has no {' and no '.join(absent)}", None
        except Exception as error:  # errors of the hub, the network and the disk have no common base class
            reason, cause = _reason(error, timeout), error
        raise HubError(
            f"cannot get {self.repo_id}: it is not in the local cache, and {reason}; "
            f"wanted {self.wanted}: {self.instead}",
            reason,
        ) from cause

    def files(self, folder: Path) -> list[Path]:
        """Return the model's files in the folder returned by `find`."""
        names = {path.name for path in folder.iterdir() if path.is_file()}
        chosen, _ = self._choose(names)
        extra = {name for name in names for pattern in self.extra if fnmatch(name, pattern)}
        return [folder / name for name in sorted({*chosen, *extra})]

    def _choose(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the best of `names` for each needed file, and descriptions of needed files that are absent."""
        best = [next((name for name in group if name in names), None) for group in self.needed]
        absent = [" or ".join(group) for group, name in zip(self.needed, best, strict=True) if name is None]
        return [name for name in best if name is not None], absent


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
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

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
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return f"there is no connection to the hub ({line})" if is_network_error else line
