"""The task that a labelling engine runs on each batch of images, and its specification for other processes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch

from grounded.config import PipelineConfig
from grounded.data.image import ImageLike, SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.labelling.store import Run, fingerprint
from grounded.labelling.tiling.tiles import Tiles, segment_tiled
from grounded.labelling.vocabulary import Vocabulary
from grounded.models import build, trackers
from grounded.pipeline import Pipeline, Text
from grounded.utils.timing import Stopwatch
from grounded.video.clip import Clip
from grounded.video.pipeline import VideoPipeline
from grounded.video.tracks import TrackedFrame


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

    def describe_run(self, source: str, *, phrase_scores: bool = True, clips: bool = False) -> Run:
        """Describe a run over `source`, as `run.json` states it; with `clips` each folder of images is one clip.

        The fingerprint covers everything that the instances depend on, so not the device, nor how clips are tracked.
        """
        configuration = self.config.to_dict()
        vocabulary = self.vocabulary.to_dict()
        tiles = None if self.tiles is None else {"size": self.tiles.size, "overlap": self.tiles.overlap}
        settings = {key: value for key, value in configuration.items() if key not in ("device", "video")}
        covered = {"configuration": settings, "vocabulary": vocabulary, "tiles": tiles}
        return Run(
            source=source,
            phrases=self.vocabulary.class_names,
            vocabulary=vocabulary,
            configuration=configuration,
            tiles=tiles,
            models=self.config.models,
            config=fingerprint(covered | {"clips": True} if clips else covered),
            phrase_scores=phrase_scores,
            clips=clips,
        )


@dataclass(frozen=True)
class PipelineTask:
    """Runs a pipeline with the queries of a vocabulary, on whole images or tile by tile, and on clips."""

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

    def track(self, clip: Clip, before: Mapping[int, TrackedFrame]) -> Iterator[TrackedFrame]:
        """Follow the objects of the classes through a clip. The models that it needs besides are loaded at the first.

        Args:
            clip: opened.
            before: of an interrupted pass, frames that its objects go on from; those after the last one are yielded.

        Raises:
            ConfigError: the task works by tiles, or clips cannot be tracked with this configuration.
            CheckpointError: weights are missing or do not fit.
            VideoError: the clip cannot be read to its end; all frames before the damage have been yielded.
        """
        if self.tiles is not None:
            raise ConfigError("clips are tracked as a whole, and not in tiles: label them in a run without tiles")
        start = max(before, default=-1) + 1
        return self._video.track(clip, self.vocabulary.class_names, start=start, before=before)

    @cached_property
    def _video(self) -> VideoPipeline:
        # CLIP tells whether a lost object has come back; images alone may not need it.
        pipeline, config = self.pipeline, self.pipeline.config
        if pipeline.scorer is None:
            pipeline = Pipeline.from_config(config, load_all=True)
        segmenter = trackers.build(config.video, build.pick_device(config.device), pipeline.segmenter)
        return VideoPipeline(ClassPipeline.of(pipeline, self.vocabulary), segmenter)


@dataclass(frozen=True)
class ClassPipeline(Pipeline):
    """A pipeline that finds instances of the classes of a vocabulary, by the queries that it has for them."""

    vocabulary: Vocabulary | None = None

    @classmethod
    def of(cls, pipeline: Pipeline, vocabulary: Vocabulary) -> "ClassPipeline":
        return cls(**{f.name: getattr(pipeline, f.name) for f in fields(pipeline)}, vocabulary=vocabulary)

    def segment(self, image: ImageLike | SourceImage, text: Text, *args: Any, **options: Any) -> Instances:
        """As `Pipeline.segment`; `text` must be the names of the classes."""
        assert self.vocabulary is not None
        found = super().segment(image, self.vocabulary.queries, *args, **options)
        return self.vocabulary.to_classes(found)
