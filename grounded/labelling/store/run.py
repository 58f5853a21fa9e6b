"""Values in a run's folder besides the records: the description of the run, and the images that failed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from grounded import __version__
from grounded.errors import ResultError
from grounded.utils.files import json_bytes, write_atomically

RUN_FILE, RECORDS, FAILURES, REVIEWS = "run.json", "records", "failures.jsonl", "reviews.jsonl"
CLIPS = "clips.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The images, phrases, settings and models of a run.

    `config` tells apart records that must not be mixed in one folder: it is the `fingerprint` of everything that they
    depend on besides the images. Source and weights are compared by themselves, and the version is only stated.
    """

    source: str  # absolute; `grounded.labelling.sources.open_source` opens it again
    phrases: tuple[str, ...]  # labels of instances in the records
    vocabulary: Mapping[str, Any] = field(default_factory=dict)  # synonyms, thresholds, negatives
    configuration: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline
    tiles: Mapping[str, Any] | None = None
    models: Mapping[str, str | None] = field(default_factory=dict)  # checkpoint of each stage
    weights: Mapping[str, str] = field(default_factory=dict)  # a hash of the files of each stage, where known
    config: str = ""
    phrase_scores: bool = True  # whether records hold the score of every instance against every phrase
    clips: bool = False  # whether each folder of images was tracked as one clip
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "phrases": list(self.phrases)}

    @classmethod
    def from_dict(cls, data: Any) -> "Run":
        """Inverse of `to_dict`; keys that this version does not know are left out.

        Raises:
            ResultError: not a mapping, without a source or phrases, or a value is of a wrong type.
        """
        if isinstance(data, Mapping):
            for key in ("source", "phrases"):
                if key not in data:
                    raise ResultError(f"a run must hold the key '{key}', got none")
        try:
            return _RUN.validate_python(data)
        except ValidationError as error:
            raise ResultError(f"not a run of this program: {_first_error(error)}") from error

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> "Run":
        """Read `run.json` in `folder`.

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
        except (ValueError, RecursionError) as error:
            raise ResultError(f"{path} is not JSON: {error}") from error

    def write(self, folder: Path) -> None:
        """Write `run.json`, atomically. Raises OutputError."""
        write_atomically(folder / RUN_FILE, json_bytes(self.to_dict()))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that could not be labelled."""

    file: str
    reason: str  # one line
    # "read": no bytes, "image": not an image, "clip": not to be tracked to its end, "model": the task raised, "crash":
    # killed its worker
    kind: str = "model"
    attempts: int = 1

    def to_line(self) -> bytes:
        data = {"file": self.file, "reason": self.reason, "kind": self.kind, "attempts": self.attempts}
        return json.dumps(data, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> "Failure":
        """Inverse of `to_line`. Raises ResultError."""
        try:
            return _FAILURE.validate_json(line)
        except ValidationError as error:
            raise ResultError(f"not a failure of this program: {_first_error(error)}") from error


@dataclass(frozen=True, kw_only=True)
class FinishedClip:
    """A clip whose frames all have a record."""

    file: str
    frames: int
    config: str  # as in the records of its frames
    tracks: Mapping[str, int] = field(default_factory=dict)  # how many objects of each phrase were followed

    def to_line(self) -> bytes:
        data = {"file": self.file, "frames": self.frames, "config": self.config, "tracks": dict(self.tracks)}
        return json.dumps(data, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> "FinishedClip":
        """Inverse of `to_line`. Raises ResultError."""
        try:
            return _FINISHED_CLIP.validate_json(line)
        except ValidationError as error:
            raise ResultError(f"not a finished clip of this program: {_first_error(error)}") from error


_RUN, _FAILURE, _FINISHED_CLIP = TypeAdapter(Run), TypeAdapter(Failure), TypeAdapter(FinishedClip)


def _first_error(report: ValidationError) -> str:
    """The first error that pydantic found, as one line with its key."""
    error = report.errors(include_url=False)[0]
    return ": ".join([*map(str, error["loc"]), error["msg"]])


def fingerprint(data: Any) -> str:
    """Return 16 hexadecimal digits that differ where `data`, of plain dicts, lists and scalars, does."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
