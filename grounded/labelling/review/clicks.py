"""New masks by clicks: the segmenter of a run, loaded when it is first needed."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from grounded.config import override
from grounded.data.detections import Detections
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.errors import ConfigError
from grounded.models import build
from grounded.pipeline import Pipeline
from grounded.settings import PipelineConfig
from grounded.stages.cache import StageCache


class _NoDetector:
    """In place of a detector, which clicks have no use for and which takes longer to load than all else."""

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[Detections]:
        raise ConfigError("only the segmenter is loaded, for clicks")


@dataclass
class Redrawing:
    """Answers clicks on one picture at a time, whose embedding it keeps. For several threads, which take turns.

    Args:
        config: of the run. Of its models only the segmenter is loaded.
    """

    config: PipelineConfig
    _pipeline: Pipeline | None = None
    _kept: StageCache = field(default_factory=StageCache)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_loaded(self) -> bool:
        return self._pipeline is not None

    def masks(
        self,
        picture: SourceImage,
        phrase: str,
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
        before: Instances | None = None,
    ) -> Instances:
        """Return what clicks may mean: a correction of the instance before, or one to three new masks, the best first.

        Args:
            picture: upright.
            phrase: what is clicked.
            points: (k, 2), all clicks so far, in pixels.
            labels: (k), 1 foreground and 0 background.
            before: the one instance that is corrected; None for what is drawn anew.

        Raises:
            PromptError: clicks or phrase cannot be used.
            ConfigError, segany.CheckpointError: the segmenter cannot be loaded, or takes no corrections.
        """
        with self._lock:
            if self._pipeline is None:
                self._pipeline = _segmenter_alone(self.config)
            pipeline = self._pipeline
            embedding = pipeline.encode(picture, self._kept)
            if before is None:
                return pipeline.candidates(picture, phrase, points, labels, embedding=embedding)
            return pipeline.refine(picture, before, 0, points, labels, embedding=embedding, cache=self._kept)


def _segmenter_alone(config: PipelineConfig) -> Pipeline:
    alone = override(config, mode="box", filtering={"enabled": False}, fallback={"source": "none"})
    segmenter = build.load_segmenter(alone, build.pick_device(alone.device))
    return Pipeline(detector=_NoDetector(), text_encoder=None, segmenter=segmenter, config=alone)
