"""Teaches a Segment Anything without text prompt to be prompted by text (Kirillov et al., 2023, section 7.5).

The prompt is a CLIP embedding: in training that of an object's crop, in use that of a phrase. Only its projection
learns, by choice with the mask decoder; the image encoder is frozen, and its embeddings are on disk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grounded.errors import ConfigError
from grounded.labelling.formats.annotations import Notes
from grounded.models.clip import ClipEncoder
from grounded.training import interactive
from grounded.training.crop_embeddings import CropStore
from grounded.training.data import TrainingData, TrainingObject
from grounded.training.embeddings import EmbeddingStore, Key
from grounded.training.folder import EMBEDDINGS, MODEL, write_preset
from grounded.training.interactive import InteractiveSettings, Kind
from grounded.training.loop import LoopSettings, Outcome, train
from grounded.training.processes import Processes
from grounded.training.segmenter import SegmenterSettings, SegmenterTraining, load_base, named_base, usable
from grounded.utils.files import atomic_folder
from segany.formats.text_adapter import save_text_adapter

ADAPTER_FILE = "text_adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class TextPromptSettings:
    """What of a text prompt learns, and how."""

    base: str
    clip: str  # a checkpoint, as the section clip of a configuration names it
    templates: tuple[str, ...] = ("a photo of {}",)
    decoder: bool = False  # let the mask decoder learn, too
    crops: int = 4  # of each object
    text_share: float = 0.0  # probability that a phrase's embedding takes the place of a crop's; 0 in the paper
    loop: LoopSettings
    interactive: InteractiveSettings = field(default_factory=lambda: InteractiveSettings(kinds=("text",)))

    @property
    def of_segmenter(self) -> SegmenterSettings:
        """The settings as a segmenter's training has them."""
        return SegmenterSettings(base=self.base, parts=(), loop=self.loop, interactive=self.interactive)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the folder of a training."""
        own = {"clip": self.clip, "templates": list(self.templates), "decoder": self.decoder}
        return self.of_segmenter.to_dict() | own | {"crops": self.crops, "text_share": self.text_share}


@dataclass(frozen=True, eq=False)
class TextPromptTraining:
    """A segmenter with a text prompt that learns, the CLIP whose embeddings it takes, and crops on disk."""

    settings: TextPromptSettings
    segmenter: SegmenterTraining
    clip: ClipEncoder
    crops: CropStore

    @classmethod
    def build(
        cls,
        settings: TextPromptSettings,
        learned: TrainingData,
        held_out: TrainingData,
        folder: Path,
        processes: Processes,
        notes: Notes,
        cache: Path | None = None,
    ) -> "TextPromptTraining":
        """Load base and CLIP. Raises CheckpointError, ConfigError or ResultError."""
        clip = ClipEncoder.from_pretrained(settings.clip, settings.templates, processes.device)
        torch.manual_seed(settings.loop.seed)  # an untrained projection is random, and the same in all processes
        model = load_base(settings.base, processes.device)
        fingerprint = model.fingerprint()  # of the base, so that its embeddings serve every training
        if model.config.text_dim is None:
            model = load_base(settings.base, processes.device, text_dim=clip.dim)
        elif model.config.text_dim != clip.dim:
            raise ConfigError(
                f"the text prompt of {settings.base} takes embeddings of width {model.config.text_dim}, "
                f"{settings.clip} gives {clip.dim}"
            )
        learned, held_out = usable(learned, model, notes), usable(held_out, model, notes)
        place = cache or folder / EMBEDDINGS
        store = EmbeddingStore(place, model, fingerprint, settings.loop.precision)
        training = SegmenterTraining(settings.of_segmenter, model, learned, held_out, store)
        return cls(settings, training, clip, CropStore(place, clip, settings.crops, settings.loop.seed))

    def crop_keys(self) -> list[Key]:
        """The images of which crops have to be embedded before the first step."""
        held_out = {image.file for image in self.segmenter.held_out.images}
        return [(image, flip) for image, flip in self.segmenter.keys() if image.file not in held_out]

    def read_text(self, key: Key, index: int, rng: np.random.Generator) -> Tensor:
        """The embedding (d,) that asks for an object: of one of its crops, or by chance of its class."""
        image = key[0]
        chosen = self.crops.load(key)[index, int(rng.integers(self.settings.crops))]
        if rng.random() < self.settings.text_share and interactive.is_alone(image, image.objects[index]):
            return self.phrase(image.objects[index])
        return chosen

    def phrase(self, one: TrainingObject) -> Tensor:
        """The embedding (d,) of an object's class."""
        return self.clip.encode([one.label])[0].cpu()


def run(
    training: TextPromptTraining,
    folder: Path,
    processes: Processes,
    interrupted: Callable[[], bool] = lambda: False,
    preset: str = "tiny",
) -> Outcome:
    """Train a text prompt whose images and crops are embedded already, and write its best state into `folder`.

    Raises:
        GroundedError: see `grounded.training.loop.train`.
    """
    settings, segmenter = training.settings, training.segmenter
    model = segmenter.model
    prefixes = ("prompt_encoder.text_", "mask_decoder.") if settings.decoder else ("prompt_encoder.text_",)
    trained: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if n.startswith(prefixes)}

    def validate() -> dict[str, float]:
        # With a box, too, which must not become worse where the decoder learns.
        kinds: tuple[Kind, ...] = ("text", "box") if settings.decoder else ("text",)
        return interactive.measure(model, segmenter.held_out, kinds, segmenter.read_features, training.phrase)

    def export() -> None:
        base = named_base(settings.base)
        with atomic_folder(folder / MODEL, mark=ADAPTER_FILE) as new:
            save_text_adapter(model, new / ADAPTER_FILE, settings.decoder, clip=settings.clip)
        section = {
            "kind": "segany",
            "checkpoint": f"bundled:{base}" if base in ("photo", "tiny") else base,
            "text_adapter": str((folder / MODEL / ADAPTER_FILE).resolve()),
        }
        clip = {"checkpoint": settings.clip, "templates": list(settings.templates)}
        write_preset(folder, preset, segmenter=section, clip=clip, prompting={"text_prompt": "adapter"})

    task = segmenter.task(processes, trained, validate, export, training.read_text)
    return train(task, settings.loop, folder, processes, interrupted)
