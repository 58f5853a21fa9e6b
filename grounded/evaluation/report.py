"""An evaluation as plain data for JSON."""

from dataclasses import asdict
from typing import Any

from grounded.evaluation.absence import Absent
from grounded.evaluation.counts import Counts
from grounded.evaluation.labels import LabelEvaluation


def to_dict(evaluation: LabelEvaluation) -> dict[str, Any]:
    """Return everything that was measured as plain dicts, lists and scalars, with None for what is not defined.

    The cells of the confusion table that are not 0 are listed, most frequent first; None is no class or no phrase.
    """
    paired, confused = evaluation.paired, evaluation.confusion.counts
    return {
        "settings": {**asdict(evaluation.settings), "kinds": list(evaluation.settings.kinds)},
        "pictures": {
            "measured": len(paired.cases),
            "missing": list(paired.missing),
            "missing_counted": paired.missing_counted,
            "without_truth": list(paired.without_truth),
            "other_size": list(paired.other_size),
        },
        "asked": {
            "classes": dict(paired.asked),
            "phrases_without_class": dict(paired.unknown_phrases),
            "classes_not_asked": list(paired.classes_not_asked),
        },
        "average_precision": {kind: asdict(value.overall) for kind, value in evaluation.precision.items()},
        "overall": counts_dict(evaluation.overall),
        "class_iou": evaluation.pixels.mean if evaluation.pixels else None,
        "classes": [_class(evaluation, label) for label in evaluation.classes],
        "absent": {
            **_absent(evaluation.absence.overall),
            "phrases": {phrase: _absent(value) for phrase, value in evaluation.absence.phrases.items()},
        },
        "reliability": {**asdict(evaluation.reliability), "bins": [asdict(b) for b in evaluation.reliability.bins]},
        "confusion": [
            {"class": label, "phrase": phrase, "count": count}
            for (label, phrase), count in sorted(confused.items(), key=lambda cell: -cell[1])
        ],
        "worst": [
            {"file": picture.case.file, "record": picture.case.source, **counts_dict(picture.counts)}
            for picture in evaluation.worst
        ],
    }


def counts_dict(counts: Counts) -> dict[str, Any]:
    """Return counts and the measures that follow from them."""
    return {
        "objects": counts.objects,
        "answers": counts.answers,
        "found": counts.found,
        "precision": counts.precision,
        "recall": counts.recall,
        "mean_iou": counts.mean_iou,
        "boundary_f": counts.boundary_f,
        "quality": counts.quality,
    }


def _class(evaluation: LabelEvaluation, label: str) -> dict[str, Any]:
    return {
        "class": label,
        "phrases": evaluation.phrases(label),
        **counts_dict(evaluation.classes[label]),
        "average_precision": {
            kind: asdict(value.classes[label]) for kind, value in evaluation.precision.items() if label in value.classes
        },
        "class_iou": evaluation.pixels.classes.get(label) if evaluation.pixels else None,
    }


def _absent(value: Absent) -> dict[str, Any]:
    return {"pictures": value.pictures, "answered": value.answered, "share": value.share}
