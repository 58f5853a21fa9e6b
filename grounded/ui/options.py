"""What the controls of the app say, as settings of a loaded pipeline."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from grounded.pipeline import Pipeline
from grounded.settings import Mode, PipelineConfig


@dataclass(frozen=True)
class Options:
    """One position of the controls. The defaults of a configuration are `Options.of(config)`."""

    box_threshold: float
    mode: Mode
    filtering: bool
    clip_threshold: float
    refine_rounds: int
    fallback: Literal["none", "automatic", "text"]
    fallback_threshold: float

    @classmethod
    def of(cls, config: PipelineConfig) -> "Options":
        """What the configuration says."""
        return cls(
            box_threshold=config.detector.box_threshold,
            mode=config.prompting.mode,
            filtering=config.filtering.enabled,
            clip_threshold=config.filtering.clip_threshold,
            refine_rounds=config.refinement.refine_rounds,
            fallback=config.fallback.source,
            fallback_threshold=config.fallback.fallback_threshold,
        )

    def changed(self, **given: Any) -> "Options":
        """The same with some fields replaced; None leaves a field as it is.

        Raises:
            TypeError: no such field.
        """
        return Options(**{**asdict(self), **{name: value for name, value in given.items() if value is not None}})

    def adjust(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline under these settings. `box_threshold` is for its `segment` method.

        Raises:
            ConfigError: a setting is wrong, or needs a part that was not loaded.
        """
        return pipeline.with_config(
            mode=self.mode,
            filtering={"enabled": self.filtering, "clip_threshold": self.clip_threshold},
            refine_rounds=self.refine_rounds,
            fallback={"source": self.fallback, "fallback_threshold": self.fallback_threshold},
        )
