"""Masks from clicks on the review page: a segmenter that is loaded at the first click, and its image embedding."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from grounded.config import PipelineConfig
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.protocols import Segmenter
from grounded.interactive.correct import candidates, correct
from grounded.models.build import load_segmenter, pick_device
from grounded.stages.cache import StageCache


@dataclass
class ClickSegmenter:
    """Segments by clicks; the embedding of the latest image is kept. For several threads, which take turns.

    Args:
        config: of the run. Of its models only the segmenter is loaded.
    """

    config: PipelineConfig
    _segmenter: Segmenter | None = None
    _cache: StageCache = field(default_factory=StageCache)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_loaded(self) -> bool:
        return self._segmenter is not None

    def segment(
        self,
        image: SourceImage,
        phrase: str,
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
        instance: Instances | None = None,
    ) -> Instances:
        """Return the corrected instance, or one to three masks that clicks on a new one may mean, the best first.

        Args:
            image: upright.
            phrase: the name of a new instance.
            points: (k, 2), all clicks so far, in pixels.
            labels: (k), 1 foreground and 0 background.
            instance: the one to correct; None for a new one.

        Raises:
            PromptError: the clicks or the phrase cannot be used.
            ConfigError, CheckpointError: the segmenter cannot be loaded, or takes no corrections.
        """
        with self._lock:
            if self._segmenter is None:
                self._segmenter = load_segmenter(self.config, pick_device(self.config.device))
            if instance is None:
                return candidates(self._segmenter, image, phrase, points, labels, cache=self._cache)
            zoom = self.config.refinement.zoom
            return correct(self._segmenter, image, instance, 0, points, labels, zoom=zoom, cache=self._cache)
