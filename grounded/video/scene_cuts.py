"""Scene cuts: where one frame shows something else than the frame before."""

import numpy as np
from jaxtyping import Float32
from PIL import Image

_SIDE = 64  # frames are compared at this size
_BINS = 16  # of each colour channel's histogram


class SceneCuts:
    """Tells, frame after frame, where a clip cuts to another scene.

    A cut changes both the colours of the image and where they are; a fast pan keeps the first, a flash the second. So
    the smaller of the two differences is compared: of colour histograms, which is their distance in total variation
    averaged over red, green and blue, and of small images, which is one minus the correlation of their pixels.

    Args:
        threshold: difference from which a frame begins a scene, in 0..1.
    """

    def __init__(self, threshold: float = 0.35) -> None:
        self.threshold = threshold
        self._before: tuple[Float32[np.ndarray, "3 b"], Float32[np.ndarray, p]] | None = None

    def is_cut(self, image: Image.Image) -> bool:
        """Whether this frame begins a new scene. The first frame does not: it begins the clip."""
        small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
        counts = [np.histogram(small[..., channel], _BINS, (0, 256))[0] for channel in range(3)]
        histogram = np.stack(counts).astype(np.float32) / _SIDE**2
        pixels = small.mean(axis=2).ravel()
        centred = (pixels - pixels.mean()) / max(float(pixels.std()), 1e-3)
        before, self._before = self._before, (histogram, centred)
        if before is None:
            return False
        colours = float(np.abs(histogram - before[0]).sum(axis=1).mean() / 2)
        places = 1 - float((centred * before[1]).mean())
        return min(colours, places) > self.threshold
