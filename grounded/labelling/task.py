"""The task that a labelling engine runs on each batch of images, and its specification for other processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from grounded.config import PipelineConfig
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.labelling.store import Run, fingerprint
from grounded.labelling.tiling.tiles import Tiles, segment_tiled
from grounded.labelling.vocabulary import Vocabulary
from grounded.pipeline import Pipeline
from grounded.utils.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """The instances of one image, and its share of the seconds that each stage took for the batch."""

    instances: Instances
    seconds: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """Labels a batch. After an exception the engine repeats the batch image by image, to find the one at fault."""

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]: ...


@runtime_checkable
class TaskSpec(Protocol):
    """Builds a task, in any process: plain data that can be pickled."""

    def load(self) -> Task: ...


@dataclass(frozen=True)
class PipelineTaskSpec:
    """How to build a `PipelineTask`, without any model loaded.

    `threads` is the number of CPU threads that one batch is computed with; None leaves it to PyTorch.
    """

    config: PipelineConfig
    vocabulary: Vocabulary
    tiles: Tiles | None = None
    threads: int | None = None

    def load(self) -> "PipelineTask":
        """Load the models.

        Raises:
            ConfigError: the configuration cannot be met.
            CheckpointError: weights are missing or do not fit.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return PipelineTask(Pipeline.from_config(self.config), self.vocabulary, self.tiles)

    def describe_run(self, source: str, *, phrase_scores: bool = True) -> Run:
        """Describe a run over `source`, as `run.json` states it.

        The fingerprint covers everything that the instances depend on, so not the device, nor how clips are tracked.
        """
        configuration = self.config.to_dict()
        vocabulary = self.vocabulary.to_dict()
        tiles = None if self.tiles is None else {"size": self.tiles.size, "overlap": self.tiles.overlap}
        settings = {key: value for key, value in configuration.items() if key not in ("device", "video")}
        return Run(
            source=source,
            phrases=self.vocabulary.class_names,
            vocabulary=vocabulary,
            configuration=configuration,
            tiles=tiles,
            models=self.config.models,
            config=fingerprint({"configuration": settings, "vocabulary": vocabulary, "tiles": tiles}),
            phrase_scores=phrase_scores,
        )


@dataclass(frozen=True)
class PipelineTask:
    """Runs a pipeline with the queries of a vocabulary, on whole images or tile by tile."""

    pipeline: Pipeline
    vocabulary: Vocabulary
    tiles: Tiles | None = None

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        stopwatch = Stopwatch.for_device()

        def segment(batch: Sequence[SourceImage]) -> list[Instances]:
            return self.pipeline.segment_batch(batch, [self.vocabulary.queries] * len(batch), stopwatch)

        if self.tiles is None:
            found = segment(images)
        else:
            found = [segment_tiled(segment, image, self.tiles, self.vocabulary.groups) for image in images]
        with stopwatch.stage("vocabulary"):
            labelled = [self.vocabulary.to_classes(instances) for instances in found]
        seconds = {stage: total / len(labelled) for stage, total in stopwatch.seconds.items()} if labelled else {}
        return [LabelledImage(instances, seconds) for instances in labelled]
