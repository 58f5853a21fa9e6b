"""Fine-tunes a Segment Anything on annotated images: its prompt encoder, its mask decoder, low-rank encoder updates."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import segany
from grounded.config import bundled_name
from grounded.errors import CheckpointError, ConfigError, ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.training import interactive
from grounded.training.data import TrainingData, TrainingImage
from grounded.training.embeddings import EmbeddingStore, Key, pixels_of
from grounded.training.folder import EMBEDDINGS, MODEL, write_preset
from grounded.training.interactive import InteractiveBatch, InteractiveSettings
from grounded.training.loop import LoopSettings, Outcome, Task, require_parameters, train
from grounded.training.lora import add_lora, is_lora, linear_layers, write_adapter
from grounded.training.processes import Processes
from grounded.utils.files import atomic_folder
from segany import SegAny

Part = Literal["decoder", "prompts", "lora"]
TOO_SMALL = "objects smaller than a pixel of the predicted masks, left out"
_MARK = "training_note.json"  # by which a folder that may be replaced is recognised


@dataclass(frozen=True, kw_only=True)
class SegmenterSettings:
    """What of a segmenter learns, and how."""

    base: str = "tiny"  # a source of `segany.load`
    parts: tuple[Part, ...] = ("decoder", "prompts")
    lora_rank: int = 8
    loop: LoopSettings
    interactive: InteractiveSettings = field(default_factory=InteractiveSettings)

    @property
    def encoder_learns(self) -> bool:
        """Whether embeddings change from step to step."""
        return "lora" in self.parts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the folder of a training."""
        values = asdict(self)
        return {"base": named_base(self.base), "parts": list(self.parts), "lora_rank": self.lora_rank} | {
            name: {key: list(v) if isinstance(v, tuple) else v for key, v in values[name].items()}
            for name in ("loop", "interactive")
        }


def named_base(base: str) -> str:
    """The name of a base that finds it from any working directory; "tiny" for "bundled:tiny"."""
    name = bundled_name(base) or base
    return os.path.abspath(name) if os.path.exists(name) else name


def load_base(base: str, device: torch.device, text_dim: int | None = None) -> SegAny:
    """Load a segmenter for training, in float32.

    Raises:
        CheckpointError: it cannot be loaded, or is a SAM-HQ.
    """
    model = segany.load(named_base(base), device=device, text_dim=text_dim)
    if model.config.hq:
        raise CheckpointError(f"{base} is a SAM-HQ, whose own decoder is not trained here: take a Segment Anything")
    return model


def select_parameters(model: SegAny, parts: Sequence[Part]) -> dict[str, nn.Parameter]:
    """The parameters of parts of a model, low-rank updates included where they were added, by name."""
    found = {}
    for name, parameter in model.named_parameters():
        is_prompts = name.startswith("prompt_encoder.") and ".text_" not in name
        is_chosen = {
            "decoder": name.startswith("mask_decoder."),
            "prompts": is_prompts,
            "lora": is_lora(name),
        }
        if any(is_chosen[part] for part in parts):
            found[name] = parameter
    return found


def usable(data: TrainingData, model: SegAny, notes: Notes) -> TrainingData:
    """Return the images and objects that the model can be trained on.

    Raises:
        ResultError: there is none.
    """
    images = []
    for image in data.images:
        kept = tuple(one for one in image.objects if interactive.is_visible(image, one, model.config))
        notes.add(TOO_SMALL, image.file, len(image.objects) - len(kept))
        if kept:
            images.append(replace(image, objects=kept))
    if not images:
        raise ResultError(f"no object is left to learn from: {'; '.join(notes.lines())}")
    return replace(data, images=tuple(images))


@dataclass(frozen=True, eq=False)
class SegmenterTraining:
    """A model with the images that it learns from and those that it is measured on.

    embeddings  on disk; None where the encoder learns
    adapter     of peft, where there are low-rank updates
    """

    settings: SegmenterSettings
    model: SegAny
    learned: TrainingData
    held_out: TrainingData
    embeddings: EmbeddingStore | None
    adapter: Any = None

    @classmethod
    def build(
        cls,
        settings: SegmenterSettings,
        learned: TrainingData,
        held_out: TrainingData,
        folder: Path,
        processes: Processes,
        notes: Notes,
        cache: Path | None = None,
    ) -> "SegmenterTraining":
        """Load the base and prepare it. Raises CheckpointError, ConfigError or ResultError."""
        model = load_base(settings.base, processes.device)
        learned, held_out = usable(learned, model, notes), usable(held_out, model, notes)
        store, adapter = None, None
        if settings.encoder_learns:
            layers = linear_layers(model.image_encoder, "image_encoder.")
            attention = [name for name in layers if name.endswith((".qkv", ".proj"))]
            if not (attention or layers):
                raise ConfigError(f"the image encoder of {settings.base} has no linear layer for low-rank updates")
            adapter = add_lora(model, attention or layers, settings.lora_rank, settings.loop.seed)
            model.to(processes.device)
        else:
            store = EmbeddingStore(cache or folder / EMBEDDINGS, model, model.fingerprint(), settings.loop.precision)
        return cls(settings, model, learned, held_out, store, adapter)

    def keys(self) -> list[Key]:
        """The images that have to be encoded before the first step."""
        flips = (False, True) if self.settings.interactive.flip else (False,)
        learned = [(image, flip) for image in self.learned.images for flip in flips]
        return learned + [(image, False) for image in self.held_out.images]

    def read_input(self, key: Key) -> Tensor:
        """An embedding, or pixels where the encoder learns."""
        return pixels_of(key, self.model) if self.embeddings is None else self.embeddings.load(key)

    def read_features(self, image: TrainingImage) -> Tensor:
        """The embedding (c, h, w) of an upright image, by the model as it is now."""
        read = self.read_input((image, False))
        if self.embeddings is not None:
            return read
        return self.model.encode_image(read[None].to(next(self.model.parameters()).device))[0].float()

    def compute_losses(self, batch: InteractiveBatch) -> Iterator[Mapping[str, Tensor]]:
        """The losses of a batch; where the encoder learns they are one sum, since their graphs meet in it."""
        batch = interactive.to_device(batch, next(self.model.parameters()).device)
        features = batch.inputs if self.embeddings is not None else self.model.encode_image(batch.inputs)
        answers = interactive.losses(self.model, features.float(), batch, self.settings.interactive)
        if self.embeddings is not None:
            yield from answers
            return
        together: dict[str, Tensor] = {}
        for parts in answers:
            for name, part in parts.items():
                together[name] = together[name] + part if name in together else part
        yield together

    def task(
        self,
        processes: Processes,
        trained: Mapping[str, nn.Parameter],
        validate: Callable[[], Mapping[str, float]],
        export: Callable[[], None],
        read_text: Callable[..., Tensor] | None = None,
    ) -> Task[InteractiveBatch]:
        """The task for the loop: only `trained` learns."""
        require_parameters(trained, [self.model])
        return Task(
            trained=trained,
            batch=partial(
                interactive.make_batch,
                data=self.learned,
                config=self.model.config,
                settings=self.settings.interactive,
                read_input=self.read_input,
                read_text=read_text,
                seed=(self.settings.loop.seed, processes.rank),
            ),
            losses=self.compute_losses,
            validate=validate,
            export=export,
        )


def run(
    training: SegmenterTraining,
    folder: Path,
    processes: Processes,
    interrupted: Callable[[], bool] = lambda: False,
    preset: str = "tiny",
) -> Outcome:
    """Train a segmenter whose images are encoded already, and write its best state into `folder`.

    Raises:
        GroundedError: see `grounded.training.loop.train`.
    """
    settings, model = training.settings, training.model
    kinds = [kind for kind in ("box", "point") if kind in settings.interactive.kinds]

    def validate() -> dict[str, float]:
        return interactive.measure(model, training.held_out, kinds, training.read_features)

    trained = select_parameters(model, settings.parts)
    task = training.task(processes, trained, validate, lambda: export(training, trained, folder, preset))
    return train(task, settings.loop, folder, processes, interrupted)


def export(training: SegmenterTraining, trained: Mapping[str, Tensor], folder: Path, preset: str) -> None:
    """Write model/, which `segany.load` takes, and preset.yaml.

    With low-rank updates the folder is an adapter that names its base; else it holds a whole model.
    """
    model, settings = training.model, training.settings
    with atomic_folder(folder / MODEL, mark=_MARK) as new:
        if training.adapter is not None:
            whole = [name for name in trained if not is_lora(name)]
            write_adapter(new, model, training.adapter, named_base(settings.base), whole)
        else:
            segany.save(model, new / "model.safetensors")
            layout = {"model_type": "sam", "vision_config": {"image_size": model.config.image_size}}
            (new / "config.json").write_text(json.dumps(layout, indent=1) + "\n")
        (new / _MARK).write_text(json.dumps({"base": named_base(settings.base), "parts": settings.parts}) + "\n")
    segmenter = {"kind": "segany", "checkpoint": str((folder / MODEL).resolve())}
    write_preset(folder, preset, segmenter=segmenter)
