"""Train the bundled segany `tiny`: points, boxes, masks and the text prompt, with corrective clicks.

`python -m recipes.tiny.train_segany --pool runs/pool --out runs/segany`, then the same with `--export`
writes segany/weights/tiny.safetensors. The image encoder learns alone first, which takes the most steps and the least
time for each. The text prompt is taught with CLIP image embeddings of mask crops (Segment Anything, section 7.5); from
`--text-from` on, text embeddings of the phrase take their place half of the time.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny import train_clip
from recipes.tiny.crops import grey_background, square_crop
from recipes.tiny.pool import SIDE, PoolObject, PoolScene, mirrored, open_pool, relit
from recipes.tiny.segany_dense import DenseReadings, stack_maps
from recipes.tiny.training import Settings, rank_and_size, train
from recipes.tiny.vocabulary import noun_phrase
from recipes.tiny.windows import WindowDecoder, cut, place_windows
from segany import PRESETS, Prompts, SegAny
from segany.checkpoint import load, save
from segany.losses import sigmoid_focal
from segany.masks import masks_to_boxes
from segany.points import random_point
from segany.training import interactive_rounds

WEIGHTS = Path(__file__).parents[2] / "segany/weights/tiny.safetensors"
CONFIG = PRESETS["tiny"]
LOW, GRID = CONFIG.low_res_size, CONFIG.grid_size
BATCH = 6
ENCODER_BATCH = 12  # pictures a step while the image encoder learns alone
# How many prompts of each kind a step trains, spread over the batch's pictures.
KINDS = {"point": 22, "box": 18, "text": 8, "text + point": 8, "text + box": 8}
CLICKED = {"point": 8, "box": 6, "text": 2, "text + point": 2, "text + box": 2}  # of them go on with clicks
WINDOW, WHOLE_EVERY = GRID // 2, 8  # cells along the windows that decoding sees, and every how many steps it sees all
MIDDLE_SHARE = 0.5  # of the corrective clicks: into the middle of the error, as measured, not anywhere in it


@dataclass(frozen=True)
class Drawn:
    """One training prompt: which picture of the batch, the truth in the frame, and the object's crop and phrase."""

    picture: int
    truth: np.ndarray  # (SIDE, SIDE) bool
    crop: np.ndarray  # (64, 64, 3) uint8
    phrase: str


def _is_alone(scene: PoolScene, thing: PoolObject) -> bool:
    """Whether the object's name, with its colour, names nothing else in the picture."""
    return sum(o.noun == thing.noun and o.color == thing.color for o in scene.objects) == 1


def _draw_prompt(scene: PoolScene, picture: int, kind: str, flip: bool, rng: np.random.Generator) -> Drawn | None:
    things = [o for o in scene.objects if "text" not in kind or _is_alone(scene, o)]
    if not things:
        return None
    thing = things[rng.integers(len(things))]
    # A phrase and a box mean the object; a bare click may mean its badge, or it together with what carries it.
    levels = list(thing.masks) if kind == "point" else ["object"]
    level = levels[rng.integers(len(levels))] if rng.random() < 0.6 else "object"
    truth = scene.mask(thing, level)
    x0, y0, x1, y1 = (v * e for v, e in zip(thing.box, scene.framed_size[::-1] * 2, strict=True))
    image = scene.framed
    if rng.random() < 0.5:
        image = grey_background(image, scene.mask(thing))
    crop = (
        square_crop(image, (x0, y0, x1, y1), rng.uniform(0, 0.2), train_clip.SIDE)
        if "text" in kind
        else np.zeros((1, 1, 3), np.uint8)
    )
    twins = [o for o in scene.objects if o.noun == thing.noun]
    color = thing.color if len(twins) > 1 or rng.random() < 0.5 else None
    return Drawn(picture, mirrored(truth, scene) if flip else truth, crop, noun_phrase(thing.noun, color, rng))


def make_batch(pool: list[PoolScene], step: int, encoder_steps: int) -> dict:
    """Framed pictures with their label maps and, per kind of prompt, truths, picture numbers, crops and phrases.

    Processes that train together draw from pictures of their own, and play the same number of rounds.
    """
    rng = np.random.default_rng([31, step, *rank_and_size()[:1]])
    alone = step < encoder_steps
    scenes: list[PoolScene] = []
    while len(scenes) < (ENCODER_BATCH if alone else BATCH):
        scene = pool[rng.integers(len(pool))]
        if scene.objects:
            scenes.append(scene)
    flips = [bool(rng.random() < 0.5) for _ in scenes]
    pictures = []
    for scene, flip in zip(scenes, flips, strict=True):
        pixels = relit(scene.framed, rng)
        pictures.append(mirrored(pixels, scene) if flip else pixels)
    groups = {}
    for kind, count in {} if alone else KINDS.items():
        drawn: list[Drawn] = []
        for attempt in range(4 * count):
            picture = (step + attempt) % BATCH
            prompt = _draw_prompt(scenes[picture], picture, kind, flips[picture], rng)
            if prompt is not None and len(drawn) < count:
                drawn.append(prompt)
        groups[kind] = {
            "truth": torch.from_numpy(np.stack([d.truth for d in drawn])),
            "picture": torch.tensor([d.picture for d in drawn]),
            "crop": torch.from_numpy(np.stack([d.crop for d in drawn])),
            "phrase": [d.phrase for d in drawn],
        }
    return {
        "pixels": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2),
        "sizes": [scene.framed_size for scene in scenes],
        "window": GRID if step % WHOLE_EVERY == 0 else WINDOW,
        "maps": stack_maps(scenes, flips),
        "groups": groups,
        "rounds": int(np.random.default_rng([32, step]).choice([1, 2, 3, 5, 9], p=[0.4, 0.3, 0.15, 0.1, 0.05])),
    }


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
        corners = place_windows(tight_boxes(group["truth"]) * GRID / SIDE, GRID, batch["window"])
        clicked = CLICKED[kind]
        for some, rounds in ((slice(clicked), batch["rounds"]), (slice(clicked, None), 1)):
            decoder = WindowDecoder(model, corners[some], batch["window"])
            answers = interactive_rounds(
                decoder,
                cut(own[some], corners[some], batch["window"]),
                decoder.shift(prompts[some], -1),
                cut(truths[some], corners[some] * LOW // GRID, batch["window"] * LOW // GRID),
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
@click.option(
    "--export", "to_export", is_flag=True, help="Only write the trained weights to segany/weights/tiny.safetensors."
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
    to_export: bool,
) -> None:
    """Train the tiny segany."""
    torch.manual_seed(0)
    trainee = Trainee(SegAny(CONFIG))
    if from_shipped:
        trainee.model.load_state_dict(load(WEIGHTS).state_dict())
    if from_run is not None:
        trainee.load_state_dict(torch.load(from_run / "state.pt", weights_only=True)["model"])
    if to_export:
        trainee.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
        WEIGHTS.parent.mkdir(exist_ok=True)
        save(trainee.model, WEIGHTS)
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
