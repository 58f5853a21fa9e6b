"""Edit instances without a model: rename one, merge several, add more."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from grounded.data.instances import Instances
from grounded.data.parallel_arrays import select_rows
from grounded.data.phrases import parse, phrase_key
from segany.utils.rle import rle_boxes, rle_union


def relabel(instances: Instances, index: int, phrase: str) -> Instances:
    """Give one instance another phrase, which may be new; its place in the order stays.

    Detector and CLIP score, which were for the old one, become nan.

    Raises:
        IndexError: there is no such instance.
        PromptError: the phrase is empty.
    """
    (name,) = parse([phrase])
    wider = with_phrases(instances, [name])
    row, phrase_id = int(select_rows(index, len(instances))[0]), _phrase_ids(wider)[phrase_key(name)]
    if wider.phrase_ids[row] == phrase_id:
        return wider
    return replace(
        wider,
        phrase_ids=_replaced(wider.phrase_ids, row, phrase_id),
        detector_scores=_replaced(wider.detector_scores, row, np.nan),
        best_token_scores=_replaced(wider.best_token_scores, row, np.nan),
        clip_scores=_replaced(wider.clip_scores, row, np.nan),
    )


def merge(instances: Instances, rows: Sequence[int]) -> Instances:
    """Make one instance of several: their masks together, in the place, with the phrase and scores of the first given.

    The box becomes that of the mask. CLIP score and predicted IoU, which were of another mask, become nan.

    Raises:
        IndexError: there is no such instance.
        ValueError: fewer than two different instances.
    """
    chosen = list(dict.fromkeys(int(row) for row in select_rows(list(rows), len(instances))))
    if len(chosen) < 2:
        raise ValueError(f"merging takes two different instances or more, got {len(chosen)}")
    first = chosen[0]
    union = rle_union([instances.rles[row] for row in chosen])
    rles = tuple(union if row == first else rle for row, rle in enumerate(instances.rles))
    boxes = instances.boxes.copy()
    boxes[first] = rle_boxes([union])[0]
    merged = replace(
        instances,
        rles=rles,
        boxes=boxes,
        clip_scores=_replaced(instances.clip_scores, first, np.nan),
        predicted_iou=_replaced(instances.predicted_iou, first, np.nan),
    )
    return merged[[row for row in range(len(instances)) if row == first or row not in chosen]]


def add(instances: Instances, others: Instances) -> Instances:
    """Append instances of the same image, which may have other phrases; rows so far keep their places.

    Raises:
        ValueError: they are of an image of another size.
    """
    wider = with_phrases(instances, others.phrases)
    known = _phrase_ids(wider)
    columns = np.array([known[phrase_key(phrase)] for phrase in others.phrases], np.int64)
    matrix = np.full((len(others), len(wider.phrases)), np.nan, np.float32)
    matrix[:, columns] = others.phrase_scores
    moved = replace(others, phrases=wider.phrases, phrase_ids=columns[others.phrase_ids], phrase_scores=matrix)
    return Instances.concatenate([wider, moved])


def with_phrases(instances: Instances, phrases: Sequence[str]) -> Instances:
    """Return the instances with more phrases; those that are there already, in any case, are not repeated."""
    known, new = _phrase_ids(instances), dict[str, str]()
    for phrase in phrases:
        if phrase_key(phrase) not in known:
            new.setdefault(phrase_key(phrase), phrase)
    unknown = np.full((len(instances), len(new)), np.nan, np.float32)
    matrix = np.concatenate([instances.phrase_scores, unknown], axis=1)
    return replace(instances, phrases=(*instances.phrases, *new.values()), phrase_scores=matrix)


def _phrase_ids(instances: Instances) -> dict[str, int]:
    """The index of each phrase by its key; of several with one key, the first."""
    return {phrase_key(phrase): i for i, phrase in reversed(list(enumerate(instances.phrases)))}


def _replaced(array: np.ndarray, row: int, value: int | float) -> np.ndarray:
    changed = array.copy()
    changed[row] = value
    return changed
