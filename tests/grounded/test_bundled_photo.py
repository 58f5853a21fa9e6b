"""The bundled weights for photographs, on the example photographs: what is found is what is there."""

import numpy as np
import pytest

import segany
from grounded.config import load, preset_names
from grounded.models.detectors.one_stage import OneStage
from grounded.pipeline import Pipeline
from tests.data import ROOT
from tests.grounded.test_pipeline import assert_same

CAT, ASTRONAUT, COFFEE = (ROOT / "examples" / f"{name}.jpg" for name in ("cat", "astronaut", "coffee"))
# Pixels (x, y) that lie on what a phrase means, and pixels that do not.
SHOWN = {
    "a cat": (CAT, [(175, 130), (260, 120), (90, 200)], [(430, 40)]),
    "a person": (ASTRONAUT, [(225, 110), (200, 350)], [(30, 30), (480, 60)]),
}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_config("photo", device="cpu", segmenter={"dtype": "float32"})


@pytest.mark.parametrize("phrase", SHOWN)
def test_finds_what_is_there(pipeline: Pipeline, phrase: str):
    path, on, off = SHOWN[phrase]
    best = pipeline.segment(path, phrase)[0]
    assert best.labels.tolist() == [phrase] and best.sources.tolist() == ["detector"]
    mask = best.masks[0]
    assert [bool(mask[y, x]) for x, y in on] == [True] * len(on)
    assert [bool(mask[y, x]) for x, y in off] == [False] * len(off)


@pytest.mark.parametrize(("path", "phrase"), [(CAT, "a bus"), (CAT, "an airplane"), (ASTRONAUT, "a sheep")])
def test_an_absent_phrase_finds_nothing(pipeline: Pipeline, path, phrase: str):
    assert len(pipeline.segment(path, phrase)) == 0


def test_other_phrases_change_nothing(pipeline: Pipeline):
    alone, among = pipeline.segment(CAT, ["a cat"]), pipeline.segment(CAT, ["a bus", "a cat", "a chair"])
    own = among[among.phrase_ids == 1]
    np.testing.assert_allclose(own.boxes, alone.boxes, atol=1e-3)  # the last bits depend on the number of phrases
    np.testing.assert_allclose(own.scores, alone.scores, atol=1e-4)
    assert (own.masks == alone.masks).mean() > 0.999


def test_several_images_equal_one_at_a_time(pipeline: Pipeline):
    images, texts = [CAT, ASTRONAUT, CAT], ["a cat. a dog", "a person", "a cat"]
    for together, text, image in zip(pipeline.segment_batch(images, texts), texts, images, strict=True):
        assert_same(together, pipeline.segment(image, text))


def test_says_what_it_has_not_learnt(pipeline: Pipeline):
    (note,) = pipeline.segment(CAT, ["a cat", "a theodolite"]).notes
    assert note.startswith("the detector has not learnt 'a theodolite'; closest: ")
    assert isinstance(pipeline.detector, OneStage)
    assert pipeline.detector.note_unread(["person", "a dog", "cats", "potted plant"]) == ()


def test_bfloat16_is_close(pipeline: Pipeline):
    single = pipeline.segmenter
    assert isinstance(single, segany.Predictor)
    half = segany.Predictor(segany.load("photo", dtype="bfloat16"))
    prompts = segany.Prompts(points=[[[225, 150]]], point_labels=[[1]])
    first, second = (p.predict(p.encode(ASTRONAUT), prompts).best().masks[0, 0].numpy() for p in (single, half))
    assert (first & second).sum() / (first | second).sum() > 0.9


def test_the_preset_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GROUNDED_CONFIG")
    assert load() == load("photo") and "photo" in preset_names()
    monkeypatch.setenv("GROUNDED_CONFIG", "base")
    assert load() == load("base")
