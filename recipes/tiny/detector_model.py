"""The tiny detector: MM-Grounding-DINO (Zhao et al. 2024) from transformers with a small Swin and a small BERT, and
its vocabulary.
"""

import json
import re
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertTokenizer, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection, SwinConfig

from recipes.tiny.vocabulary import COLORS, nouns, plural
from segany.files import write_safetensors

SIDE = 192
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where Grounding DINO expects these tokens (transformers' SPECIAL_TOKENS); the first word follows the last of them.
FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
FIRST_WORD = 1030
MAX_TEXT_LENGTH = 96


def vocabulary() -> dict[str, int]:
    """Whole words of the tiny world, and letters and digits as pieces with which everything else is spelled."""
    words = {word for noun in nouns() for name in (noun, plural(noun)) for word in name.split()}
    words |= {"a", "an", "the", "of", *COLORS}
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*sorted(words), *(c for c in characters if c not in words), *(f"##{c}" for c in characters)]
    taken = {index: token for token, index in FIXED.items()}
    known = {token: index for index, token in enumerate(pieces, FIRST_WORD)}
    unused = {f"[unused{index}]": index for index in range(FIRST_WORD) if index not in taken}
    return dict(sorted({**FIXED, **unused, **known}.items(), key=lambda item: item[1]))


def build_tokenizer() -> BertTokenizer:
    """A lower-casing BERT tokenizer over `vocabulary()`."""
    return BertTokenizer(vocab=vocabulary(), do_lower_case=True, model_max_length=MAX_TEXT_LENGTH)


def build_model() -> MMGroundingDinoForObjectDetection:
    """The untrained network, about 6 million parameters."""
    backbone = SwinConfig(
        image_size=SIDE,
        embed_dim=32,
        depths=[2, 2, 4, 2],
        num_heads=[1, 2, 4, 8],
        window_size=6,
        drop_path_rate=0.0,
        out_indices=[2, 3, 4],
    )
    text = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_TEXT_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = MMGroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=128,
        encoder_layers=2,
        encoder_ffn_dim=384,
        encoder_n_points=2,
        encoder_attention_heads=4,
        decoder_layers=3,
        decoder_ffn_dim=384,
        decoder_attention_heads=4,
        num_queries=30,
        num_feature_levels=3,
        max_text_len=MAX_TEXT_LENGTH,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    return MMGroundingDinoForObjectDetection(config)


def export(model: nn.Module, folder: Path) -> None:
    """Write the folder that transformers loads: configuration, fp16 weights, tokenizer and image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    processor = {
        "image_processor_type": "GroundingDinoImageProcessor",
        "do_resize": True,
        # Every image is stretched to one square: no padding, so a batch of any images answers as each alone.
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_pad": False,
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    weights = {}
    for name, value in model.state_dict().items():
        # transformers ties the heads of all decoder layers to those of the first.
        tied = name.startswith(("model.decoder.bbox_embed.", "model.decoder.class_embed.")) or re.match(
            r"(bbox|class)_embed\.[1-9]", name
        )
        if not tied:
            weights[name] = value.to(torch.float16).contiguous() if value.is_floating_point() else value
    write_safetensors(folder / "model.safetensors", weights, {})
