import errno
import inspect
import logging
import tempfile
from collections.abc import Callable
from concurrent import futures
from functools import partial, wraps
from pathlib import Path

import gradio as gr
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from grounded.data.image import open_image
from grounded.errors import ConfigError, ImageError, OutputError
from grounded.ui.errors import show_errors, user_message
from grounded.ui.progress import TimeLimitError
from segany import CheckpointError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(ConfigError("mode must be one of\n box, text"), "mode must be one of box, text", id="grounded"),
        pytest.param(CheckpointError("no such folder: /none"), "no such folder: /none", id="segany"),
        pytest.param(OutputError("cannot write x: the disk is full"), "cannot write x: the disk is full", id="output"),
        pytest.param(TimeLimitError("the time limit of 3 s"), "the time limit of 3 s", id="time limit"),
        pytest.param(MemoryError(), "not enough memory", id="memory"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory", id="CUDA"),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough memory", id="CPU"
        ),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), "the disk of the server is full", id="disk"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk of the server is full", id="quota"),
        pytest.param(TimeoutError(), "took too long", id="timeout"),
        pytest.param(futures.TimeoutError(), "took too long", id="timeout of a future"),
        pytest.param(UnidentifiedImageError("cannot identify"), "did not arrive as a whole", id="no image"),
        pytest.param(Image.DecompressionBombError("bomb"), "not an image", id="bomb"),
        pytest.param(OSError("image file is truncated"), "did not arrive as a whole", id="truncated"),
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file"), "no longer on the server", id="gone"),
        pytest.param(KeyError("/secret/path"), "something went wrong on the server (KeyError)", id="unexpected"),
        pytest.param(RuntimeError("shapes differ"), "something went wrong on the server (RuntimeError)", id="bug"),
    ],
)
def test_plain_words(error: Exception, words: str):
    assert words in user_message(error)
    assert len(user_message(error).splitlines()) == 1
    assert "secret" not in user_message(error)


@pytest.mark.parametrize("set_folder", [True, False], ids=["own folder", "folder of gradio"])
def test_uploads_are_named_as_the_user_named_them(set_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "gradio"
    if set_folder:
        folder = tmp_path / "own"
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    upload = folder / "0a1b2c" / "my dog.png"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        open_image(upload)
    assert user_message(caught.value) == "my dog.png is not an image in a known format"


def fail(message: str) -> None:
    raise ConfigError(message)


def steps(count: int):
    yield from range(count)
    raise ConfigError("after the steps")


def test_errors_of_functions_become_toasts():
    with pytest.raises(gr.Error) as caught:
        show_errors(fail)("mode is wrong")
    assert caught.value.message == "mode is wrong"
    assert not caught.value.print_exception
    assert show_errors(len)("abc") == 3


@wraps(steps)
def checked_steps(count: int):
    return steps(count)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(steps, id="itself"),
        pytest.param(checked_steps, id="wrapped"),
        pytest.param(partial(steps), id="partial"),
        pytest.param(partial(checked_steps), id="partial of wrapped"),
    ],
)
def test_errors_of_generators_become_toasts(event: Callable):
    assert inspect.isgeneratorfunction(show_errors(event))
    seen = []
    with pytest.raises(gr.Error, match="after the steps"):
        for step in show_errors(event)(2):
            seen.append(step)
    assert seen == [0, 1]


def test_toasts_pass_as_they_are():
    toast = gr.Error("shown already")

    def event():
        raise toast

    with pytest.raises(gr.Error) as caught:
        show_errors(event)()
    assert caught.value is toast


def test_only_unexpected_errors_are_logged(caplog: pytest.LogCaptureFixture):
    def bug():
        return {}["/secret/path"]

    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error):
        show_errors(fail)("mode is wrong")
    assert caplog.records == []
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error, match=r"\(KeyError\)") as caught:
        show_errors(bug)()
    assert "secret" not in caught.value.message
    assert "Traceback" in caplog.text and "/secret/path" in caplog.text


def test_the_signature_stays():
    def event(image: str, text: str = "a dog") -> int:
        """What it does."""
        return 1

    assert inspect.signature(show_errors(event)) == inspect.signature(event)
    assert show_errors(event).__doc__ == "What it does."
