"""The app's named endpoints for `gradio_client`, HTTP and MCP: images and plain values in, JSON out, no state."""

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

import gradio as gr
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from grounded.config import override
from grounded.data.image import SourceImage
from grounded.data.instances import Instances
from grounded.data.phrases import parse
from grounded.errors import ConfigError, ImageError, PromptError, ResultError, VideoError
from grounded.pipeline import Pipeline
from grounded.query import QuerySettings, query_parameter
from grounded.ui.actions import MAX_POINTS_PER_SIDE, Actions, interactive_defaults
from grounded.ui.addresses import fetch_file
from grounded.ui.clips import closing_iterator
from grounded.ui.downloads import printable_name
from grounded.ui.errors import log_and_describe, show_errors
from grounded.ui.progress import Deadline
from grounded.ui.serving import MODELS, gpu
from grounded.ui.state import Limits, open_within
from grounded.ui.tracking import ClipActions, ClipState
from segany.utils.addresses import is_address

ENDPOINTS = ("segment", "refine", "automatic", "label", "track")
# The settings that are parameters of /segment, /label and /track.
ENDPOINT_SETTINGS = ("box_threshold", "mode", "filtering", "clip_threshold", "refine_rounds", "fallback")
_NAMING_THRESHOLD = 0.3

FilePath = str | PathLike[str]


@dataclass(frozen=True)
class Api:
    """One method for each endpoint.

    A result is what `Instances.to_dict` returns, with "notes", lines on how the image was changed, and "seconds", the
    time of each stage. Images beyond the limit are scaled down, which a note says; boxes, points and masks are in
    pixels of the image as "image" states its width and height.

    All methods raise
        ImageError: the image cannot be read, or is too large.
        PromptError: the text, the index or the points cannot be used.
        ConfigError: a setting is wrong or needs a model that was not loaded.
        ResultError: the given result is not a result.
        TimeLimitError: the time is up.
    """

    actions: Actions

    def segment(self, image: FilePath, text: str, settings: QuerySettings | None = None) -> dict[str, Any]:
        """Find what a text names in an image: labelled instance masks, best first.

        Args:
            image: the image to search.
            text: one or more phrases, split at full stops, commas, semicolons and line ends, as in "a dog. pizza".
            settings: of this query.

        Returns:
            image, phrases, instances with their masks as COCO run-length encoding, models, notes, seconds.
        """
        return self._segment(image, parse(text), *self._with_settings(settings), self._deadline())

    def label(self, images: list[FilePath], text: str, settings: QuerySettings | None = None) -> list[dict[str, Any]]:
        """Find what one text names in several images. An image that fails does not stop the others.

        Args:
            images: the images to search.
            text: one or more phrases, split at full stops, commas, semicolons and line ends, as in "a dog. pizza".
            settings: of this query.

        Returns:
            a list in the order of the images: a result as /segment returns, or file and error.
        """
        limit = self.actions.limits.max_images
        if len(images) > limit:
            raise PromptError(f"at most {limit} images can be labelled at once, got {len(images)}")
        phrases, (pipeline, threshold) = parse(text), self._with_settings(settings)
        deadline = self._deadline()
        results: list[dict[str, Any]] = []
        for image in images:
            try:
                results.append(self._segment(image, phrases, pipeline, threshold, deadline.split()))
            except Exception as error:  # whatever is wrong with one image must not cost the others
                results.append({"file": Path(image).name, "error": log_and_describe(error)})
        return results

    def refine(
        self,
        image: FilePath,
        result: dict[str, Any] | str,
        index: int,
        points: list[list[float | int]],
        labels: list[int] | None = None,
    ) -> dict[str, Any]:
        """Correct the mask of one instance of a result by clicks; the others stay as they are.

        Args:
            image: the image that the result is of.
            result: what /segment, /automatic or /refine returned.
            index: which of its instances, from 0.
            points: all clicks on the instance so far, [[x, y], ...] in pixels.
            labels: 1 for each click that belongs to the instance, 0 for each that does not; all 1 where absent.

        Returns:
            the whole result with the corrected mask, as /segment returns.
        """
        pipeline, stopwatch = self.actions.pipeline, self._deadline()
        source = self._open(image)
        instances = _read_result(result, source.size)
        if not isinstance(index, int) or not 0 <= index < len(instances):
            raise PromptError(f"index must be one of {len(instances)} instances, counted from 0, got {index!r}")
        embedding = pipeline.encode(source, stopwatch=stopwatch)
        with stopwatch.stage("refine"):
            corrected = pipeline.refine(source, instances, index, points, labels, embedding=embedding)
        return _result(corrected, source, pipeline, stopwatch)

    def automatic(
        self,
        image: FilePath,
        words: str | None = None,
        points_per_side: int | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        naming_threshold: float | None = None,
        min_mask_region_area: int | None = None,
    ) -> dict[str, Any]:
        """Masks of everything in an image, named where CLIP recognises one of the words.

        Args:
            image: the image to segment.
            words: names to choose from, as in "dog. pizza"; absent or empty names nothing.
            points_per_side: the grid of points that are prompted, 1 to 64.
            pred_iou_thresh: lowest predicted IoU of a mask, 0 to 1.
            stability_score_thresh: lowest stability score of a mask, 0 to 1.
            naming_threshold: lowest CLIP score of a name, 0 to 1; other masks are called "unnamed".
            min_mask_region_area: holes and islands of fewer pixels are removed from the masks; 0 keeps them.

        Returns:
            a result as /segment returns; its phrases are the words and "unnamed".
        """
        generator = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
        }
        cleaning = {"min_mask_region_area": min_mask_region_area}
        # The section of the fallback has the same settings as the mask generator, and checks them.
        with _without_overrides_prefix():
            config = override(
                interactive_defaults(self.actions.config), fallback=_given(generator), refinement=_given(cleaning)
            )
        if config.fallback.points_per_side > MAX_POINTS_PER_SIDE:
            raise ConfigError(
                f"points_per_side must be at most {MAX_POINTS_PER_SIDE}, got {config.fallback.points_per_side}"
            )
        threshold = _NAMING_THRESHOLD if naming_threshold is None else naming_threshold
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ConfigError(f"naming_threshold must lie in [0, 1], got {threshold!r}")
        pipeline, stopwatch = self.actions.pipeline, self._deadline()
        source = self._open(image)
        found = pipeline.everything(
            source,
            words or (),
            stopwatch=stopwatch,
            naming_threshold=threshold,
            progress=lambda done, total: stopwatch.check(),
            min_mask_region_area=config.refinement.min_mask_region_area,
            **{name: getattr(config.fallback, name) for name in generator},
        )
        return _result(found, source, pipeline, stopwatch)

    def track(
        self, clip: FilePath, text: str, frames: int | None = None, settings: QuerySettings | None = None
    ) -> dict[str, Any]:
        """Follow what a text names through a clip: a mask of every object in every frame, with an id that stays.

        Args:
            clip: the video to search.
            text: one or more phrases, split at full stops, commas, semicolons and line ends, as in "a dog. pizza".
            frames: how many to follow, from the first on; absent: all, within the limits of the server.
            settings: of the frames in which objects are looked for.

        Returns:
            clip, frames with their instances, each with its track_id, and notes, which tell what was left out.
        """
        if not isinstance(clip, (str, PathLike)):
            raise VideoError(f"the clip must be a file, got {type(clip).__name__}")
        if frames is not None and (not isinstance(frames, int) or frames < 1):
            raise ConfigError(f"frames must be a whole number from 1 on, got {frames!r}")
        clips = ClipActions(self.actions)
        state = clips.open(Path(clip), printable_name(str(clip)))
        tracking = clips.track(state, text, settings or QuerySettings())
        with _without_overrides_prefix(), closing_iterator(tracking) as steps:
            for step in steps:
                state = step.state
                if frames is not None and len(state.frames) >= frames:
                    break
        return _clip_result(state, self.actions.pipeline)

    def _deadline(self) -> Deadline:
        return Deadline.for_device(seconds=self.actions.limits.seconds)

    def _open(self, image: Any) -> SourceImage:
        if not isinstance(image, (str, PathLike)):
            raise ImageError(f"the image must be a file, got {type(image).__name__}")
        return open_within(image, self.actions.limits)

    def _with_settings(self, settings: QuerySettings | None) -> tuple[Pipeline, float]:
        with _without_overrides_prefix():
            return self.actions.with_settings(settings or QuerySettings())

    def _segment(
        self, image: Any, phrases: tuple[str, ...], pipeline: Pipeline, box_threshold: float, stopwatch: Deadline
    ) -> dict[str, Any]:
        with stopwatch.stage("open"):
            source = self._open(image)
        found = pipeline.segment(source, phrases, stopwatch=stopwatch, box_threshold=box_threshold)
        return _result(found, source, pipeline, stopwatch)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _without_overrides_prefix() -> Iterator[None]:
    """Errors name the setting that a caller gave, and not how it is passed on."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("overrides: ")) from error


def _result(instances: Instances, source: SourceImage, pipeline: Pipeline, stopwatch: Deadline) -> dict[str, Any]:
    section: dict[str, Any] = {"orientation": source.orientation}
    if source.path is not None:
        section = {"file": source.path.name, **section}
    seconds = {stage: round(spent, 4) for stage, spent in stopwatch.seconds.items()}
    return {
        **instances.to_dict(section, pipeline.models),
        "notes": [*source.notes, *instances.notes],
        "seconds": seconds,
    }


def _clip_result(state: ClipState, pipeline: Pipeline) -> dict[str, Any]:
    clip = state.require_clip()
    width, height = clip.size
    return {
        "clip": {"file": clip.info.name, "width": width, "height": height, "frame_rate": clip.info.frame_rate},
        "frames": [frame.to_dict() for _, frame in sorted(state.frames.items())],
        "models": pipeline.models,
        "notes": [*clip.notes, *([state.message] if state.message else [])],
    }


def _read_result(result: Any, image_size: tuple[int, int]) -> Instances:
    """The instances of a result that came over the network; `Instances.from_dict` checks its masks."""
    if isinstance(result, str):
        try:
            result = json.loads(result)
        except (ValueError, RecursionError) as error:
            raise ResultError(f"the result is not JSON: {error}") from error
    instances = Instances.from_dict(result)
    if instances.image_size != image_size:
        height, width = instances.image_size
        raise ResultError(
            f"the result must be of this image of {image_size[1]} x {image_size[0]} pixels, got {width} x {height}"
        )
    return instances


def add_endpoints(actions: Actions) -> None:
    """Inside a `gr.Blocks`: add /segment, /refine, /automatic, /label and /track.

    They change no component, and wait in one line with all other events of `MODELS`.
    """
    api = Api(actions)
    for name in ENDPOINTS:
        function = expand_settings(gpu(getattr(api, name)))
        function = show_errors(_with_uploads(function, actions.limits))
        event = gr.api(function, api_name=name, concurrency_id=MODELS, concurrency_limit=1)
        _describe(event, function)


def expand_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with `ENDPOINT_SETTINGS` as its last parameters, in place of one parameter `settings`.

    Gradio reads their types from the signature, and MCP reads their descriptions from the docstring.
    """
    signature = inspect.signature(function)
    if "settings" not in signature.parameters:
        return function
    own = [name for name in signature.parameters if name != "settings"]

    @wraps(function)
    def call(*values: Any) -> Any:
        # Gradio gives all arguments by position.
        given, chosen = values[: len(own)], values[len(own) :]
        return function(*given, settings=QuerySettings(**dict(zip(ENDPOINT_SETTINGS, chosen, strict=False))))

    hints, setting_hints = get_type_hints(inspect.unwrap(function)), get_type_hints(QuerySettings)
    call.__annotations__ = {name: hint for name, hint in hints.items() if name != "settings"}
    call.__annotations__ |= {name: setting_hints[name] for name in ENDPOINT_SETTINGS}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "settings"]
    parameters += [
        inspect.Parameter(name, kind, default=None, annotation=setting_hints[name]) for name in ENDPOINT_SETTINGS
    ]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    lines = "\n".join(f"            {name}: {_setting_text(name)}" for name in ENDPOINT_SETTINGS)
    call.__doc__ = re.sub(r"^ *settings: .*$", lambda _: lines, function.__doc__ or "", flags=re.MULTILINE)
    return call


def _setting_text(name: str) -> str:
    """What the setting does and its values: "lowest detector score to keep, 0 to 1."."""
    setting = query_parameter(name)
    text = setting.description[0].lower() + setting.description[1:].removesuffix(".")
    if setting.choices:
        text += f": {', '.join(setting.choices[:-1])} or {setting.choices[-1]}"
    if setting.high is not None:
        text += f", {setting.low} to {setting.high}"
    return f"{text}."


def _with_uploads(function: Callable[..., Any], limits: Limits) -> Callable[..., Any]:
    """The function under the same signature, called with uploads and addresses in place of the paths of images."""
    several = "images" in inspect.signature(function).parameters

    @wraps(function)
    def call(images: Any, *arguments: Any) -> Any:
        # Gradio gives all arguments by position, and images come first.
        if several and not isinstance(images, list):
            raise ImageError(f"images must be a list of uploaded files, got {type(images).__name__}")
        with TemporaryDirectory(dir=os.environ.get("GRADIO_TEMP_DIR") or None) as folder:
            if not several:
                return function(_upload_path(images, folder, limits), *arguments)
            return function([_upload_path(image, folder, limits) for image in images], *arguments)

    return call


def _upload_path(image: Any, folder: str, limits: Limits) -> str:
    """The path of an uploaded image or clip, or of the file that an address leads to, which is put into `folder`.

    Gradio has made sure that what is marked as an upload lies in its own folder, and refused other paths.
    """
    if isinstance(image, str) and is_address(image):
        # Where uploads are nested in lists, Gradio's MCP server passes addresses on as they are.
        return str(fetch_file(image, folder, limits))
    meta = image.get("meta") if isinstance(image, dict) else None
    if not isinstance(meta, dict) or meta.get("_type") != "gradio.FileData":
        raise ImageError("images and clips must be uploaded files: with gradio_client, handle_file(path) makes one")
    return str(image["path"])


def _describe(event: Any, function: Callable[..., Any]) -> None:
    """Put the descriptions of the docstring on Gradio's API page: `gr.api` reads the annotations alone."""
    blocks = get_blocks_context().blocks
    # What the annotations of `Api` do not say: these arguments arrive as uploads.
    uploads = {"image": _file_schema(), "clip": _file_schema(), "images": {"type": "array", "items": _file_schema()}}
    _, descriptions, returns = get_function_description(function)
    for number, (name, description) in zip(event["inputs"], descriptions.items(), strict=True):
        schema = uploads.get(name, blocks[number]._api_info)
        blocks[number]._api_info = {**schema, "additional_description": description}
        blocks[number].label = name
    (number,) = event["outputs"]
    blocks[number]._api_info = {**blocks[number]._api_info, "description": " ".join(returns)}
    blocks[number].label = "result"


def _file_schema() -> dict[str, Any]:
    """Gradio's JSON schema of an upload without references, which lead nowhere inside another schema."""
    schema = gr.File(render=False).api_info()
    properties = {**schema["properties"], "meta": schema["$defs"]["FileDataMeta"]}
    return {"type": "object", "title": "FileData", "properties": properties, "required": schema["required"]}
