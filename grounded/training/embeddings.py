"""Image embeddings on disk, for trainings in which the image encoder does not learn: each image is encoded once.

A file holds the embedding of one image, plain or mirrored, in float16. Its name is a hash of the image's bytes and of
the model, so that several trainings may share a folder.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor

from grounded.errors import OutputError, one_line
from grounded.training.data import TrainingImage
from grounded.training.loop import Precision, autocast
from segany import SegAny
from segany.files import read_safetensors, write_safetensors
from segany.utils.transforms import prepare_image

T = TypeVar("T")
Key = tuple[TrainingImage, bool]
"""An image, and whether it is mirrored."""


@dataclass(frozen=True)
class EmbeddingStore:
    """The embeddings of a model for images, on disk."""

    folder: Path
    model: SegAny
    fingerprint: str  # of the model before training
    precision: Precision = "float32"

    def path(self, key: Key) -> Path:
        """The file of an embedding."""
        image, mirrored = key
        name = hashlib.sha256(f"{self.fingerprint} {image.digest} {mirrored}".encode()).hexdigest()[:24]
        return self.folder / name[:2] / f"{name}.safetensors"

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of `keys` that have no file."""
        return [key for key in keys if not self.path(key).exists()]

    @torch.no_grad()
    def fill(self, keys: Sequence[Key], batch_size: int = 4) -> Iterator[Key]:
        """Encode images and write their embeddings; yields each key when it is done.

        Raises:
            ImageError: an image cannot be read any more.
            OutputError: a file cannot be written.
        """
        device = next(self.model.parameters()).device
        for batch in _batches(keys, batch_size):
            with autocast(device, self.precision):
                features = self.model.encode_image(
                    torch.stack([pixels_of(key, self.model) for key in batch]).to(device)
                )
            for key, feature in zip(batch, features.half().cpu(), strict=True):
                path = self.path(key)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_safetensors(path, {"features": feature.contiguous()}, {})
                except (OSError, SafetensorError) as error:
                    raise OutputError(f"cannot write {path}: {one_line(error)}") from error
                yield key

    def load(self, key: Key) -> Float[Tensor, "c h w"]:
        """Read an embedding, as float32, on the CPU."""
        return read_safetensors(self.path(key))[0]["features"].float()


def pixels_of(key: Key, model: SegAny) -> Float[Tensor, "3 s s"]:
    """The image in the model frame. Raises ImageError where it cannot be read any more."""
    return prepare_image(open_key(key), model.config)[0]


def open_key(key: Key) -> Image.Image:
    """The image, mirrored where the key says so. Raises ImageError."""
    image, mirrored = key
    opened = image.open()
    return ImageOps.mirror(opened) if mirrored else opened


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
