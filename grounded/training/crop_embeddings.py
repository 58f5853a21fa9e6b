"""CLIP embeddings of mask crops on disk: what a text prompt is taught with (Kirillov et al., 2023, appendix D.5).

Each object is cut out several times: a square around its box, 1 to 2 times as large, of which every second has grey in
the place of the pixels beyond the mask. Unlike the paper, CLIP's last layer attends to the whole crop: a mask in it
would need the inside of every architecture.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from grounded.config import ScoringConfig
from grounded.errors import OutputError, one_line
from grounded.models.clip import ClipEncoder
from grounded.models.clip_scorer import square_crop
from grounded.training.data import TrainingObject
from grounded.training.embeddings import Key, open_key
from segany.files import read_safetensors, write_safetensors
from segany.utils.rle import decode_rle, encode_rle


@dataclass(frozen=True)
class CropStore:
    """The embeddings of the crops of all objects of an image, in one file."""

    folder: Path
    clip: ClipEncoder
    crops: int  # of each object
    seed: int = 0

    def path(self, key: Key) -> Path:
        """The file of an image's crops."""
        image, mirrored = key
        masks = [one.mask and one.mask["counts"] for one in image.objects]
        text = f"{self.clip.name} {self.crops} {self.seed} {image.digest} {mirrored} {masks}"
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        return self.folder / name[:2] / f"{name}.safetensors"

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """Those of `keys` that have no file."""
        return [key for key in keys if not self.path(key).exists()]

    def fill(self, keys: Sequence[Key]) -> Iterator[Key]:
        """Embed crops and write them; yields each key when it is done.

        Raises:
            ImageError: an image cannot be read any more.
            OutputError: a file cannot be written.
        """
        for key in keys:
            objects, path = key[0].objects, self.path(key)
            rng = np.random.default_rng([self.seed, int(key[0].digest, 16), key[1]])
            opened = open_key(key)
            cut = (_cut(opened, one, key[1], index, rng) for one in objects for index in range(self.crops))
            embeddings = self.clip.encode_images(cut).unflatten(0, (len(objects), self.crops))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_safetensors(path, {"embeddings": embeddings.half().cpu()}, {})
            except (OSError, SafetensorError) as error:
                raise OutputError(f"cannot write {path}: {one_line(error)}") from error
            yield key

    def load(self, key: Key) -> Float[Tensor, "k v d"]:
        """Read the embeddings of an image: k objects, v crops of each."""
        return read_safetensors(self.path(key))[0]["embeddings"].float()


def _cut(image: Image.Image, one: TrainingObject, mirrored: bool, index: int, rng: np.random.Generator) -> Image.Image:
    assert one.mask is not None  # of checked data
    mask = encode_rle(torch.flip(decode_rle([one.mask]), [-1]))[0] if mirrored else one.mask
    # 1 to 2 times the box is a margin of 0 to a half on each side.
    config = ScoringConfig(background="grey" if index % 2 else "keep", margin=float(rng.uniform(0, 0.5)))
    return square_crop(image, mask, config)
