"""Thresholds are tried on what was found, without running anything again."""

import numpy as np
import pytest

from grounded import Instances
from recipes.tiny.calibrate import Tally, choose, worth
from recipes.tiny.measure import Asked, query, scenes
from segany.utils.rle import encode_rle


def found(scene, phrases: list[str], picks: list[tuple[int, np.ndarray]]) -> Instances:
    """Instances of (phrase, mask)."""
    import torch

    ids = np.array([index for index, _ in picks], np.int64)
    rles = encode_rle(torch.from_numpy(np.stack([mask for _, mask in picks])))
    one = np.ones(len(picks), np.float32)
    return Instances(
        phrases=tuple(phrases),
        image_size=scene.image.shape[:2],
        phrase_ids=ids,
        boxes=np.zeros((len(picks), 4), np.float32),
        rles=tuple(rles),
        scores=one,
        detector_scores=one,
        clip_scores=one,
        predicted_iou=one,
        phrase_scores=np.ones((len(picks), len(phrases)), np.float32),
        sources=np.array(["detector"] * len(picks)),
    )


@pytest.mark.parametrize(
    ("thresholds", "objects", "random"),
    [((0.0, 0.0), 1.0, 1.0), ((0.5, 0.0), 1.0, 0.0), ((0.0, 0.5), 0.0, 1.0), ((0.9, 0.9), 0.0, 0.0)],
)
def test_all_thresholds_must_be_reached(thresholds: tuple, objects: float, random: float) -> None:
    scene = next(scene for _, scene in scenes("validation", 20) if len(scene.objects) == 1)
    thing = scene.objects[0]
    asked = [Asked("thing", (thing,), "present"), Asked("other", (), "random")]
    asked += [Asked("alike", (), "look-alike"), Asked("word", (), "unknown words")]
    instances = found(scene, [item.phrase for item in asked], [(0, thing.mask), (1, thing.mask)])
    tally = Tally()
    tally.add(scene, asked, instances, np.array([[0.8, 0.2], [0.3, 0.7]]))
    shares = tally.shares(thresholds)
    assert (shares["objects"], shares["random"]) == (objects, random)
    assert shares["look-alike"] == shares["unknown words"] == 0.0
    assert worth(shares) == (objects if random == 0 else objects - random - 1)


def test_rare_negatives_come_before_objects_found() -> None:
    shares = {"random": 0.015, "look-alike": 0.06, "unknown words": 0.0}
    kept, better = worth({"objects": 0.1, **shares}), worth({"objects": 0.2, **shares})
    assert worth({"objects": 1.0, **shares, "random": 0.016}) < kept < better


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        pytest.param({0.1: (0.900, 0.010), 0.2: (0.880, 0.000)}, 0.1, id="many more objects"),
        pytest.param({0.1: (0.900, 0.010), 0.2: (0.897, 0.008)}, 0.2, id="a few objects fewer, and fewer negatives"),
        pytest.param({0.1: (0.900, 0.010), 0.2: (0.900, 0.010)}, 0.2, id="equals"),
        pytest.param({0.1: (0.950, 0.020), 0.2: (0.600, 0.010)}, 0.2, id="too many negatives"),
    ],
)
def test_what_chance_may_explain_yields_to_fewer_negatives(rows: dict, chosen: float) -> None:
    shares = {
        (threshold,): {"objects": objects, "random": random, "look-alike": 0.0, "unknown words": 0.0}
        for threshold, (objects, random) in rows.items()
    }
    assert choose(shares) == (chosen,)


def test_a_mask_elsewhere_does_not_count() -> None:
    number, scene = next(iter(scenes("validation", 1)))
    asked = [item for item in query(number, scene) if item.kind == "present"][:1]
    empty = np.zeros(scene.image.shape[:2], bool)
    empty[0, 0] = True
    tally = Tally()
    tally.negatives = {kind: [np.zeros((0, 1))] for kind in tally.negatives}
    tally.add(scene, asked, found(scene, [asked[0].phrase], [(0, empty)]), np.array([[0.9]]))
    assert tally.shares((0.0,))["objects"] == 0.0
