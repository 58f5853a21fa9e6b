"""The automatic stage: grid, filters, non-maximum suppression and crops, written in the layout of SA-1B.

Also what the stage before it shows: of the same masks the confident ones.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.engine.rounds import AutomaticSettings
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.labelling.formats.sa1b import Sa1bMask, Sa1bReader, annotation_file
from grounded.stages.fallback import UNNAMED
from grounded.utils.files import write_atomically
from segany import AutomaticMaskGenerator, AutomaticMasks, Predictor
from segany.utils.rle import RLE, rle_containment

SA1B = "sa1b"  # folder of the annotation files in that of a round


@dataclass(frozen=True, eq=False)
class AutomaticStage:
    """Finds all masks of an image, and writes them.

    Args:
        predictor: of the round.
        settings: of grid and filters.
        folder: for the annotation files.
        names: number and file name of the annotations of each image.
    """

    predictor: Predictor
    settings: AutomaticSettings
    folder: Path
    names: Mapping[str, tuple[int, str]]

    def find(self, image: SourceImage) -> AutomaticMasks:
        """Return the masks of an image, in the order of their files. Raises OutputError."""
        assert image.path is not None  # of images of a source
        file = image.path.as_posix()
        masks = find_masks(self.predictor, image, self.settings)
        number, name = self.names[file]
        data = annotation_file(number, image.path.name, masks.image_size, to_sa1b(masks))
        data["image_name"] = file  # the name in the run, as exports have it
        write_atomically(self.folder / name, json.dumps(data, ensure_ascii=False).encode())
        return masks


def find_masks(predictor: Predictor, image: SourceImage, settings: AutomaticSettings) -> AutomaticMasks:
    """Return all masks that are confident, stable and distinct; none is empty or nearly the whole image."""
    generator = AutomaticMaskGenerator(
        predictor,
        points_per_side=settings.points_per_side,
        pred_iou_thresh=settings.pred_iou_thresh,
        stability_score_thresh=settings.stability_score_thresh,
        box_nms_thresh=settings.nms_thresh,
        crop_nms_thresh=settings.nms_thresh,
        crop_n_layers=settings.crop_layers,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=settings.min_region,
    )
    masks = generator.generate(image.pixels)
    height, width = masks.image_size
    return masks[(masks.areas > 0) & (masks.areas <= settings.most_of_image * height * width)]


def confident_masks(masks: AutomaticMasks, settings: AutomaticSettings) -> AutomaticMasks:
    """Return the masks to show to a person: the most confident first, none of them mostly within one before it."""
    sure = (masks.predicted_iou >= settings.confident_iou) & (masks.stability_score >= settings.confident_stability)
    masks = masks[sure]
    order = torch.argsort(masks.predicted_iou, descending=True, stable=True)
    masks = masks[order]
    if not len(masks):
        return masks
    shares = rle_containment(masks.rles, masks.rles)
    kept: list[int] = []
    for row in range(len(masks)):
        if all(max(shares[row, other], shares[other, row]) <= settings.confident_overlap for other in kept):
            kept.append(row)
    return masks[torch.tensor(kept)]


def to_instances(masks: AutomaticMasks) -> Instances:
    """Return masks as instances of a record, unnamed, the greatest predicted IoU first."""
    ids = np.zeros(len(masks), np.int64)
    predicted_iou = masks.predicted_iou.numpy()
    return Instances.from_masks((UNNAMED,), masks.image_size, masks.rles, ids, predicted_iou, "automatic").sorted()


def to_sa1b(masks: AutomaticMasks) -> list[Sa1bMask]:
    """Return masks as annotations of SA-1B."""
    return [
        Sa1bMask(
            rle=masks.rles[row],
            predicted_iou=float(masks.predicted_iou[row]),
            stability_score=float(masks.stability_score[row]),
            crop_box=tuple(masks.crop_boxes[row].tolist()),
            points=((float(masks.points[row, 0]), float(masks.points[row, 1])),),
        )
        for row in range(len(masks))
    ]


def read_masks(folder: Path, names: Iterable[str]) -> dict[str, list[RLE]]:
    """Return the masks in annotation files, by the name of the file; files that are missing are left out.

    Raises:
        ResultError: a file or a mask in it cannot be read.
    """
    found = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        notes = Notes()
        (read,) = Sa1bReader.open(path).images(notes)
        if read.error or notes.lines():
            raise ResultError(f"{path} is damaged: {read.error or '; '.join(notes.lines())}")
        found[name] = [one.rle for one in read.annotations if one.rle is not None]
    return found
