"""Models on the Hugging Face hub: out of the local cache where they are, else downloaded.

The cache is asked first, and the hub once and for a few seconds. By themselves the client's functions try for half a
minute per file to reach a hub that is not there.
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

# Seconds until the hub counts as out of reach. Only the first, small request is bound to it, not the download.
PATIENCE = 5.0
_T = TypeVar("_T")


class HubError(CheckpointError):
    """A model is neither in the local cache nor to be had from the hub, for the `reason` given."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class HubModel:
    """The files of a repository on the hub that make up a model.

    `needed` holds each file under the names that it may have, best first; `extra` holds patterns of what belongs to the
    model where the repository has it. `instead` ends the error message: what to do where the hub is out of reach.
    """

    repo_id: str
    needed: tuple[tuple[str, ...], ...]
    extra: tuple[str, ...] = ()
    instead: str = "give the path of a local folder that holds them"

    @property
    def wanted(self) -> str:
        """The needed files in words."""
        return ", ".join(" or ".join(names) for names in self.needed)

    def find(self) -> Path:
        """Return the folder of the local cache that holds the model, downloaded now where it was not there.

        Raises:
            HubError: the hub cannot be reached, or does not give the files.
        """
        return self.cached() or self.download()

    def cached(self) -> Path | None:
        """Return the folder of the local cache that holds the model, or None where a file is missing. No request."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.repo_id, allow_patterns=[], local_files_only=True))
            chosen, absent = self._choose({path.name for path in folder.iterdir() if path.is_file()})
            if absent:
                return None
            # Where the cache knows what the repository holds, this notices extra files that an interruption cost.
            snapshot_download(self.repo_id, allow_patterns=[*chosen, *self.extra], local_files_only=True)
        except (LocalEntryNotFoundError, ValueError):  # ValueError: not of the form of a hub id
            return None
        return folder

    def download(self, patience: float = PATIENCE) -> Path:
        """Download what is not in the local cache, and return the folder there. Interrupted downloads are resumed.

        Args:
            patience: seconds until a hub that does not answer counts as out of reach.

        Raises:
            HubError: the hub cannot be reached, or does not give the files.
        """
        from huggingface_hub import HfApi, snapshot_download

        try:
            info = _within(patience, lambda: HfApi().model_info(self.repo_id, timeout=patience))
            chosen, absent = self._choose({sibling.rfilename for sibling in info.siblings or ()})
            if not absent:
                return Path(snapshot_download(self.repo_id, allow_patterns=[*chosen, *self.extra]))
            reason, cause = f"the repository has no {' and no '.join(absent)}", None
        except Exception as error:  # errors of the hub, the connection and the disk have no common base
            reason, cause = _reason(error, patience), error
        raise HubError(
            f"cannot get {self.repo_id}: it is not in the local cache, and {reason}; "
            f"wanted {self.wanted}: {self.instead}",
            reason,
        ) from cause

    def files(self, folder: Path) -> list[Path]:
        """Return the files of the model in a folder that `find` returned."""
        names = {path.name for path in folder.iterdir() if path.is_file()}
        chosen, _ = self._choose(names)
        extra = {name for name in names for pattern in self.extra if fnmatch(name, pattern)}
        return [folder / name for name in sorted({*chosen, *extra})]

    def _choose(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """The best of `names` for each needed file, and in words the files for which there is none."""
        best = [next((name for name in group if name in names), None) for group in self.needed]
        absent = [" or ".join(group) for group, name in zip(self.needed, best, strict=True) if name is None]
        return [name for name in best if name is not None], absent


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """What `call` returns, or TimeoutError. Looking up a name and trying its addresses in turn heed no other limit."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    return outcome.result(seconds)


def _reason(error: Exception, patience: float) -> str:
    """Why the hub did not give something, in one line."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE)"
    # The client's HTTP library has changed its name, and gives its errors no built-in base.
    connection = type(error).__module__.startswith("httpx")
    late = connection and any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)
    if late or isinstance(error, (TimeoutError, FutureTimeoutError)):
        return f"the hub did not answer within {patience:g} s"
    if isinstance(error, GatedRepoError):
        return "access to it must be granted first"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository that is public"
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return f"there is no connection to the hub ({line})" if connection else line
