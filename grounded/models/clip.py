"""CLIP through `open_clip`: embeddings of phrases and of images in one space, and the odds that they agree.

Phrases are embedded through templates whose embeddings are averaged, as for the zero-shot classifiers of the CLIP paper
(Radford et al., 2021, section 3.1.4).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from grounded.config import ClipConfig, ScoringConfig, bundled_folder
from grounded.data.image import ImageLike, open_image
from grounded.errors import CheckpointError, one_line
from grounded.models.embedding_cache import EmbeddingCache
from segany.hub import HubModel

_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_WANTED = f"{_CONFIG_FILE} and {_WEIGHT_FILES[0]}"
# Of models whose texts are tokenised by `transformers`.
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")
_INSTEAD = (
    f'name a local folder with {_WANTED}, clip={{"checkpoint": FOLDER}} in Python, '
    "or clip: {checkpoint: FOLDER} in a YAML file"
)
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
        self._negatives: dict[tuple[str, ...], Tensor] = {}
        # Measured, because not every model of open_clip states its width.
        self._dim = self._embed(["a"]).shape[1]

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        templates: Sequence[str] = ClipConfig.templates,
        device: str | torch.device = "cpu",
    ) -> "ClipEncoder":
        """Load a model in float32, whatever its file stores.

        Args:
            source: "bundled:NAME", "local-dir:FOLDER" or a folder (with open_clip_config.json and weights),
                "MODEL/TAG" of `open_clip` such as "ViT-B-32/laion2b_s34b_b79k", or a hub id.
            templates: as in the constructor.
            device: where the model runs.

        Raises:
            CheckpointError: nothing of that name, files missing, damaged or unreachable, or weights that do not fill
                the model: it is never returned with random weights.
            ConfigError: no bundled weights of that name, or a wrong template.
        """
        name, tag, place = _resolve(source)
        if isinstance(place, HubModel):
            # open_clip would look for the same files, but try each of them for half a minute without a connection.
            place.find()
        # Weights that were trained with the approximate GELU of the original CLIP; open_clip only warns about it.
        quick_gelu = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)) if tag else False
        try:
            with _quiet():
                model, preprocess = open_clip.create_model_from_pretrained(
                    name, tag, device=device, force_quick_gelu=quick_gelu
                )
                tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # damaged files and problems of the hub raise errors of many libraries
            shown = f"in {place}" if isinstance(place, Path) else str(source)
            raise CheckpointError(f"cannot read the CLIP model {shown}: {one_line(error, 300)}") from error
        return cls(model.eval(), tokenizer, preprocess, templates, name=str(source))

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
    def log_odds(
        self, embeddings: Float[Tensor, "*n c"], phrases: Sequence[str], config: ScoringConfig
    ) -> Float[Tensor, "*n p"]:
        """Return the log-odds of each phrase against the negatives of `config`; their sigmoid is a probability.

        For a phrase of cosine c and temperature T, that is c / T - log(sum of exp(c_k / T)) over the negatives k that
        are no synonyms of it. It is the same bit for bit, whatever the other phrases are, and infinite where every
        negative is a synonym.

        Args:
            embeddings: of images, or of parts of them, of unit length.
            phrases: p of them.
            config: gives the negatives, the cosine from which one is a synonym, and the temperature.
        """
        temperature = config.temperature or self.temperature
        negatives = self._embed_negatives(config.negatives)  # (k, c)
        negative_logits = embeddings @ negatives.T / temperature  # (*n, k)
        log_odds = [embeddings.new_zeros((*embeddings.shape[:-1], 0))]
        for phrase in phrases:
            text = self.encode([phrase])[0]  # (c)
            rivals = negative_logits[..., negatives @ text < config.synonym_cosine]
            log_odds.append((embeddings @ text / temperature - rivals.logsumexp(dim=-1))[..., None])
        return torch.cat(log_odds, dim=-1)

    def _embed_negatives(self, negatives: tuple[str, ...]) -> Float[Tensor, "k c"]:
        # In one batch, unlike phrases: the same negatives always come together.
        if negatives not in self._negatives:
            self._negatives[negatives] = self._embed(negatives)
        return self._negatives[negatives]

    @torch.no_grad()
    def _embed(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        texts = [template.replace("{}", phrase) for phrase in phrases for template in self.templates]
        batches = [
            self.model.encode_text(self.tokenizer(texts[start : start + _BATCH]).to(self.device), normalize=True)
            for start in range(0, len(texts), _BATCH)
        ]
        embeddings = torch.cat(batches).unflatten(0, (len(phrases), len(self.templates)))  # (p, templates, c)
        return normalize(embeddings.mean(dim=1), dim=-1)


def locate(source: str | PathLike[str]) -> Path | HubModel:
    """Return where a `source` of `ClipEncoder.from_pretrained` is: a folder, or a repository that may need a download.

    Raises:
        CheckpointError: there is nothing of that name.
        ConfigError: no bundled weights of that name.
    """
    return _resolve(source).place


class _Source(NamedTuple):
    """A CLIP model under the name by which `open_clip` loads it, with the tag of its weights where it needs one."""

    name: str
    tag: str | None
    place: Path | HubModel


def _resolve(source: str | PathLike[str]) -> _Source:
    name = str(source)
    if name.startswith("hf-hub:"):
        return _Source(name, None, _hub_model(name.removeprefix("hf-hub:")))
    folder = bundled_folder(name) or Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        if not (folder / _CONFIG_FILE).is_file():
            raise CheckpointError(f"{folder} has no {_CONFIG_FILE}; a CLIP folder holds {_WANTED}")
        if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
            raise CheckpointError(f"{folder} has no {_WEIGHT_FILES[0]}; a CLIP folder holds {_WANTED}")
        return _Source(f"local-dir:{folder}", None, folder)
    model, _, tag = name.partition("/")
    if not isinstance(source, PathLike) and not name.startswith("local-dir:") and model and tag:
        if model in open_clip.list_models():
            return _Source(model, tag, _hub_model_of_tag(model, tag))
        if "/" not in tag and not name.startswith((".", "~")):
            return _Source(f"hf-hub:{name}", None, _hub_model(name))
    raise CheckpointError(
        f"no CLIP model at {name!r}; expected a folder with {_WANTED}, MODEL/TAG of open_clip, or a hub id"
    )


def _hub_model(repo_id: str) -> HubModel:
    return HubModel(repo_id, ((_CONFIG_FILE,), _WEIGHT_FILES), _TOKENIZER_FILES, _INSTEAD)


def _hub_model_of_tag(model: str, tag: str) -> HubModel:
    """The weights of MODEL/TAG; `open_clip` itself holds the configuration and the tokenizer of these models."""
    config = open_clip.get_pretrained_cfg(model, tag)
    if not config.get("hf_hub"):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise CheckpointError(f"open_clip has no weights {tag!r} of {model} on the hub, only {tags or 'none'}")
    # "owner/name/", or "owner/name/file" where the file has a name of its own.
    repo_id, _, file_name = config["hf_hub"].rpartition("/")
    weights = (f"{Path(file_name).stem}.safetensors", file_name) if file_name else _WEIGHT_FILES
    return HubModel(repo_id, (weights,), instead=_INSTEAD)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, to which `open_clip` logs errors that it raises as well."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
