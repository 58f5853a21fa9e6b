"""The page of a review over HTTP, for one person at one machine."""

import secrets
import socket
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable
from os import cpu_count
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from pydantic import BaseModel

from grounded.data.phrases import parse
from grounded.errors import GroundedError, ImageError, OutputError
from grounded.labelling.review.images import jpeg, open_picture, overlay
from grounded.labelling.review.index import SORTS, Sort, UnknownPictureError
from grounded.labelling.review.log import Action, Review
from grounded.labelling.review.session import STATES, Desk
from segany.utils.rle import RLE

_STATIC = Path(__file__).with_name("static")
_THUMBNAIL, _PICTURE = 360, 2048  # pixels of the longer side
_PAGE = 60
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Nothing but what this server gives. The icon is an empty data: address, so that none is asked for.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"


class Mask(BaseModel):
    """A run-length encoding."""

    size: tuple[int, int]
    counts: str


class Said(BaseModel):
    """One review as the page sends it.

    Without a key, "undo" takes back the latest of the picture, and "accept" says of one without instances that nothing
    is there.
    """

    action: Action
    key: int | str | None = None
    phrase: str | None = None
    mask: Mask | None = None


class Saying(BaseModel):
    """Reviews of one picture that are made together."""

    file: str
    said: list[Said]


class Clicking(BaseModel):
    """All clicks so far on one instance, in pixels; without a key, on a new one."""

    file: str
    key: int | str | None = None
    phrase: str = "object"
    points: list[tuple[float, float]]
    labels: list[int]


def build(desk: Desk, host: str = _LOOPBACK[0]) -> FastAPI:
    """The application. What changes something must send the token that the page was given.

    Args:
        desk: the run that is reviewed.
        host: that it will listen on. On this machine alone, requests must also be for a name of this machine, so that
            no page from elsewhere can pass for this one by a name of its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    token = secrets.token_urlsafe(24)
    page = (_STATIC / "page.html").read_text(encoding="utf-8").replace("{token}", token)
    at_once = threading.BoundedSemaphore(max(2, cpu_count() or 2))  # pictures in memory

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if host in _LOOPBACK and request.url.hostname not in _LOOPBACK:
            return _refused(403, f"this server is for {', '.join(_LOOPBACK)} alone")
        given = request.headers.get("x-grounded-token", "")
        if request.method not in ("GET", "HEAD") and not secrets.compare_digest(given.encode(), token.encode()):
            return _refused(403, "the page is of an earlier start of the server: load it again")
        response = await answer(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(GroundedError)
    @app.exception_handler(ValueError)  # of a review that cannot be, and of weights that cannot be loaded
    def failed(request: Request, error: Exception) -> Response:
        return _refused(_status(error), " ".join(str(error).split()))

    @app.get("/")
    def index() -> Response:
        return HTMLResponse(page)

    @app.get("/page.js")
    def script() -> Response:
        return Response((_STATIC / "page.js").read_bytes(), media_type="text/javascript")

    @app.get("/style.css")
    def style() -> Response:
        return Response((_STATIC / "style.css").read_bytes(), media_type="text/css")

    @app.get("/api/summary")
    def summary() -> dict[str, Any]:
        desk.refresh()
        catalogue = desk.catalogue
        return {
            "name": desk.folder.resolve().name,
            "total": len(catalogue),
            "read": catalogue.read,
            "error": catalogue.error,
            "phrases": desk.phrases(),
            "agreement": desk.agreement().to_dict(),
            "models_loaded": desk.redrawing.is_loaded,
            "segmenter": desk.redrawing.config.segmenter.checkpoint,
        }

    @app.get("/api/pictures")
    def pictures(
        sort: Sort = SORTS[0], phrase: str = "", state: str = "", after: str | None = None, limit: int = _PAGE
    ) -> dict[str, Any]:
        if state and state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
        if after is None:
            desk.refresh()
        found = desk.catalogue.page(
            sort,
            phrase or None,
            lambda file: desk.listed(file, state or None),
            desk.given(phrase),
            after,
            min(max(limit, 1), 500),
        )
        entries = [
            {
                "file": entry.file,
                "instances": entry.instances,
                "score": entry.score(phrase or None),
                "states": sorted(desk.states(entry.file)),
                "version": len(desk.reviews(entry.file)),
            }
            for entry in found.entries
        ]
        return {"pictures": entries, "total": found.total, "read": desk.catalogue.read, "of": len(desk.catalogue)}

    @app.get("/api/picture")
    def picture(file: str) -> dict[str, Any]:
        desk.refresh()
        return desk.picture(file)

    @app.get("/api/thumbnail")
    def thumbnail(file: str) -> Response:
        record = desk.corrected(file)
        with at_once:
            return _picture(overlay(desk.source, record, _THUMBNAIL))

    @app.get("/api/image")
    def image(file: str) -> Response:
        record = desk.catalogue.record(file)
        with at_once:
            pixels = open_picture(desk.source, record).pixels
            side = max(pixels.size)
            if side > _PICTURE:
                width, height = (max(1, round(length * _PICTURE / side)) for length in pixels.size)
                pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
            return _picture(pixels, quality=92)

    @app.post("/api/reviews")
    def say(saying: Saying) -> dict[str, Any]:
        desk.say(*(_review(desk, saying.file, said) for said in saying.said))
        return {"picture": desk.picture(saying.file), "agreement": desk.agreement().to_dict()}

    @app.post("/api/masks")
    def masks(clicking: Clicking) -> dict[str, Any]:
        (phrase,) = parse([clicking.phrase])
        with at_once:
            found = desk.masks(clicking.file, clicking.key, phrase, clicking.points, clicking.labels)
        return {"masks": found, "models_loaded": desk.redrawing.is_loaded}

    return app


def listen(host: str, port: int | None) -> socket.socket:
    """Take an address to listen on; without a port, the first free one from 7870.

    Raises:
        OutputError: it is taken, or may not be used.
    """
    for number in [port] if port else [*range(7870, 7970), 0]:
        taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, number))
            taken.listen(128)  # whoever comes before the server is ready waits
        except OSError as error:
            taken.close()
            if number in (port, 0):
                raise OutputError(f"cannot listen on {host}, port {number}: {error.strerror or error}") from error
        else:
            return taken
    raise AssertionError("0 is always tried")


def serve(desk: Desk, host: str, taken: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and say where on stderr."""
    shown = f"[{host}]" if ":" in host else host
    print(f"The page is at http://{shown}:{taken.getsockname()[1]}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    config = uvicorn.Config(build(desk, host), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[taken])


def _review(desk: Desk, file: str, said: Said) -> Review:
    key = said.key
    if said.action == "undo" and key is None:
        key = desk.latest(file)
        if key is None:
            raise ValueError("nothing has been said of this picture that could be taken back")
    if said.action == "add":
        key = uuid.uuid4().hex[:12]
    record = desk.catalogue.record(file)
    if key is None and (said.action != "accept" or len(record.instances)):
        raise ValueError(f"{said.action!r} must be of an instance, got none")
    return Review(
        file=file,
        action=said.action,
        instance=key if isinstance(key, int) else None,
        id=key or None if isinstance(key, str) else None,
        phrase=None if said.phrase is None else parse([said.phrase])[0],
        config=record.config,
        mask=None if said.mask is None else RLE(size=list(said.mask.size), counts=said.mask.counts),
    )


def _picture(image: Image.Image, quality: int = 85) -> Response:
    # The address holds a version, which changes with what is shown.
    return Response(jpeg(image, quality), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _status(error: Exception) -> int:
    for kind, status in ((UnknownPictureError, 404), (ImageError, 409), (OutputError, 507)):
        if isinstance(error, kind):
            return status
    return 422


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
