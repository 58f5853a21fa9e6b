"""An evaluation as plain data for JSON, and as a page of Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grounded.evaluation.confusion import FalsePositiveRate
from grounded.evaluation.dataset import MatchedDataset, normalise_name
from grounded.evaluation.evaluate import LabelEvaluation
from grounded.evaluation.matching import Counts

# The page has the head of each long list; evaluation.json has all of it.
_NAMES_LISTED = 10
_ROWS_LISTED = 20

_PLURALS = {"mask": "masks", "box": "boxes"}
_COUNTS_HEAD = ["objects", "predictions", "matched", "precision", "recall", "IoU", "boundary F", "quality"]


def to_dict(evaluation: LabelEvaluation) -> dict[str, Any]:
    """Return all measures as plain dicts, lists and scalars, with None for what is not defined.

    The cells of the confusion matrix that are not 0 are listed, most frequent first; None is no class or no phrase.
    """
    dataset, config, calibration = evaluation.dataset, evaluation.config, evaluation.calibration
    cells = sorted(evaluation.confusion.counts.items(), key=lambda cell: -cell[1])
    return {
        "settings": {
            "kinds": list(config.iou_types),
            "iou_threshold": config.iou_threshold,
            "boundary_tolerance": config.boundary_tolerance,
            "bins": config.bins,
            "worst": config.worst,
        },
        "images": {
            "measured": len(dataset.pairs),
            "missing": list(dataset.missing),
            "missing_counted": dataset.missing_counted,
            "without_truth": list(dataset.without_ground_truth),
            "other_size": list(dataset.size_mismatches),
        },
        "asked": {
            "classes": dict(dataset.phrase_classes),
            "phrases_without_class": dict(dataset.unknown_phrases),
            "classes_not_asked": list(dataset.unprompted_classes),
        },
        "average_precision": {iou_type: asdict(value.overall) for iou_type, value in evaluation.precision.items()},
        "overall": counts_to_dict(evaluation.overall),
        "class_iou": evaluation.class_iou.mean if evaluation.class_iou else None,
        "classes": [_class_to_dict(evaluation, label) for label in evaluation.classes],
        "absent": {
            **_rate_to_dict(evaluation.absent_classes.overall),
            "phrases": {phrase: _rate_to_dict(rate) for phrase, rate in evaluation.absent_classes.phrases.items()},
        },
        "reliability": {
            "bins": [
                {
                    "low": one.low,
                    "high": one.high,
                    "count": one.count,
                    "mean_score": one.mean_score,
                    "share_right": one.accuracy,
                }
                for one in calibration.bins
            ],
            "error": calibration.error,
            "unknown": calibration.unscored,
        },
        "confusion": [{"class": label, "phrase": phrase, "count": count} for (label, phrase), count in cells],
        "worst": [
            {"file": result.pair.file, "record": result.pair.record_file, **counts_to_dict(result.counts)}
            for result in evaluation.worst
        ],
    }


def counts_to_dict(counts: Counts) -> dict[str, Any]:
    """Return counts and the measures that follow from them."""
    return {
        "objects": counts.objects,
        "answers": counts.predictions,
        "found": counts.true_positives,
        "precision": counts.precision,
        "recall": counts.recall,
        "mean_iou": counts.mean_iou,
        "boundary_f": counts.boundary_f,
        "quality": counts.panoptic_quality,
    }


def _class_to_dict(evaluation: LabelEvaluation, label: str) -> dict[str, Any]:
    precision = {
        iou_type: asdict(value.classes[label])
        for iou_type, value in evaluation.precision.items()
        if label in value.classes
    }
    return {
        "class": label,
        "phrases": evaluation.dataset.phrases(label),
        **counts_to_dict(evaluation.classes[label]),
        "average_precision": precision,
        "class_iou": evaluation.class_iou.classes.get(label) if evaluation.class_iou else None,
    }


def _rate_to_dict(rate: FalsePositiveRate) -> dict[str, Any]:
    return {"images": rate.images, "answered": rate.false_positives, "share": rate.rate}


def to_markdown(evaluation: LabelEvaluation, images: Sequence[str] = ()) -> str:
    """Return the evaluation as tables, and what one must know to read them.

    Args:
        evaluation: all measures.
        images: files beside the page to show at its end.
    """
    return _environment.get_template("report.md.jinja").render(
        evaluation=evaluation,
        notes=skipped_notes(evaluation.dataset),
        shapes=_PLURALS[evaluation.config.iou_types[0]],
        precision_rows=[
            (_PLURALS[iou_type], *map(_percent, astuple(value.overall)))
            for iou_type, value in evaluation.precision.items()
        ],
        counts_head=_COUNTS_HEAD,
        counts_row=_counts_row(evaluation.overall),
        class_head=_class_head(evaluation),
        class_rows=_class_rows(evaluation),
        absent_rows=_absent_rows(evaluation),
        confusion_rows=_confusion_rows(evaluation),
        calibration_rows=[
            (f"{one.low:.2f} to {one.high:.2f}", str(one.count), _percent(one.mean_score), _percent(one.accuracy))
            for one in evaluation.calibration.bins
            if one.count
        ],
        worst_rows=[(result.pair.file, *_counts_row(result.counts)) for result in evaluation.worst],
        images=images,
    )


def skipped_notes(dataset: MatchedDataset) -> list[str]:
    """Return a line on each kind of image, phrase or class that is left out of the numbers, or counts as empty."""
    fate = "counted as empty" if dataset.missing_counted else "left out"
    groups = (
        (dataset.missing, f"images of the ground truth without a record, {fate}"),
        (dataset.without_ground_truth, "records of images that are not in the ground truth, left out"),
        (
            dataset.ambiguous,
            "records whose names do not tell which image of the ground truth is meant, left out with these",
        ),
        (dataset.size_mismatches, "images of another size in the ground truth, left out"),
        (tuple(dataset.unknown_phrases), "phrases that are no class of the ground truth, left out"),
        (dataset.unprompted_classes, "classes of the ground truth that no phrase asks for, left out"),
    )
    skipped = [f"{what}: {len(names)} ({_list_names(names)})" for names, what in groups if names]
    return [*skipped, *dataset.notes]


def _class_head(evaluation: LabelEvaluation) -> list[str]:
    head = ["class", *(f"AP {_PLURALS[iou_type]}" for iou_type in evaluation.precision), *_COUNTS_HEAD]
    return head if evaluation.class_iou is None else [*head, "class IoU"]


def _class_rows(evaluation: LabelEvaluation) -> list[list[str]]:
    """Return the row of each class below `_class_head`, most frequent classes first."""
    rows = []
    for label, counts in sorted(evaluation.classes.items(), key=lambda item: -item[1].objects):
        phrases = [p for p in evaluation.dataset.phrases(label) if normalise_name(p) != normalise_name(label)]
        row = [f"{label} ({', '.join(phrases)})" if phrases else label]
        for value in evaluation.precision.values():
            row.append(_percent(value.classes[label].mean if label in value.classes else None))
        row += _counts_row(counts)
        if evaluation.class_iou is not None:
            row.append(_percent(evaluation.class_iou.classes.get(label)))
        rows.append(row)
    return rows


def _absent_rows(evaluation: LabelEvaluation) -> list[tuple[str, ...]]:
    """Return the phrases with false positives where their class is absent, highest rates first."""
    rates = [(phrase, rate) for phrase, rate in evaluation.absent_classes.phrases.items() if rate.false_positives]
    rates.sort(key=lambda item: (-(item[1].rate or 0), -item[1].false_positives))
    return [(p, str(r.images), str(r.false_positives), _percent(r.rate)) for p, r in rates[:_ROWS_LISTED]]


def _confusion_rows(evaluation: LabelEvaluation) -> list[tuple[str, ...]]:
    """Return the pairs of a class and a phrase of another class, most frequent first."""
    confusion = evaluation.confusion
    wrong = [
        (label, phrase, count)
        for (label, phrase), count in confusion.counts.items()
        if label is not None and phrase is not None and confusion.phrase_classes[phrase] != label
    ]
    wrong.sort(key=lambda cell: -cell[2])
    return [(label, phrase, str(count)) for label, phrase, count in wrong[:_ROWS_LISTED]]


def _counts_row(counts: Counts) -> tuple[str, ...]:
    measures = (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f, counts.panoptic_quality)
    return (str(counts.objects), str(counts.predictions), str(counts.true_positives), *map(_percent, measures))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ([" ".join(text.split()).replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _list_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f", and {more} more" if more > 0 else "")


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=False,  # Markdown; `_table` escapes what would end a cell
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.globals["table"] = _table
_environment.filters["percent"] = _percent
