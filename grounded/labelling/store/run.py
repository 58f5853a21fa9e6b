"""What a run was asked, and which pictures it could not answer for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from grounded import __version__
from grounded.errors import ResultError
from grounded.utils.files import json_bytes, write_atomically

RUN_FILE, RECORDS, FAILURES, REVIEWS = "run.json", "records", "failures.jsonl", "reviews.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was asked, of which pictures, and by which models.

    `config` tells apart answers that are not to be mixed in one folder: it is `fingerprint` of all that they depend on
    besides the pictures. Source and weights are compared by themselves, and the version is only stated.
    """

    source: str  # absolute; `grounded.labelling.sources.open_source` opens it again
    phrases: tuple[str, ...]  # what instances are called in the records
    vocabulary: Mapping[str, Any] = field(default_factory=dict)  # synonyms, thresholds, negatives
    configuration: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline
    tiles: Mapping[str, Any] | None = None
    models: Mapping[str, str | None] = field(default_factory=dict)  # checkpoint of each stage
    weights: Mapping[str, str] = field(default_factory=dict)  # a hash of the files of each stage, where known
    config: str = ""
    phrase_scores: bool = True  # whether records hold the score of every instance against every phrase
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "phrases": list(self.phrases)}

    @classmethod
    def from_dict(cls, data: Any) -> "Run":
        """Inverse of `to_dict`; keys that this version does not know are left out.

        Raises:
            ResultError: not a mapping, or without a source or phrases.
        """
        try:
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            return cls(**{**known, "source": str(data["source"]), "phrases": tuple(map(str, data["phrases"]))})
        except KeyError as error:
            raise ResultError(f"a run must hold the key {error}, got none") from error
        except (TypeError, ValueError) as error:
            raise ResultError(f"not a run of this program: {error}") from error

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> "Run":
        """Read the run that `folder` holds.

        Raises:
            ResultError: there is none, or it is damaged.
        """
        path = Path(folder) / RUN_FILE
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ResultError(f"{folder} holds no run: there is no {RUN_FILE}") from error
        except OSError as error:
            raise ResultError(f"cannot read {path}: {error.strerror or error}") from error
        except ResultError as error:
            raise ResultError(f"{path}: {error}") from error
        except ValueError as error:
            raise ResultError(f"{path} is not JSON: {error}") from error

    def write(self, folder: Path) -> None:
        """Write `run.json`, atomically. Raises OutputError."""
        write_atomically(folder / RUN_FILE, json_bytes(self.to_dict()))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A picture without an answer."""

    file: str
    reason: str  # one line
    kind: str = "model"  # "read": no bytes, "image": no picture in them, "model": no answer, "crash": killed its worker
    attempts: int = 1

    def to_line(self) -> bytes:
        data = {"file": self.file, "reason": self.reason, "kind": self.kind, "attempts": self.attempts}
        return json.dumps(data, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> "Failure":
        """Inverse of `to_line`. Raises ResultError."""
        try:
            data = json.loads(line)
            file, reason, kind = str(data["file"]), str(data["reason"]), str(data.get("kind", "model"))
            return cls(file=file, reason=reason, kind=kind, attempts=int(data.get("attempts", 1)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultError(f"not a failure of this program: {error}") from error


def fingerprint(data: Any) -> str:
    """Return 16 hexadecimal digits that differ where `data`, of plain dicts, lists and scalars, does."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
