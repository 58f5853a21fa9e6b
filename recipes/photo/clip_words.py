"""The words between which the CLIP of `photo` learns to tell: names of objects, classes of ImageNet, backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

from recipes.photo.clip_crops import BACKGROUND, Crop
from recipes.photo.data import SAME
from recipes.photo.vocabulary import embed_names

# Of what is left where there is no object. Without articles, as names are: the templates bring them.
BACKGROUNDS = (
    "background", "wall", "floor", "ground", "sky", "cloud", "water", "grass", "leaves", "bush", "sand", "snow", "road",
    "pavement", "carpet", "curtain", "ceiling", "rock", "wood", "brick", "fabric", "paper", "shadow", "reflection",
    "texture", "pattern", "blur", "text", "darkness", "light",
)  # fmt: skip
ALIKE = 0.5  # cosine of two names from which they may mean the same, where no source annotates both


@dataclass(frozen=True, eq=False)
class Words:
    """Embeddings of n names, ImageNet's classes and k backgrounds, and what they compete with.

    rivals      of a name in a source: the names that an object of it is told from, itself among them
    annotated   names that a source annotates
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    embeddings: Float[Tensor, "n c"]
    classes: Float[Tensor, "1000 c"]
    backgrounds: Float[Tensor, "k c"]
    rivals: Bool[Tensor, "s n n"]
    annotated: Bool[Tensor, "s n"]

    def rows(self, crops: Sequence[Crop]) -> tuple[Int64[Tensor, "b"], Int64[Tensor, "b"]]:
        """The name of each crop, -1 for a background, and its source."""
        names = {name: row for row, name in enumerate(self.names)} | {BACKGROUND: -1}
        rows = [names[crop.name] for crop in crops]
        return torch.tensor(rows), torch.tensor([self.sources.index(crop.source) for crop in crops])


def make_words(crops: Sequence[Crop], text_folder: str) -> Words:
    """Embed the names of the crops and all else that they are told from."""
    names = tuple(sorted({crop.name for crop in crops} - {BACKGROUND}))
    sources = tuple(sorted({crop.source for crop in crops}))
    annotated = torch.zeros(len(sources), len(names), dtype=torch.bool)
    for crop in crops:
        if crop.name != BACKGROUND:
            annotated[sources.index(crop.source), names.index(crop.name)] = True
    embeddings = embed_names(names, text_folder)
    return Words(
        names,
        sources,
        embeddings,
        embed_classes(text_folder),
        embed_names(BACKGROUNDS, text_folder),
        find_rivals(names, embeddings, annotated),
        annotated,
    )


def find_rivals(
    names: Sequence[str], embeddings: Float[Tensor, "n c"], annotated: Bool[Tensor, "s n"]
) -> Bool[Tensor, "s n n"]:
    """Which names compete with a name on crops of a source: those that the source annotates too, and unlike ones."""
    same = [SAME.get(name, name) for name in names]
    equal = torch.tensor([[a == b for b in same] for a in same])
    together = annotated[:, :, None] & annotated[:, None, :]
    itself = torch.eye(len(names), dtype=torch.bool)
    return (together | (embeddings @ embeddings.T < ALIKE)) & ~equal | itself


def embed_classes(text_folder: str) -> Float[Tensor, "1000 c"]:
    """ImageNet's classes, each the mean of the words for it, of unit length."""
    info = ImageNetInfo()
    words = [
        [word.strip().lower() for word in info.index_to_description(row).split(",")]
        for row in range(info.num_classes())
    ]
    flat = embed_names([word for listed in words for word in listed], text_folder)
    parts = flat.split([len(listed) for listed in words])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)
