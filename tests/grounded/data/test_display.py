import copy
import gc
import pickle
import re
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grounded.data.display import ImageReference
from grounded.data.image import SourceImage, open_image
from grounded.data.instances import Instances
from grounded.errors import ImageError
from grounded.output.draw import draw
from grounded.stages.cache import cache_key
from segany.utils.rle import encode_rle
from tests.data import disk

SIZE = (30, 40)
RED = Image.new("RGB", SIZE[::-1], "red")


def build(count: int = 2, phrases: tuple[str, ...] = ("a dog", "pizza"), image: object = None) -> Instances:
    masks = np.stack([disk(*SIZE, 10 + i % 20, 12, 6) for i in range(count)]) if count else np.zeros((0, *SIZE), bool)
    ids = np.arange(count) % len(phrases)
    scores = np.linspace(0.914, 0.5, count, dtype=np.float32)
    made = Instances.from_masks(phrases, SIZE, encode_rle(masks), ids, scores, "detector")
    return made if image is None else replace(made, image_source=ImageReference.of(image, open_image(image)))


@pytest.mark.parametrize(
    ("instances", "line"),
    [
        pytest.param(build(), "Instances(2: a dog 0.91, pizza 0.50; 40×30)", id="two"),
        pytest.param(build(0), "Instances(0 of a dog, pizza; 40×30)", id="none"),
        pytest.param(
            build(300, ("a dog",)),
            "Instances(300: a dog 0.91, a dog 0.91, a dog 0.91, a dog 0.91, a dog 0.91, 295 more; 40×30)",
            id="many",
        ),
        pytest.param(build(1, ("a" * 99,)), f"Instances(1: {'a' * 29}… 0.91; 40×30)", id="a long phrase"),
        pytest.param(
            replace(build(1), scores=np.full(1, np.nan, np.float32)), "Instances(1: a dog; 40×30)", id="no score"
        ),
    ],
)
def test_repr_is_a_line(instances: Instances, line: str):
    assert repr(instances) == str(instances) == line


def test_a_table_for_notebooks():
    page = build(phrases=("<b>a dog</b>", "pizza"), image=RED)._repr_html_()
    assert "&lt;b&gt;a dog&lt;/b&gt;" in page and "<b>" not in page
    assert page.count("<tr>") == 3 and page.count('<img src="data:image/jpeg;base64,') == 2
    assert "0.91" in page and re.search(r"<td>5, 7, 16, 18</td>", page)
    unknown = replace(build(1), predicted_iou=np.full(1, np.nan, np.float32), scores=np.full(1, np.nan, np.float32))
    assert unknown._repr_html_().count("–") == 2


@pytest.mark.parametrize("count", [0, 300])
def test_the_table_is_small(count: int):
    page = build(count, image=RED)._repr_html_()
    assert page.count("<img ") == page.count("<td><img") == min(count, 30)
    assert ("270 more" in page) == (count == 300) and len(page) < 100_000


def test_an_empty_mask_is_shown():
    mask = np.zeros((1, *SIZE), bool)
    one = Instances.from_masks(("a",), SIZE, encode_rle(mask), np.zeros(1, int), np.ones(1, np.float32), "text")
    assert "<img " in replace(one, image_source=ImageReference.of(RED, open_image(RED)))._repr_html_()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(RED, id="PIL image"),
        pytest.param(Image.new("RGBA", SIZE[::-1], "red"), id="image that is converted"),
        pytest.param(np.array(RED), id="array"),
        pytest.param(torch.zeros(3, *SIZE, dtype=torch.uint8), id="tensor"),
        pytest.param(SourceImage(RED), id="opened image"),
    ],
)
def test_the_image_is_known_while_the_caller_has_it(given: object):
    instances = build(image=given)
    assert "<img " in instances._repr_html_()
    np.testing.assert_array_equal(np.asarray(instances.show()), np.asarray(draw(open_image(given), instances)))
    assert instances[:1].image_source is instances.sorted().image_source is instances.image_source


def test_the_image_is_not_kept():
    image = Image.new("RGB", SIZE[::-1], "red")
    instances, held = build(image=image), weakref.ref(image)
    del image
    gc.collect()
    assert held() is None and "<img " not in instances._repr_html_()
    with pytest.raises(ImageError, match=r"expected show\(image\)"):
        instances.show()
    assert instances.show(RED, opacity=1.0, show_scores=False).size == RED.size


def test_a_file_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    RED.save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    instances = build(image="image.png")
    monkeypatch.chdir("/")
    assert instances.show().size == RED.size
    RED.resize((5, 5)).save(tmp_path / "image.png")  # another image by now
    assert "<img " not in instances._repr_html_()
    (tmp_path / "image.png").write_bytes(b"no image")
    assert "<img " not in instances._repr_html_()
    with pytest.raises(ImageError, match="not there any more"):
        instances.show()


def test_bytes_and_unknown_images_have_no_reference(tmp_path: Path):
    RED.save(tmp_path / "image.png")
    assert "<img " not in build(image=(tmp_path / "image.png").read_bytes())._repr_html_()
    with pytest.raises(ImageError, match="not there any more"):
        build().show()


def test_the_image_is_no_part_of_the_value():
    known, unknown = build(image=RED), build()
    assert cache_key(known) == cache_key(unknown)
    assert known.to_dict() == unknown.to_dict()
    for copied in (pickle.loads(pickle.dumps(known)), copy.deepcopy(known)):
        assert copied.image_source is None and repr(copied) == repr(known)
        np.testing.assert_array_equal(copied.masks, known.masks)
    assert len(pickle.dumps(known)) == len(pickle.dumps(unknown))
