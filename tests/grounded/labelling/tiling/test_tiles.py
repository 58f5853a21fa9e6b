import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.tiling.merge import merge_views
from grounded.labelling.tiling.tiles import Tiles, place_in_image, segment_tiled
from grounded.pipeline import Pipeline
from segany.utils.rle import RLE, encode_rle
from tests.data import ROOT
from tests.grounded.labelling.painted import PHRASES, paint, perfect, rectangle, ring
from tests.grounded.test_pipeline import assert_same

TILES = Tiles(40)  # of an image of 70 x 100: columns at 0, 30 and 60, rows at 0 and 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("640", Tiles(640, 0.25)),
        ("640:0.25", Tiles(640, 0.25)),
        ("1024:.1", Tiles(1024, 0.1)),
        (" 32 : 0.5 ", Tiles(32, 0.5)),
    ],
)
def test_parse(text: str, expected: Tiles):
    assert Tiles.parse(text) == expected
    assert Tiles.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tiles must be SIZE or SIZE:OVERLAP, such as 640:0.25, got ''"),
        ("big", "must be SIZE or SIZE:OVERLAP"),
        ("640.5", "must be SIZE or SIZE:OVERLAP"),
        ("640:", "must be SIZE or SIZE:OVERLAP"),
        ("640:a", "must be SIZE or SIZE:OVERLAP"),
        ("640:0.1:0.2", "must be SIZE or SIZE:OVERLAP"),
        ("4", "must be at least 32 pixels, got 4"),
        ("-640", "must be at least 32 pixels, got -640"),
        ("640:0", "must lie in [0.05, 0.5], a share of their size, got 0.0"),
        ("640:128", "must lie in [0.05, 0.5], a share of their size, got 128.0"),
        ("640:nan", "must lie in [0.05, 0.5]"),
    ],
)
def test_parse_errors(text: str, message: str):
    with pytest.raises(ConfigError) as raised:
        Tiles.parse(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((1, 1), [(0, 0, 1, 1)], id="one pixel"),
        pytest.param((40, 40), [(0, 0, 40, 40)], id="one tile"),
        pytest.param((30, 20), [(0, 0, 20, 30)], id="less than a tile"),
        pytest.param((10, 41), [(0, 0, 40, 10), (1, 0, 41, 10)], id="one pixel too wide"),
        pytest.param((70, 40), [(0, 0, 40, 40), (0, 30, 40, 70)], id="two rows that fit"),
        pytest.param(
            (60, 75),
            [(x, y, x + 40, y + 40) for y in (0, 20) for x in (0, 30, 35)],
            id="the last are moved inwards",
        ),
    ],
)
def test_boxes(size: tuple[int, int], expected: list[tuple[int, ...]]):
    assert [tuple(box) for box in TILES.boxes(size).tolist()] == expected


@pytest.mark.parametrize("overlap", [0.05, 0.25, 0.33, 0.5])
@pytest.mark.parametrize("size", [(1, 1), (31, 33), (32, 64), (33, 200), (150, 97), (100, 100)], ids=str)
def test_tiles_cover_the_image_with_overlap(size: tuple[int, int], overlap: float):
    height, width = size
    tiles = Tiles(32, overlap)
    boxes = tiles.boxes(size)
    seen = np.zeros(size, int)
    for x0, y0, x1, y1 in boxes.tolist():
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert (y1 - y0, x1 - x0) == (min(32, height), min(32, width))
        seen[y0:y1, x0:x1] += 1
    assert seen.min() == 1
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    for starts in (np.unique(boxes[:, 0]), np.unique(boxes[:, 1])):
        assert (np.diff(starts) <= 32 * (1 - overlap)).all()


def truth(objects: Sequence[tuple[int, np.ndarray]]) -> set[tuple[str, str]]:
    return {(PHRASES[phrase], encode_rle(mask[None])[0]["counts"]) for phrase, mask in objects}


OBJECTS = [
    pytest.param([], id="nothing"),
    pytest.param([(0, rectangle(5, 5, 15, 15))], id="in one tile"),
    pytest.param([(0, rectangle(31, 5, 39, 15))], id="uncut in two tiles"),
    pytest.param([(0, rectangle(32, 32, 38, 38))], id="uncut in four tiles"),
    pytest.param([(0, rectangle(0, 0, 20, 10))], id="at the border of the image"),
    pytest.param([(0, rectangle(20, 5, 40, 15))], id="cut by one tile, up to the border of another"),
    pytest.param([(0, rectangle(20, 5, 50, 15))], id="across two tiles"),
    pytest.param([(0, rectangle(20, 20, 50, 50))], id="across four tiles"),
    pytest.param([(0, rectangle(5, 5, 95, 20))], id="across three tiles in a row"),
    pytest.param([(0, rectangle(0, 0, 100, 70))], id="all of the image"),
    pytest.param([(0, ring(35, 35, 16))], id="a ring across four tiles"),
    pytest.param([(0, rectangle(20, 5, 35, 15)), (0, rectangle(35, 5, 50, 15))], id="side by side in the overlap"),
    pytest.param([(0, rectangle(20, 5, 50, 15)), (0, rectangle(20, 15, 50, 25))], id="side by side across two tiles"),
    pytest.param([(0, rectangle(20, 5, 50, 15)), (1, rectangle(20, 15, 50, 25))], id="two phrases side by side"),
    pytest.param([(0, ring(35, 35, 20)), (1, rectangle(32, 32, 38, 38))], id="one phrase within another"),
    pytest.param([(0, ring(35, 35, 20)), (0, rectangle(32, 32, 38, 38))], id="one object within another"),
    pytest.param([(i, rectangle(20, 5 + 20 * i, 50, 20 + 20 * i)) for i in (0, 1, 2)], id="three phrases"),
]


@pytest.mark.parametrize("blind_at", [None, (70, 100)], ids=["whole and tiles", "tiles alone"])
@pytest.mark.parametrize("objects", OBJECTS)
def test_each_object_is_found_once(objects: list[tuple[int, np.ndarray]], blind_at: tuple[int, int] | None):
    found = segment_tiled(perfect(blind_at=blind_at), paint(objects), TILES)
    assert len(found) == len(objects)
    assert set(zip(found.labels.tolist(), [rle["counts"] for rle in found.rles], strict=True)) == truth(objects)
    assert found.image_size == (70, 100)
    assert (np.diff(found.scores) <= 0).all()


def test_small_objects_need_tiles():
    objects = [(0, rectangle(5, 5, 25, 25)), (0, rectangle(70, 40, 90, 60)), (1, rectangle(0, 26, 100, 39))]
    image, see = paint(objects), perfect(least_share=0.15)
    assert see([image])[0].labels.tolist() == ["a cat"]
    assert sorted(segment_tiled(see, image, TILES).labels.tolist()) == ["a cat", "a dog", "a dog"]


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (39, 12)], ids=str)
def test_an_image_no_larger_than_a_tile_is_segmented_once(size: tuple[int, int]):
    asked = []

    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        asked.extend(images)
        return perfect()(images)

    image = paint([(0, np.ones(size, bool))], size)
    found = segment_tiled(segment, image, TILES)
    assert asked == [image]
    assert_same(found, perfect()([image])[0])


def test_batches_of_tiles():
    asked: list[list[tuple[int, int]]] = []

    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        asked.append([image.size for image in images])
        return perfect()(images)

    segment_tiled(segment, paint([]), TILES, tiles_at_once=4)
    assert asked == [[(70, 100)], [(40, 40)] * 4, [(40, 40)] * 2]


def test_errors_of_the_segmenter_are_passed_on():
    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        raise MemoryError(f"{len(images)} images are too many")

    with pytest.raises(MemoryError, match="too many"):
        segment_tiled(segment, paint([]), TILES)


@pytest.mark.parametrize("corner", [(0, 0), (30, 0), (0, 30), (60, 30), (17, 11)], ids=str)
def test_place_in_image(corner: tuple[int, int]):
    x, y = corner
    objects = [(0, ring(35, 35, 20)), (1, rectangle(0, 0, 100, 9)), (2, rectangle(70, 40, 100, 70))]
    tile = SourceImage(paint(objects).pixels.crop((x, y, x + 40, y + 40)))
    part = perfect()([tile])[0]
    moved = place_in_image(part, np.array([x, y, x + 40, y + 40]), (70, 100))
    expected = np.zeros((len(part), 70, 100), bool)
    expected[:, y : y + 40, x : x + 40] = part.masks
    np.testing.assert_array_equal(moved.masks, expected)
    np.testing.assert_array_equal(moved.boxes, part.boxes + np.array([x, y, x, y]))
    assert list(moved.rles) == encode_rle(expected)


def test_masks_are_never_drawn_in_full():
    """They would take 33 GB."""
    size, tile_size = (20_000, 20_000), (200, 400)
    spots = [(0, rectangle(x, y, x + 16, y + 16, tile_size)) for x in range(4, 380, 28) for y in range(4, 180, 50)]
    first = perfect()([paint(spots, tile_size)])[0]
    boxes = np.array([[0, 0, 400, 200], [0, 100, 400, 300]])  # the lower half of the first is the upper of the second
    second = perfect()([SourceImage(paint(spots, tile_size).pixels.crop((0, 100, 400, 300)))])[0]
    views = np.concatenate([[[0, 0, 20_000, 20_000]], boxes])
    parts = [place_in_image(one, box, size) for one, box in zip([first, second], boxes, strict=True)]
    merged = merge_views([Instances.empty(PHRASES, size), *parts], views)
    assert (len(first), len(second), len(merged)) == (len(spots), len(spots) // 2, len(spots))
    assert {int(coco_mask.area(rle)) for rle in merged.rles} == {16 * 16}


def test_pieces_under_synonyms_are_one_object():
    """A dog across two tiles, and the second takes its piece for a hound."""
    image = paint([(0, rectangle(20, 5, 50, 15))])

    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        answers = perfect(blind_at=image.size)(images)
        cut_on_the_left = [len(one) > 0 and one.boxes[0, 0] == 0 for one in answers]
        hound = np.array([2])
        return [
            replace(one, phrase_ids=hound) if cut else one for one, cut in zip(answers, cut_on_the_left, strict=True)
        ]

    assert sorted(segment_tiled(segment, image, TILES).labels.tolist()) == ["a dog", "a hound"]
    found = segment_tiled(segment, image, TILES, groups=[0, 1, 0])
    assert [rle["counts"] for rle in found.rles] == [encode_rle(rectangle(20, 5, 50, 15)[None])[0]["counts"]]


@pytest.fixture(scope="module")
def quick() -> Pipeline:
    """The bundled models without what makes masks better and takes longer."""
    return Pipeline.from_config("tiny", device="cpu", zoom=None)


def scenes(width: int, height: int) -> tuple[SourceImage, list[tuple[str, RLE]]]:
    """A canvas with the example scenes at half their size, far from one another, and the true masks of all objects."""
    canvas, objects = Image.new("RGB", (width, height), (200, 205, 210)), []
    names = ["picnic", "shelf", "street"]
    corners = [(x, y) for y in range(240, height - 240, 720) for x in range(160, width - 320, 640)]
    for i, (x, y) in enumerate(corners):
        path = ROOT / "examples" / f"{names[i % 3]}.png"
        canvas.paste(Image.open(path).convert("RGB").resize((320, 240), Image.Resampling.LANCZOS), (x, y))
        for instance in json.loads(path.with_suffix(".json").read_text())["instances"]:
            full = np.zeros((height, width), bool)
            full[y : y + 240, x : x + 320] = coco_mask.decode(instance["mask"])[::2, ::2]
            objects.append((instance["phrase"], encode_rle(full[None])[0]))
    return SourceImage(canvas), objects


def ious(instances: Instances, phrase: str, rles: Sequence[RLE]) -> np.ndarray:
    """Of the instances of a phrase with each of the masks: (n, m)."""
    own = [rle for rle, label in zip(instances.rles, instances.labels, strict=True) if label == phrase]
    return np.asarray(coco_mask.iou(own, list(rles), [False] * len(rles))).reshape(len(own), len(rles))


def recall(instances: Instances, objects: list[tuple[str, RLE]]) -> float:
    return float(np.mean([ious(instances, phrase, [rle]).max(initial=0) > 0.5 for phrase, rle in objects]))


@pytest.mark.slow
def test_small_objects_of_a_large_image(quick: Pipeline):
    image, objects = scenes(1920, 1440)
    phrases = tuple(dict.fromkeys(phrase for phrase, _ in objects))

    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        return quick.segment_batch(images, [phrases] * len(images))

    whole, tiled = segment([image])[0], segment_tiled(segment, image, Tiles(640))
    assert len(objects) == 32
    assert recall(whole, objects) < 0.1
    assert recall(tiled, objects) > recall(whole, objects) + 0.3
    for phrase in phrases:
        own = [rle for rle, label in zip(tiled.rles, tiled.labels, strict=True) if label == phrase]
        assert np.triu(ious(tiled, phrase, own), 1).max(initial=0) < 0.5, phrase


def test_a_small_image_is_segmented_as_without_tiles(quick: Pipeline):
    example = SourceImage(Image.open(ROOT / "examples" / "picnic.png").convert("RGB"))

    def segment(images: Sequence[SourceImage]) -> list[Instances]:
        return quick.segment_batch(images, "dog. pizza")

    assert_same(segment_tiled(segment, example, Tiles(640)), quick.segment(example, "dog. pizza"))
