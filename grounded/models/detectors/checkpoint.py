"""Load a detector of `transformers` from the layout of the Hugging Face hub: completely, or not at all."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from grounded.config import bundled_folder
from grounded.errors import CheckpointError, one_line
from segany.diagnose import describe_file
from segany.hub import HubModel, split_revision

# The tokenizer's other files, and weights in several parts.
_EXTRA = ("*.json", "merges.txt", "model-*.safetensors")
_INSTEAD = (
    'name a local folder that holds them, detector={"checkpoint": FOLDER} in Python, '
    "or detector: {checkpoint: FOLDER} in a YAML file"
)


@dataclass(frozen=True)
class Family:
    """Detectors whose checkpoints have the same layout."""

    article: str  # of the name, for messages
    name: str
    model_types: tuple[str, ...]  # in config.json
    vocabulary: str  # the file of a tokenizer without tokenizer.json
    network: str  # as `segany.diagnose` names it

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """The files that a folder must hold, each with the names that it may have."""
        return {
            "config.json": ("config.json",),
            "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
            "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
            "tokenizer.json": ("tokenizer.json", self.vocabulary),
        }

    @property
    def wanted(self) -> str:
        """The files, for messages."""
        return ", ".join(self.files)


# LLMDet (Fu et al., 2025) was published for `transformers` as MM Grounding DINO: only its training differs.
GROUNDING_DINO = Family("a", "Grounding DINO", ("grounding-dino", "mm-grounding-dino"), "vocab.txt", "Grounding DINO")
OWL = Family("an", "OWL-ViT", ("owlvit", "owlv2"), "vocab.json", "OWL-ViT or OWLv2")


class Checkpoint(NamedTuple):
    """A loaded checkpoint: the network in eval mode, and the saved processors of images and text."""

    model: PreTrainedModel
    image_processor: Any
    tokenizer: Any


def locate(source: str | PathLike[str], family: Family = GROUNDING_DINO) -> Path | HubModel:
    """Return where `source` is: the folder of "bundled:NAME" or a local one, or a hub id that may need a download.

    A hub id may end in "@" and a commit, tag or branch.

    Raises:
        CheckpointError: there is no such folder, or it is a file.
        ConfigError: no bundled weights of that name.
    """
    folder = bundled_folder(str(source)) or Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(_describe_given_file(folder, family))
    name, revision = split_revision(str(source))
    may_be_hub_id = name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/")
    if isinstance(source, PathLike) or not may_be_hub_id:
        raise CheckpointError(
            f"no such folder: {source}; {family.article} {family.name} is a folder with {family.wanted}, or a hub id"
        )
    return HubModel(name, tuple(family.files.values()), _EXTRA, _INSTEAD, revision, f"a folder with {family.wanted}")


def find_folder(source: str | PathLike[str], family: Family = GROUNDING_DINO) -> Path:
    """Return the local folder of `source`: "bundled:NAME", a folder, or a hub id, which is downloaded where needed.

    Raises:
        CheckpointError: there is no such folder, a file is missing in it, or the hub cannot be reached.
        ConfigError: no bundled weights of that name.
    """
    place = locate(source, family)
    folder = place.find() if isinstance(place, HubModel) else place
    for name, alternatives in family.files.items():
        if not any((folder / alternative).is_file() for alternative in alternatives):
            raise CheckpointError(
                f"{folder} has no {name}; {family.article} {family.name} folder holds {family.wanted}"
            )
    return folder


def load_checkpoint(
    source: str | PathLike[str], dtype: torch.dtype = torch.float32, family: Family = GROUNDING_DINO
) -> Checkpoint:
    """Load a zero-shot detector of `transformers` with its processors.

    Args:
        source: "bundled:NAME", a folder or a hub id.
        dtype: of the parameters, whatever the file stores.
        family: the expected family.

    Raises:
        CheckpointError: see `find_folder`; also where a file is damaged, the model is of another family, or the weights
            do not fill it: a network with some random weights still finds boxes, so it is never returned.
    """
    folder = find_folder(source, family)
    try:
        with quiet():
            found = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if found not in family.model_types:
                raise CheckpointError(
                    f"{folder} must hold a model of type {' or '.join(family.model_types)}, got {found}"
                )
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
    except Exception as error:  # damaged files raise errors of JSON, safetensors, tokenizers and pydantic alike
        weights = ((file, describe_file(file, family.network)) for file in sorted(folder.glob("*.safetensors")))
        reason = next((f"{file} {what}" for file, what in weights if what), one_line(error, 300))
        raise CheckpointError(f"cannot read the {family.name} in {folder}: {reason}") from error
    check_filled(str(folder), report["missing_keys"], {entry[0] for entry in report["mismatched_keys"]})
    return Checkpoint(model.eval(), image_processor, tokenizer)


def check_filled(source: str, missing: Collection[str], mismatched: Collection[str]) -> None:
    """Check that weights leave no parameter random. Surplus entries of a file are ignored.

    Args:
        source: the file or folder, for messages.
        missing: names of parameters that the file lacks.
        mismatched: names of parameters that have another shape in the file.

    Raises:
        CheckpointError: there are such parameters.
    """
    for fault, names in (("lack", sorted(missing)), ("have another shape for", sorted(mismatched))):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"the weights in {source} {fault} {shown}")


def _describe_given_file(file: Path, family: Family) -> str:
    """Say what to do with a file that was given in place of a folder."""
    if what := describe_file(file, family.network):
        return f"{file} {what}"
    if family is GROUNDING_DINO and file.suffix in (".pth", ".pt"):
        return (
            f"{file} is a file, and a Grounding DINO is read from a folder: make one of an original checkpoint by "
            f"`grounded convert-checkpoint {file} --out FOLDER`, or read it with kind groundingdino-py"
        )
    return f"{file} is a file; {family.article} {family.name} is a folder with {family.wanted}: name that folder"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and tables of loading off stderr; missing weights are raised as an error instead."""
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
