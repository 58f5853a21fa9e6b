import pytest

from grounded.evaluation.text_masks import PromptedObject, choose_examples, prompt_means, to_dict, to_text


def prompted(file: str, text: float, corrected: float) -> PromptedObject:
    return PromptedObject(file, "dog", {"text": text, "text + point": corrected})


OBJECTS = [
    prompted("a.png", 0.9, 0.9),
    prompted("a.png", 0.8, 0.8),
    prompted("b.png", 0.7, 0.7),
    prompted("c.png", 0.1, 0.8),
    prompted("d.png", 0.3, 0.5),
]


def test_means_by_kind_and_by_image():
    assert prompt_means(OBJECTS)["text"].value == pytest.approx(0.56)
    data = to_dict({}, OBJECTS, ["a note"])
    assert data["mean_iou"]["text + point"]["mean"] == pytest.approx(0.74)
    assert [len(image["objects"]) for image in data["images"]] == [2, 1, 1, 1]
    lines = to_text(OBJECTS).splitlines()
    assert lines[1].split()[1] == "56.0" and lines[2].endswith("100.0") and "5 objects in 4 images" in lines[-1]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(1, ["a.png"], id="one"),
        pytest.param(3, ["a.png", "b.png", "c.png"], id="best by text, then corrected most"),
        pytest.param(9, ["a.png", "b.png", "c.png", "d.png"], id="one of each image"),
    ],
)
def test_examples(count: int, expected: list[str]):
    assert sorted(one.file for one in choose_examples(OBJECTS, count)) == expected
