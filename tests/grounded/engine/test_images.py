"""Which images a round takes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from grounded.engine.images import ChosenImages, choose_images
from grounded.engine.rounds import Engine
from grounded.errors import ConfigError
from grounded.labelling.sources import open_source


@pytest.fixture
def folder(tmp_path: Path, annotations: Path) -> Path:
    """A copy of the images, to which others can be added."""
    shutil.copytree(annotations.parent, tmp_path / "images", ignore=shutil.ignore_patterns("*.json"))
    return tmp_path / "images"


def test_rounds_have_different_images(engine: Engine, folder: Path):
    source = open_source(folder)
    rounds = [choose_images(replace(engine, number=number), source).files for number in (1, 2, 3)]
    assert [len(files) for files in rounds] == [2, 2, 1]
    assert sorted(file for files in rounds for file in files) == [f"{n}.png" for n in range(1, 6)]
    with pytest.raises(ConfigError, match="no image is left"):
        (engine.round_folder(3) / "images.txt").unlink()
        (engine.round_folder(2) / "images.txt").write_text("".join(f"{n}.png\n" for n in range(1, 6)))
        choose_images(replace(engine, number=3), source)


def test_images_are_drawn_once(engine: Engine, folder: Path):
    before = choose_images(engine, open_source(folder)).files
    for number in range(20):
        shutil.copy(folder / "1.png", folder / f"new{number}.png")
    assert choose_images(engine, open_source(folder)).files == before


def test_chosen_images_are_a_source(folder: Path):
    source = open_source(folder)
    chosen = ChosenImages(source, ("2.png", "4.png"))
    assert [item.file for item in chosen.items()] == ["2.png", "4.png"] and chosen.count() == 2
    assert chosen.get("2.png") == (folder / "2.png").read_bytes() and chosen.spec == source.spec


def test_annotation_files_have_different_names(folder: Path):
    chosen = ChosenImages(open_source(folder), ("a/b.jpg", "a/b.png", "c.tar/../d.jpg"))
    assert chosen.annotation_files == {
        "a/b.jpg": (1, "a/b.json"),
        "a/b.png": (2, "a/b.png.json"),
        "c.tar/../d.jpg": (3, "c.tar/_/d.json"),
    }
