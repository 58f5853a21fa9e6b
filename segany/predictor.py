"""The predictor: encode an image once, then predict masks for any number of prompts.

No state is kept between calls. The caller holds the `ImageEmbedding`, so two images can never be mixed up.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor

from segany.errors import CheckpointError, EmbeddingFileError, ForeignEmbeddingError, PromptError
from segany.fast.absorbed_attention import SharedImage
from segany.fast.decoder import DeferredPrediction, Extent, FastDecoder
from segany.files import PathLike, read_safetensors, write_safetensors
from segany.model import SegAny
from segany.precision import own_precision
from segany.prompts import Index, Prompts, as_selection
from segany.utils.transforms import ImageLike, ResizeFrame, Size, prepare_image

# Bytes of per-prompt image features processed together, to fit the cache of a CPU or the memory of a GPU. Measured for
# ViT-B on a CPU with 2 MB of cache per core: time per prompt is lowest with 4 prompts in float32 and 8 in bfloat16.
_BYTES_AT_ONCE = {"cpu": 1 << 24}
_BYTES_AT_ONCE_ELSEWHERE = 1 << 30


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """The embedding of one image. Sizes are (height, width) in pixels.

    features       the encoder's output for the padded model frame
    original_size  size of the original image
    resized_size   size of the image within the model frame, without padding
    fingerprint    of the model that made the embedding; no other model can use it
    hq_features    finer features of the image, for SAM-HQ alone
    """

    features: Float[Tensor, "1 c h w"]
    original_size: Size
    resized_size: Size
    fingerprint: str
    hq_features: Float[Tensor, "1 k lh lw"] | None = None
    # Projections that decoding needs once per image, by device and dtype. Computed on first use, never saved.
    _shared: dict[tuple[torch.device, torch.dtype], SharedImage] = field(default_factory=dict, init=False, repr=False)

    def shared_image(self, decoder: FastDecoder) -> SharedImage:
        """Projections of this image for all prompts. `decoder` must belong to the model that made the embedding."""
        key = decoder.device, decoder.dtype
        if key not in self._shared:
            self._shared[key] = decoder.project_image(self.features.to(decoder.device))
        return self._shared[key]

    def to(self, device: torch.device | str) -> "ImageEmbedding":
        hq_features = None if self.hq_features is None else self.hq_features.to(device)
        return replace(self, features=self.features.to(device), hq_features=hq_features)

    def save(self, path: PathLike) -> None:
        """Write a safetensors file atomically."""
        sizes = {"original_size": self.original_size, "resized_size": self.resized_size}
        metadata = {name: f"{height} {width}" for name, (height, width) in sizes.items()}
        tensors = {"features": self.features}
        if self.hq_features is not None:
            tensors["hq_features"] = self.hq_features
        write_safetensors(path, tensors, {**metadata, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: PathLike) -> "ImageEmbedding":
        """Read a file written by `save`, onto the CPU.

        Raises:
            EmbeddingFileError: the file cannot be read or does not hold an embedding.
        """
        try:
            tensors, metadata = read_safetensors(path)
            features, fingerprint = tensors["features"], metadata["fingerprint"]
            original_size, resized_size = (_parse_size(metadata[name]) for name in ("original_size", "resized_size"))
        except (OSError, SafetensorError) as error:
            raise EmbeddingFileError(f"cannot read image embedding {path}: {error}") from error
        except (KeyError, ValueError) as error:
            raise EmbeddingFileError(f"{path} is not an image embedding: missing or malformed {error}") from error
        return cls(features, original_size, resized_size, fingerprint, tensors.get("hq_features"))


def _parse_size(text: str) -> Size:
    height, width = text.split()
    return int(height), int(width)


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """m masks for each of n prompts. Sizes are (height, width) in pixels.

    low_res_logits  mask logits of the whole model frame, padding included; they can serve as mask prompts
    predicted_iou   the model's estimate of each mask's IoU with the object
    original_size, resized_size, image_size  how the image lies in the model frame, see `ResizeFrame`

    Indexing selects prompts and always returns a `MaskPrediction`, also for one integer.
    """

    low_res_logits: Float[Tensor, "n m h w"]
    predicted_iou: Float[Tensor, "n m"]
    original_size: Size
    resized_size: Size
    image_size: int

    @property
    def frame(self) -> ResizeFrame:
        return ResizeFrame(self.original_size, self.resized_size, self.image_size)

    @property
    def logits(self) -> Float[Tensor, "n m height width"]:
        """Mask logits at the original size, in float32: four bytes per pixel of every mask."""
        return self.frame.restore_logits(self.low_res_logits)

    @property
    def masks(self) -> Bool[Tensor, "n m height width"]:
        """Masks at the original size: logits above zero."""
        return self.frame.restore_masks(self.low_res_logits)

    def best(self) -> "MaskPrediction":
        """The mask with the highest predicted IoU for each prompt (m = 1)."""
        if len(self) == 0:
            return replace(self, low_res_logits=self.low_res_logits[:, :1], predicted_iou=self.predicted_iou[:, :1])
        prompt = torch.arange(len(self), device=self.predicted_iou.device)
        best = self.predicted_iou.argmax(dim=1)
        return replace(
            self,
            low_res_logits=self.low_res_logits[prompt, best][:, None],
            predicted_iou=self.predicted_iou[prompt, best][:, None],
        )

    def __len__(self) -> int:
        return self.low_res_logits.shape[0]

    def __getitem__(self, index: Index) -> "MaskPrediction":
        chosen = as_selection(index, len(self))
        return replace(self, low_res_logits=self.low_res_logits[chosen], predicted_iou=self.predicted_iou[chosen])


class Predictor:
    """Predict masks with one model, for images and prompts in original pixels.

    The predictor uses the weights, device and dtype that the model has when it is built: after changing them, build a
    new one. Image features are processed in the dtype of the model's image encoder; tokens, predicted IoU and mask
    logits are float32, whatever precision is set around a call.

    A predictor can be pickled, for workers of any kind. Of a model from `segany.load` the pickle holds the place of the
    weights, which are loaded again on the other side, once per process; of another model it holds the weights.
    """

    def __init__(self, model: SegAny, compile: bool = False) -> None:
        """Build a predictor.

        Args:
            model: in evaluation mode.
            compile: compile the image encoder on first use, which takes minutes and needs a C++ compiler.
        """
        self.model, self.compile = model, compile
        self.fingerprint = model.fingerprint()
        with torch.no_grad():
            self._decoder = FastDecoder(model, next(model.image_encoder.parameters()).dtype)
        encode = model.encode_image_hq
        self._encode_image = torch.compile(encode, dynamic=False) if compile else encode

    def __reduce__(self) -> tuple[Callable[..., "Predictor"], tuple[Any, ...]]:
        if self.model.loaded_with is None:
            return Predictor, (self.model, self.compile)
        return _load_again, (tuple(self.model.loaded_with.items()), self.compile, self.fingerprint)

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def encode(self, image: ImageLike) -> ImageEmbedding:
        """Encode one image.

        Args:
            image: a path, a PIL image or a uint8 (height, width, 3) RGB array.

        Raises:
            ImageError: the image cannot be read, see `segany.utils.images.read_image`.
        """
        return self.encode_batch([image])[0]

    @torch.no_grad()
    @own_precision()
    def encode_batch(self, images: Sequence[ImageLike], batch_size: int = 8) -> list[ImageEmbedding]:
        """Encode images of any sizes, `batch_size` of them in one pass, with the same results as `encode`.

        Raises:
            ImageError: an image cannot be read.
        """
        embeddings = []
        for start in range(0, len(images), batch_size):
            prepared = [prepare_image(image, self.model.config) for image in images[start : start + batch_size]]
            pixels = torch.stack([pixels for pixels, _ in prepared]).to(self.device)
            features, hq_features = self._encode_image(pixels)
            fine = [None] * len(prepared) if hq_features is None else hq_features.float().split(1)
            for feature, hq_feature, (_, frame) in zip(features.float().split(1), fine, prepared, strict=True):
                sizes = (frame.original_size, frame.resized_size)
                embeddings.append(ImageEmbedding(feature, *sizes, self.fingerprint, hq_feature))
        return embeddings

    @torch.no_grad()
    @own_precision()
    def predict(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool = True, chunk: int | None = None
    ) -> MaskPrediction:
        """Predict masks for prompts in original pixels. Mask prompts are low-resolution logits, as predicted before.

        Args:
            embedding: from `encode` of a predictor with the same fingerprint.
            prompts: n independent prompts; n may be 0.
            multimask_output: several masks for ambiguous prompts, or one mask.
            chunk: number of prompts decoded together; None chooses by device and model. It does not change the masks.

        Raises:
            ForeignEmbeddingError: the embedding was made by another model.
            PromptError: the prompts do not fit this model.
        """
        frame = self._frame(embedding)
        config = self.model.config
        if len(prompts) == 0:
            logits, predicted_iou = self.model.decode(embedding.features.to(self.device), prompts, multimask_output)
            return MaskPrediction(logits, predicted_iou, frame.original_size, frame.resized_size, frame.image_size)
        # The result can serve as a mask prompt, which covers the padding too, so masks cover the whole model frame.
        whole_frame = (config.grid_size, config.grid_size)
        logits_parts, iou_parts = [], []
        for part in self._predict_in_chunks(embedding, prompts, multimask_output, chunk, whole_frame):
            every_mask = torch.ones_like(part.predicted_iou, dtype=torch.bool)
            logits_parts.append(part.low_res_logits(every_mask).unflatten(0, every_mask.shape))
            iou_parts.append(part.predicted_iou)
        return MaskPrediction(
            torch.cat(logits_parts), torch.cat(iou_parts), frame.original_size, frame.resized_size, frame.image_size
        )

    @torch.no_grad()
    def predict_deferred(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool = True, chunk: int | None = None
    ) -> Iterator[DeferredPrediction]:
        """Predict the IoU of every mask first, and each mask's logits only if they are selected.

        For many prompts of which few masks are kept: predicted IoU costs about half as much as a mask. Yields
        predictions for consecutive parts of the prompts; delete one before taking the next, as each holds much memory.
        Their low-resolution logits cover the image and at least one pixel beyond it, not the whole model frame.

        Arguments and errors are those of `predict`.
        """
        visible = _visible_cells(self._frame(embedding), self.model.config.grid_size)
        yield from self._predict_in_chunks(embedding, prompts, multimask_output, chunk, visible)

    def _predict_in_chunks(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool, chunk: int | None, visible: Extent
    ) -> Iterator[DeferredPrediction]:
        with own_precision():
            features, shared = embedding.features.to(self.device), embedding.shared_image(self._decoder)
            prompts = _to_model_frame(prompts.to(self.device), self._frame(embedding))
        hq_features = None if embedding.hq_features is None else embedding.hq_features.to(self.device)
        chunk = chunk or self._default_chunk()
        for start in range(0, len(prompts), chunk):
            part = prompts[start : start + chunk]
            with own_precision():  # not around the yield: what the caller does meanwhile is computed as it wants
                prediction = self._decoder.predict_deferred(
                    features, shared, part, multimask_output, visible, hq_features
                )
            yield prediction
            del prediction

    @torch.no_grad()
    @own_precision()
    def mask_prompts(
        self, embedding: ImageEmbedding, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"]
    ) -> Float[Tensor, "n 1 l l"]:
        """Turn masks from any source, which cover the whole original image, into mask prompts.

        Args:
            embedding: from `encode` of a predictor with the same fingerprint.
            masks: of any resolution, from a coarse heat map to full size: logits, or bool, which is converted to
                logits of 8 inside and -8 outside.

        Returns:
            low-resolution logits for `Prompts.masks`, with confident background on the padding of the model frame.

        Raises:
            ForeignEmbeddingError: the embedding was made by another model.
            PromptError: the masks have no pixel.
        """
        if 0 in masks.shape[1:]:
            raise PromptError(f"masks must be (n, h, w) with at least one pixel each, got {tuple(masks.shape)}")
        frame = self._frame(embedding)
        return frame.mask_prompts(masks.to(self.device), self.model.config.low_res_size)

    def _frame(self, embedding: ImageEmbedding) -> ResizeFrame:
        if embedding.fingerprint != self.fingerprint:
            raise ForeignEmbeddingError(
                f"the embedding was made by model {embedding.fingerprint}, this predictor is {self.fingerprint}"
            )
        return ResizeFrame(embedding.original_size, embedding.resized_size, self.model.config.image_size)

    def _default_chunk(self) -> int:
        config = self.model.config
        bytes_per_prompt = config.grid_size**2 * config.prompt_dim * self._decoder.dtype.itemsize
        return max(1, _BYTES_AT_ONCE.get(self.device.type, _BYTES_AT_ONCE_ELSEWHERE) // bytes_per_prompt)


# Some libraries pickle the predictor with every task: a worker must still load it only once.
@lru_cache(maxsize=1)
def _load_again(arguments: tuple[tuple[str, Any], ...], compile: bool, fingerprint: str) -> Predictor:
    from segany.checkpoint import load

    predictor = Predictor(load(**dict(arguments)), compile)
    if predictor.fingerprint != fingerprint:
        source = dict(arguments)["source"]
        raise CheckpointError(
            f"{source}: holds other weights than the predictor that was pickled. If they were trained after loading, "
            "save them first, and load the predictor from there"
        )
    return predictor


def _visible_cells(frame: ResizeFrame, grid_size: int) -> Extent:
    """Cells of the embedding whose mask logits lie in the image, or are interpolated with logits that do."""
    low_res = 4 * grid_size
    height, width = (
        min(grid_size, math.ceil((math.ceil(extent * low_res / frame.image_size) + 1) / 4))
        for extent in frame.resized_size
    )
    return height, width


def _to_model_frame(prompts: Prompts, frame: ResizeFrame) -> Prompts:
    return Prompts(
        points=None if prompts.points is None else frame.resize_points(prompts.points),
        point_labels=prompts.point_labels,
        boxes=None if prompts.boxes is None else frame.resize_boxes(prompts.boxes),
        masks=prompts.masks,
        text=prompts.text,
    )
