"""Checkpoints of further detectors with tiny models of random weights, in the layouts of the published ones."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from grounded.errors import ConfigError
from grounded.models.detectors.original import package
from grounded.models.detectors.original.checkpoint import Architecture
from tests.grounded import builders

TINY = Architecture(
    embed_dim=8,
    depths=(1, 1, 2, 1),
    num_heads=(1, 1, 2, 2),
    window_size=4,
    nheads=4,
    enc_layers=2,
    dec_layers=2,
    dim_feedforward=32,
    num_queries=12,
    text_vocab_size=len(builders.bert_vocabulary()),
    text_hidden_size=32,
    text_layers=1,
    text_heads=2,
    text_feedforward=32,
    text_positions=32,
)


def randomise(model: nn.Module, seed: int = 0, std: float = 0.15) -> nn.Module:
    """Draw weights large enough for boxes that differ, where the usual ones would make all alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embeddings" not in name:
                parameter.normal_(std=std, generator=generator)
            elif "embeddings" not in name:
                # Biases and gains that are not 0 and 1, so that a confusion between them shows.
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


def original_network(seed: int = 0) -> nn.Module:
    """A tiny network of the original package; skips the test where the package is not installed."""
    torch.manual_seed(seed)
    try:
        network = package.build_network(TINY)
    except ConfigError as error:
        pytest.skip(str(error))
    randomise(network, seed, std=0.04)  # a wider network: with more, it would blow up the smallest difference
    with torch.no_grad():
        for parameter in network.transformer.decoder.norm.parameters():
            parameter.mul_(0.1)  # outputs of the size of trained ones: otherwise every score would be 0 or 1
    return network


def save_original(folder: Path, prefix: str = "module.") -> Path:
    """Write tiny.pth with tiny.json and vocab.txt beside it, as the original package saves. Returns the .pth file."""
    weights = {f"{prefix}{name}": value for name, value in original_network().state_dict().items()}
    return save_pth(folder, weights)


def save_pth(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write weights as tiny.pth with tiny.json and vocab.txt beside it. Returns the .pth file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights}, folder / "tiny.pth")
    (folder / "tiny.json").write_text(json.dumps(asdict(TINY)))
    save_vocabulary(folder)
    return folder / "tiny.pth"


def save_vocabulary(folder: Path) -> Path:
    """Write vocab.txt of `builders.bert_vocabulary`, one token a line. Returns `folder`."""
    vocabulary = builders.bert_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    return folder


def save_llmdet(folder: Path) -> Path:
    """Write a folder like LLMDet's largest: MM Grounding DINO with heads of their own in each layer, five feature maps
    from all four stages. Returns `folder`."""
    import transformers

    builders.save_detector(folder, "mm-grounding-dino")
    config = transformers.MMGroundingDinoConfig.from_pretrained(folder)
    backbone = {**config.backbone_config.to_dict(), "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    del backbone["out_indices"]
    config = transformers.MMGroundingDinoConfig(
        **{
            **config.to_dict(),
            "backbone_config": transformers.SwinConfig(**backbone),
            "text_config": config.text_config,
            "num_feature_levels": 5,
            "decoder_bbox_embed_share": False,
            "decoder_cls_embed_share": False,
        }
    )
    torch.manual_seed(0)
    randomise(transformers.MMGroundingDinoForObjectDetection(config)).save_pretrained(folder)
    return folder


def clip_tokenizer():
    """A `transformers.CLIPTokenizer` that knows single letters, alone and at the end of a word."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789?!.,-'"
    # "!" pads, and the end is the largest id, by which the text encoder finds it.
    tokens = ["!", *(letter for letter in letters if letter != "!"), *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=16)


def owl_model(family: str, image_size: int = 64, seed: int = 0) -> nn.Module:
    """An "owlvit" or "owlv2" of random weights with 16 patches, in eval mode."""
    import transformers

    config_class, model_class = {
        "owlvit": (transformers.OwlViTConfig, transformers.OwlViTForObjectDetection),
        "owlv2": (transformers.Owlv2Config, transformers.Owlv2ForObjectDetection),
    }[family]
    end = len(clip_tokenizer()) - 1
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = config_class(
        text_config={**tower, "vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end},
        vision_config={**tower, "image_size": image_size, "patch_size": image_size // 4},
        projection_dim=32,
    )
    torch.manual_seed(seed)
    return randomise(model_class(config), seed)


def save_owl(folder: Path, family: str, image_size: int = 64) -> Path:
    """Write a complete OWL folder: config, weights, tokenizer and image processor. Returns `folder`."""
    from transformers.models.owlv2 import Owlv2ImageProcessorPil
    from transformers.models.owlvit import OwlViTImageProcessorPil

    processor = {"owlvit": OwlViTImageProcessorPil, "owlv2": Owlv2ImageProcessorPil}[family]
    owl_model(family, image_size).save_pretrained(folder)
    processor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder
