"""An evaluation as a page of Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple

from grounded.evaluation.cases import Paired
from grounded.evaluation.counts import Counts
from grounded.evaluation.labels import LabelEvaluation
from grounded.evaluation.naming import normalised

# The page has the head of each long list; evaluation.json has all of it.
_NAMES_LISTED = 10
_ROWS_LISTED = 20

_PLURALS = {"mask": "masks", "box": "boxes"}


def markdown(evaluation: LabelEvaluation, pictures: Sequence[str] = ()) -> str:
    """Return the evaluation as tables, and what one must know to read them.

    Args:
        evaluation: what was measured.
        pictures: files beside the page to show at its end.
    """
    return (
        "\n\n".join(
            [
                "# Evaluation of labels",
                _coverage(evaluation),
                "## Average precision",
                _average_precision(evaluation),
                "## At the scores of the run",
                _overall(evaluation),
                "## By class",
                _classes(evaluation),
                "## Answers to what is absent",
                _absence(evaluation),
                "## What is taken for what",
                _confusions(evaluation),
                "## Scores",
                _scores(evaluation),
                "## Worst pictures",
                _worst(evaluation),
                *(f"![{name}]({name})" for name in pictures),
            ]
        )
        + "\n"
    )


def notes(paired: Paired) -> list[str]:
    """Return a line on each kind of thing that is not, or not as one might think, in the numbers."""
    fate = "measured as empty answers" if paired.missing_counted else "left out"
    groups = (
        (paired.missing, f"pictures of the truth without a record, {fate}"),
        (paired.without_truth, "records of pictures that the truth does not have, left out"),
        (paired.other_size, "pictures of another size in the truth, left out"),
        (tuple(paired.unknown_phrases), "phrases that are no class of the truth, left out"),
        (paired.classes_not_asked, "classes of the truth that were not asked, left out"),
    )
    return [f"{what}: {len(names)} ({_listed(names)})" for names, what in groups if names]


def _coverage(evaluation: LabelEvaluation) -> str:
    text = f"{len(evaluation.paired.cases)} pictures, {len(evaluation.classes)} classes."
    return "\n".join([text, "", *(f"- {note}" for note in notes(evaluation.paired))]).rstrip()


def _average_precision(evaluation: LabelEvaluation) -> str:
    rows = [(_PLURALS[kind], *map(_percent, astuple(value.overall))) for kind, value in evaluation.precision.items()]
    note = (
        "In percent; mean over classes that have objects. AP is over IoU thresholds from 0.50 to 0.95. By size, small "
        "is below 32² pixels, large from 96² on."
    )
    return f"{_table(('of', 'AP', 'AP50', 'AP75', 'small', 'medium', 'large'), rows)}\n\n{note}"


def _overall(evaluation: LabelEvaluation) -> str:
    counts, settings = evaluation.overall, evaluation.settings
    table = _table(_COUNTS_HEAD, [_counts_row(counts)])
    note = (
        f"An answer finds an object of its class when the IoU of their {_PLURALS[settings.kinds[0]]} is at least "
        f"{settings.iou_threshold:g}. IoU and boundary F-score are means over the objects found"
    )
    if evaluation.pixels is None:
        return f"{table}\n\n{note}."
    return (
        f"{table}\n\n{note}; boundaries agree within {settings.boundary_tolerance:.2%} of the image diagonal. The mean "
        f"IoU of classes, pixel by pixel whatever the instances, is {_percent(evaluation.pixels.mean)}."
    )


def _classes(evaluation: LabelEvaluation) -> str:
    kinds = tuple(evaluation.precision)
    rows = []
    for label, counts in sorted(evaluation.classes.items(), key=lambda item: -item[1].objects):
        named = [phrase for phrase in evaluation.phrases(label) if normalised(phrase) != normalised(label)]
        values = [evaluation.precision[kind].classes.get(label) for kind in kinds]
        pixels = () if evaluation.pixels is None else (_percent(evaluation.pixels.classes.get(label)),)
        rows.append(
            (
                f"{label} ({', '.join(named)})" if named else label,
                *(_percent(value.mean if value else None) for value in values),
                *_counts_row(counts),
                *pixels,
            )
        )
    head = ("class", *(f"AP {_PLURALS[kind]}" for kind in kinds), *_COUNTS_HEAD)
    return _table(head if evaluation.pixels is None else (*head, "class IoU"), rows)


def _absence(evaluation: LabelEvaluation) -> str:
    overall = evaluation.absence.overall
    text = (
        f"Of {overall.pictures} pairs of a picture and a phrase that is absent there, {overall.answered} "
        f"({_percent(overall.share)}%) have at least one instance."
    )
    guilty = [(phrase, value) for phrase, value in evaluation.absence.phrases.items() if value.answered]
    guilty.sort(key=lambda item: (-(item[1].share or 0), -item[1].answered))
    rows = [(p, str(v.pictures), str(v.answered), _percent(v.share)) for p, v in guilty[:_ROWS_LISTED]]
    return f"{text}\n\n{_table(('phrase', 'absent in', 'answered', '%'), rows)}" if rows else text


def _confusions(evaluation: LabelEvaluation) -> str:
    confusion = evaluation.confusion
    wrong = [
        (label, phrase, count)
        for (label, phrase), count in confusion.counts.items()
        if label is not None and phrase is not None and confusion.asked[phrase] != label
    ]
    if not wrong:
        return "No answer lies on an object of another class."
    rows = [(label, phrase, str(count)) for label, phrase, count in sorted(wrong, key=lambda cell: -cell[2])]
    return _table(("there is", "answered", "times"), rows[:_ROWS_LISTED])


def _scores(evaluation: LabelEvaluation) -> str:
    value = evaluation.reliability
    rows = [
        (f"{b.low:.2f} to {b.high:.2f}", str(b.count), _percent(b.mean_score), _percent(b.share_right))
        for b in value.bins
        if b.count
    ]
    if not rows:
        return f"No answer has a score; {value.unknown} have none."
    unknown = f" {value.unknown} answers without a score are left out." if value.unknown else ""
    text = f"The expected calibration error is {_percent(value.error)}%.{unknown}"
    return f"{_table(('score', 'answers', 'mean score %', 'right %'), rows)}\n\n{text}"


def _worst(evaluation: LabelEvaluation) -> str:
    if not evaluation.worst:
        return "None has a flaw." if evaluation.settings.worst else "Not asked for."
    rows = [(picture.case.file, *_counts_row(picture.counts)) for picture in evaluation.worst]
    return (
        f"{_table(('picture', *_COUNTS_HEAD), rows)}\n\n"
        "By panoptic quality: the IoU of the objects found, divided by their number and half that of the errors."
    )


_COUNTS_HEAD = ("objects", "answers", "found", "precision", "recall", "IoU", "boundary F", "quality")


def _counts_row(counts: Counts) -> tuple[str, ...]:
    measures = (counts.precision, counts.recall, counts.mean_iou, counts.boundary_f, counts.quality)
    return (str(counts.objects), str(counts.answers), str(counts.found), *map(_percent, measures))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f", and {more} more" if more > 0 else "")
