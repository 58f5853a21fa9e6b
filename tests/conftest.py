"""Settings of every test run: nothing is downloaded, and processes side by side have one thread each."""

import os

# Read by huggingface_hub when it is imported, so before any test module.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by PyTorch when it is imported. Several processes of several threads each would mostly wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
