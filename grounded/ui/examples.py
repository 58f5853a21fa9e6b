"""The pictures that come with a clone, as buttons."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

# They lie beside the package; a wheel has none.
FOLDER = Path(__file__).resolve().parents[2] / "examples"


def examples(picture: Any, text: Any, texts: Mapping[str, str], prefix: str = "") -> None:
    """Inside a layout: lay out and wire a button for each picture by its name, which fills in its text as well.

    `prefix` keeps their ids apart from those of another tab.
    """
    found = [(path, words) for name, words in texts.items() if (path := FOLDER / f"{name}.png").is_file()]
    if not found:
        return
    gr.Markdown("Examples", elem_classes="caption")
    with gr.Row(elem_classes="examples"):
        for path, words in found:
            name = path.stem
            button = gr.Button(name.capitalize(), icon=path, size="sm", min_width=80, elem_id=f"{prefix}example-{name}")
            button.click(_example(path, words), None, [picture, text], api_visibility="private", show_progress="hidden")


def _example(path: Path, words: str) -> Callable[[], tuple[str, str]]:
    # The app serves no files but those in its own folder.
    return lambda: (save_file_to_cache(path, get_upload_folder()), words)
