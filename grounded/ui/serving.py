"""Serving the app: loading its models, its queue and limits, its folder for uploads, and shutting it down."""

import atexit
import importlib
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from PIL import Image

from grounded.config import default_source
from grounded.errors import CheckpointError, ConfigError, GroundedError, describe_error
from grounded.ui.actions import Actions
from grounded.ui.state import Limits
from segany.hub import HubError

if TYPE_CHECKING:
    import gradio as gr  # at run time only after `prepare`

# On ZeroGPU this package lends a GPU for the time of a call, and must be imported before anything starts CUDA.
_spaces = importlib.import_module("spaces") if importlib.util.find_spec("spaces") else None

MODELS = "models"  # concurrency_id of all events that run models: they go one after the other
QUEUE_SIZE = 200  # events that may wait; more are refused with a message
# (a, b): every a seconds, uploads and results older than b seconds are deleted, also while the server runs.
DELETE_CACHE = (300, 3600)
_NO_PROXY, _PROXIES = ("no_proxy", "NO_PROXY"), ("http_proxy", "https_proxy", "all_proxy")
# Users whose images are held in memory at once; beyond that, those who were idle longest are forgotten.
SESSIONS = 256


class ServingError(GroundedError, OSError):
    """The app cannot be served: its port is taken, it cannot be reached, or the public link cannot be made."""


def gpu(function: Callable[..., Any] | None = None, *, duration: int = 60) -> Callable[..., Any]:
    """Mark an event function or generator that needs the GPU, for at most `duration` seconds: `@gpu`, `@gpu()`,
    `@gpu(duration=120)`. Where the package `spaces` is not installed, nothing changes.
    """
    if function is None:
        return lambda wrapped: gpu(wrapped, duration=duration)
    lend = getattr(_spaces, "GPU", None)
    return function if lend is None else lend(duration=duration)(function)


def prepare() -> Path:
    """Give this process a folder of its own for uploads and results; call it before Gradio is imported.

    The folder is removed when the process ends, also by SIGTERM. No usage statistics are sent, and nothing is kept in
    the browser. Where GRADIO_TEMP_DIR names a folder already, the new one lies in it.

    Returns:
        the folder.

    Raises:
        ServingError: it cannot be created.
    """
    _leave_out_unusable_proxies()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # it keeps images in the browser, on a machine that others may use
    parent = os.environ.get("GRADIO_TEMP_DIR") or None
    try:
        if parent:
            Path(parent).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="grounded-", dir=parent)).resolve()
    except OSError as error:
        where = error.filename or parent or tempfile.gettempdir()
        raise ServingError(f"no folder for uploads can be created at {where}: {error.strerror or error}") from error
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # By default SIGTERM ends a process at once, and leaves everything behind.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit_on_signal)
    return folder


def load_models(source: str | PathLike[str] | None = None, limits: Limits | None = None) -> Actions:
    """Load the models of a configuration and run them once, so that the first user need not wait; reports on stderr.

    Raises:
        ConfigError: the configuration is wrong.
        CheckpointError: weights are missing or do not fit.
    """
    source = default_source() if source is None else source
    print(f"Loading the models of {source}", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        actions = Actions.from_config(source, limits)
    except HubError as error:
        command = f"grounded download {shlex.quote(str(source))} --all"
        raise CheckpointError(f"{error}; or get all of it: {command}") from error
    # On ZeroGPU there is a GPU only inside the events.
    if os.environ.get("SPACES_ZERO_GPU") != "true":
        print("Warming up", file=sys.stderr, flush=True)
        warm_up(actions)
    print(f"Models ready after {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    return actions


def warm_up(actions: Actions) -> None:
    """Run every model once on a small empty image."""
    pipeline, image = actions.pipeline, Image.new("RGB", (256, 256), "white")
    embedding = pipeline.encode(image)
    pipeline.segment(image, "a dog", embedding=embedding)
    pipeline.candidates(image, "a dog", box=[64, 64, 192, 192], embedding=embedding)


def serve(demo: "gr.Blocks", limits: Limits | None = None, **options: Any) -> None:
    """Serve the app until Ctrl-C, then remove its files. Arguments and errors as in `running`.

    SIGTERM ends it as well, by SystemExit with the status 143, where `prepare` was called before.
    """
    try:
        with running(demo, limits, **options) as url:
            print(f"The app is at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            while demo.is_running:
                time.sleep(0.2)
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr, flush=True)


@contextmanager
def running(
    demo: "gr.Blocks",
    limits: Limits | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    mcp: bool = False,
    open_browser: bool = False,
    **appearance: Any,
) -> Iterator[str]:
    """Serve the app while the body of the `with` statement runs; yields its address.

    Args:
        demo: the app, built after `prepare` was called.
        limits: bounds for uploads.
        host: address to listen on; None takes GRADIO_SERVER_NAME, or this machine alone.
        port: to listen on; None takes the first free one from GRADIO_SERVER_PORT, or from 7860.
        share: make a public link through Gradio's servers.
        mcp: serve the endpoints as tools of the Model Context Protocol as well.
        open_browser: show the app in the default browser.
        appearance: theme, css, js and head of `launch`.

    Raises:
        ConfigError: `mcp`, and the packages for it are missing.
        ServingError: the port is taken, the app cannot reach its own address, or there is no public link.
    """
    if mcp:
        check_mcp()
    from starlette.middleware import Middleware

    from grounded.ui.addresses import NoRemoteFiles, guarded_downloads  # here: Gradio, only after `prepare`

    limits = limits or Limits()
    check_port(port, host)
    bypass_proxies(host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")
    demo.delete_cache = demo.delete_cache or DELETE_CACHE
    # Without a direct way to the functions, no request can bypass the queue.
    demo.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1, api_open=False)
    try:
        with guarded_downloads(limits):
            _launch(
                demo,
                server_name=f"[{host}]" if host and ":" in host else host,
                server_port=port,
                share=share,
                mcp_server=mcp,
                inbrowser=open_browser,
                max_file_size=f"{limits.max_file_mb}mb",
                state_session_capacity=SESSIONS,
                enable_monitoring=False,
                show_error=False,
                prevent_thread_lock=True,
                quiet=True,
                app_kwargs={"middleware": [Middleware(NoRemoteFiles)]},
                **appearance,
            )
            yield demo.share_url or demo.local_url
    finally:
        demo.close(verbose=False)
        folder = os.environ.get("GRADIO_TEMP_DIR")
        if folder and Path(folder).name.startswith("grounded-"):  # one of `prepare`, and no other
            shutil.rmtree(folder, ignore_errors=True)


def _launch(demo: "gr.Blocks", **options: Any) -> None:
    try:
        demo.launch(**options)
    except OSError as error:
        raise _port_error(options["server_port"], error) from error
    except Exception as error:  # whatever Gradio raises when it does not find itself at its own address
        raise ServingError(f"the app could not be started: {describe_error(error)}") from error
    if options["share"] and not demo.share_url:
        raise ServingError("no public link could be made: is there a connection? The app works without one")


def check_port(port: int | None, host: str | None) -> None:
    """Make sure that an address can be listened on, by doing so for a moment; without a port, on any port.

    Raises:
        ServingError: it cannot.
    """
    host = host or "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or 0))
        except (socket.gaierror, UnicodeError) as error:
            raise ServingError(f"the host must be an address of this machine, got {host!r}") from error
        except OSError as error:
            raise _port_error(port, error) from error


def bypass_proxies(host: str) -> None:
    """Let this process reach its own address directly, where `http_proxy` and the like are set.

    Gradio asks that address whether the app is up, and a proxy knows nothing of it.
    """
    own = ["localhost", "127.0.0.1", "::1", *([] if "%" in host else [host])]
    listed = [entry.strip() for name in _NO_PROXY for entry in os.environ.get(name, "").split(",")]
    for name in _NO_PROXY:  # some read the one, and some the other
        os.environ[name] = ",".join(dict.fromkeys([*filter(None, listed), *own]))


def _leave_out_unusable_proxies() -> None:
    """Take proxies out of the environment that would stop Gradio from being imported, and say so on stderr."""
    usable = ("http", "https", *(("socks5", "socks5h") if importlib.util.find_spec("socksio") else ()))
    for name in [name for name in os.environ if name.lower() in _PROXIES]:
        scheme, separator, _ = os.environ[name].partition("://")
        if separator and scheme.lower() not in usable:
            del os.environ[name]
            hint = ": pip install 'httpx[socks]'" if scheme.lower().startswith("socks5") else ""
            print(f"Warning: {name} is left out, a proxy of the kind {scheme}://{hint}", file=sys.stderr, flush=True)


def check_mcp() -> None:
    """Make sure that the packages for MCP are installed: without them Gradio would start without MCP, silently.

    Raises:
        ConfigError: they are not.
    """
    if importlib.util.find_spec("mcp") is None:
        raise ConfigError("the MCP server needs packages that are not installed: pip install 'gradio[mcp]'")


def _port_error(port: int | None, error: OSError) -> ServingError:
    what = f"port {port} is taken or may not be used" if port else "no port can be listened on"
    return ServingError(f"{what}: {error.strerror or error}")


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as shells have it
