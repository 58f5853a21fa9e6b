"""The CLIP of `photo` as one folder for `open_clip`: an EfficientNet-Lite2 with a projection, and all-MiniLM-L6-v2.

The folder holds everything that loading needs: configuration, weights in half precision, the description of the text
encoder and its tokenizer.
"""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from grounded.utils.files import json_bytes, write_atomically
from recipes.photo.clip_features import BACKBONE, MEAN, SIDE, STD

WIDTH = 384  # of the embeddings
CONTEXT = 64  # tokens of a text, at most
TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_UNUSED = re.compile(r"\[unused\d+\]")

OPEN_CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": BACKBONE,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "image_size": SIDE,
        },
        "text_cfg": {
            "hf_model_name": TEXT_MODEL,
            "hf_tokenizer_name": TEXT_MODEL,
            "hf_model_pretrained": False,
            "hf_proj_type": None,
            "hf_pooler_type": "mean_pooler",
            "context_length": CONTEXT,
        },
    },
    "preprocess_cfg": {
        "size": SIDE,
        "mode": "RGB",
        "mean": [MEAN / 255] * 3,
        "std": [STD / 255] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def export_clip(out: Path, backbone: nn.Module, projection: nn.Linear, scale: float, text_folder: Path) -> None:
    """Write the folder.

    Args:
        out: the folder.
        backbone: with its classifier, which is left out.
        projection: of pooled features to embeddings.
        scale: inverse of the temperature, as `open_clip` keeps it: its logarithm.
        text_folder: with the text encoder as `transformers` stores it.

    Raises:
        OutputError: a file cannot be written.
    """
    description = json.loads((text_folder / "config.json").read_text(encoding="utf-8"))
    description |= {"max_position_embeddings": CONTEXT}
    write_atomically(out / "config.json", json_bytes(description))
    write_atomically(out / "open_clip_config.json", json_bytes(OPEN_CLIP_CONFIG))
    for name in _TOKENIZER_FILES:
        contents = json.loads((text_folder / name).read_text(encoding="utf-8"))
        write_atomically(out / name, json.dumps(contents, ensure_ascii=False, separators=(",", ":")).encode())
    model = open_clip.model.CustomTextCLIP(
        WIDTH,
        OPEN_CLIP_CONFIG["model_cfg"]["vision_cfg"],
        OPEN_CLIP_CONFIG["model_cfg"]["text_cfg"] | {"hf_model_name": str(out)},
    )
    model.visual.trunk.load_state_dict(
        {key: value for key, value in backbone.state_dict().items() if not key.startswith("classifier.")}
    )
    model.visual.head.proj.load_state_dict(projection.state_dict())
    model.text.transformer.load_state_dict(_text_weights(text_folder))
    model.logit_scale.data.fill_(scale)
    half = {key: _half(key, value).contiguous() for key, value in model.state_dict().items()}
    write_atomically(out / "open_clip_model.safetensors", save(half, {"format": "pt"}))


def _half(key: str, value: Tensor) -> Tensor:
    """In half precision; of words in bfloat16, which a wheel compresses by a fifth more, and no cosine shows."""
    if not value.is_floating_point():
        return value
    return value.to(torch.bfloat16 if key.endswith("word_embeddings.weight") else torch.float16)


def _text_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the text encoder without what no text reaches: its pooler, places beyond the context, spare words.

    Spare words keep their rows, as zeros, so that the numbers of the others stay.
    """
    state = load_file(folder / "model.safetensors")
    state = {
        key: value for key, value in state.items() if not key.startswith("pooler.") and not key.endswith("position_ids")
    }
    places = "embeddings.position_embeddings.weight"
    state[places] = state[places][:CONTEXT]
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    spare = [row for word, row in vocabulary.items() if _UNUSED.fullmatch(word)]
    state["embeddings.word_embeddings.weight"][spare] = 0
    return state
