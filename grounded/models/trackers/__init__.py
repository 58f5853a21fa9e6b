"""Models that follow objects through clips, one file for each. A library is imported only when its kind is named.

A new kind is a file here with classes that follow the `VideoSegmenter` and `Tracking` protocols, a name in
`VideoConfig.kind`, and a branch in `build` and `locate`.
"""

from typing import TYPE_CHECKING

from grounded.config import VideoConfig, bundled_name
from grounded.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from grounded.data.protocols import Segmenter, VideoSegmenter
    from segany.hub import HubModel


def build(config: VideoConfig, device: "str | torch.device", segmenter: "Segmenter") -> "VideoSegmenter":
    """Load the video segmenter that `config` describes.

    Args:
        config: the section `video`.
        device: where to compute; that of `segmenter` for kinds segany and propagation.
        segmenter: of images, in the same pipeline. Kinds segany and propagation work on its embeddings.

    Raises:
        ConfigError: the kind or the checkpoint does not go with the segmenter, or there are no such bundled weights.
        CheckpointError: the checkpoint cannot be read completely.
    """
    if config.kind in ("segany", "propagation"):
        from segany import Predictor

        if not isinstance(segmenter, Predictor):
            raise ConfigError(
                f"video of kind {config.kind} needs a segmenter of kind segany, got a {type(segmenter).__name__}: set "
                "kind and checkpoint of the section video, such as sam2 and facebook/sam2.1-hiera-tiny"
            )
        if config.kind == "propagation":
            from grounded.models.trackers.propagation import PropagationTracker

            return PropagationTracker(segmenter)
        from grounded.models.trackers.segany import SeganyTracker

        return SeganyTracker.from_pretrained(config.checkpoint, segmenter)
    from grounded.models.sam2_checkpoint import TRACKERS
    from grounded.models.trackers.sam2 import Sam2Tracker

    return Sam2Tracker.from_pretrained(config.checkpoint, TRACKERS[config.kind], device)


def locate(config: VideoConfig) -> "Path | HubModel":
    """Return where the checkpoint of `config` is: a local file or folder, or a repository that may need a download.

    Raises:
        ConfigError: there are no such bundled weights, or the kind has none.
        CheckpointError: a local file or folder is missing.
    """
    from pathlib import Path

    if config.weights is None:
        raise ConfigError(f"video of kind {config.kind} has no weights of its own: there is nothing to locate")
    if config.kind == "segany":
        from segany.video.checkpoint import BUNDLED

        path = BUNDLED.get(bundled_name(config.checkpoint) or "", Path(config.checkpoint))
        if not path.is_file():
            raise CheckpointError(f"no such file: {path}; a video memory is bundled:tiny or a .safetensors file")
        return path
    from grounded.models import sam2_checkpoint

    return sam2_checkpoint.locate(config.checkpoint, sam2_checkpoint.TRACKERS[config.kind])
