"""What one user may ask of a shared app, and pictures brought within it."""

from dataclasses import dataclass, replace

from grounded.data.image import ImageLike, SourceImage, open_image


@dataclass(frozen=True)
class Limits:
    """Bounds for uploads and for the time of one event."""

    max_side: int = 2048  # pixels; larger pictures are scaled down, which the user is told
    max_megapixels: float = 100.0  # larger pictures are refused by the size that their file states
    max_file_mb: int = 30  # of one upload
    max_pictures: int = 100  # of one batch
    seconds: float = 300.0  # for one event


def fit(image: ImageLike | SourceImage, limits: Limits) -> SourceImage:
    """Open a picture, and scale it down where its longer side is beyond the limit; a note on it says so.

    Raises:
        ImageError: it cannot be read, or is refused.
    """
    source = open_image(image, round(limits.max_megapixels * 1e6))
    width, height = source.pixels.size
    scale = limits.max_side / max(width, height)
    if scale >= 1:
        return source
    size = max(1, round(width * scale)), max(1, round(height * scale))
    note = f"scaled down from {width} x {height} to {size[0]} x {size[1]} pixels"
    return replace(source, pixels=source.pixels.resize(size, reducing_gap=2.0), notes=(*source.notes, note))
