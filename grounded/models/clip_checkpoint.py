"""Find and load CLIP models of `open_clip`: folders, tags of the package, and repositories on the hub.

Every file is found here first, and `open_clip` is given local paths: by itself it asks the hub for each file at every
load, although it is cached.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from grounded.config import bundled_folder
from grounded.errors import CheckpointError, one_line
from segany.diagnose import describe_file
from segany.hub import HubModel, split_revision

_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")
_WANTED = f"{_CONFIG_FILE} and {_WEIGHT_FILES[0]}"
_INSTEAD = (
    f'name a local folder with {_WANTED}, clip={{"checkpoint": FOLDER}} in Python, '
    "or clip: {checkpoint: FOLDER} in a YAML file"
)
# Of models whose texts are tokenised by `transformers`: one of the vocabularies, and what else there is.
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")
_QUIET = threading.RLock()
_ENCODER_FILE = "config.json"  # describes a text encoder of `transformers`


class ClipCheckpoint(NamedTuple):
    """A loaded checkpoint: the model in eval mode, its transform of images, and its tokenizer."""

    model: Any
    preprocess: Callable[[Any], Tensor]
    tokenizer: Callable[[list[str]], Tensor]


def locate(source: str | PathLike[str]) -> Path | HubModel:
    """Return where `source` is: a folder, or a repository that may need a download.

    Args:
        source: "bundled:NAME", "local-dir:FOLDER" or a folder (with open_clip_config.json and weights), "MODEL/TAG" of
            `open_clip` such as "ViT-B-32/laion2b_s34b_b79k", or a hub id. The last two may end in "@REVISION".

    Raises:
        CheckpointError: there is nothing of that name.
        ConfigError: no bundled weights of that name.
    """
    return _resolve(source).place


def load_checkpoint(source: str | PathLike[str], device: str | torch.device = "cpu") -> ClipCheckpoint:
    """Load a model in float32, whatever its file stores.

    Args:
        source: as in `locate`.
        device: where the model runs.

    Raises:
        CheckpointError: nothing of that name, files missing, damaged or unreachable, or weights that do not fill the
            model: it is never returned with random weights.
        ConfigError: no bundled weights of that name.
    """
    found = _resolve(source)
    folder = found.place.find() if isinstance(found.place, HubModel) else found.place
    try:
        with _quiet():
            text_config = _text_config(found, folder)
            model, preprocess = _load_model(found, folder, text_config, device)
            return ClipCheckpoint(model.eval(), preprocess, _load_tokenizer(found, folder, text_config))
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise errors of many libraries
        shown = f"in {found.place}" if isinstance(found.place, Path) else str(source)
        reason = _describe_weights(folder) or one_line(error, 300)
        raise CheckpointError(f"cannot read the CLIP model {shown}: {reason}") from error


class _Found(NamedTuple):
    """Where a model is. One that the package itself describes has a name and a tag there; a folder describes itself."""

    place: Path | HubModel
    model: str | None = None
    tag: str | None = None


def _resolve(source: str | PathLike[str]) -> _Found:
    name = str(source)
    if name.startswith("hf-hub:"):
        return _Found(_hub_model(*split_revision(name.removeprefix("hf-hub:"))))
    folder = bundled_folder(name) or Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        if not (folder / _CONFIG_FILE).is_file():
            raise CheckpointError(f"{folder} has no {_CONFIG_FILE}; a CLIP folder holds {_WANTED}")
        if not any(path.suffix in _WEIGHT_SUFFIXES for path in folder.iterdir()):
            raise CheckpointError(f"{folder} has no {_WEIGHT_FILES[0]}; a CLIP folder holds {_WANTED}")
        return _Found(folder)
    if folder.is_file():
        what = describe_file(folder, expected="CLIP") or "is a file"
        raise CheckpointError(f"{folder} {what}; a CLIP model is a folder with {_WANTED}")
    name, revision = split_revision(name)
    model, _, tag = name.partition("/")
    if not isinstance(source, PathLike) and not name.startswith("local-dir:") and model and tag:
        if model in open_clip.list_models():
            return _Found(_hub_model_of_tag(model, tag, revision), model, tag)
        if "/" not in tag and not name.startswith((".", "~")):
            return _Found(_hub_model(name, revision))
    raise CheckpointError(
        f"no CLIP model at {str(source)!r}; expected a folder with {_WANTED}, MODEL/TAG of open_clip, or a hub id"
    )


# ---- Repositories ----


def _hub_model(repo_id: str, revision: str | None) -> HubModel:
    needed = ((_CONFIG_FILE,), _WEIGHT_FILES)
    optional = (*_TOKENIZER_FILES, _ENCODER_FILE)
    return HubModel(repo_id, needed, optional, _INSTEAD, revision, others=_other_models)


def _hub_model_of_tag(model: str, tag: str, revision: str | None) -> HubModel:
    """The weights of MODEL/TAG, whose configuration `open_clip` itself holds."""
    config = open_clip.get_pretrained_cfg(model, tag)
    if not config.get("hf_hub"):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise CheckpointError(f"open_clip has no weights {tag!r} of {model} on the hub, only {tags or 'none'}")
    # "owner/name/", or "owner/name/file" where the file has a name of its own.
    repo_id, _, file_name = config["hf_hub"].rpartition("/")
    weights = (f"{Path(file_name).stem}.safetensors", file_name) if file_name else _WEIGHT_FILES
    others = _text_models(open_clip.get_model_config(model)["text_cfg"])
    return HubModel(
        repo_id,
        (weights,),
        instead=_INSTEAD,
        revision=revision,
        local=f"a folder with {_WANTED}",
        others=lambda _folder: others,
    )


def _other_models(folder: Path) -> tuple[HubModel, ...]:
    """What a model in a folder needs besides it; nothing where its configuration cannot be read."""
    try:
        return _text_models(_read_config(folder)["text_cfg"], folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _text_models(text_config: Mapping[str, Any], folder: Path | None = None) -> tuple[HubModel, ...]:
    """The repositories of a tokenizer and of a text encoder's configuration that are not in the folder of the model."""
    tokenizer, encoder = text_config.get("hf_tokenizer_name"), text_config.get("hf_model_name")
    others = []
    if tokenizer and (folder is None or not _has_tokenizer(folder)):
        others.append(_tokenizer_model(tokenizer))
    if encoder and (folder is None or not _has_encoder(folder)):
        others.append(_encoder_model(encoder))
    return tuple(others)


def _tokenizer_model(repo_id: str) -> HubModel:
    # Some tokenizers are told by the type of the model in config.json.
    return HubModel(
        repo_id, (_VOCABULARIES,), (*_TOKENIZER_FILES, _ENCODER_FILE), "it is the tokenizer of the CLIP model"
    )


def _encoder_model(repo_id: str) -> HubModel:
    return HubModel(repo_id, ((_ENCODER_FILE,),), instead="it describes the text encoder of the CLIP model")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _has_encoder(folder: Path) -> bool:
    """Whether a folder describes a text encoder that `open_clip` can build, and not for instance a whole CLIP."""
    try:
        description = json.loads((folder / _ENCODER_FILE).read_text(encoding="utf-8"))
        return description["model_type"] in arch_dict
    except (OSError, ValueError, KeyError, TypeError):
        return False


# ---- Loading ----


def _read_config(folder: Path) -> Any:
    config = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    return config["model_cfg"]


def _text_config(found: _Found, folder: Path) -> dict[str, Any]:
    config = _read_config(folder) if found.model is None else open_clip.get_model_config(found.model)
    return dict(config["text_cfg"])


def _load_model(
    found: _Found, folder: Path, text_config: Mapping[str, Any], device: str | torch.device
) -> tuple[Any, Callable[[Any], Tensor]]:
    options: dict[str, Any] = {"device": device}
    if encoder := text_config.get("hf_model_name"):
        is_here = found.model is None and _has_encoder(folder)
        here = str(folder if is_here else _encoder_model(encoder).find())
        options["text_cfg"] = {**text_config, "hf_model_name": here, "hf_model_pretrained": False}
    if found.model is None:
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", **options)
        return model, preprocess
    assert isinstance(found.place, HubModel) and found.tag is not None
    # By the path of the weights, so that what the package knows of the tag is passed on here.
    tag = open_clip.get_pretrained_cfg(found.model, found.tag)
    for name in ("mean", "std", "interpolation", "resize_mode"):
        options[f"image_{name}"] = tag.get(name)
    # Weights that were trained with the approximate GELU of the original CLIP; open_clip only warns about it.
    options["force_quick_gelu"] = bool(tag.get("quick_gelu", False))
    weights = str(found.place.files(folder)[0])
    model, preprocess = open_clip.create_model_from_pretrained(found.model, weights, **options)
    return model, preprocess


def _load_tokenizer(found: _Found, folder: Path, text_config: Mapping[str, Any]) -> Callable[[list[str]], Tensor]:
    repo_id = text_config.get("hf_tokenizer_name")
    if not repo_id:  # comes with open_clip
        tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(found.model or f"local-dir:{folder}")
        return tokenizer
    place = folder if found.model is None and _has_tokenizer(folder) else _tokenizer_model(repo_id).find()
    read = HFTokenizer(
        str(place),
        context_length=text_config.get("context_length", 77),
        tokenizer_mode=text_config.get("tokenizer_mode"),
        local_files_only=True,
        **text_config.get("tokenizer_kwargs", {}),
    )
    return _WithoutPadding(read) if text_config.get("hf_model_name") else read


@dataclass(frozen=True)
class _WithoutPadding:
    """Leaves out the columns that are padding in all texts: encoders of `transformers` mask it, but take their time."""

    tokenizer: HFTokenizer

    def __call__(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts)
        is_text = (tokens != self.tokenizer.tokenizer.pad_token_id).any(dim=0).nonzero()
        return tokens[:, : int(is_text[-1]) + 1] if len(is_text) else tokens


def _describe_weights(folder: Path) -> str | None:
    """Say what the first file of weights is that holds none, if there is one."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    return next((f"{file} {what}" for file in files if (what := describe_file(file, expected="CLIP"))), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, to which `open_clip` logs errors that it raises as well."""
    root = logging.getLogger()
    with _QUIET:  # two threads at once would restore each other's level
        level = root.level
        root.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            root.setLevel(level)
