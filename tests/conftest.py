"""Settings of every test run: nothing is downloaded, and processes side by side have one thread each."""

import gc
import os
from collections.abc import Generator

import pytest

# Read by huggingface_hub when it is imported, so before any test module.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# The small networks of the drawn world, where a test names no preset: fast, and trained for the drawn examples.
os.environ.setdefault("GROUNDED_CONFIG", "tiny")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by PyTorch when it is imported. Several processes of several threads each would mostly wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No search for garbage among the millions of objects that the imports make: they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
