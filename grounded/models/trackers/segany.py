"""A `VideoSegmenter` by segany's own video memory, on the image model of the pipeline: each frame is encoded once."""

from collections.abc import Iterable, Mapping

from PIL import Image

from grounded.config import bundled_name
from grounded.data.protocols import TrackedMask
from grounded.errors import ConfigError, one_line
from segany import ImageEmbedding, Predictor
from segany.errors import ForeignMemoryError
from segany.precision import own_precision
from segany.utils.rle import RLE, decode_rle, encode_rle
from segany.video.checkpoint import load
from segany.video.predictor import ObjectMemory, TrackedMasks, VideoPredictor


class SeganyTracker:
    """Follows objects with a `VideoPredictor`."""

    def __init__(self, predictor: VideoPredictor) -> None:
        self.predictor = predictor

    @classmethod
    @own_precision()
    def from_pretrained(cls, checkpoint: str, predictor: Predictor) -> "SeganyTracker":
        """Load a video memory for the image model of `predictor`.

        Args:
            checkpoint: "bundled:tiny", or a file from `segany.video.checkpoint.save`.
            predictor: of the image model that the memory was trained for.

        Raises:
            CheckpointError: the weights are not found, or cannot be read.
            ConfigError: they belong to another image model.
        """
        source = bundled_name(checkpoint) or checkpoint
        try:
            memory = load(source, predictor.model)
        except ForeignMemoryError as error:
            raise ConfigError(
                "video of kind segany needs a memory that was trained for the segmenter; kind: propagation, in the "
                f"section video, needs none ({one_line(error, 200)})"
            ) from error
        return cls(VideoPredictor(predictor, memory))

    def start(self, image_size: tuple[int, int]) -> "SeganyTracking":
        """Begin a clip with frames of (height, width) pixels."""
        return SeganyTracking(self.predictor, image_size)


class SeganyTracking:
    """A `Tracking` that holds one `ObjectMemory` for each object, and the embedding of the frame that is shown."""

    def __init__(self, predictor: VideoPredictor, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self._predictor = predictor
        self._memories: dict[int, ObjectMemory] = {}
        self._frame = -1
        self._embedding: ImageEmbedding | None = None

    @property
    def embedding(self) -> ImageEmbedding | None:
        """Of the frame that is shown; the pipeline's segmenter is the one that made it."""
        return self._embedding

    def show(self, number: int, image: Image.Image) -> None:
        if (image.height, image.width) != self.image_size:
            raise ValueError(f"frame {number} must be {self.image_size}, got {(image.height, image.width)}")
        self._frame, self._embedding = number, self._predictor.predictor.encode(image)

    @own_precision()
    def track(self) -> dict[int, TrackedMask]:
        tracked = self._predictor.track(self._frame, self._shown(), list(self._memories.values()))
        masks = self._read(tracked)
        self._memories = dict(zip(self._memories, tracked.memories, strict=True))
        return masks

    @own_precision()
    def give(self, masks: Mapping[int, RLE]) -> None:
        if not masks:
            return
        embedding = self._shown()
        full = decode_rle(list(masks.values()), self.image_size)
        logits = self._predictor.predictor.mask_prompts(embedding, full)
        known = [self._memories.get(name, ObjectMemory()) for name in masks]
        given = self._predictor.give(self._frame, embedding, logits, known)
        self._memories |= zip(masks, given, strict=True)

    def forget(self, ids: Iterable[int]) -> None:
        for name in ids:
            self._memories.pop(name, None)

    def _shown(self) -> ImageEmbedding:
        if self._embedding is None:
            raise ValueError("no frame is shown yet")
        return self._embedding

    def _read(self, tracked: TrackedMasks) -> dict[int, TrackedMask]:
        rles = encode_rle(tracked.prediction.masks[:, 0]) if self._memories else []
        presence = tracked.presence.tolist()
        predicted_iou = tracked.prediction.predicted_iou[:, 0].clamp(0, 1).tolist()
        return {
            name: TrackedMask(rle, seen, iou)
            for name, rle, seen, iou in zip(self._memories, rles, presence, predicted_iou, strict=True)
        }
