"""Which images a round takes, and the source that holds them alone."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from grounded.engine.rounds import Engine
from grounded.errors import ConfigError, ResultError
from grounded.labelling.formats.exporter import within_folder
from grounded.labelling.sources import Item, Source
from grounded.utils.files import write_atomically

LIST_FILE = "images.txt"


@dataclass(frozen=True)
class ChosenImages:
    """Some images of a source, as a source."""

    source: Source
    files: tuple[str, ...]

    @property
    def spec(self) -> str:
        """Of the whole source: reviews and exports find images by their names in it."""
        return self.source.spec

    def items(self) -> Iterator[Item]:
        chosen = frozenset(self.files)
        return (item for item in self.source.items() if item.file in chosen)

    def get(self, file: str) -> bytes:
        return self.source.get(file)

    def count(self) -> int:
        return len(self.files)

    @cached_property
    def annotation_files(self) -> dict[str, tuple[int, str]]:
        """Number and file name of each image in the layout of SA-1B: a/b.json of a/b.jpg, a/b.png.json if taken."""
        files: dict[str, tuple[int, str]] = {}
        taken = set()
        for number, file in enumerate(self.files, start=1):
            path = PurePosixPath(within_folder(file))
            name = str(path.with_suffix(".json"))
            name = f"{path}.json" if name in taken else name
            taken.add(name)
            files[file] = number, name
        return files


def choose_images(engine: Engine, source: Source) -> ChosenImages:
    """Return the images of the current round; they are drawn once, from those that no earlier round had.

    Raises:
        ConfigError: none is left.
        OutputError: the list cannot be written.
    """
    path = engine.round_folder() / LIST_FILE
    if path.is_file():
        return ChosenImages(source, read_list(engine.round_folder()))
    taken = {file for number in range(1, engine.number) for file in read_list(engine.round_folder(number))}
    left = [item.file for item in source.items() if item.file not in taken]
    if not left:
        raise ConfigError(f"no image is left for round {engine.number}: {source.spec} has {len(taken)}, all are taken")
    # By hashes of the names, so that more images in the folder do not change who is drawn among those before.
    left.sort(key=lambda file: hashlib.sha256(f"{engine.plan.seed} {file}".encode()).digest())
    files = sorted(left[: engine.round.images])
    if any("\n" in file for file in files):
        raise ConfigError("names of images must be of one line, got one with a line feed")
    write_atomically(path, "".join(f"{file}\n" for file in files).encode())
    return ChosenImages(source, tuple(files))


def read_list(folder: Path) -> tuple[str, ...]:
    """The names of the images of a round. Raises ResultError."""
    path = folder / LIST_FILE
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from error
