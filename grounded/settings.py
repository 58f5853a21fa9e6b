"""What a pipeline can be told, section by section; `grounded.config` reads and writes it.

Every field has a default that suits published weights, and a comment that gives the reason.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from grounded import schema
from grounded.errors import ConfigError

Mode = Literal["box", "text", "box+text"]
TextPrompt = Literal["adapter", "dense-clip", "none"]


@dataclass(frozen=True)
class DetectorConfig:
    """The open-vocabulary detector and how its scores become detections."""

    kind: str = "grounding-dino"  # which file of grounded/detectors reads the checkpoint
    checkpoint: str = "bundled:detector"  # bundled:NAME, a local folder or a hub id; bundled needs no download
    tokenizer: str | None = None  # folder of the tokenizer of an original .pth file; None looks beside the file
    box_threshold: float = 0.3  # lowest own-phrase score kept: below it false positives outnumber objects
    phrase_score: Literal["mean", "max"] = "mean"  # over a phrase's tokens; mean is the published COCO protocol
    nms_threshold: float = 0.7  # box IoU within a phrase; high, since the detector is trained to answer once per object
    cross_phrase_nms: float | None = None  # box IoU across phrases; off: a wheel in a car is two answers
    image_size: int | None = None  # shorter side in pixels; None keeps what the checkpoint was trained with
    max_detections: int = 100  # per image, best first; bounds the masks that follow
    fast_attention: bool = True  # Grounding DINO's attention rearranged: faster, the same answers but for rounding

    def __post_init__(self) -> None:
        _check_share("box_threshold", self.box_threshold)
        _check_share("nms_threshold", self.nms_threshold)
        _check_share("cross_phrase_nms", self.cross_phrase_nms)
        _check_positive("image_size", self.image_size)
        _check_positive("max_detections", self.max_detections)


@dataclass(frozen=True)
class ClipConfig:
    """The CLIP model that turns phrases into embeddings. Read only when the prompting mode needs text."""

    checkpoint: str = "bundled:clip"  # bundled:NAME, local-dir:/path, MODEL/PRETRAINED tag of open_clip, or a hub id
    # Averaged over a phrase; one plain template suits phrases that already are noun phrases with an article.
    templates: tuple[str, ...] = ("a photo of {}",)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ConfigError("templates must hold at least one template, got none")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ConfigError(f"templates must each contain {{}} exactly once, got {template!r}")


@dataclass(frozen=True)
class SegmenterConfig:
    """The promptable segmentation model."""

    # bundled:tiny, a .pth, .pt or .safetensors file, a folder, a hub id, or a hub id and the name of a file in it
    checkpoint: str = "bundled:tiny"
    # auto: bfloat16 where the processor computes in it, several times as fast; its masks differ a little.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    compile: bool = False  # the image encoder, by torch.compile: minutes at the first picture, worth it for thousands


@dataclass(frozen=True)
class PromptingConfig:
    """What the segmenter is prompted with, and how its masks are filtered."""

    mode: Mode = "box"  # a box is the strongest prompt; text alone finds at most one mask per phrase
    # How a phrase reaches the segmenter: its embedding as a token, which needs weights that were trained for it, or
    # points and a coarse mask from CLIP's dense features, which needs none.
    text_prompt: TextPrompt = "adapter"
    multimask_output: bool = False  # a box is rarely ambiguous: the single output is trained for that case
    mask_nms_threshold: float | None = 0.8  # mask IoU within a phrase: two boxes may still yield one and the same mask
    # Share of the smaller mask that lies in a better one of the same phrase; off: a small dog before a big one is real.
    mask_containment_threshold: float | None = None

    def __post_init__(self) -> None:
        _check_share("mask_nms_threshold", self.mask_nms_threshold)
        _check_share("mask_containment_threshold", self.mask_containment_threshold)
        if self.mode != "box" and self.text_prompt == "none":
            raise ConfigError(f"mode {self.mode!r} needs a text_prompt, got 'none'")


@dataclass(frozen=True)
class ScoringConfig:
    """How CLIP judges what a mask shows, for filtering and for the fallback."""

    background: Literal["keep", "blur", "grey"] = "blur"  # beyond the mask; blurred it neither distracts nor looks odd
    margin: float = 0.15  # around the mask's box, as a share of its longer side; some context helps to recognise
    temperature: float | None = None  # of the softmax over cosines; None takes the one that CLIP was trained with
    # What a phrase competes with. Fixed, so that one phrase never changes the score of another.
    negatives: tuple[str, ...] = (
        "background",
        "a texture",
        "a pattern",
        "a wall",
        "the floor",
        "the ground",
        "the sky",
        "water",
        "grass",
        "leaves",
        "a shadow",
        "a reflection",
        "a blurry picture",
        "text",
        "a part of something",
        "an object",
        "a thing",
    )
    # A negative whose embedding is this close to the phrase's means the same, and does not compete with it.
    synonym_cosine: float = 0.9

    def __post_init__(self) -> None:
        _check_share("synonym_cosine", self.synonym_cosine)
        if not self.negatives:
            raise ConfigError("negatives must hold at least one phrase, got none")
        if self.margin < 0:
            raise ConfigError(f"margin must not be negative, got {self.margin}")
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class FilteringConfig:
    """CLIP's second look at detections: those that do not look like their phrase are dropped."""

    enabled: bool = False  # off: published detectors err less than CLIP does on small crops
    clip_threshold: float = 0.3  # least CLIP score kept

    def __post_init__(self) -> None:
        _check_share("clip_threshold", self.clip_threshold)


@dataclass(frozen=True)
class RefinementConfig:
    """What improves the first mask of a detection."""

    refine_rounds: int = 0  # of points that correct it; each costs one more decoding of every instance
    # Side of the window in which an instance is segmented again, as a multiple of its box's longer side. Small objects
    # gain the most; each costs one more run of the image encoder. None: one run for the whole picture.
    zoom: float | None = None
    min_mask_region_area: int = 0  # holes and islands of fewer pixels are removed; 0 leaves masks as they are

    def __post_init__(self) -> None:
        if self.min_mask_region_area < 0:
            raise ConfigError(f"min_mask_region_area must not be negative, got {self.min_mask_region_area}")
        if self.zoom is not None and not 1 <= self.zoom <= 20:
            raise ConfigError(f"zoom must lie in 1..20 or be null, got {self.zoom}")
        if not 0 <= self.refine_rounds <= 8:
            raise ConfigError(f"refine_rounds must lie in 0..8, got {self.refine_rounds}")


@dataclass(frozen=True)
class FallbackConfig:
    """What is tried for phrases that the detector missed."""

    source: Literal["none", "automatic", "text"] = "none"  # automatic masks ranked by CLIP, or text-prompted masks
    fallback_threshold: float = 0.6  # least CLIP score accepted: every mask of the picture is a candidate
    points_per_side: int = 16  # of the automatic mask generator; fine enough for what is worth naming
    pred_iou_thresh: float = 0.8  # of the generator, below its default for ViT-H: CLIP looks at every mask again
    stability_score_thresh: float = 0.9  # likewise
    max_instances: int = 10  # per phrase, best first

    def __post_init__(self) -> None:
        _check_share("fallback_threshold", self.fallback_threshold)
        _check_share("pred_iou_thresh", self.pred_iou_thresh)
        _check_share("stability_score_thresh", self.stability_score_thresh)
        _check_positive("points_per_side", self.points_per_side)
        _check_positive("max_instances", self.max_instances)


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that a `Pipeline` is built from."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    filtering: FilteringConfig = field(default_factory=FilteringConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    fallback: FallbackConfig = field(default_factory=FallbackConfig)
    device: str = "auto"  # "auto" takes the first CUDA device where there is one, else the CPU

    def __post_init__(self) -> None:
        if self.fallback.source == "text" and self.prompting.text_prompt == "none":
            raise ConfigError("fallback.source 'text' needs a prompting.text_prompt, got 'none'")

    @property
    def needs_detector(self) -> bool:
        """Whether boxes are prompted."""
        return self.prompting.mode != "text"

    @property
    def needs_text_prompt(self) -> bool:
        """Whether the segmenter is prompted with phrases."""
        return self.prompting.mode != "box" or self.fallback.source == "text"

    @property
    def needs_scores(self) -> bool:
        """Whether CLIP scores masks."""
        return self.filtering.enabled or self.fallback.source != "none"

    @property
    def models(self) -> dict[str, str | None]:
        """The checkpoint of each stage, None for a stage that has nothing to do."""
        return {
            "detector": self.detector.checkpoint if self.needs_detector else None,
            "clip": self.clip.checkpoint if self.needs_clip else None,
            "segmenter": self.segmenter.checkpoint,
        }

    @property
    def needs_clip(self) -> bool:
        """Whether CLIP has anything to do."""
        return self.needs_text_prompt or self.needs_scores

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars; `from_dict` reads them back."""
        return schema.to_mapping(self)

    def to_yaml(self) -> str:
        """Return the configuration as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
