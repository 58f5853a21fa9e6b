"""Fine-tunes the one-stage detector, which works on the segmenter's embeddings: its head learns, all else stays.

Each image is encoded once. The classes of the data are learnt beside the names that the head knows already, which are
kept as they are by the answers of the head before training.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from grounded.config import load, override
from grounded.errors import ConfigError
from grounded.models.detectors.one_stage import OneStage
from grounded.models.detectors.one_stage_head import FILE, OneStageHead, save_head
from grounded.pipeline import Pipeline
from grounded.training.box_precision import box_precision
from grounded.training.data import TrainingData, TrainingImage, TrainingObject
from grounded.training.embeddings import EmbeddingStore, Key
from grounded.training.folder import EMBEDDINGS, MODEL, write_preset
from grounded.training.interactive import low_res_truth
from grounded.training.loop import LoopSettings, Outcome, Task, require_parameters, train
from grounded.training.one_stage_losses import CellTargets, kept_loss, one_stage_losses
from grounded.training.processes import Processes
from segany import ImageEmbedding, Predictor, SegAnyConfig
from segany.utils.transforms import ResizeFrame

_LOWEST = 0.01  # score of detections that count in AP
_MIDDLE = 0.6  # of a box along each side, in which cells are taken to be of its object, where there is no mask


@dataclass(frozen=True, kw_only=True)
class OneStageSettings:
    """What the head learns from."""

    base: str = "photo"  # a preset, or a YAML file, whose detector is of kind one-stage
    images: int = 8  # a step and process
    flip: bool = True  # show half of the images mirrored
    loop: LoopSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the folder of a training."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class OneStageBatch:
    """b embeddings and what their cells show."""

    features: Float[Tensor, "b c h w"]
    targets: CellTargets


def is_one_stage(base: str) -> bool:
    """Whether a base is a preset, or a YAML file, with a one-stage detector; else it may be a checkpoint."""
    try:
        return load(base).detector.works_on_embeddings
    except ConfigError:
        return False


@dataclass(frozen=True, eq=False)
class OneStageTraining:
    """A detector with the images that it learns from and those that it is measured on.

    before  its head before the training
    names   what it can be asked for afterwards: the classes of the data, then the others that it knew
    words   their embeddings, of unit length
    """

    settings: OneStageSettings
    detector: OneStage
    before: OneStageHead
    learned: TrainingData
    held_out: TrainingData
    embeddings: EmbeddingStore
    names: tuple[str, ...]
    words: Float[Tensor, "v d"]

    @classmethod
    def build(
        cls,
        settings: OneStageSettings,
        learned: TrainingData,
        held_out: TrainingData,
        folder: Path,
        processes: Processes,
        cache: Path | None = None,
    ) -> "OneStageTraining":
        """Load the base and prepare it. Raises CheckpointError or ConfigError."""
        config = override(load(settings.base), device=str(processes.device), box_threshold=_LOWEST)
        pipeline = Pipeline.from_config(config)
        detector, segmenter = pipeline.detector, pipeline.segmenter
        if not isinstance(detector, OneStage) or not isinstance(segmenter, Predictor):
            raise ConfigError(f"{settings.base} must have a one-stage detector, got kind {config.detector.kind}")
        known = [name for name in detector.names if name not in learned.classes]
        names = (*learned.classes, *known)
        model = segmenter.model
        store = EmbeddingStore(cache or folder / EMBEDDINGS, model, model.fingerprint(), settings.loop.precision)
        words = detector.text_encoder.encode(names).to(processes.device)
        return cls(settings, detector, copy.deepcopy(detector.head), learned, held_out, store, names, words)

    def keys(self) -> list[Key]:
        """The images that have to be encoded before the first step."""
        flips = (False, True) if self.settings.flip else (False,)
        learned = [(image, flip) for image in self.learned.images for flip in flips]
        return learned + [(image, False) for image in self.held_out.images]

    def make_batch(self, step: int, seed: Sequence[int]) -> OneStageBatch:
        """Return the batch of a step: a pure function of step and seed."""
        rng = np.random.default_rng([*seed, step])
        features, parts = [], []
        for _ in range(self.settings.images):
            image = self.learned.images[rng.integers(len(self.learned.images))]
            key = image, bool(self.settings.flip and rng.random() < 0.5)
            features.append(self.embeddings.load(key))
            parts.append(cell_targets(key, self.learned.classes, self.embeddings.model.config))
        boxes, has_box, named = (torch.stack(values) for values in zip(*parts, strict=True))
        targets = CellTargets(boxes, has_box, named, torch.ones_like(named))
        return OneStageBatch(torch.stack(features), targets)

    def compute_losses(self, batch: OneStageBatch) -> Iterator[Mapping[str, Tensor]]:
        """The losses of a batch."""
        head, device = self.detector.head, self.words.device
        features, own = batch.features.to(device), len(self.learned.classes)
        targets = CellTargets(*(value.to(device) for value in vars(batch.targets).values()))
        cells = head(features)
        parts = one_stage_losses(head, features, cells, targets, self.words[:own])
        if len(self.words) > own:
            parts["kept"] = kept_loss(head, cells, self.before, features, self.words[own:])
        yield parts

    def validate(self) -> dict[str, float]:
        """AP50 and AP of boxes on the held-out images, over classes, as COCO has them."""
        self.detector.head.eval()
        names = list(self.learned.classes)
        found = box_precision(
            self.held_out.images, names, lambda image: self.detector.detect_embedded(self._embedding(image), names)
        )
        self.detector.head.train()
        return found

    def _embedding(self, image: TrainingImage) -> ImageEmbedding:
        features = self.embeddings.load((image, False)).to(self.words.device)
        predictor = self.detector.predictor
        frame = ResizeFrame.fit(image.size, predictor.model.config.image_size)
        return ImageEmbedding(features[None], frame.original_size, frame.resized_size, predictor.fingerprint)

    def export(self, folder: Path, preset: str) -> None:
        """Write model/, a folder for `detector: {kind: one-stage, checkpoint: ...}`, and preset.yaml."""
        (folder / MODEL).mkdir(exist_ok=True)
        save_head(self.detector.head, self.names, self.words.cpu(), folder / MODEL / FILE)
        checkpoint = str((folder / MODEL).resolve())
        write_preset(folder, preset, detector={"kind": "one-stage", "checkpoint": checkpoint})


def run(
    training: OneStageTraining,
    folder: Path,
    processes: Processes,
    interrupted: Callable[[], bool] = lambda: False,
    preset: str = "photo",
) -> Outcome:
    """Train a head whose images are encoded already, and write its best state into `folder`.

    Raises:
        GroundedError: see `grounded.training.loop.train`.
    """
    trained = dict(training.detector.head.named_parameters())
    unused = [name for name in trained if name.startswith(("fore.", "edge."))]  # of the recipe alone
    for name in unused:
        del trained[name]
    require_parameters(trained, [training.detector.head, training.before])
    task = Task(
        trained=trained,
        batch=partial(training.make_batch, seed=(training.settings.loop.seed, processes.rank)),
        losses=training.compute_losses,
        validate=training.validate,
        export=lambda: training.export(folder, preset),
    )
    return train(task, training.settings.loop, folder, processes, interrupted)


def cell_targets(
    key: Key, classes: Sequence[str], config: SegAnyConfig
) -> tuple[Float[Tensor, "n 4"], Bool[Tensor, "n"], Bool[Tensor, "n v"]]:
    """Return the box of each cell of an embedding, whether it has one, and its classes; small objects lie above large.

    Args:
        key: an image, and whether it is mirrored.
        classes: v names.
        config: of the segmenter.
    """
    image, mirrored = key
    grid = config.grid_size
    boxes = torch.zeros(grid * grid, 4)
    has_box = torch.zeros(grid * grid, dtype=torch.bool)
    named = torch.zeros(grid * grid, len(classes), dtype=torch.bool)
    frame = ResizeFrame.fit(image.size, config.image_size)
    x_scale, y_scale = frame.scale
    for one in sorted(image.objects, key=lambda one: -(one.box[2] - one.box[0]) * (one.box[3] - one.box[1])):
        x0, y0, x1, y1 = one.box
        if mirrored:
            x0, x1 = image.size[1] - x1, image.size[1] - x0
        box = torch.tensor([x0 * x_scale, y0 * y_scale, x1 * x_scale, y1 * y_scale]) / config.image_size
        cells = _cells_of(key, one, box, config)
        boxes[cells], has_box[cells], named[cells] = box, True, False
        named[cells, classes.index(one.label)] = True
    return boxes, has_box, named


def _cells_of(key: Key, one: TrainingObject, box: Float[Tensor, "4"], config: SegAnyConfig) -> Bool[Tensor, "n"]:
    """The cells of an object: half covered by its mask, or in the middle of its box; at least the nearest one."""
    grid = config.grid_size
    steps = (torch.arange(grid) + 0.5) / grid
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    away_x, away_y = (steps - centre[0]).abs(), (steps - centre[1]).abs()
    nearest = (away_y == away_y.min())[:, None] & (away_x == away_x.min())[None]
    if one.mask is not None:
        covered = F.avg_pool2d(low_res_truth(key, one, config)[None], config.low_res_size // grid)[0] >= 0.5
    else:
        covered = (away_y < _MIDDLE * half[1])[:, None] & (away_x < _MIDDLE * half[0])[None]
    return (covered if covered.any() else nearest).flatten()
