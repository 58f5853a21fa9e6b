"""The average precision of boxes on the images that a detector's training does not learn from."""

from collections.abc import Callable, Sequence

from grounded.data.detections import Detections
from grounded.evaluation.average_precision import average_precision
from grounded.evaluation.dataset import GroundTruthObject, ImagePair, Prediction
from grounded.training.data import TrainingImage
from segany.utils.rle import rle_from_runs


def box_precision(
    images: Sequence[TrainingImage], names: list[str], detect: Callable[[TrainingImage], Detections]
) -> dict[str, float]:
    """Return AP50 and AP of the boxes that `detect` finds for `names` in each image, over classes, as COCO has them."""
    pairs = [_pair_detections(image, names, detect(image)) for image in images]
    precision = average_precision(pairs, "box").overall
    return {"AP50": precision.at_50 or 0.0, "AP": precision.mean or 0.0}


def _pair_detections(image: TrainingImage, names: list[str], found: Detections) -> ImagePair:
    """Detections of an image beside its objects."""
    height, width = image.size
    nothing = rle_from_runs([height * width], image.size)  # boxes are compared, not masks
    truth = [
        GroundTruthObject(one.label, one.box, (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]), None)
        for one in image.objects
    ]
    predictions = []
    for box, phrase_id, score in zip(
        found.boxes.tolist(), found.phrase_ids.tolist(), found.score.tolist(), strict=True
    ):
        name = names[phrase_id]
        predictions.append(Prediction(name, name, score, (box[0], box[1], box[2], box[3]), nothing))
    classes = {name: name for name in names}
    return ImagePair(image.file, image.file, image.size, classes, tuple(truth), tuple(predictions))
