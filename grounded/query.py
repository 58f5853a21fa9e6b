"""The settings of one query, defined once for the app, its HTTP endpoints and the command line."""

from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field

from grounded.config import FallbackSource, Mode, PipelineConfig, TextPrompt, override
from grounded.utils.validation import checked_dataclass


@checked_dataclass
class QuerySettings:
    """What may differ from one query to the next under the same models. None keeps the value of the configuration.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    box_threshold: Annotated[float | None, Field(ge=0, le=1, description="Lowest detector score to keep.")] = None
    mode: Annotated[Mode | None, Field(description="What the segmenter is prompted with.")] = None
    text_prompt: Annotated[
        TextPrompt | None,
        Field(
            description="How a phrase reaches the segmenter: as a token of its own, or as points and a coarse mask "
            "from CLIP."
        ),
    ] = None
    filtering: Annotated[bool | None, Field(description="Let CLIP drop what does not look like its phrase.")] = None
    clip_threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Lowest CLIP score that filtering keeps.")
    ] = None
    zoom: Annotated[
        float | None,
        Field(
            ge=0,
            le=20,
            description="Segment small instances again, each in a window of so many times its box; 0 does not.",
        ),
    ] = None
    refine_rounds: Annotated[int | None, Field(ge=0, le=8, description="Rounds of correcting the masks by points.")] = (
        None
    )
    min_mask_region_area: Annotated[
        int | None, Field(ge=0, description="Remove holes and islands of masks of fewer pixels.")
    ] = None
    fallback: Annotated[
        FallbackSource | None, Field(description="What is tried for phrases that the detector missed.")
    ] = None
    fallback_threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Lowest CLIP score of a mask of the fallback.")
    ] = None

    @classmethod
    def from_config(cls, config: PipelineConfig) -> "QuerySettings":
        """The values of a configuration: `from_config(config).apply(other)` has them all, whatever `other` says."""
        return cls(
            box_threshold=config.detector.threshold,
            mode=config.prompting.mode,
            text_prompt=config.prompting.text_prompt,
            filtering=config.filtering.enabled,
            clip_threshold=config.filtering.clip_threshold,
            zoom=config.refinement.zoom or 0.0,
            refine_rounds=config.refinement.refine_rounds,
            min_mask_region_area=config.refinement.min_mask_region_area,
            fallback=config.fallback.source,
            fallback_threshold=config.fallback.fallback_threshold,
        )

    def apply(self, config: PipelineConfig) -> PipelineConfig:
        """The configuration with these settings in place of its own.

        Raises:
            ConfigError: the settings do not fit one another, or the configuration.
        """
        sections: dict[str, dict[str, Any]] = {
            "detector": {"box_threshold": self.box_threshold},
            "prompting": {"mode": self.mode, "text_prompt": self.text_prompt},
            "filtering": {"enabled": self.filtering, "clip_threshold": self.clip_threshold},
            "refinement": {"refine_rounds": self.refine_rounds, "min_mask_region_area": self.min_mask_region_area},
            "fallback": {"source": self.fallback, "fallback_threshold": self.fallback_threshold},
        }
        changes = {
            section: {name: value for name, value in values.items() if value is not None}
            for section, values in sections.items()
        }
        if self.zoom is not None:
            changes["refinement"]["zoom"] = self.zoom or None  # the configuration writes null for none
        return override(config, **changes)


@dataclass(frozen=True)
class Parameter:
    """One field of `QuerySettings`, for code that offers it to users."""

    name: str
    type: type  # float, int, bool, or str for one of `choices`
    choices: tuple[str, ...]  # empty for other types
    low: Any  # lowest value, of `type`; None where there is none
    high: Any  # highest value, likewise
    description: str  # one sentence


def query_parameter(name: str) -> Parameter:
    """Type, range and description of a field of `QuerySettings`."""
    field = QuerySettings.__pydantic_fields__[name]  # type: ignore[attr-defined]
    value_type = get_args(field.annotation)[0]  # of `value_type | None`
    choices: tuple[str, ...] = get_args(value_type)
    bounds = {name: getattr(bound, name) for bound in field.metadata for name in ("ge", "le") if hasattr(bound, name)}
    return Parameter(
        name=name,
        type=str if choices else value_type,
        choices=choices,
        low=bounds.get("ge"),
        high=bounds.get("le"),
        description=field.description,
    )
