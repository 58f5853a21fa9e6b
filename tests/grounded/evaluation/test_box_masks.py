import pytest

from grounded.evaluation.box_masks import evaluate_box_masks, to_dict, to_text
from grounded.labelling.formats.lvis import Federation
from tests.grounded.evaluation.made import block, image_pair, predicted, target

LEFT, RIGHT = block(0, 0, 4, 5), block(5, 0, 4, 5)
PAIR = image_pair([target("dog", LEFT)], [predicted("dog", RIGHT, 0.9), predicted("dog", LEFT, 0.8)])


@pytest.mark.parametrize(
    ("federation", "protocol", "expected"),
    [
        pytest.param(None, "COCO", 0.5, id="coco"),
        pytest.param(Federation({"dog": "rare"}, {}, {"a.jpg": frozenset({"dog"})}), "LVIS", 1.0, id="lvis"),
    ],
)
def test_the_protocol_follows_the_file(federation: Federation | None, protocol: str, expected: float):
    evaluation = evaluate_box_masks([PAIR], federation, [0.8, 0.6])
    data = to_dict({}, evaluation, 1, 2, [])
    assert data["protocol"] == protocol and data["average_precision"]["mean"] == pytest.approx(expected)
    assert data["average_precision"].get("rare") == (pytest.approx(1.0) if protocol == "LVIS" else None)
    assert data["mean_iou"]["mean"] == pytest.approx(0.7) and data["classes"]["dog"] == pytest.approx(expected)
    lines = to_text(evaluation, 1, 2).splitlines()
    assert lines[1].split()[:2] == ["measured", f"{100 * expected:.1f}"]
    assert ("46.5" if protocol == "COCO" else "44.7") in lines[3] and lines[-1].endswith("70.0")


def test_boxes_of_a_detector_have_no_iou():
    assert to_dict({}, evaluate_box_masks([PAIR], None), 1, 2, [])["mean_iou"] is None
