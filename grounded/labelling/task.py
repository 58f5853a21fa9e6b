"""What is done with each batch of pictures: the models' part, as a value from which other processes can build it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.labelling.store import Run, fingerprint
from grounded.settings import PipelineConfig
from grounded.utils.timing import Stopwatch

if TYPE_CHECKING:
    from grounded.labelling.tiling.tiles import Segment, Tiles
    from grounded.labelling.vocabulary import Vocabulary
    from grounded.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class Labelled:
    """The answer for one picture, and the seconds of each stage, of a batch's its share."""

    instances: Instances
    seconds: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Step(Protocol):
    """Labels a batch. What it raises is about the batch as a whole: the engine then asks for each picture by itself."""

    def __call__(self, pictures: Sequence[SourceImage]) -> list[Labelled]: ...


@runtime_checkable
class Recipe(Protocol):
    """Builds a step, in any process: plain data that can be pickled."""

    def load(self) -> Step: ...


@dataclass(frozen=True)
class StepSpec:
    """How to build a `PipelineStep`: plain data, and no model yet.

    `threads` is how many threads of the CPU one batch is computed with; None leaves it to PyTorch.
    """

    config: PipelineConfig
    vocabulary: "Vocabulary"
    tiles: "Tiles | None" = None
    threads: int | None = None

    def load(self) -> "PipelineStep":
        """Load the models.

        Raises:
            ConfigError: the configuration cannot be met.
            segany.CheckpointError: weights are missing or do not fit.
        """
        import torch

        from grounded.pipeline import Pipeline

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return PipelineStep(Pipeline.from_config(self.config), self.vocabulary, self.tiles)

    def run(self, source: str, *, phrase_scores: bool = True) -> Run:
        """What is asked of the pictures of `source`, as the run's folder states it.

        Its fingerprint covers all that the answers depend on; where they are computed is not among it.
        """
        configuration = self.config.to_dict()
        vocabulary = self.vocabulary.to_dict()
        tiles = None if self.tiles is None else {"size": self.tiles.size, "overlap": self.tiles.overlap}
        asked = {key: value for key, value in configuration.items() if key != "device"}
        return Run(
            source=source,
            phrases=tuple(self.vocabulary.classes),
            vocabulary=vocabulary,
            configuration=configuration,
            tiles=tiles,
            models=self.config.models,
            config=fingerprint({"configuration": asked, "vocabulary": vocabulary, "tiles": tiles}),
            phrase_scores=phrase_scores,
        )


@dataclass(frozen=True)
class PipelineStep:
    """A pipeline asked for a vocabulary, picture by picture or tile by tile."""

    pipeline: "Pipeline"
    vocabulary: "Vocabulary"
    tiles: "Tiles | None" = None

    def __call__(self, pictures: Sequence[SourceImage]) -> list[Labelled]:
        watch = Stopwatch(_synchronize())

        def segment(some: Sequence[SourceImage]) -> list[Instances]:
            return self.pipeline.segment_batch(some, [self.vocabulary.queries] * len(some), watch)

        found = segment(pictures) if self.tiles is None else self._tiled(segment, pictures, self.tiles)
        with watch.stage("vocabulary"):
            answers = [self.vocabulary.answer(instances) for instances in found]
        share = {stage: seconds / len(answers) for stage, seconds in watch.seconds.items()} if answers else {}
        return [Labelled(instances, share) for instances in answers]

    def _tiled(self, segment: "Segment", pictures: Sequence[SourceImage], tiles: "Tiles") -> list[Instances]:
        from grounded.labelling.tiling.tiles import segment_tiled

        return [segment_tiled(segment, picture, tiles, self.vocabulary.groups) for picture in pictures]


def _synchronize() -> Callable[[], None] | None:
    """What makes a GPU's time fall into its stage; None without one."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_initialized() else None
