"""Reading a Grounding DINO in the layout of the Hugging Face hub: completely, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from grounded.config import bundled_folder
from segany import CheckpointError

# What a folder must hold, each with the names under which it may come.
_FILES = {
    "config.json": ("config.json",),
    "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
    "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer.json": ("tokenizer.json", "vocab.txt"),
}
_WANTED = ", ".join(_FILES)
_FAMILIES = ("grounding-dino", "mm-grounding-dino")


class Parts(NamedTuple):
    """What a checkpoint consists of: the network in eval mode, and the saved processors of pictures and text."""

    model: PreTrainedModel
    image_processor: Any
    tokenizer: Any


def find_folder(source: str | PathLike[str]) -> Path:
    """The local folder that holds the files of `source`: "bundled:NAME", a folder, or a hub id, which is downloaded.

    Raises:
        CheckpointError: there is no such folder, a file is missing in it, or the hub cannot be reached.
        ConfigError: no bundled weights of that name.
    """
    folder = bundled_folder(str(source)) or Path(source).expanduser()
    if not folder.is_dir():
        if isinstance(source, PathLike) or not _may_be_hub_id(str(source)):
            raise CheckpointError(f"no such folder: {source}; a Grounding DINO is a folder with {_WANTED}, or a hub id")
        folder = _download(str(source))
    for name, alternatives in _FILES.items():
        if not any((folder / alternative).is_file() for alternative in alternatives):
            raise CheckpointError(f"{folder} has no {name}; a Grounding DINO folder holds {_WANTED}")
    return folder


def load_parts(source: str | PathLike[str], dtype: torch.dtype = torch.float32) -> Parts:
    """Load a Grounding DINO or MM Grounding DINO of `transformers` with its processors.

    Args:
        source: "bundled:NAME", a folder or a hub id.
        dtype: of the parameters, whatever the file stores.

    Raises:
        CheckpointError: see `find_folder`; also where a file is damaged, the model is of another family, or the weights
            do not fill it: a network that is partly random still answers, so it is never returned.
    """
    folder = find_folder(source)
    try:
        with _quiet():
            family = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if family not in _FAMILIES:
                raise CheckpointError(f"{folder} must hold a model of type {' or '.join(_FAMILIES)}, got {family}")
            model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, in one line
            )
            # The backend on Pillow resizes bit for bit as the original package does.
            image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files surface as errors of JSON, safetensors, tokenizers and pydantic alike
        raise CheckpointError(f"cannot read the Grounding DINO in {folder}: {_first_line(error)}") from error
    _check_filled(folder, report)
    return Parts(model.eval(), image_processor, tokenizer)


def _may_be_hub_id(source: str) -> bool:
    """Whether `source` is of the form "owner/name"; anything else can only be a path."""
    return source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not source.endswith("/")


def _download(hub_id: str) -> Path:
    names = [name for alternatives in _FILES.values() for name in alternatives]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*names, "*.json", "model-*.safetensors"]))
    except Exception as error:  # errors of the hub, the connection and the disk have no common base
        raise CheckpointError(
            f"cannot get {hub_id} from the Hugging Face hub ({_reason(error)}); wanted {_WANTED}: "
            "download them elsewhere and pass the path of their folder as the checkpoint"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "access to it must be granted first"
    if isinstance(error, RepositoryNotFoundError):
        return "no such folder here, and no such repository there"
    if is_offline_mode():
        return "offline mode is on, and it is not in the local cache"
    if isinstance(error, LocalEntryNotFoundError):
        return "no connection, and it is not in the local cache"
    return _first_line(error)


def _check_filled(folder: Path, report: dict[str, Any]) -> None:
    """Surplus entries of a file do no harm; missing ones, or ones of another shape, leave random weights behind."""
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for fault, keys in (("lack", missing), ("have another shape for", mismatched)):
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise CheckpointError(f"the weights in {folder} {fault} {shown}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and tables of loading off stderr; what matters of them is raised as an error here."""
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
