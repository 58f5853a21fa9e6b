"""CLIP through `open_clip`: embeddings of phrases and of images in one space, and the odds that they agree.

Phrases are embedded through templates whose embeddings are averaged, as for the zero-shot classifiers of the CLIP paper
(Radford et al., 2021, section 3.1.4).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from os import PathLike
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from grounded.config import ClipConfig, ScoringConfig
from grounded.data.image import ImageLike, open_image
from grounded.models.clip_checkpoint import load_checkpoint
from grounded.models.embedding_cache import EmbeddingCache
from segany.precision import own_precision

# Texts and images in one forward pass: enough to keep a GPU busy, little memory on a CPU.
_BATCH = 64


class ClipEncoder:
    """An `ImageTextEncoder`: phrases and images in one space.

    Args:
        model: an `open_clip` model in eval mode, on its device.
        tokenizer: its tokenizer; a phrase beyond its context length is cut there, as `open_clip` does.
        preprocess: its own transform from a PIL image to (3, h, w).
        templates: texts with one "{}" for the phrase.
        cache_size: number of phrases whose embeddings are kept.
        name: of the CLIP model, as results state it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        preprocess: Callable[[Any], Tensor],
        templates: Sequence[str] = ClipConfig.templates,
        cache_size: int = 4096,
        name: str = "clip",
    ):
        self.templates = ClipConfig(templates=tuple(templates)).templates  # the configuration checks them
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess
        self.name = name
        self._cache = EmbeddingCache(cache_size)
        self._negatives: dict[tuple[str, ...], tuple[Tensor, float]] = {}
        # Measured, because not every model of open_clip states its width.
        self._dim = self._embed(["a"]).shape[1]

    @classmethod
    @own_precision()
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        templates: Sequence[str] = ClipConfig.templates,
        device: str | torch.device = "cpu",
    ) -> "ClipEncoder":
        """Load a model in float32, whatever its file stores.

        Args:
            source: "bundled:NAME", "local-dir:FOLDER" or a folder (with open_clip_config.json and weights),
                "MODEL/TAG" of `open_clip` such as "ViT-B-32/laion2b_s34b_b79k", or a hub id; see
                `grounded.models.clip_checkpoint`.
            templates: as in the constructor.
            device: where the model runs.

        Raises:
            CheckpointError: nothing of that name, files missing, damaged or unreachable, or weights that do not fill
                the model: it is never returned with random weights.
            ConfigError: no bundled weights of that name, or a wrong template.
        """
        model, preprocess, tokenizer = load_checkpoint(source, device)
        return cls(model, tokenizer, preprocess, templates, name=str(source))

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._dim

    @property
    def device(self) -> torch.device:
        """The device of the model and of the embeddings it returns."""
        return next(self.model.parameters()).device

    @property
    def temperature(self) -> float:
        """Of the softmax over cosines that the model was trained with."""
        return 1 / float(self.model.logit_scale.detach().exp())

    def encode(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """Return one float32 embedding of unit length per phrase: the mean over the templates, rescaled.

        The embedding of a phrase is the same bit for bit, whatever the other phrases are.
        """
        if not phrases:
            return torch.zeros(0, self.dim, device=self.device)
        embeddings = self._cache.find(phrases)
        # One by one: the last bits of a product depend on how many rows it has.
        new = {phrase: self._embed([phrase])[0] for phrase in dict.fromkeys(phrases) if phrase not in embeddings}
        self._cache.store(new)
        embeddings |= new
        return torch.stack([embeddings[phrase] for phrase in phrases])

    # Not inference mode: training uses these embeddings inside a graph, which inference tensors refuse.
    @torch.no_grad()
    @own_precision()
    def encode_images(self, crops: Iterable[ImageLike]) -> Float[Tensor, "n c"]:
        """Return one float32 embedding of unit length per image, each through the model's own preprocessing.

        Args:
            crops: paths, PIL images or uint8 RGB arrays (h, w, 3) of any sizes; taken a batch at a time, so that a
                generator never has them all in memory.

        Raises:
            ImageError: one of them is not an image.
        """
        embeddings = [torch.zeros(0, self.dim, device=self.device)]
        remaining = iter(crops)
        while batch := list(islice(remaining, _BATCH)):
            pixels = torch.stack([self.preprocess(open_image(crop).pixels) for crop in batch])  # (b, 3, h, w)
            embeddings.append(self.model.encode_image(pixels.to(self.device), normalize=True))
        return torch.cat(embeddings)

    @torch.no_grad()
    @own_precision()
    def log_odds(
        self, embeddings: Float[Tensor, "*n c"], phrases: Sequence[str], config: ScoringConfig
    ) -> Float[Tensor, "*n p"]:
        """Return the log-odds of each phrase against the negatives of `config`; their sigmoid is a probability.

        For a phrase of cosine c and temperature T, that is c / T - log(sum of exp(c_k / T)) over the negatives k that
        are no synonyms of it, or over the one least like it where all are. It is the same bit for bit, whatever the
        other phrases are.

        Args:
            embeddings: of images, or of parts of them, of unit length.
            phrases: p of them.
            config: gives the negatives, the similarity from which one is a synonym, and the temperature.
        """
        temperature = config.temperature or self.temperature
        negatives, ordinary = self._embed_negatives(config.negatives)  # (k, c)
        negative_logits = embeddings @ negatives.T / temperature  # (*n, k)
        log_odds = [embeddings.new_zeros((*embeddings.shape[:-1], 0))]
        for phrase in phrases:
            text = self.encode([phrase])[0]  # (c)
            rivals = negative_logits[..., find_rivals(negatives @ text, ordinary, config.synonym_similarity)]
            log_odds.append((embeddings @ text / temperature - rivals.logsumexp(dim=-1))[..., None])
        return torch.cat(log_odds, dim=-1)

    def _embed_negatives(self, negatives: tuple[str, ...]) -> tuple[Float[Tensor, "k c"], float]:
        """Embeddings of the negatives, and the median cosine of two different ones."""
        # In one batch, unlike phrases: the same negatives always come together.
        if negatives not in self._negatives:
            embeddings = self._embed(negatives)
            rows, columns = torch.triu_indices(len(negatives), len(negatives), offset=1)
            cosines = (embeddings @ embeddings.T)[rows, columns]
            self._negatives[negatives] = embeddings, float(cosines.median()) if len(cosines) else 0.0
        return self._negatives[negatives]

    @torch.no_grad()
    @own_precision()
    def _embed(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        texts = [template.replace("{}", phrase) for phrase in phrases for template in self.templates]
        batches = [
            self.model.encode_text(self.tokenizer(texts[start : start + _BATCH]).to(self.device), normalize=True)
            for start in range(0, len(texts), _BATCH)
        ]
        embeddings = torch.cat(batches).unflatten(0, (len(phrases), len(self.templates)))  # (p, templates, c)
        return normalize(embeddings.mean(dim=1), dim=-1)


def find_rivals(cosines: Float[Tensor, "k"], ordinary: float, synonym_similarity: float) -> Bool[Tensor, "k"]:
    """Return which negatives compete with a phrase: all but its synonyms, and never none.

    How close two texts are differs from one CLIP to another: unrelated words have a median cosine of 0.2 in the bundled
    model, and a much higher one in others. So similarity is counted from there: (cosine - ordinary) / (1 - ordinary).

    Args:
        cosines: of the phrase with each of k negatives.
        ordinary: the cosine of two texts that have nothing to do with each other.
        synonym_similarity: from which a negative is a synonym.
    """
    rivals = cosines - ordinary < synonym_similarity * (1 - ordinary)
    if not rivals.any():
        rivals[cosines.argmin()] = True
    return rivals
