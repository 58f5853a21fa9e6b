"""What a step of a detector's training sees: images, prompts of present and absent classes, and the truth in tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from grounded.models.detectors.grounding_dino import input_size, scale_size_rule
from grounded.models.detectors.prompt_tokens import (
    Delimiters,
    PhraseTokens,
    Prompt,
    build_prompt,
    split_phrases,
    tokenise_phrases,
)
from grounded.training.data import TrainingData, TrainingImage
from grounded.training.embeddings import open_key
from grounded.training.grounding_dino_losses import Truth


@dataclass(frozen=True, kw_only=True)
class DetectorBatchSettings:
    """What a step sees."""

    images: int = 4  # a step and process
    phrases: int = 20  # most classes in a prompt: those of the image, and others that are not in it
    flip: bool = True  # show half of the images mirrored
    image_size: int | None = None  # of the shorter edge in pixels; None: as the checkpoint's image processor has it


@dataclass(frozen=True, eq=False)
class DetectorBatch:
    """b images with a prompt each."""

    pixels: Float[Tensor, "b 3 h w"]  # normalised, zero beyond each image
    pixel_mask: Int[Tensor, "b h w"]  # 1 within the image
    input_ids: Int[Tensor, "b t"]
    text_mask: Bool[Tensor, "b t"]
    truths: tuple[Truth, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class DetectorInputs:
    """The processors of a checkpoint, and the tokens of all classes."""

    config: Any  # of the network
    image_processor: Any
    tokens: Mapping[str, PhraseTokens]
    delimiters: Delimiters

    @classmethod
    def build(cls, config: Any, image_processor: Any, tokenizer: Any, classes: Sequence[str]) -> "DetectorInputs":
        """Tokenise the classes. Those that the tokenizer cannot spell, or that are too long, have no entry."""
        limit = min(config.max_text_len - 3, config.text_config.max_position_embeddings - 1)
        tokens = dict(zip(classes, tokenise_phrases(tokenizer, classes), strict=True))
        usable = {name: own for name, own in tokens.items() if own.content and len(own.ids) <= limit}
        return cls(config, image_processor, usable, Delimiters.from_tokenizer(tokenizer))

    def pixels(self, image: TrainingImage, mirrored: bool, image_size: int | None) -> Float[Tensor, "3 h w"]:
        """An image, resized and normalised as the detector does."""
        rule = scale_size_rule(dict(self.image_processor.size), image_size)
        height, width = input_size(image.size, rule, self.config)
        processed = self.image_processor(
            images=[np.asarray(open_key((image, mirrored)))],
            input_data_format="channels_last",
            return_tensors="pt",
            size={"height": height, "width": width},
            do_pad=False,
        )
        pixels: Tensor = processed["pixel_values"][0]
        return pixels


def make_batch(
    step: int,
    data: TrainingData,
    inputs: DetectorInputs,
    settings: DetectorBatchSettings,
    seed: Sequence[int] = (0,),
) -> DetectorBatch:
    """Return the batch of a step: a pure function of step and seed."""
    rng = np.random.default_rng([*seed, step])
    images, prompts, found = [], [], []
    for _ in range(settings.images):
        image = data.images[rng.integers(len(data.images))]
        mirrored = bool(settings.flip and rng.random() < 0.5)
        names = choose_phrases(image, list(inputs.tokens), settings.phrases, rng)
        prompt, kept = _build_prompt(names, inputs)
        images.append(inputs.pixels(image, mirrored, settings.image_size))
        prompts.append(prompt)
        found.append(_objects(image, kept, mirrored))
    length = max(len(prompt.input_ids) for prompt in prompts)
    ids = nn.utils.rnn.pad_sequence(
        [torch.tensor(prompt.input_ids) for prompt in prompts],
        batch_first=True,
        padding_value=inputs.delimiters.padding,
    )
    lengths = torch.tensor([[len(prompt.input_ids)] for prompt in prompts])
    pixels, pixel_mask = pad_images(images)
    return DetectorBatch(
        pixels=pixels,
        pixel_mask=pixel_mask,
        input_ids=ids,
        text_mask=torch.arange(length) < lengths,
        truths=tuple(_truth(*own, prompt, length) for own, prompt in zip(found, prompts, strict=True)),
        seed=int(rng.integers(1 << 62)),
    )


def choose_phrases(image: TrainingImage, classes: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """The classes of an image, then absent ones, `most` at most, and never none.

    How many absent ones there are is drawn, so that short prompts are learned as well as long ones.
    """
    present = [name for name in classes if any(one.label == name for one in image.objects)]
    absent = [name for name in classes if name not in present]
    order = rng.permutation(len(absent))
    room = max(most - len(present), 0)
    count = int(rng.integers(0 if present else 1, room + 1)) if room else 0
    return [*(present[i] for i in rng.permutation(len(present))), *(absent[i] for i in order[:count])][:most]


def _build_prompt(names: Sequence[str], inputs: DetectorInputs) -> tuple[Prompt, list[str]]:
    """The prompt of as many of the names as it has room for, from the first, in turned order, and those names."""
    room = split_phrases([len(inputs.tokens[name].ids) for name in names], inputs.config.max_text_len)[0]
    kept = sorted(names[: len(room)])  # alphabetical, so that the order tells nothing of what is present
    tokens = [inputs.tokens[name] for name in kept]
    return build_prompt(tokens, range(len(kept)), inputs.delimiters), kept


def _objects(image: TrainingImage, names: Sequence[str], mirrored: bool) -> tuple[Tensor, list[int]]:
    """Boxes (k, 4), cxcywh in 0..1, of the objects that a prompt names, and the positions of their names in it."""
    height, width = image.size
    asked = [one for one in image.objects if one.label in names]
    corners = torch.tensor([one.box for one in asked]).reshape(-1, 4) / torch.tensor([width, height, width, height])
    if mirrored:
        corners = torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], 1)
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    return boxes, [names.index(one.label) for one in asked]


def _truth(boxes: Tensor, phrases: Sequence[int], prompt: Prompt, length: int) -> Truth:
    tokens = torch.zeros(len(boxes), length, dtype=torch.bool)
    for row, phrase in enumerate(phrases):
        start, stop = prompt.spans[phrase]
        tokens[row, start:stop] = True
    return Truth(boxes, tokens)


def pad_images(images: Sequence[Float[Tensor, "3 _ _"]]) -> tuple[Float[Tensor, "b 3 h w"], Int[Tensor, "b h w"]]:
    """Images of any sizes in one tensor, at its top left, and where they are."""
    height, width = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
    pixels = torch.zeros(len(images), 3, height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.long)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[1], : image.shape[2]] = image
        mask[row, : image.shape[1], : image.shape[2]] = 1
    return pixels, mask
