"""The predictor: encode an image once into a value, then answer any number of prompts about it.

Nothing is remembered between calls. The caller holds the `ImageEmbedding`, so two images can never be mixed up.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor

from segany.errors import EmbeddingFileError, ForeignEmbeddingError, PromptError
from segany.fast.absorbed_attention import SharedImage
from segany.fast.decoder import Extent, FastDecoder, Proposals
from segany.files import PathLike, read_safetensors, write_safetensors
from segany.model import SegAny
from segany.prompts import Index, Prompts, as_selection
from segany.utils.transforms import ImageLike, ResizeFrame, Size, prepare_image

# Bytes of per-prompt image features worked on together: what the cache of a CPU or the memory of a GPU holds well.
# Measured for ViT-B on a CPU with 2 MB of cache a core: 4 prompts together take the least time for each in float32, 8
# in bfloat16.
_BYTES_AT_ONCE = {"cpu": 1 << 24}
_BYTES_AT_ONCE_ELSEWHERE = 1 << 30


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """What a model knows about one image. Sizes are (height, width) in pixels.

    features       the encoder's output for the padded model frame
    original_size  size of the image as it was given
    resized_size   size of the image within the model frame, without padding
    fingerprint    of the model that made it; only that model may use it
    """

    features: Float[Tensor, "1 c h w"]
    original_size: Size
    resized_size: Size
    fingerprint: str
    # What decoding computes once for each image, by device and dtype. Made when first needed, and never saved.
    _shared: dict[tuple[torch.device, torch.dtype], SharedImage] = field(default_factory=dict, init=False, repr=False)

    def shared(self, decoder: FastDecoder) -> SharedImage:
        """What all prompts about this image share in `decoder`, which must be of the model that made it."""
        key = decoder.device, decoder.dtype
        if key not in self._shared:
            self._shared[key] = decoder.share(self.features.to(decoder.device))
        return self._shared[key]

    def to(self, device: torch.device | str) -> "ImageEmbedding":
        return replace(self, features=self.features.to(device))

    def save(self, path: PathLike) -> None:
        """Write a safetensors file, whole or not at all."""
        sizes = {"original_size": self.original_size, "resized_size": self.resized_size}
        metadata = {name: f"{height} {width}" for name, (height, width) in sizes.items()}
        write_safetensors(path, {"features": self.features}, {**metadata, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: PathLike) -> "ImageEmbedding":
        """Read what `save` wrote, onto the CPU. Raises EmbeddingFileError for anything else."""
        try:
            tensors, metadata = read_safetensors(path)
            features, fingerprint = tensors["features"], metadata["fingerprint"]
            original_size, resized_size = (_parse_size(metadata[name]) for name in ("original_size", "resized_size"))
        except (OSError, SafetensorError) as error:
            raise EmbeddingFileError(f"cannot read image embedding {path}: {error}") from error
        except (KeyError, ValueError) as error:
            raise EmbeddingFileError(f"{path} is not an image embedding: missing or malformed {error}") from error
        return cls(features, original_size, resized_size, fingerprint)


def _parse_size(text: str) -> Size:
    height, width = text.split()
    return int(height), int(width)


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """m masks for each of n prompts. Sizes are (height, width) in pixels.

    low_res_logits  cover the whole model frame, padding included; they can be used as mask prompts
    predicted_iou   the model's own estimate of the IoU of each mask with the true one
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
        """Mask logits at the original size: four bytes for every pixel of every mask."""
        return self.frame.restore_logits(self.low_res_logits)

    @property
    def masks(self) -> Bool[Tensor, "n m height width"]:
        """Logits above zero, at the original size."""
        return self.frame.restore_masks(self.low_res_logits)

    def best(self) -> "MaskPrediction":
        """The mask of highest predicted IoU for each prompt (m = 1)."""
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
    """Images and prompts in original pixels, for one model.

    Weights, device and dtype are those that the model has when the predictor is built: change them afterwards, and
    build another one. Work on image cells is done in the dtype of the model's image encoder; tokens, predicted IoU and
    mask logits are float32.
    """

    def __init__(self, model: SegAny, compile: bool = False) -> None:
        """`compile` compiles the image encoder when it is first used, which takes minutes and needs a C++ compiler."""
        self.model = model
        self.fingerprint = model.fingerprint()
        with torch.no_grad():
            self._decoder = FastDecoder(model, next(model.image_encoder.parameters()).dtype)
        self._encode_image = torch.compile(model.encode_image, dynamic=False) if compile else model.encode_image

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def encode(self, image: ImageLike) -> ImageEmbedding:
        """Embed one image: a path, a PIL image or a uint8 (height, width, 3) RGB array. Raises ImageError."""
        return self.encode_batch([image])[0]

    @torch.no_grad()
    def encode_batch(self, images: Sequence[ImageLike], batch_size: int = 8) -> list[ImageEmbedding]:
        """Embed images of any sizes, `batch_size` of them in one pass; the answers are those of `encode`."""
        embeddings = []
        for start in range(0, len(images), batch_size):
            prepared = [prepare_image(image, self.model.config) for image in images[start : start + batch_size]]
            features = self._encode_image(torch.stack([pixels for pixels, _ in prepared]).to(self.device)).float()
            for feature, (_, frame) in zip(features.split(1), prepared, strict=True):
                embeddings.append(ImageEmbedding(feature, frame.original_size, frame.resized_size, self.fingerprint))
        return embeddings

    @torch.no_grad()
    def predict(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool = True, chunk: int | None = None
    ) -> MaskPrediction:
        """Answer prompts given in original pixels; mask prompts are low-resolution logits of an earlier prediction.

        Args:
            embedding: from `encode` of a predictor with the same fingerprint.
            prompts: n prompts, answered independently; n may be 0.
            multimask_output: several masks for prompts that may mean several things, or one mask.
            chunk: prompts decoded together; None chooses by device and model. It does not change the answers.

        Raises:
            ForeignEmbeddingError: the embedding was made by another model.
            PromptError: the prompts do not fit this model.
        """
        frame = self._frame(embedding)
        config = self.model.config
        if len(prompts) == 0:
            logits, predicted_iou = self.model.decode(embedding.features.to(self.device), prompts, multimask_output)
            return MaskPrediction(logits, predicted_iou, frame.original_size, frame.resized_size, frame.image_size)
        # Mask prompts are read on the padding as well, so the answers to be used as such cover it.
        everything = (config.grid_size, config.grid_size)
        logits_parts, iou_parts = [], []
        for part in self._propose(embedding, prompts, multimask_output, chunk, everything):
            wanted = torch.ones_like(part.predicted_iou, dtype=torch.bool)
            logits_parts.append(part.low_res_logits(wanted).unflatten(0, wanted.shape))
            iou_parts.append(part.predicted_iou)
        return MaskPrediction(
            torch.cat(logits_parts), torch.cat(iou_parts), frame.original_size, frame.resized_size, frame.image_size
        )

    @torch.no_grad()
    def propose(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool = True, chunk: int | None = None
    ) -> Iterator[Proposals]:
        """Answer prompts as `predict` does, all but the masks themselves, which each part computes for those wanted.

        For many prompts of which few matter: predicted IoU costs about half of a mask. Yields answers to consecutive
        parts of the prompts; let go of one before asking for the next. Low-resolution logits show the picture and at
        least a pixel beyond, not all of the model frame.

        Arguments and errors are those of `predict`.
        """
        visible = _visible_cells(self._frame(embedding), self.model.config.grid_size)
        yield from self._propose(embedding, prompts, multimask_output, chunk, visible)

    def _propose(
        self, embedding: ImageEmbedding, prompts: Prompts, multimask_output: bool, chunk: int | None, visible: Extent
    ) -> Iterator[Proposals]:
        features, shared = embedding.features.to(self.device), embedding.shared(self._decoder)
        prompts = _to_model_frame(prompts.to(self.device), self._frame(embedding))
        chunk = chunk or self._default_chunk()
        for start in range(0, len(prompts), chunk):
            part = prompts[start : start + chunk]
            yield self._decoder.propose(features, shared, part, multimask_output, visible)

    @torch.no_grad()
    def mask_prompts(
        self, embedding: ImageEmbedding, masks: Float[Tensor, "n h w"] | Bool[Tensor, "n h w"]
    ) -> Float[Tensor, "n 1 l l"]:
        """Mask prompts out of masks of the whole original image, from wherever they come.

        Args:
            embedding: from `encode` of a predictor with the same fingerprint.
            masks: at any resolution, full size as well as a coarse heat map: logits, or bool, which counts as logits
                of 8 inside and -8 outside.

        Returns:
            low-resolution logits as `Prompts.masks` wants them, confidently negative on the padding of the model frame.

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


def _visible_cells(frame: ResizeFrame, grid_size: int) -> Extent:
    """Cells of the embedding whose mask logits show the picture, or are interpolated with one that does."""
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
