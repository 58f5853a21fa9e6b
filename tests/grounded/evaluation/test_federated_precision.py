"""LVIS's AP: its rules by hand, and against the `lvis` package on random masks."""

import logging

import numpy as np
import pytest

from grounded.evaluation.federated_precision import federated_precision
from grounded.labelling.formats.lvis import Federation
from tests.grounded.evaluation.made import block, image_pair, predicted, target

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)
FREQUENCIES = {"dog": "rare", "cat": "frequent", "cow": "common"}


def federation(absent: tuple[str, ...] = (), incomplete: tuple[str, ...] = ()) -> Federation:
    return Federation(FREQUENCIES, {"b.jpg": frozenset(absent)}, {"a.jpg": frozenset(incomplete)})


FOUND = image_pair([target("dog", LEFT)], [predicted("dog", RIGHT, 0.9), predicted("dog", LEFT, 0.8)])
ELSEWHERE = image_pair([], [predicted("dog", LEFT, 0.95)], file="b.jpg")


@pytest.mark.parametrize(
    ("pairs", "stated", "expected"),
    [
        pytest.param([FOUND], federation(), 0.5, id="a wrong one first"),
        pytest.param([FOUND], federation(incomplete=("dog",)), 1.0, id="not annotated to the end"),
        pytest.param([FOUND, ELSEWHERE], federation(), 0.5, id="nothing known elsewhere"),
        pytest.param([FOUND, ELSEWHERE], federation(absent=("dog",)), 1 / 3, id="stated to be absent"),
        pytest.param([ELSEWHERE], federation(absent=("dog",)), None, id="no object"),
    ],
)
def test_rules_of_lvis(pairs: list, stated: Federation, expected: float | None):
    found = federated_precision(pairs, stated)
    assert found.by_class.overall.mean == (None if expected is None else pytest.approx(expected))
    assert found.frequencies == {"rare": found.by_class.overall.mean, "common": None, "frequent": None}


def test_three_hundred_predictions_of_an_image_count():
    others = [predicted("cat", RIGHT, 0.9)] * 300
    pair = image_pair([target("dog", LEFT)], [*others, predicted("dog", LEFT, 0.8)])
    assert federated_precision([pair], federation()).by_class.overall.mean == 0.0
    pair = image_pair([target("dog", LEFT)], [*others[:-1], predicted("dog", LEFT, 0.8)])
    assert federated_precision([pair], federation()).by_class.overall.mean == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_as_the_lvis_package(seed: int, monkeypatch: pytest.MonkeyPatch):
    lvis = pytest.importorskip("lvis", reason="the lvis package is not installed", exc_type=ImportError)
    monkeypatch.setattr(np, "float", float, raising=False)  # which the package uses, and NumPy no longer has
    generator, size, classes = np.random.default_rng(seed), (200, 200), list(FREQUENCIES)
    data = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": i, "name": n, "frequency": FREQUENCIES[n][0]} for i, n in enumerate(classes, 1)]
    pairs, results, absent, incomplete = [], [], {}, {}
    for image_id in range(1, 5):
        file, objects, predictions = f"{image_id}.jpg", [], []
        for _ in range(6):
            x, y, width, height = (*generator.integers(0, 120, 2), *generator.integers(6, 140, 2))
            label, mask = classes[generator.integers(2)], block(x, y, width, height, size)
            objects.append(target(label, mask))
            for _ in range(3):
                moved = np.roll(mask, generator.integers(-8, 9, 2), (0, 1))
                label = label if generator.random() < 0.7 else classes[generator.integers(3)]
                predictions.append(predicted(label, moved, float(generator.random())))
        names = sorted(set(classes) - {one.label for one in objects})
        absent[file] = frozenset(name for name in names if generator.random() < 0.5)
        incomplete[file] = frozenset(one.label for one in objects if generator.random() < 0.2)
        pairs.append(image_pair(objects, predictions, classes, file, size))
        ids = {name: classes.index(name) + 1 for name in classes}
        image = {"id": image_id, "height": size[0], "width": size[1]}
        image["neg_category_ids"] = [ids[name] for name in absent[file]]
        data["images"].append(image | {"not_exhaustive_category_ids": [ids[name] for name in incomplete[file]]})
        for one in objects:
            entry = {"id": len(data["annotations"]) + 1, "image_id": image_id, "category_id": ids[one.label]}
            data["annotations"].append(entry | {"segmentation": dict(one.require_mask()), "area": one.area})
        for p in predictions:
            entry = {"image_id": image_id, "category_id": ids[p.label], "score": p.score}
            results.append(entry | {"segmentation": dict(p.mask)})
    truth = lvis.LVIS.__new__(lvis.LVIS)  # its constructor takes the path of a file
    truth.dataset, truth.logger = data, logging.getLogger("lvis")
    truth._create_index()
    evaluator = lvis.LVISEval(truth, results, "segm")
    evaluator.run()
    expected = evaluator.get_results()
    found = federated_precision(pairs, Federation(FREQUENCIES, absent, incomplete))
    overall = found.by_class.overall
    values = {"AP": overall.mean, "AP50": overall.at_50, "AP75": overall.at_75}
    values |= {"APs": overall.small, "APm": overall.medium, "APl": overall.large}
    values |= {f"AP{name[0]}": value for name, value in found.frequencies.items()}
    assert values == {key: pytest.approx(expected[key]) if expected[key] > -1 else None for key in values}
