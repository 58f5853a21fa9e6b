"""Small runs to review: the examples as if they had been labelled, with their true masks and made-up scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from grounded import config
from grounded.data.instances import Instances
from grounded.labelling.records import ImageInfo, Record
from grounded.labelling.store import Run, open_run
from segany.utils.rle import RLE
from tests.data import ROOT

EXAMPLES = ("picnic", "shelf", "street")


def example_record(name: str, file: str) -> Record:
    """The true masks of an example; the scores begin at 0.9 and fall by 0.1, in each example from another one on."""
    data = json.loads((ROOT / "examples" / f"{name}.json").read_text())
    entries = data["instances"]
    phrases = tuple(dict.fromkeys(entry["phrase"] for entry in entries))
    rles = [RLE(size=entry["mask"]["size"], counts=entry["mask"]["counts"]) for entry in entries]
    height, width = rles[0]["size"]
    scores = (0.9 - 0.02 * EXAMPLES.index(name) - 0.1 * np.arange(len(rles))).astype(np.float32)
    ids = np.array([phrases.index(entry["phrase"]) for entry in entries])
    found = Instances.from_masks(phrases, (height, width), rles, ids, scores, "detector")
    return Record(image=ImageInfo(file=file, width=width, height=height), instances=found, config="abc")


def without_instances(record: Record, file: str) -> Record:
    nothing = Instances.empty(record.instances.phrases, record.instances.image_size)
    return Record(image=replace(record.image, file=file), instances=nothing, config=record.config)


def example_run(root: Path, copies: int = 0) -> Path:
    """Write `root/run`, about images in `root/images`: the examples, one without instances, and more copies."""
    images = root / "images"
    (images / "more").mkdir(parents=True)
    records = [example_record(name, f"{name}.png") for name in EXAMPLES]
    for name in EXAMPLES:
        shutil.copy(ROOT / "examples" / f"{name}.png", images)
    shutil.copy(ROOT / "examples" / "shelf.png", images / "more" / "nothing.png")
    records.append(without_instances(records[1], "more/nothing.png"))
    for i in range(copies):
        file = f"more/copy{i:03d}.png"
        (images / file).hardlink_to(images / f"{EXAMPLES[i % 3]}.png")
        records.append(replace(records[i % 3], image=replace(records[i % 3].image, file=file)))
    run = Run(source=str(images), phrases=records[0].instances.phrases, configuration=_configuration(), config="abc")
    with open_run(root / "run", run) as writer:
        for record in records:
            writer.append(record)
    return root / "run"


def _configuration() -> dict:
    return config.override(config.load("tiny"), device="cpu").to_dict()
