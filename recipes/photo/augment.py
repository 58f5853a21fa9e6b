"""Windows of photographs at random zoom, place, flip and colour, and objects pasted from one into another: all on the
device that learns, in fixed shapes."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from recipes.photo.data import Photographs

ZOOM = 0.55, 1.9  # 1 shows the longer side of a photograph in the whole frame
STRETCH = 0.15  # of the sides against one another, natural logarithm
PASTED = 255  # the label of a pasted object
PASTE_SHARE = 0.35  # of images that receive one
PASTE_AREA = 0.008, 0.3  # of the frame, that a pasted object may have
MEAN, STD = 127.0, 128.0


@dataclass(frozen=True, eq=False)
class Batch:
    """b images of s pixels a side with their objects.

    images   normalised
    labels   of the objects, 0 for none; 255 is one that was pasted
    names    of each object, as rows of the vocabulary, -1 for none
    sources  of each image
    hints    boxes of a teacher in pixels, see `Photographs`
    """

    images: Float[Tensor, "b 3 s s"]
    labels: Int64[Tensor, "b s s"]
    names: Int64[Tensor, "b 256"]
    sources: Int64[Tensor, "b"]
    hints: Float[Tensor, "b j 6"]


def draw_batch(data: Photographs, rows: Int64[Tensor, "b"], side: int, generator: torch.Generator) -> Batch:
    """Draw one window of each of these photographs, and paste objects of each into the next."""
    window = _Window.draw(data.sizes[rows], side, generator)
    batch = Batch(
        images=_colour(window.sample(data.images[rows]), generator) * window.inside[:, None],
        labels=window.sample_labels(data.labels[rows]),
        names=data.names[rows].long(),
        sources=data.sources[rows],
        hints=window.move_boxes(data.hints[rows]),
    )
    return _paste(batch, generator)


@dataclass(frozen=True, eq=False)
class _Window:
    """The part of each of b padded squares that the frame shows.

    x, y    source pixel of each column and row of the frame
    inside  (b, s, s) where the frame shows the photograph
    square  side of the padded squares
    """

    x: Float[Tensor, "b s"]
    y: Float[Tensor, "b s"]
    inside: Bool[Tensor, "b s s"]

    @classmethod
    def draw(cls, sizes: Float[Tensor, "b 2"], side: int, generator: torch.Generator) -> "_Window":
        def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(len(sizes), generator=generator, device=sizes.device)

        height, width = sizes.unbind(1)
        low, high = ZOOM
        shown = torch.maximum(height, width) / (low * (high / low) ** uniform())
        stretch = uniform(-STRETCH, STRETCH).exp()
        steps = (torch.arange(side, device=sizes.device) + 0.5) / side
        # A photograph that is smaller than the window lies anywhere in it.
        extent_x, extent_y = shown * stretch, shown / stretch
        x0, y0 = uniform() * (width - extent_x), uniform() * (height - extent_y)
        forwards = steps[None].expand(len(sizes), -1)
        across = torch.where((uniform() < 0.5)[:, None], 1 - forwards, forwards)
        x = x0[:, None] + across * extent_x[:, None]
        y = y0[:, None] + forwards * extent_y[:, None]
        in_x, in_y = (x >= 0) & (x < width[:, None]), (y >= 0) & (y < height[:, None])
        return cls(x, y, in_y[:, :, None] & in_x[:, None, :])

    def _grid(self, square: int) -> Float[Tensor, "b s s 2"]:
        side = self.x.shape[1]
        x = (self.x / square * 2 - 1)[:, None, :].expand(-1, side, -1)
        y = (self.y / square * 2 - 1)[:, :, None].expand(-1, -1, side)
        return torch.stack([x, y], dim=-1)

    def sample(self, images: Tensor) -> Float[Tensor, "b 3 s s"]:
        grid = self._grid(images.shape[-1])
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)

    def sample_labels(self, labels: Tensor) -> Int64[Tensor, "b s s"]:
        grid = self._grid(labels.shape[-1])
        found = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return found[:, 0].round().long() * self.inside

    def move_boxes(self, boxes: Float[Tensor, "b j 6"]) -> Float[Tensor, "b j 6"]:
        """Move a teacher's boxes into the frame: one that is mostly cut off loses its name, one of half is unsure."""
        side = self.x.shape[1]
        x, y = self.x[:, None, None, :], self.y[:, None, None, :]
        scale_x, scale_y = ((one[..., -1] - one[..., 0]) / (side - 1) for one in (x, y))
        moved_x = (boxes[..., 0:4:2] - x[..., 0]) / scale_x + 0.5
        moved_y = (boxes[..., 1:4:2] - y[..., 0]) / scale_y + 0.5
        moved_x = moved_x.sort(dim=-1).values  # a flip exchanges left and right
        whole = ((moved_x[..., 1] - moved_x[..., 0]) * (moved_y[..., 1] - moved_y[..., 0])).clamp(min=1e-3)
        corners = torch.stack([moved_x[..., 0], moved_y[..., 0], moved_x[..., 1], moved_y[..., 1]], -1).clamp(0, side)
        left = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1]) / whole
        names = torch.where(left > 0.15, boxes[..., 4], -1.0)
        return torch.cat([corners, names[..., None], (boxes[..., 5] * (left > 0.5))[..., None]], dim=-1)


def _colour(images: Float[Tensor, "b 3 s s"], generator: torch.Generator) -> Float[Tensor, "b 3 s s"]:
    """Change contrast, brightness, tint and saturation, now and then to grey, and normalise."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        drawn = torch.rand(len(images), channels, 1, 1, generator=generator, device=images.device)
        return low + (high - low) * drawn

    grey = images.mean(dim=1, keepdim=True)
    saturation = torch.where(uniform(0, 1) < 0.05, 0.0, uniform(0.5, 1.5))
    tinted = (grey + (images - grey) * saturation) * uniform(0.92, 1.08, channels=3)
    changed = (tinted - MEAN) * uniform(0.7, 1.3) + MEAN + uniform(-25, 25)
    return (changed.clamp(0, 255) - MEAN) / STD


def object_areas(labels: Int64[Tensor, "b s s"]) -> Float[Tensor, "b 256"]:
    """Pixels of each object; 0 of none."""
    areas = torch.zeros(len(labels), 256, device=labels.device)
    areas.scatter_add_(1, labels.flatten(1), torch.ones_like(labels, dtype=torch.float32).flatten(1))
    areas[:, 0] = 0
    return areas


def _paste(batch: Batch, generator: torch.Generator) -> Batch:
    """Lay an object of the image before over some images, where it is."""
    areas, frame = object_areas(batch.labels), batch.labels[0].numel()
    fits = ((areas > PASTE_AREA[0] * frame) & (areas < PASTE_AREA[1] * frame)).float()
    chosen = torch.multinomial(fits + 1e-9, 1, generator=generator)[:, 0]
    other = torch.arange(len(areas), device=areas.device).roll(1)
    drawn = torch.rand(len(areas), generator=generator, device=areas.device) < PASTE_SHARE
    used = (fits.sum(dim=1)[other] > 0) & drawn
    cut = (batch.labels[other] == chosen[other][:, None, None]) & used[:, None, None]
    names = batch.names.clone()
    names[:, PASTED] = batch.names[other, chosen[other]]
    return replace(
        batch,
        images=torch.where(cut[:, None], batch.images[other], batch.images),
        labels=torch.where(cut, PASTED, batch.labels),
        names=names,
    )
