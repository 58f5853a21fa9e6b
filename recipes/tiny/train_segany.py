"""Train the bundled segany `tiny`: points, boxes, masks and the text prompt, with corrective clicks.

`python -m recipes.tiny.train_segany --pool runs/pool --out runs/segany`, then the same with `--export`
writes segany/weights/tiny.safetensors. A pool with larger images trains for larger inputs (`segany_size`); what is
exported is for the size that ships. The image encoder learns alone first, which
takes the most steps and the least time for each. The text prompt is taught with CLIP image embeddings of mask crops
(Segment Anything, section 7.5); from `--text-from` on, text embeddings of the phrase take their place half of the time.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny import train_clip
from recipes.tiny.pool import open_pool
from recipes.tiny.segany_batches import BATCH, CLICKED, KINDS, make_batch
from recipes.tiny.segany_dense import STEP, SUB, DenseReadings
from recipes.tiny.segany_size import SHIPPED, config_for, mixed, resized
from recipes.tiny.training import Settings, rank_and_size, train
from recipes.tiny.windows import WindowDecoder, cut, low_precision, place_windows
from segany import Prompts, SegAny
from segany.checkpoint import load, save
from segany.training.losses import sigmoid_focal
from segany.training.rounds import interactive_rounds
from segany.utils.masks import masks_to_boxes
from segany.utils.points import random_point

WEIGHTS = Path(__file__).parents[2] / "segany/weights/tiny.safetensors"
MIDDLE_SHARE = 0.5  # of the corrective clicks: into the middle of the error, as measured, not anywhere in it


def normalised(pixels: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """uint8 (b, 3, side, side) -> float with zeros beyond each image, as the predictor pads."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIPPED.pixel_mean, SHIPPED.pixel_std))
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
    return (corners + noise).clamp(0, truths.shape[-1])


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
        self.reading = nn.Linear(SHIPPED.prompt_dim, SHIPPED.text_dim or 0)
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


@dataclass(frozen=True)
class Lesson:
    """How a batch is learned."""

    text_share: float = 0.0  # probability that a phrase is a text embedding, not one of the object's crop
    frozen: bool = False  # leave the image encoder as it is, and the dense losses out
    readings: bool = True  # False: leave out the dense losses and the naming, so that prompts alone teach
    dtype: torch.dtype = torch.bfloat16


def compute_loss(trainee: Trainee, clip: nn.Module, batch: dict, lesson: Lesson) -> dict[str, Tensor]:
    """The dense losses and the interactive ones of every kind of prompt, on one encoding of the images."""
    model = trainee.model
    with low_precision(lesson.dtype), torch.set_grad_enabled(not lesson.frozen):
        features = model.encode_image(normalised(batch["pixels"], batch["sizes"]))
    features = features.float()
    grid = features.shape[-1]
    total = sum(KINDS.values())
    parts = {} if lesson.frozen or not lesson.readings else trainee.dense.losses(features, batch["maps"])
    for kind, group in batch["groups"].items():
        prompts = make_prompts(kind, group, clip, lesson.text_share)
        own = features[group["image"]]
        truths = F.avg_pool2d(group["truth"].float()[:, None], STEP)[:, 0]
        if lesson.readings and prompts.text is not None:
            named = trainee.naming_loss(own, prompts.text, truths)
            parts[f"naming, {kind}"] = 0.3 * len(prompts) / total * named
        # A phrase has to tell its object from all others of the image, so alone it always sees all.
        window = grid if batch["whole"] or kind == "text" else grid // 2
        corners = place_windows(tight_boxes(group["truth"]) / (SUB * STEP), grid, window)
        clicked = CLICKED[kind]
        for some, rounds in ((slice(clicked), batch["rounds"]), (slice(clicked, None), 1)):
            decoder = WindowDecoder(model, corners[some], window, lesson.dtype)
            answers = interactive_rounds(
                decoder,
                cut(own[some], corners[some], window),
                decoder.shift(prompts[some], -1),
                cut(truths[some], corners[some] * SUB, window * SUB),
                rounds,
                middle_share=MIDDLE_SHARE,
            )
            for index, answer in enumerate(answers):
                share = len(corners[some]) / total
                name = kind if index == 0 else f"{kind} {index}"
                weight = share if index == 0 else len(prompts) / total / (rounds - 1)
                parts[name] = parts.get(name, 0) + weight * answer.total
    return parts


def load_run(folder: Path) -> Trainee:
    """What a run has learned so far, at the input size of its pool."""
    state = torch.load(folder / "state.pt", weights_only=True)["model"]
    trainee = Trainee(SegAny(config_for(state["model.image_encoder.pos_embed"].shape[1] * SHIPPED.patch_size)))
    trainee.load_state_dict(state)
    return trainee


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
@click.option("--warmup", default=100, show_default=True, help="Steps in which the rates rise.")
@click.option("--in-memory", is_flag=True, help="Keep the scenes in memory, 6 GB for 23,000 of them.")
@click.option("--from-shipped", is_flag=True, help="Start from the shipped weights instead of random ones.")
@click.option("--from-run", type=click.Path(path_type=Path), help="Start from the weights of another run, a folder.")
@click.option(
    "--readings/--no-readings",
    default=True,
    show_default=True,
    help="Teach the image encoder by what can be read from it, too, as at the start.",
)
@click.option("--images", default=BATCH, show_default=True, help="Images a step and process, for as many prompts.")
@click.option("--float32", is_flag=True, help="Not bfloat16, which is no faster on processors without AMX.")
@click.option("--new-text", is_flag=True, help="Teach the text prompt from random weights, whatever the start.")
@click.option("--export", "to_export", is_flag=True, help="Only write the trained weights, as segany loads them.")
@click.option(
    "--mix",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the trained weights in what is exported; the rest are the bundled ones (Wortsman et al. 2022).",
)
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
    warmup: int,
    in_memory: bool,
    from_shipped: bool,
    from_run: Path | None,
    readings: bool,
    images: int,
    float32: bool,
    new_text: bool,
    to_export: bool,
    mix: float,
    weights: Path,
) -> None:
    """Train the tiny segany."""
    if to_export:
        trained = resized(load_run(out).model, SHIPPED.image_size)
        weights.parent.mkdir(parents=True, exist_ok=True)
        save(trained if mix == 1 else mixed(load(WEIGHTS), trained, mix), weights)
        return
    scenes = open_pool(pool, in_memory=("framed", "masks") if in_memory else (), part=rank_and_size())
    side = scenes[0].side
    torch.manual_seed(0)
    trainee = Trainee(SegAny(config_for(side)))
    untaught = {name: value.clone() for name, value in trainee.state_dict().items() if ".text_" in name}
    if from_run is not None:
        trainee = load_run(from_run)
        trainee.model = resized(trainee.model, side)
    if from_shipped:
        trainee.model = resized(load(WEIGHTS), side)
    if new_text:
        trainee.load_state_dict(untaught, strict=False)
    clip = train_clip.load_shipped().eval()
    settings = Settings(
        out,
        steps,
        learning_rate=rate * 4e-4,
        muon_rate=rate * 7e-4,
        warmup=warmup,
        not_for_muon=("rel_pos",),
        decay_share=0.5,
        boosted=encoder_steps,
    )

    def lesson(step: int) -> Lesson:
        return Lesson(
            text_share=0.5 if step >= text_from else 0.0,
            frozen=0 <= step - encoder_steps < decoder_steps,
            readings=readings,
            dtype=torch.float32 if float32 else torch.bfloat16,
        )

    train(
        trainee,
        lambda step: make_batch(scenes, step, encoder_steps, images),
        lambda t, b, step: compute_loss(t, clip, b, lesson(step)),
        settings,
    )


if __name__ == "__main__":
    main()
