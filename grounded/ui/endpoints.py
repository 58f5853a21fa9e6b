"""The methods of `Api` as named endpoints of a Gradio app."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from grounded.data.phrases import shortened
from grounded.errors import ImageError
from grounded.ui.api import Api
from grounded.ui.messages import spoken
from grounded.ui.serving import MODELS, gpu
from grounded.ui.studio import Studio

ENDPOINTS = ("segment", "refine", "automatic", "label")


def add_endpoints(studio: Studio) -> None:
    """Inside a `gr.Blocks`: add /segment, /refine, /automatic and /label for `gradio_client`, HTTP and MCP.

    They show nothing, and wait in one line with all other events of `MODELS`.
    """
    api = Api(studio)
    for name in ENDPOINTS:
        function = spoken(_with_files(gpu(getattr(api, name)), studio.limits.max_file_mb))
        event = gr.api(function, api_name=name, concurrency_id=MODELS, concurrency_limit=1)
        _describe(event, function)


def _with_files(function: Callable[..., Any], max_file_mb: int) -> Callable[..., Any]:
    """The function under the same signature, called with uploads and addresses for the paths of pictures."""
    several = "images" in inspect.signature(function).parameters

    @wraps(function)
    def call(pictures: Any, *arguments: Any) -> Any:
        # Gradio gives the arguments by position, and pictures come first.
        if several and not isinstance(pictures, list):
            raise ImageError(f"images must be a list of uploaded files, got {type(pictures).__name__}")
        with TemporaryDirectory(dir=os.environ.get("GRADIO_TEMP_DIR") or None) as folder:
            if not several:
                return function(_path(pictures, folder, max_file_mb), *arguments)
            return function([_path(picture, folder, max_file_mb) for picture in pictures], *arguments)

    return call


def _path(picture: Any, folder: str, max_file_mb: int) -> str:
    """Where a picture lies: an upload, or in `folder` what an address leads to.

    Gradio has made sure that what is marked as an upload lies in its own folder, and refused other paths.
    """
    if isinstance(picture, str) and picture.startswith(("data:", "https://", "http://")):
        return _fetched(picture, folder, max_file_mb)
    meta = picture.get("meta") if isinstance(picture, dict) else None
    if not isinstance(meta, dict) or meta.get("_type") != "gradio.FileData":
        raise ImageError("the image must be an uploaded file: with gradio_client, handle_file(path) makes one")
    return str(picture["path"])


def _fetched(address: str, folder: str, max_file_mb: int) -> str:
    # Where uploads lie deep in lists, Gradio's MCP server passes addresses on as they are.
    save = processing_utils.save_base64_to_cache if address.startswith("data:") else processing_utils.save_url_to_cache
    try:
        path = save(address, folder)  # the latter takes addresses of the public network only
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"cannot get the image {shortened(address)}: {reason or type(error).__name__}") from error
    if Path(path).stat().st_size > max_file_mb * 2**20:
        raise ImageError(f"the image must have at most {max_file_mb} MB: {shortened(address)}")
    return str(path)


def _describe(event: Any, function: Callable[..., Any]) -> None:
    """Say what the arguments are: of a function, `gr.api` reads the annotations and not what the docstring says."""
    blocks = get_blocks_context().blocks
    # What the annotations of `Api` do not say: these arguments arrive as uploads.
    uploads = {"image": _file_schema(), "images": {"type": "array", "items": _file_schema()}}
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
