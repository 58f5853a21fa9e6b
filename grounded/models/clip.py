"""CLIP embeddings of phrases and of crops through `open_clip`, and how well they agree.

Phrases are embedded through templates whose embeddings are averaged, as for the zero-shot classifiers of the CLIP paper
(Radford et al., 2021, section 3.1.4).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from grounded.config import bundled_folder
from grounded.data.image import ImageLike, open_image
from grounded.models.embedding_cache import EmbeddingCache
from grounded.settings import ClipConfig, ScoringConfig
from segany import CheckpointError
from segany.hub import HubModel

_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_WANTED = f"{_CONFIG_FILE} and {_WEIGHT_FILES[0]}"
# Of towers whose texts are cut into tokens by `transformers`.
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")
_INSTEAD = (
    f'name a local folder with {_WANTED}, clip={{"checkpoint": FOLDER}} in Python, '
    "or clip: {checkpoint: FOLDER} in a YAML file"
)
# Texts and crops in one forward: enough to keep a GPU busy, little memory on a CPU.
_BATCH = 64


class ClipTextEncoder:
    """An `ImageTextEncoder`: phrases and crops in one space.

    Args:
        model: an `open_clip` model in eval mode, on its device.
        tokenizer: its tokenizer; a phrase beyond its context length is cut there, as `open_clip` does.
        preprocess: its own transform from a PIL image to (3, h, w).
        templates: texts with one "{}" for the phrase.
        cache_size: phrases whose embeddings are kept.
        name: what results state as their CLIP model.
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
        # The configuration knows what templates must look like.
        self.templates = ClipConfig(templates=tuple(templates)).templates
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess
        self.name = name
        self._cache = EmbeddingCache(cache_size)
        self._banks: dict[tuple[str, ...], Tensor] = {}
        # Asked of the model, because not every tower of open_clip states its width.
        self._dim = self._embed(["a"]).shape[1]

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        templates: Sequence[str] = ClipConfig.templates,
        device: str | torch.device = "cpu",
    ) -> "ClipTextEncoder":
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
        model_name, tag = _resolve(source)
        try:
            with _quiet():
                model, preprocess = open_clip.create_model_from_pretrained(
                    model_name, tag, device=device, force_quick_gelu=_needs_quick_gelu(model_name, tag)
                )
                tokenizer = open_clip.get_tokenizer(model_name)
        except Exception as error:  # damaged files and the hub's troubles come as errors of many libraries
            raise CheckpointError(_explain(source, model_name, error)) from error
        return cls(model.eval(), tokenizer, preprocess, templates, name=str(source))

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._dim

    @property
    def device(self) -> torch.device:
        """Where the model runs, and where embeddings are returned."""
        return next(self.model.parameters()).device

    @property
    def temperature(self) -> float:
        """Of the softmax over cosines that the model was trained with."""
        return 1 / float(self.model.logit_scale.detach().exp())

    def encode(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        """Return one float32 embedding of unit length per phrase: the mean over the templates, rescaled.

        An embedding is the same bit for bit, whatever else is asked for with it.
        """
        if not phrases:
            return torch.zeros(0, self.dim, device=self.device)
        known = self._cache.find(phrases)
        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in known]
        if missing:
            # One by one: the last bits of a product depend on how many rows it has.
            fresh = {phrase: self._embed([phrase])[0] for phrase in missing}
            self._cache.store(fresh)
            known |= fresh
        return torch.stack([known[phrase] for phrase in phrases])

    # Not inference mode: training uses these embeddings inside a graph, which inference tensors refuse.
    @torch.no_grad()
    def encode_images(self, crops: Iterable[ImageLike]) -> Float[Tensor, "n c"]:
        """Return one float32 embedding of unit length per crop, each through the model's own preprocessing.

        Args:
            crops: paths, PIL images or uint8 RGB arrays (h, w, 3) of any sizes; taken a batch at a time, so that a
                generator never has them all in memory.

        Raises:
            ImageError: a crop is not an image.
        """
        parts = [torch.zeros(0, self.dim, device=self.device)]
        remaining = iter(crops)
        while batch := list(islice(remaining, _BATCH)):
            pixels = torch.stack([self.preprocess(open_image(crop).pixels) for crop in batch])  # (b, 3, h, w)
            parts.append(self.model.encode_image(pixels.to(self.device), normalize=True))
        return torch.cat(parts)

    @torch.no_grad()
    def log_odds(
        self, embeddings: Float[Tensor, "*n c"], phrases: Sequence[str], config: ScoringConfig
    ) -> Float[Tensor, "*n p"]:
        """Return the log-odds of each phrase against the negatives of `config`; their sigmoid is a probability.

        For a phrase of cosine c and temperature T, that is c / T - log(sum of exp(c_k / T)) over the negatives k that
        do not mean the same. It is the same bit for bit, whatever other phrases are asked for, and infinite where every
        negative means the same.

        Args:
            embeddings: of crops, or of parts of them, of unit length.
            phrases: p of them.
            config: gives the negatives, when one means the same as a phrase, and the temperature.
        """
        temperature = config.temperature or self.temperature
        bank = self._bank(config.negatives)  # (k, c)
        against = embeddings @ bank.T / temperature  # (*n, k)
        log_odds = [embeddings.new_zeros((*embeddings.shape[:-1], 0))]
        for phrase in phrases:
            text = self.encode([phrase])[0]  # (c)
            rivals = against[..., bank @ text < config.synonym_cosine]
            log_odds.append((embeddings @ text / temperature - rivals.logsumexp(dim=-1))[..., None])
        return torch.cat(log_odds, dim=-1)

    def _bank(self, negatives: tuple[str, ...]) -> Float[Tensor, "k c"]:
        """Embeddings of negatives, which come together always, and so may be made together."""
        if negatives not in self._banks:
            self._banks[negatives] = self._embed(negatives)
        return self._banks[negatives]

    @torch.no_grad()
    def _embed(self, phrases: Sequence[str]) -> Float[Tensor, "p c"]:
        texts = [template.replace("{}", phrase) for phrase in phrases for template in self.templates]
        parts = [
            self.model.encode_text(self.tokenizer(texts[start : start + _BATCH]).to(self.device), normalize=True)
            for start in range(0, len(texts), _BATCH)
        ]
        embeddings = torch.cat(parts).unflatten(0, (len(phrases), len(self.templates)))  # (p, templates, c)
        return normalize(embeddings.mean(dim=1), dim=-1)


def locate(source: str | PathLike[str]) -> Path | HubModel:
    """Where the files of a `source` of `ClipTextEncoder` are: a folder, or a repository that may have to be downloaded.

    Raises:
        CheckpointError: there is nothing of that name.
        ConfigError: no bundled weights of that name.
    """
    model_name, tag = _named(source)
    if model_name.startswith("local-dir:"):
        return Path(model_name.removeprefix("local-dir:"))
    if tag is None:
        needed = ((_CONFIG_FILE,), _WEIGHT_FILES)
        return HubModel(model_name.removeprefix("hf-hub:"), needed, _TOKENIZER_FILES, _INSTEAD)
    config = open_clip.get_pretrained_cfg(model_name, tag)
    if not config.get("hf_hub"):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model_name))
        raise CheckpointError(f"open_clip has no weights {tag!r} of {model_name} on the hub, only {tags or 'none'}")
    # "owner/name/", or "owner/name/file" where the file has a name of its own.
    repo_id, _, file_name = config["hf_hub"].rpartition("/")
    weights = (f"{Path(file_name).stem}.safetensors", file_name) if file_name else _WEIGHT_FILES
    return HubModel(repo_id, (weights,), instead=_INSTEAD)


def _resolve(source: str | PathLike[str]) -> tuple[str, str | None]:
    """The name and the tag under which `open_clip` loads a source, whose files are then on this machine."""
    place = locate(source)
    if isinstance(place, HubModel):
        # open_clip would look for the same files, but try each of them for half a minute where the hub is out of reach.
        place.find()
    return _named(source)


def _named(source: str | PathLike[str]) -> tuple[str, str | None]:
    """The name under which `open_clip` knows a source, and the tag of its weights unless the name implies them."""
    name = str(source)
    if name.startswith("hf-hub:"):
        return name, None
    folder = bundled_folder(name) or Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return f"local-dir:{folder}", None
    model, slash, tag = name.partition("/")
    if not isinstance(source, PathLike) and not name.startswith("local-dir:") and model and slash and tag:
        if model in open_clip.list_models():
            return model, tag
        if "/" not in tag and not name.startswith((".", "~")):
            return f"hf-hub:{name}", None
    raise CheckpointError(
        f"no CLIP model at {name!r}; expected a folder with {_WANTED}, MODEL/TAG of open_clip, or a hub id"
    )


def _check_folder(folder: Path) -> None:
    if not (folder / _CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} has no {_CONFIG_FILE}; a CLIP folder holds {_WANTED}")
    if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
        raise CheckpointError(f"{folder} has no open_clip_model.safetensors; a CLIP folder holds {_WANTED}")


def _needs_quick_gelu(model_name: str, tag: str | None) -> bool:
    """Whether weights were trained with the approximate GELU of the original CLIP; `open_clip` only warns about it."""
    config = open_clip.get_pretrained_cfg(model_name, tag) if tag else {}
    return bool(config.get("quick_gelu", False))


def _explain(source: str | PathLike[str], model_name: str, error: Exception) -> str:
    # PyTorch lists every missing key on lines of their own.
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if model_name.startswith("local-dir:"):
        return f"cannot read the CLIP model in {model_name.removeprefix('local-dir:')}: {reason}"
    return f"cannot read the CLIP model {source}: {reason}"


@contextmanager
def _quiet() -> Iterator[None]:
    """`open_clip` logs to the root logger what it then raises as well."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
