"""One writer at a time: a lock that the system takes back when the process dies, however it dies."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from grounded.errors import ConfigError
from grounded.utils.files import explained

try:
    import fcntl
except ImportError:  # not on Windows: there two runs at once are not told apart
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Lock:
    """A folder that is held by this process."""

    file: BinaryIO

    @classmethod
    def take(cls, folder: Path) -> "Lock":
        """Take the lock of `folder`.

        Raises:
            ConfigError: another process holds it.
            OutputError: its file cannot be written.
        """
        path = folder / LOCK_FILE
        with explained(path):
            file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = file.read(200).decode(errors="replace").strip() or "unknown"
            file.close()
            raise ConfigError(f"another run is writing into {folder}: {owner}") from error
        with suppress(OSError):  # who holds it is only told; a full disk is found out by what follows
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return cls(file)

    def release(self) -> None:
        """Let go of the folder. The file stays: removing it would let two runs lock two files of one name."""
        self.file.close()
