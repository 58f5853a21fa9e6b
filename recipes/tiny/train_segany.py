"""Train the bundled segany `tiny`: points, boxes, masks and the text prompt, with corrective clicks.

`python -m recipes.tiny.train_segany --pool runs/pool --out runs/segany`, then the same with `--export`
writes segany/weights/tiny.safetensors, for larger inputs (`segany_size`). The image encoder learns alone first, which
takes the most steps and the least time for each. The text prompt is taught with CLIP image embeddings of mask crops
(Segment Anything, section 7.5); from `--text-from` on, text embeddings of the phrase take their place half of the time.
"""

from pathlib import Path

import click
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny import train_clip
from recipes.tiny.pool import SIDE, open_pool
from recipes.tiny.segany_batches import CLICKED, GRID, KINDS, LOW, make_batch
from recipes.tiny.segany_dense import DenseReadings
from recipes.tiny.segany_size import CONFIG, SHIPPED, resized
from recipes.tiny.training import Settings, rank_and_size, train
from recipes.tiny.windows import WindowDecoder, cut, place_windows
from segany import Prompts, SegAny
from segany.checkpoint import load, save
from segany.losses import sigmoid_focal
from segany.masks import masks_to_boxes
from segany.points import random_point
from segany.training import interactive_rounds

WEIGHTS = Path(__file__).parents[2] / "segany/weights/tiny.safetensors"
MIDDLE_SHARE = 0.5  # of the corrective clicks: into the middle of the error, as measured, not anywhere in it


def normalised(pixels: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """uint8 (b, 3, SIDE, SIDE) -> float with zeros beyond each picture, as the predictor pads."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CONFIG.pixel_mean, CONFIG.pixel_std))
    result = (pixels.float() - mean) / std
    for row, (height, width) in enumerate(sizes):
        result[row, :, height:] = 0
        result[row, :, :, width:] = 0
    return result


def tight_boxes(truths: Tensor) -> Tensor:
    """Boxes (n, 4), xyxy, of (n, h, w) bool masks; the far sides lie behind the last pixel."""
    return masks_to_boxes(truths) + torch.tensor([0, 0, 1, 1])


def jittered_boxes(truths: Tensor) -> Tensor:
    """Boxes of (n, h, w) bool masks, each side off by a tenth of the box's size at most (appendix A of the paper; at
    most 10 pixels).
    """
    corners = tight_boxes(truths)
    size = (corners[:, 2:] - corners[:, :2]).repeat(1, 2)
    noise = (torch.randn_like(corners) * 0.05 * size).clamp(-10, 10) * (torch.rand(len(corners), 1) < 0.8)
    return (corners + noise).clamp(0, SIDE)


def embed_phrases(clip: nn.Module, group: dict, text_share: float) -> Tensor:
    """CLIP embeddings (n, 1, c): of the crops, or of the phrases with the given probability."""
    with torch.no_grad():
        images = clip.encode_image(train_clip.normalised(group["crop"]), normalize=True)
        if text_share == 0:
            return images[:, None]
        tokens = open_clip.tokenize(group["phrase"], train_clip.MODEL["text_cfg"]["context_length"])
        texts = clip.encode_text(tokens, normalize=True)
        return torch.where(torch.rand(len(images), 1) < text_share, texts, images)[:, None]


def make_prompts(kind: str, group: dict, clip: nn.Module, text_share: float) -> Prompts:
    """The first prompt of a kind, in pixels of the frame."""
    fields: dict[str, Tensor] = {}
    if "point" in kind:
        points, labels = random_point(group["truth"])
        fields |= {"points": points[:, None], "point_labels": labels[:, None]}
    if "box" in kind:
        fields["boxes"] = jittered_boxes(group["truth"])
    if "text" in kind:
        fields["text"] = embed_phrases(clip, group, text_share)
    return Prompts(**fields)


class Trainee(nn.Module):
    """The model, and linear readings of its image embedding, which are dropped after training."""

    def __init__(self, model: SegAny) -> None:
        super().__init__()
        self.model = model
        self.dense = DenseReadings()
        self.reading = nn.Linear(CONFIG.prompt_dim, CONFIG.text_dim or 0)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def naming_loss(self, features: Tensor, text: Tensor, truths: Tensor) -> Tensor:
        """Cells (n, c, h, w) that an object covers should read as its CLIP embedding (n, 1, d), and no others.

        The masks alone hardly teach the encoder what things are called; this does, and the text prompt needs it.
        """
        cells = F.normalize(self.reading(features.permute(0, 2, 3, 1)), dim=-1)  # (n, h, w, d)
        logits = torch.einsum("nhwd,nd->nhw", cells, F.normalize(text[:, 0], dim=-1)) * self.scale.exp() + self.bias
        covered = F.adaptive_avg_pool2d(truths, logits.shape[-1])
        return (sigmoid_focal(logits, covered).sum((1, 2)) / covered.sum((1, 2)).clamp(min=1)).mean()


def compute_loss(trainee: Trainee, clip: nn.Module, batch: dict, text_share: float, frozen: bool) -> dict[str, Tensor]:
    """The dense losses and the interactive ones of every kind of prompt, on one encoding of the pictures.

    `frozen` leaves the image encoder as it is, and the dense losses out.
    """
    model = trainee.model
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(not frozen):
        features = model.encode_image(normalised(batch["pixels"], batch["sizes"]))
    features = features.float()
    total = sum(KINDS.values())
    parts = {} if frozen else trainee.dense.losses(features, batch["maps"])
    for kind, group in batch["groups"].items():
        prompts = make_prompts(kind, group, clip, text_share)
        own = features[group["picture"]]
        truths = F.avg_pool2d(group["truth"].float()[:, None], SIDE // LOW)[:, 0]
        if prompts.text is not None:
            named = trainee.naming_loss(own, prompts.text, truths)
            parts[f"naming, {kind}"] = 0.3 * len(prompts) / total * named
        window = GRID if kind == "text" else batch["window"]
        corners = place_windows(tight_boxes(group["truth"]) * GRID / SIDE, GRID, window)
        clicked = CLICKED[kind]
        for some, rounds in ((slice(clicked), batch["rounds"]), (slice(clicked, None), 1)):
            decoder = WindowDecoder(model, corners[some], window)
            answers = interactive_rounds(
                decoder,
                cut(own[some], corners[some], window),
                decoder.shift(prompts[some], -1),
                cut(truths[some], corners[some] * LOW // GRID, window * LOW // GRID),
                rounds,
                middle_share=MIDDLE_SHARE,
            )
            for index, answer in enumerate(answers):
                share = len(corners[some]) / total
                name = kind if index == 0 else f"{kind} {index}"
                weight = share if index == 0 else len(prompts) / total / (rounds - 1)
                parts[name] = parts.get(name, 0) + weight * answer.total
    return parts


@click.command()
@click.option("--pool", type=click.Path(path_type=Path), default=Path("runs/pool"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/segany"), show_default=True)
@click.option("--steps", default=4300, show_default=True)
@click.option("--encoder-steps", default=3100, show_default=True, help="Steps for the encoder alone, at the start.")
@click.option(
    "--decoder-steps", default=0, show_default=True, help="Steps after those in which the encoder is left as it is."
)
@click.option("--text-from", default=3200, show_default=True, help="The step from which text embeddings are mixed in.")
@click.option("--rate", default=1.0, show_default=True, help="Learning rates as a multiple of the usual ones.")
@click.option("--in-memory", is_flag=True, help="Keep the scenes in memory, 6 GB for 23,000 of them.")
@click.option("--from-shipped", is_flag=True, help="Start from the shipped weights instead of random ones.")
@click.option("--from-run", type=click.Path(path_type=Path), help="Start from the weights of another run, a folder.")
@click.option("--new-text", is_flag=True, help="Teach the text prompt from random weights, whatever the start.")
@click.option("--export", "to_export", is_flag=True, help="Only write the trained weights, as segany loads them.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="The file to export to; else the bundled one."
)
def main(
    pool: Path,
    out: Path,
    steps: int,
    encoder_steps: int,
    decoder_steps: int,
    text_from: int,
    rate: float,
    in_memory: bool,
    from_shipped: bool,
    from_run: Path | None,
    new_text: bool,
    to_export: bool,
    weights: Path,
) -> None:
    """Train the tiny segany."""
    torch.manual_seed(0)
    trainee = Trainee(SegAny(CONFIG))
    untaught = {name: value.clone() for name, value in trainee.state_dict().items() if ".text_" in name}
    if from_shipped:
        trainee.model.load_state_dict(resized(load(WEIGHTS), CONFIG.image_size).state_dict())
    if from_run is not None:
        trainee.load_state_dict(torch.load(from_run / "state.pt", weights_only=True)["model"])
    if new_text:
        trainee.load_state_dict(untaught, strict=False)
    if to_export:
        trainee.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
        weights.parent.mkdir(parents=True, exist_ok=True)
        save(resized(trainee.model, SHIPPED.image_size), weights)
        return
    clip = train_clip.load_shipped().eval()
    scenes = open_pool(pool, in_memory=("framed", "masks") if in_memory else (), part=rank_and_size())
    settings = Settings(
        out,
        steps,
        learning_rate=rate * 4e-4,
        muon_rate=rate * 7e-4,
        not_for_muon=("rel_pos",),
        decay_share=0.5,
        boosted=encoder_steps,
    )
    train(
        trainee,
        lambda step: make_batch(scenes, step, encoder_steps),
        lambda t, b, step: compute_loss(
            t, clip, b, 0.5 if step >= text_from else 0.0, frozen=0 <= step - encoder_steps < decoder_steps
        ),
        settings,
    )


if __name__ == "__main__":
    main()
