"""What a round begins with: nothing, confident masks, or all masks. One record for each of its images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grounded.config import PipelineConfig
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.engine.automatic import SA1B, AutomaticStage, confident_masks, to_instances
from grounded.engine.images import ChosenImages
from grounded.engine.rounds import AutomaticSettings, Engine, Stage
from grounded.errors import ConfigError
from grounded.labelling.engines.local import EngineOptions, label_local
from grounded.labelling.loading import LoadedImage, load_ahead
from grounded.labelling.progress import RunProgress, RunSummary
from grounded.labelling.store import Failure, Run, fingerprint, open_run
from grounded.labelling.task import LabelledImage
from grounded.models.build import load_segmenter, pick_device, resolve_paths
from grounded.stages.fallback import UNNAMED
from grounded.utils.timing import Stopwatch
from segany import Predictor


@dataclass(frozen=True, eq=False)
class RoundTask:
    """A `Task` of labelling: the masks that the images of a round begin with.

    automatic  finds masks; None in the assisted stage, which begins with nothing
    """

    stage: Stage
    settings: AutomaticSettings
    automatic: AutomaticStage | None = None

    def __call__(self, images: Sequence[SourceImage]) -> list[LabelledImage]:
        return [self.label(image) for image in images]

    def label(self, image: SourceImage) -> LabelledImage:
        """The masks of one image. Raises OutputError."""
        if self.automatic is None:
            return LabelledImage(Instances.empty((UNNAMED,), image.size))
        watch = Stopwatch.for_device()
        with watch.stage("automatic_masks"):
            masks = self.automatic.find(image)
        shown = masks if self.stage == "auto" else confident_masks(masks, self.settings)
        return LabelledImage(to_instances(shown), watch.seconds)


def describe_round(engine: Engine, config: PipelineConfig) -> Run:
    """Describe a round as a labelling run, whose segmenter is the one of the round."""
    plan, stage = engine.plan, engine.round.stage
    covered: dict[str, Any] = {"engine": stage, "number": engine.number, "segmenter": config.segmenter.checkpoint}
    if stage != "assisted":
        covered |= {"automatic": {name: getattr(plan.automatic, name) for name in vars(plan.automatic)}}
    return Run(
        source=plan.source,
        phrases=(UNNAMED,),
        configuration=config.to_dict(),
        models={"segmenter": config.segmenter.checkpoint},
        config=fingerprint(covered),
    )


def load_predictor(config: PipelineConfig) -> Predictor:
    """Load the segmenter of a round. Raises ConfigError or CheckpointError."""
    predictor = load_segmenter(config, pick_device(config.device))
    if not isinstance(predictor, Predictor):
        raise ConfigError(f"the engine needs a Segment Anything, got {type(predictor).__name__}")
    return predictor


def write_records(
    engine: Engine,
    images: ChosenImages,
    device: str | None = None,
    progress: RunProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunSummary:
    """Write the records of the current round; those that are there already stay.

    Raises:
        GroundedError: the model cannot be loaded, or records cannot be written.
    """
    config = resolve_paths(engine.config(device=device))
    folder, stage = engine.round_folder(), engine.round.stage
    with open_run(folder, describe_round(engine, config)) as writer:
        automatic = None
        if stage != "assisted" and any(file not in writer.done for file in images.files):
            predictor = load_predictor(config)
            automatic = AutomaticStage(predictor, engine.plan.automatic, folder / SA1B, images.annotation_files)
            writer.require_weights({"segmenter": predictor.model.fingerprint()})
        task = RoundTask(stage, engine.plan.automatic, automatic)
        return label_local(images, task, writer, EngineOptions(), progress=progress, should_stop=should_stop)


def find_for_comparison(
    engine: Engine, number: int, images: ChosenImages, files: Sequence[str], device: str | None = None
) -> Iterator[str]:
    """Find the masks that a round's model finds by itself in some images, where they are not known; yields the images.

    They are what the accepted masks are compared with in a round that began with nothing.

    Raises:
        GroundedError: the model cannot be loaded, or files cannot be written.
    """
    folder = engine.round_folder(number) / SA1B
    names = images.annotation_files
    missing = [file for file in files if not (folder / names[file][1]).is_file()]
    if not missing:
        return
    stage = AutomaticStage(load_predictor(engine.config(number, device)), engine.plan.automatic, folder, names)
    chosen = ChosenImages(images.source, tuple(missing))
    for loaded in load_ahead(chosen.items()):
        if isinstance(loaded, Failure):
            continue
        assert isinstance(loaded, LoadedImage)
        stage.find(loaded.image)
        yield loaded.file


def sa1b_folder(engine: Engine, number: int | None = None) -> Path:
    """The annotation files of a round in the layout of SA-1B."""
    return engine.round_folder(number) / SA1B
