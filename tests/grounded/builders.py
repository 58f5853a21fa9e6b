"""Folders with tiny models of random weights, written by the public classes' own `save_pretrained`.

They have the layout of real checkpoints, so that loading, tokenisation, batching and post-processing are tested for
what they are; what the models answer means nothing.
"""

import json
from pathlib import Path

import torch

# Grounding DINO cuts a text into phrases at the ids that its delimiters have in the uncased BERT vocabulary.
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
WORDS = ("a", "an", "the", "red", "green", "blue", "hot", "ice", "dog", "cat", "cats", "mug", "pizza", "cream", "ball")
WORDS += ("inch", "disk", ",", "-", "'")
PIECES = tuple("abcdefghijklmnopqrstuvwxyz0123456789")


def bert_vocabulary() -> dict[str, int]:
    """A BERT vocabulary of some known words, single letters for all others, and the delimiters at their usual ids."""
    vocabulary = dict(SPECIAL_IDS)
    free = (i for i in range(1, 2000) if i not in SPECIAL_IDS.values())
    for token in (*WORDS, *PIECES, *(f"##{piece}" for piece in PIECES)):
        if token not in vocabulary:
            vocabulary[token] = next(free)
    size = max(vocabulary.values()) + 1
    taken = set(vocabulary.values())
    vocabulary.update({f"[unused{i}]": i for i in range(size) if i not in taken})
    return vocabulary


def bert_tokenizer():
    """A `transformers.BertTokenizer` over `bert_vocabulary`."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=bert_vocabulary(), do_lower_case=True)


def detector_model(
    family: str = "mm-grounding-dino", num_queries: int = 12, max_text_len: int = 24, seed: int = 0
) -> torch.nn.Module:
    """A "grounding-dino" or "mm-grounding-dino" of about 0.3 M random parameters, in eval mode."""
    import transformers

    config_class, model_class = {
        "grounding-dino": (transformers.GroundingDinoConfig, transformers.GroundingDinoForObjectDetection),
        "mm-grounding-dino": (transformers.MMGroundingDinoConfig, transformers.MMGroundingDinoForObjectDetection),
    }[family]
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )
    text = transformers.BertConfig(
        vocab_size=len(bert_vocabulary()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    config = config_class(
        backbone_config=backbone,
        text_config=text,
        num_queries=num_queries,
        max_text_len=max_text_len,
        d_model=64,  # two channels per normalisation group: one could not be normalised on a map of one pixel
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
    )
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The default initialisation is so small that every box would come out alike.
            if parameter.ndim > 1 and "embeddings" not in name:
                parameter.normal_(std=0.15)
    return model


def save_detector(
    folder: Path,
    family: str = "mm-grounding-dino",
    size: dict[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    **model_options: int,
) -> Path:
    """Write a complete detector folder: config, weights, tokenizer and image processor. Returns `folder`."""
    from transformers.models.grounding_dino import GroundingDinoImageProcessorPil

    detector_model(family, **model_options).to(dtype).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    size = size or {"shortest_edge": 64, "longest_edge": 96}
    GroundingDinoImageProcessorPil(size=size).save_pretrained(folder)
    return folder


CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
# Unlike open_clip's defaults, so that a test can tell whether the folder's own values are used.
CLIP_PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"}


def clip_model(seed: int = 0) -> torch.nn.Module:
    """An open_clip `CLIP` of `CLIP_CONFIG` with random weights, in eval mode."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    return CLIP(**CLIP_CONFIG).eval()


def save_clip(folder: Path, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Write a folder that open_clip reads as "local-dir:FOLDER". Returns `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": CLIP_PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in clip_model(seed).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder
