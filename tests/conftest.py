"""Settings of every test run: nothing is downloaded, and nothing is shown of progress."""

import os

# Read by huggingface_hub when it is imported, so before any test module.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
