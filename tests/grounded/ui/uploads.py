"""Images as the browser sends them."""

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from gradio.utils import get_upload_folder


def upload(path: Path, name: str | None = None) -> dict[str, Any]:
    """What an event is given for an uploaded file, which lies in the folder of uploads; a missing one stays missing."""
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    copy = Path(mkdtemp(dir=get_upload_folder())) / path.name
    if path.exists():
        shutil.copy(path, copy)
    return {"path": str(copy), "orig_name": name or path.name, "meta": {"_type": "gradio.FileData"}}
