"""Fine-tunes Grounding DINO (Liu et al., 2023) and MM Grounding DINO (Zhao et al., 2024) of transformers.

Each decoder layer and the first stage, which proposes the queries, learn by Hungarian matching with a focal loss over
tokens, L1 and generalised IoU. Denoising (DN-DETR, Li et al., 2022) is a second pass of the decoder, over noised true
boxes in the place of the proposed ones. The networks of transformers have no embeddings of labels, which DINO noises
beside the boxes, and one set of queries, so that both kinds cannot share a pass: only boxes are noised here.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grounded.config import DetectorConfig, bundled_folder
from grounded.errors import ResultError
from grounded.labelling.formats.annotations import Notes
from grounded.models.detectors.checkpoint import load_checkpoint, quiet
from grounded.models.detectors.grounding_dino import GroundingDino
from grounded.training.box_precision import box_precision
from grounded.training.data import TrainingData
from grounded.training.folder import MODEL, write_preset
from grounded.training.grounding_dino_batches import DetectorBatch, DetectorBatchSettings, DetectorInputs, make_batch
from grounded.training.grounding_dino_losses import Truth, match, match_by_place, noised_references, set_loss
from grounded.training.loop import LoopSettings, Outcome, Task, require_parameters, train
from grounded.training.lora import add_lora, is_lora, linear_layers, merged_state
from grounded.training.processes import Processes
from grounded.utils.files import atomic_folder

Part = Literal["all", "detector", "lora"]
UNKNOWN = "classes that the detector cannot spell, or that are too long for it, left out"
BUNDLED = "bundled:detector"
_BACKBONES = ("model.backbone.", "model.text_backbone.")
# Layers that say where to look stay as they are under low-rank updates.
_NOT_FOR_LORA = ("sampling_offsets", "attention_weights")
_HEADS = ("bbox_embed.", "class_embed.", "model.encoder_output_bbox_embed.", "model.enc_output")
_MARK = "training_note.json"
_LOWEST = -50.0  # of the logits of padding, in the place of -inf


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What of a detector learns, and how."""

    base: str = BUNDLED  # "bundled:NAME", a folder, or a hub id
    part: Part = "all"  # everything; all but the two backbones; or low-rank updates of encoder and decoder, and heads
    backbone_rate: float = 0.1  # multiple of the learning rate for image and text backbone
    lora_rank: int = 8
    denoising: bool = True
    loop: LoopSettings
    batches: DetectorBatchSettings = field(default_factory=DetectorBatchSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the folder of a training."""
        return asdict(self) | {"base": absolute(self.base)}


def absolute(base: str) -> str:
    """A base by a name that finds it from any working directory; "tiny" is the bundled detector."""
    if base == "tiny":
        return BUNDLED
    return os.path.abspath(base) if bundled_folder(base) is None and os.path.isdir(base) else base


@dataclass(frozen=True, eq=False)
class DetectorTraining:
    """A detector with the images that it learns from and those that it is measured on."""

    settings: DetectorSettings
    model: Any  # a network of transformers
    image_processor: Any
    tokenizer: Any
    inputs: DetectorInputs
    learned: TrainingData
    held_out: TrainingData
    trained: Mapping[str, nn.Parameter]

    @classmethod
    def build(
        cls,
        settings: DetectorSettings,
        learned: TrainingData,
        held_out: TrainingData,
        processes: Processes,
        notes: Notes,
    ) -> "DetectorTraining":
        """Load the base and prepare it.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: low-rank updates without the package peft.
            ResultError: the detector can spell none of the classes.
        """
        model, image_processor, tokenizer = load_checkpoint(absolute(settings.base))
        inputs = DetectorInputs.build(model.config, image_processor, tokenizer, learned.classes)
        for name in learned.classes:
            if name not in inputs.tokens:
                notes.add(UNKNOWN, name)
        learned, held_out = (_only(data, inputs.tokens) for data in (learned, held_out))
        if not learned.objects or not held_out.objects:
            raise ResultError(f"no object is left to learn from, or to measure: {'; '.join(notes.lines())}")
        if settings.part == "lora":
            # The lists of layers by themselves: peft looks for word embeddings in a whole network of transformers.
            for part in (model.model.encoder.layers, model.model.decoder.layers):
                layers = linear_layers(part, without=_NOT_FOR_LORA)
                add_lora(part, layers, settings.lora_rank, settings.loop.seed)
        model.to(processes.device)
        trained = {name: p for name, p in model.named_parameters() if _learns(name, settings.part)}
        require_parameters(trained, [model])
        return cls(settings, model, image_processor, tokenizer, inputs, learned, held_out, trained)

    def detector(self) -> GroundingDino:
        """The model as it is now, as a detector that finds everything above a score of zero."""
        config = DetectorConfig(
            box_threshold=0.0, max_detections=100, fast_attention=False, image_size=self.settings.batches.image_size
        )
        return GroundingDino(self.model.eval(), self.image_processor, self.tokenizer, config)

    def validate(self) -> dict[str, float]:
        """AP50 and AP of boxes on the held-out images, over classes, as COCO has them."""
        detector, names = self.detector(), list(self.inputs.tokens)
        return box_precision(self.held_out.images, names, lambda image: detector.detect([image.open()], [names])[0])

    def compute_losses(self, batch: DetectorBatch) -> Iterator[Mapping[str, Tensor]]:
        """The losses of a batch, of all stages."""
        self.model.train()
        yield compute_losses(self.model, batch, self.settings.denoising)

    def export(self, folder: Path, preset: str) -> None:
        """Write model/, a folder that transformers and a configuration take, and preset.yaml."""
        state = merged_state(self.model) if self.settings.part == "lora" else None
        with atomic_folder(folder / MODEL, mark=_MARK) as new, quiet():
            self.model.save_pretrained(new, state_dict=state)
            self.tokenizer.save_pretrained(new)
            self.image_processor.save_pretrained(new)
            (new / _MARK).write_text(json.dumps({"base": absolute(self.settings.base)}) + "\n")
        checkpoint = str((folder / MODEL).resolve())
        write_preset(folder, preset, detector={"kind": "grounding-dino", "checkpoint": checkpoint})


def run(
    training: DetectorTraining,
    folder: Path,
    processes: Processes,
    interrupted: Callable[[], bool] = lambda: False,
    preset: str = "tiny",
) -> Outcome:
    """Train a detector, and write its best state into `folder`.

    Raises:
        GroundedError: see `grounded.training.loop.train`.
    """
    settings = training.settings
    task = Task(
        trained=training.trained,
        batch=partial(
            make_batch,
            data=training.learned,
            inputs=training.inputs,
            settings=settings.batches,
            seed=(settings.loop.seed, processes.rank),
        ),
        losses=training.compute_losses,
        validate=training.validate,
        export=lambda: training.export(folder, preset),
        rate_of=lambda name: settings.backbone_rate if name.startswith(_BACKBONES) else 1.0,
    )
    return train(task, settings.loop, folder, processes, interrupted)


def compute_losses(model: Any, batch: DetectorBatch, denoising: bool) -> dict[str, Tensor]:
    """The losses of the first stage, of each decoder layer, and of each layer of the denoising pass, by name."""
    device = next(model.parameters()).device
    truths = [Truth(one.boxes.to(device), one.tokens.to(device)) for one in batch.truths]
    ids, text_mask = batch.input_ids.to(device), batch.text_mask.to(device)
    base, call = model.model, dict[str, Any]()
    hook = base.decoder.register_forward_pre_hook(lambda _, args, kwargs: call.update(kwargs), with_kwargs=True)
    try:
        out = base(
            pixel_values=batch.pixels.to(device),
            input_ids=ids,
            attention_mask=text_mask.long(),
            pixel_mask=batch.pixel_mask.to(device),
        )
    finally:
        hook.remove()
    text = out.encoder_last_hidden_state_text
    stages = {}
    if out.enc_outputs_class is not None:
        stages["first stage"] = _first_stage(out, model.config.num_queries, ids.shape[1])
    layers = _decode(model, out, out.init_reference_points, text, text_mask)
    stages |= {f"layer {number}": stage for number, stage in enumerate(layers, 1)}
    parts = {}
    for name, (logits, boxes) in stages.items():
        pairs = [match(logits[i].detach(), boxes[i].detach(), truth) for i, truth in enumerate(truths)]
        parts[name] = set_loss(logits, boxes, text_mask, truths, pairs)
    if denoising and any(len(truth.boxes) for truth in truths):
        generator = torch.Generator().manual_seed(batch.seed)
        references = noised_references(truths, model.config.num_queries, generator).to(device)
        again = base.decoder(**{**call, "reference_points": references})
        pairs = [match_by_place(references[i], truth) for i, truth in enumerate(truths)]
        for number, (logits, boxes) in enumerate(_decode(model, again, references, text, text_mask), 1):
            parts[f"denoising {number}"] = 0.5 * set_loss(logits, boxes, text_mask, truths, pairs)
    return parts


def _decode(model: Any, out: Any, first: Tensor, text: Tensor, text_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Token logits (b, q, t) and boxes (b, q, 4) of every decoder layer; `first` are the boxes it started from."""
    hidden, found = out.intermediate_hidden_states, []
    for level in range(hidden.shape[1]):
        reference = first if level == 0 else out.intermediate_reference_points[:, level - 1]
        logits = model.class_embed[level](hidden[:, level], text, text_mask)[..., : text.shape[1]]
        delta = model.bbox_embed[level](hidden[:, level]).float()
        boxes = (delta + torch.logit(reference.float(), eps=1e-5)).sigmoid()
        found.append((logits.float().clamp(min=_LOWEST), boxes))
    return found


def _first_stage(out: Any, queries: int, length: int) -> tuple[Tensor, Tensor]:
    """Token logits and boxes of the proposals that became queries."""
    logits = out.enc_outputs_class.float()[..., :length].clamp(min=_LOWEST)
    best = logits.max(-1).values.topk(queries, 1).indices[..., None]
    boxes = torch.gather(out.enc_outputs_coord_logits.float(), 1, best.expand(-1, -1, 4)).sigmoid()
    return torch.gather(logits, 1, best.expand(-1, -1, length)), boxes


def _learns(name: str, part: Part) -> bool:
    if part == "lora":
        return is_lora(name) or name.startswith(_HEADS)
    return part == "all" or not name.startswith(_BACKBONES)


def _only(data: TrainingData, known: Mapping[str, Any]) -> TrainingData:
    """The data without objects of classes that are not known; images without objects stay."""
    images = tuple(replace(i, objects=tuple(o for o in i.objects if o.label in known)) for i in data.images)
    return replace(data, images=images, classes=tuple(name for name in data.classes if name in known))
