"""The original Grounding DINO package, groundingdino-py 0.4.0, for its own .pth checkpoints.

The original network gets the interface of the one in `transformers`, so that `GroundingDino` does the rest in the same
way: phrases by their own token spans, images of one size together, long lists of phrases in several passes.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from threading import Lock
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BatchEncoding, BertModel, GroundingDinoConfig
from transformers.models.grounding_dino import GroundingDinoImageProcessorPil

from grounded.config import DetectorConfig
from grounded.errors import ConfigError
from grounded.models.detectors.checkpoint import check_filled
from grounded.models.detectors.fast.backbone import DetectorLogits
from grounded.models.detectors.grounding_dino import GroundingDino
from grounded.models.detectors.original.checkpoint import HIDDEN_DIM, MAX_TEXT_LEN, Architecture, OriginalCheckpoint
from grounded.models.detectors.original.convert import to_config
from segany.precision import own_precision

# Equal in both published networks. Checkpointing saves memory in training, and only warns otherwise.
_FIXED = {
    "modelname": "groundingdino",
    "backbone": "swin_T_224_1k",  # any name that the package accepts: `_patched` builds the backbone by its sizes
    "return_interm_indices": [1, 2, 3],
    "backbone_freeze_keywords": None,
    "position_embedding": "sine",
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "pre_norm": False,
    "dropout": 0.0,
    "hidden_dim": HIDDEN_DIM,
    "query_dim": 4,
    "num_patterns": 0,
    "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "transformer_activation": "relu",
    "dec_pred_bbox_embed_share": True,
    "dn_box_noise_scale": 1.0,
    "dn_label_noise_ratio": 0.5,
    "dn_labelbook_size": 2000,
    "embed_init_tgt": True,
    "max_text_len": MAX_TEXT_LEN,
    "text_encoder_type": "bert-base-uncased",
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_checkpoint": False,
    "use_transformer_ckpt": False,
    "use_text_cross_attention": True,
    "text_dropout": 0.0,
    "fusion_dropout": 0.0,
    "fusion_droppath": 0.1,
    "sub_sentence_present": True,
}
# Held while names in the package are replaced, which every thread sees.
_PATCHING = Lock()


class OriginalNetwork(nn.Module):
    """The original network behind the interface that `GroundingDino` expects of a model.

    Args:
        network: from `build_network`.
        config: its sizes, see `to_config`.
    """

    def __init__(self, network: nn.Module, config: GroundingDinoConfig):
        super().__init__()
        self.network, self.config = network, config

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters. The original position codes are float32, so that nothing else works."""
        return torch.float32

    def encode_image(self, pixel_values: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the pixels of each image: this network encodes images and prompts together."""
        return list(pixel_values)

    def decode_prompts(
        self, features: Sequence[Tensor], input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> DetectorLogits:
        """Detect one prompt in each image, given by its pixels."""
        output: DetectorLogits = self(torch.stack(list(features)), input_ids, attention_mask)
        return output

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"],
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"],
    ) -> DetectorLogits:
        """Detect one prompt in each image, images with the same prompt in one forward.

        The original code mixes up the text masks of a batch when its prompts differ.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            rows.setdefault(tuple(ids[mask.bool()].tolist()), []).append(row)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about code that is not going to change
            outputs = [self.network(pixel_values[own], captions=[prompt] * len(own)) for prompt, own in rows.items()]
        order = torch.tensor([row for own in rows.values() for row in own]).argsort()
        return DetectorLogits(
            torch.cat([output["pred_logits"] for output in outputs])[order.to(pixel_values.device)],
            torch.cat([output["pred_boxes"] for output in outputs])[order.to(pixel_values.device)],
        )


@own_precision()
def load(
    source: str | PathLike[str],
    config: DetectorConfig | None = None,
    device: str | torch.device = "cpu",
    tokenizer: str | PathLike[str] | None = None,
    batch_size: int = 4,
) -> GroundingDino:
    """Load an original checkpoint as a detector. Nothing is downloaded.

    Args:
        source: the .pth file, or a folder with one.
        config: thresholds and image size.
        device: where the network runs; no compiled operator is needed anywhere.
        tokenizer: a folder with the files of a BERT tokenizer; None looks beside the checkpoint.
        batch_size: most passes in one forward.

    Raises:
        ConfigError: the package is not installed, or the JSON file beside the checkpoint is wrong.
        CheckpointError: the file is missing, damaged or of another network, or there is no tokenizer.
    """
    original = OriginalCheckpoint.open(source, tokenizer)
    _import_package()  # before the large file is read
    network = build_network(original.architecture)
    _fill(network, original.weights, str(original.path))
    model = OriginalNetwork(network, to_config(original.architecture)).to(device).eval()
    return GroundingDino(
        model, GroundingDinoImageProcessorPil(), original.tokenizer, config, batch_size, name=str(source)
    )


def build_network(architecture: Architecture) -> nn.Module:
    """Return the original network with random weights. Its captions are sequences of token ids instead of texts.

    Raises:
        ConfigError: the package is not installed.
    """
    package = _import_package()
    with _PATCHING, _patched(package, architecture), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = package.models.build_model(SimpleNamespace(**_FIXED, **asdict(architecture)))
    return network


class _Package(NamedTuple):
    """The modules of groundingdino-py that are used or patched here."""

    models: Any
    network: Any
    backbone: Any
    swin: Any
    tokenizing: Any


def _import_package() -> _Package:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports timm by names that timm has given up
            from groundingdino import models
            from groundingdino.models.GroundingDINO import groundingdino as network
            from groundingdino.models.GroundingDINO.backbone import backbone, swin_transformer
            from groundingdino.util import get_tokenlizer
    except ImportError as error:
        raise ConfigError(
            f"kind groundingdino-py needs the original package ({error}): "
            'pip install "grounded-segany[groundingdino]", or convert the checkpoint with grounded convert-checkpoint'
        ) from error
    return _Package(models, network, backbone, swin_transformer, get_tokenlizer)


@contextmanager
def _patched(package: _Package, architecture: Architecture) -> Iterator[None]:
    """Let the package build a network of any size on transformers 5 without a download; undone at the end."""

    text_config = to_config(architecture).text_config

    def build_swin(_name: str, pretrain_img_size: int, **options: Any) -> nn.Module:
        sizes = {name: getattr(architecture, name) for name in ("embed_dim", "depths", "num_heads", "window_size")}
        swin: nn.Module = package.swin.SwinTransformer(pretrain_img_size, **sizes, **options)
        return swin

    replacements = [
        (package.network, "BertModelWarper", lambda bert_model: bert_model),
        (package.tokenizing, "get_tokenlizer", lambda _type: _TokenPassThrough()),
        (package.tokenizing, "get_pretrained_language_model", lambda _type: _BlockMaskedBert(text_config)),
        (package.backbone, "build_swin_transformer", build_swin),
    ]
    saved = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    try:
        for module, name, value in replacements:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)


class _BlockMaskedBert(BertModel):
    """A BERT that takes the mask (b, t, t) by which each phrase sees only itself; its parameters keep their names."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask[:, None].bool(), **options)


class _TokenPassThrough:
    """Stands in for the tokenizer inside the network, whose captions are token ids already."""

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of the delimiters, which every Grounding DINO has in common."""
        delimiters = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
        return [delimiters[token] for token in tokens]

    def __call__(self, captions: Sequence[Sequence[int]], **_options: Any) -> BatchEncoding:
        ids = torch.tensor([list(caption) for caption in captions])
        return BatchEncoding(
            {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
        )


def _fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load all parameters of `network`; buffers such as indices of relative positions may be missing."""
    expected = network.state_dict()
    missing = {name for name, _ in network.named_parameters(remove_duplicate=False)} - weights.keys()
    common = expected.keys() & weights.keys()
    check_filled(source, missing, {name for name in common if expected[name].shape != weights[name].shape})
    network.load_state_dict(weights, strict=False)
