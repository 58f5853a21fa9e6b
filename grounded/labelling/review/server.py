"""The review page over HTTP, for one person at one machine."""

import secrets
import socket
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from os import cpu_count
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from grounded.data.phrases import parse
from grounded.errors import GroundedError, ImageError, OutputError, one_line
from grounded.labelling.review.images import draw_record, open_record_image
from grounded.labelling.review.index import SORTS, Sort, UnknownImageError
from grounded.labelling.review.log import Action, Review
from grounded.labelling.review.session import STATES, ReviewSession
from grounded.utils.files import image_bytes
from segany.utils.rle import check_rle

_STATIC = Path(__file__).with_name("static")
_THUMBNAIL_SIDE, _IMAGE_SIDE = 360, 2048  # pixels of the longer side
_PAGE_LENGTH, _MAX_PAGE_LENGTH = 60, 500
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Only what this server sends is loaded. The icon is an empty data: address, so that none is requested.
_CONTENT_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"


class ReviewIn(BaseModel):
    """One review as the page sends it.

    Without a key, "undo" takes back the latest review of the image, and "accept" confirms that an image without
    instances is empty.
    """

    action: Action
    key: int | str | None = None
    phrase: str | None = None
    mask: dict[str, Any] | None = None  # a run-length encoding, see `check_rle`
    seconds: float | None = None  # that it took, where an `AnnotationGuide` leads
    clicks: int | None = None


class ReviewsIn(BaseModel):
    """Reviews of one image that are made together."""

    file: str
    reviews: list[ReviewIn]


class ClicksIn(BaseModel):
    """All clicks so far on one instance, in pixels; without a key, on a new one."""

    file: str
    key: int | str | None = None
    phrase: str = "object"
    points: list[tuple[float, float]]
    labels: list[int]


# The application


def create_app(session: ReviewSession, host: str = _LOOPBACK[0]) -> FastAPI:
    """Return the application. Requests that change something must send the token that the page was given.

    Args:
        session: the run that is reviewed.
        host: address that it will listen on. For one of this machine alone, requests must also be for a name of this
            machine, so that no page from elsewhere can reach it under a name of its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    token = secrets.token_urlsafe(24)
    app.state.session = session
    app.state.page = (_STATIC / "page.html").read_text(encoding="utf-8").replace("{token}", token)
    app.state.image_slots = threading.BoundedSemaphore(max(2, cpu_count() or 2))  # images in memory at once
    app.middleware("http")(_guard(host, token))
    app.add_exception_handler(GroundedError, _error_response)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ValueError, _error_response)  # of a review whose fields do not fit, and of weights
    app.include_router(_router)
    return app


def _guard(host: str, token: str) -> Callable[..., Awaitable[Response]]:
    """Return the middleware that checks the host name and the token, and sets headers against foreign content."""

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if host in _LOOPBACK and request.url.hostname not in _LOOPBACK:
            return _error(403, f"this server is for {', '.join(_LOOPBACK)} alone")
        sent = request.headers.get("x-grounded-token", "")
        if request.method not in ("GET", "HEAD") and not secrets.compare_digest(sent.encode(), token.encode()):
            return _error(403, "the page is of an earlier start of the server: load it again")
        response = await call_next(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Content-Security-Policy"] = _CONTENT_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return guard


def _error_response(request: Request, error: Exception) -> Response:
    statuses = {UnknownImageError: 404, ImageError: 409, OutputError: 507}
    status = next((status for kind, status in statuses.items() if isinstance(error, kind)), 422)
    return _error(status, one_line(error))


def _invalid_request(request: Request, error: Exception) -> Response:
    """Say in one sentence what is wrong with a request that is not of the expected form."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error(422, f"{'.'.join(map(str, first['loc'][1:])) or 'the request'}: {first['msg']}")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail))


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


# The page and its API

_router = APIRouter()


def _get_session(request: Request) -> ReviewSession:
    session: ReviewSession = request.app.state.session
    return session


Session = Annotated[ReviewSession, Depends(_get_session)]


@_router.get("/")
def get_page(request: Request) -> Response:
    return HTMLResponse(request.app.state.page)


@_router.get("/page.js")
def get_script() -> Response:
    return Response((_STATIC / "page.js").read_bytes(), media_type="text/javascript")


@_router.get("/annotate.js")
def get_annotation_script() -> Response:
    return Response((_STATIC / "annotate.js").read_bytes(), media_type="text/javascript")


@_router.get("/style.css")
def get_style() -> Response:
    return Response((_STATIC / "style.css").read_bytes(), media_type="text/css")


@_router.get("/api/summary")
def get_summary(session: Session) -> dict[str, Any]:
    session.refresh()
    return {
        "name": session.folder.resolve().name,
        "total": len(session.index),
        "read": session.index.entries_read,
        "error": session.error,
        "phrases": session.phrases(),
        "agreement": session.agreement().to_dict(),
        "models_loaded": session.segmenter.is_loaded,
        "segmenter": session.segmenter.config.segmenter.checkpoint,
        "guide": None if session.guide is None else asdict(session.guide),
    }


@_router.get("/api/images")
def list_images(
    session: Session,
    sort: Sort = SORTS[0],
    phrase: str = "",
    state: str = "",
    after: str | None = None,
    limit: int = _PAGE_LENGTH,
) -> dict[str, Any]:
    if state and state not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
    if after is None:
        session.refresh()
    page = session.index.page(
        sort,
        phrase or None,
        include=lambda file: not state or state in session.states(file),
        extra_files=session.files_relabelled_as(phrase),
        after=after,
        limit=min(max(limit, 1), _MAX_PAGE_LENGTH),
    )
    images = [
        {
            "file": entry.file,
            "instances": entry.instances,
            "score": entry.lowest_score(phrase or None),
            "states": sorted(session.states(entry.file)),
            "version": len(session.reviews(entry.file)),
        }
        for entry in page.entries
    ]
    records = {"read": session.index.entries_read, "records": len(session.index)}
    return {"images": images, "total": page.total, **records}


@_router.get("/api/image")
def get_image(session: Session, file: str) -> dict[str, Any]:
    session.refresh()
    return session.image_to_dict(file)


@_router.get("/api/thumbnail")
def get_thumbnail(request: Request, session: Session, file: str) -> Response:
    record = session.corrected_record(file)
    with request.app.state.image_slots:
        return _jpeg(draw_record(session.source, record, _THUMBNAIL_SIDE))


@_router.get("/api/pixels")
def get_pixels(request: Request, session: Session, file: str) -> Response:
    record = session.index.record(file)
    with request.app.state.image_slots:
        pixels = open_record_image(session.source, record).pixels
        side = max(pixels.size)
        if side > _IMAGE_SIDE:
            width, height = (max(1, round(length * _IMAGE_SIDE / side)) for length in pixels.size)
            pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
        return _jpeg(pixels, quality=92)


@_router.post("/api/reviews")
def add_reviews(session: Session, body: ReviewsIn) -> dict[str, Any]:
    session.add_reviews(*(_to_review(session, body.file, one) for one in body.reviews))
    return {"image": session.image_to_dict(body.file), "agreement": session.agreement().to_dict()}


@_router.post("/api/masks")
def segment_clicks(request: Request, session: Session, body: ClicksIn) -> dict[str, Any]:
    (phrase,) = parse([body.phrase])
    with request.app.state.image_slots:
        masks = session.segment_clicks(body.file, body.key, phrase, body.points, body.labels)
    return {"masks": masks, "models_loaded": session.segmenter.is_loaded}


def _to_review(session: ReviewSession, file: str, body: ReviewIn) -> Review:
    key = body.key
    if body.action == "undo" and key is None:
        key = session.last_reviewed(file)
        if key is None:
            raise ValueError("there is no review of this image that could be taken back")
    if body.action == "add":
        key = uuid.uuid4().hex[:12]
    record = session.index.record(file)
    if key is None and (body.action != "accept" or len(record.instances)):
        raise ValueError(f"{body.action!r} must be of an instance, got none")
    return Review(
        file=file,
        action=body.action,
        instance=key if isinstance(key, int) else None,
        id=key or None if isinstance(key, str) else None,
        phrase=None if body.phrase is None else parse([body.phrase])[0],
        config=record.config,
        seconds=body.seconds,
        clicks=body.clicks,
        mask=None if body.mask is None else check_rle(body.mask, (record.image.height, record.image.width)),
    )


def _jpeg(image: Image.Image, quality: int = 85) -> Response:
    # The address holds a version, which changes with what is shown.
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(image_bytes(image, "JPEG", quality=quality), media_type="image/jpeg", headers=headers)


# Serving


def listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket; without a port, on the first free one from 7870.

    Raises:
        OutputError: the address is taken, or may not be used.
    """
    for number in [port] if port else [*range(7870, 7970), 0]:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)  # requests that come before the server is ready wait
        except (socket.gaierror, UnicodeError) as error:
            listener.close()
            raise OutputError(f"cannot listen on {host!r}: expected an address of this machine") from error
        except OSError as error:
            listener.close()
            if number in (port, 0):
                raise OutputError(f"cannot listen on {host}, port {number}: {error.strerror or error}") from error
        else:
            return listener
    raise AssertionError("0 is always tried")


def serve(session: ReviewSession, host: str, listener: socket.socket) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and print its address to stderr."""
    name = f"[{host}]" if ":" in host else host
    print(f"The page is at http://{name}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    config = uvicorn.Config(create_app(session, host), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
