import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from grounded.errors import OutputError
from grounded.labelling.review import apply, log, server
from grounded.labelling.review.session import AnnotationGuide, ReviewSession
from segany.utils.rle import RLE, decode_rle, encode_rle
from tests.data import ROOT, disk
from tests.fuzzing import FUZZ_COUNTS, fuzz

BAD_MASKS = [
    ({"size": [480, 640], "counts": [10, 5]}, "must add up to height x width = 307200, got 15"),
    ({"size": [480, 640], "counts": "51"}, "must add up to"),
    ({"size": [480, 640], "counts": ""}, "must add up to"),
    ({"size": [480, 640], "counts": "\u00e9"}, "must be of the characters 0 to o"),
    ({"size": [480, 640], "counts": [307200, -5, 5]}, "must be from 0 to 307200, got -5"),
    ({"size": [480, 640], "counts": None}, "must be text or a list, got None"),
    ({"size": [480, 640], "counts": [307200]}, "must have pixels"),
    ({"size": "480", "counts": [307200]}, "a size must be two whole numbers"),
    ({}, "must be an object with size and counts"),
    ([1, 2], "mask: Input should be a valid dictionary"),
]


def post_reviews(client: TestClient, file: str, *reviews: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/api/reviews", json={"file": file, "reviews": list(reviews)})
    assert response.status_code == 200, response.text
    return response.json()


def files(client: TestClient, **query: object) -> list[str]:
    found = client.get("/api/images", params=query).json()
    assert found["read"] == found["records"] == 4
    return [one["file"] for one in found["images"]]


@pytest.mark.parametrize("path", ["/", "/page.js", "/annotate.js", "/style.css"])
def test_the_page_asks_for_nothing_from_elsewhere(path: str, client: TestClient):
    response = client.get(path)
    assert response.status_code == 200 and response.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert set(re.findall(r"https?://[^\"]*", response.text)) <= {"http://www.w3.org/2000/svg"}


def test_every_start_has_its_own_token(session: ReviewSession, client: TestClient):
    assert server.create_app(session) is not None
    with TestClient(server.create_app(session), base_url="http://localhost:1") as other:
        response = other.post(
            "/api/reviews",
            json={"file": "picnic.png", "reviews": []},
            headers={"X-Grounded-Token": client.headers["X-Grounded-Token"]},
        )
    assert response.status_code == 403 and "load it again" in response.json()["error"]


@pytest.mark.parametrize("token", ["", "guessed", "ä"])
@pytest.mark.parametrize("path", ["/api/reviews", "/api/masks"])
def test_changes_need_the_token(path: str, token: str, client: TestClient, run: Path):
    body = {"file": "picnic.png", "reviews": [{"action": "accept", "key": 0}], "points": [], "labels": []}
    response = client.post(path, json=body, headers={"X-Grounded-Token": token.encode()})
    assert response.status_code == 403
    assert not (run / "reviews.jsonl").exists()


@pytest.mark.parametrize(
    ("host", "name", "status"),
    [
        pytest.param("127.0.0.1", "evil.example", 403, id="another name of this machine"),
        pytest.param("127.0.0.1", "localhost:7870", 200, id="localhost"),
        pytest.param("127.0.0.1", "[::1]:7870", 200, id="IPv6"),
        pytest.param("0.0.0.0", "box.example", 200, id="open to others"),
    ],
)
def test_host_names(host: str, name: str, status: int, session: ReviewSession):
    with TestClient(server.create_app(session, host)) as client:
        assert client.get("/api/summary", headers={"Host": name}).status_code == status


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param({}, ["picnic.png", "street.png", "shelf.png", "more/nothing.png"], id="lowest scores first"),
        pytest.param(
            {"sort": "highest"}, ["shelf.png", "street.png", "picnic.png", "more/nothing.png"], id="highest first"
        ),
        pytest.param({"sort": "most"}, ["picnic.png", "shelf.png", "street.png", "more/nothing.png"], id="most"),
        pytest.param({"sort": "fewest"}, ["more/nothing.png", "shelf.png", "street.png", "picnic.png"], id="fewest"),
        pytest.param({"sort": "name"}, ["more/nothing.png", "picnic.png", "shelf.png", "street.png"], id="name"),
        pytest.param({"phrase": "bus"}, ["street.png"], id="phrase"),
        pytest.param({"phrase": "zebra"}, [], id="no such phrase"),
        pytest.param({"state": "done"}, [], id="state"),
        pytest.param({"sort": "name", "limit": 2}, ["more/nothing.png", "picnic.png"], id="limit"),
        pytest.param({"sort": "name", "after": "picnic.png"}, ["shelf.png", "street.png"], id="after"),
        pytest.param({"sort": "name", "after": "street.png"}, [], id="after the last"),
    ],
)
def test_lists(query: dict[str, object], expected: list[str], client: TestClient):
    assert files(client, **query) == expected


def test_a_list_goes_on_though_it_shrinks(client: TestClient):
    first = files(client, sort="name", state="unreviewed", limit=2)
    post_reviews(client, "picnic.png", {"action": "accept", "key": 0})
    assert files(client, sort="name", state="unreviewed", limit=2, after=first[-1]) == ["shelf.png", "street.png"]
    assert files(client, sort="name", state="partly") == ["picnic.png"]


@pytest.mark.parametrize("query", [{"sort": "size"}, {"state": "odd"}])
def test_lists_there_are_not(query: dict[str, str], client: TestClient):
    assert client.get("/api/images", params=query).status_code == 422


def test_a_review_is_on_the_disk_and_in_the_response(client: TestClient, run: Path):
    response = post_reviews(client, "shelf.png", {"action": "reject", "key": 0}, {"action": "accept", "key": 1})
    assert [one["state"] for one in response["image"]["instances"]] == ["reject", "accept", None, None, None]
    assert response["agreement"]["reviewed"] == 2 and response["agreement"]["rejected_share"] == 0.5
    assert [one.action for one in log.read_reviews(run)] == ["reject", "accept"]
    response = post_reviews(client, "shelf.png", {"action": "relabel", "key": 2, "phrase": " an old  telephone "})
    assert response["image"]["instances"][2]["phrase"] == "an old telephone"
    assert response["image"]["instances"][2]["record_phrase"] == "telephone"
    assert "an old telephone" in client.get("/api/summary").json()["phrases"]
    assert files(client, phrase="an old telephone") == ["shelf.png"]
    for state in ("reject", "relabel", "partly"):
        assert files(client, state=state) == ["shelf.png"]


def test_a_guide_leads_through_images(client: TestClient, session: ReviewSession, run: Path):
    assert client.get("/api/summary").json()["guide"] is None
    session.guide = AnnotationGuide("unnamed", 30.0)
    assert client.get("/api/summary").json()["guide"] == {"phrase": "unnamed", "seconds_per_mask": 30.0}
    mask = dict(encode_rle(disk(480, 640, 100, 100, 20)[None])[0])
    add = {"action": "add", "phrase": "unnamed", "mask": mask, "seconds": 12.5, "clicks": 3}
    image = post_reviews(client, "more/nothing.png", add)["image"]
    (review,) = log.read_reviews(run)
    assert (review.seconds, review.clicks) == (12.5, 3)
    assert image["times"] == {image["instances"][0]["key"]: 12.5}
    bad = {"file": "more/nothing.png", "reviews": [{**add, "seconds": -1}]}
    assert client.post("/api/reviews", json=bad).status_code == 422


def test_undo_takes_back_the_latest_of_the_image(client: TestClient):
    post_reviews(client, "shelf.png", {"action": "reject", "key": 0}, {"action": "accept", "key": 1})
    post_reviews(client, "picnic.png", {"action": "accept", "key": 0})
    image = post_reviews(client, "shelf.png", {"action": "undo"})["image"]
    assert [one["state"] for one in image["instances"]][:2] == ["reject", None]
    image = post_reviews(client, "shelf.png", {"action": "undo"})["image"]
    assert image["states"] == ["unreviewed"] and image["version"] == 4
    response = client.post("/api/reviews", json={"file": "shelf.png", "reviews": [{"action": "undo"}]})
    assert response.status_code == 422 and "there is no review of this image" in response.json()["error"]


def test_an_image_without_instances_is_accepted_as_such(client: TestClient):
    response = post_reviews(client, "more/nothing.png", {"action": "accept"})
    assert response["image"]["states"] == ["done"] and response["agreement"]["images"] == 1
    assert files(client, state="done") == ["more/nothing.png"]
    response = post_reviews(client, "more/nothing.png", {"action": "undo"})
    assert response["image"]["states"] == ["unreviewed"] and response["agreement"]["images"] == 0


@pytest.mark.parametrize(
    ("file", "review", "status", "message"),
    [
        pytest.param("../run/run.json", {"action": "accept", "key": 0}, 404, "no image", id="outside"),
        pytest.param("shelf.png", {"action": "accept", "key": 9}, 422, "instance 9, the record has 5", id="row"),
        pytest.param("shelf.png", {"action": "accept"}, 422, "must be of an instance", id="no instance"),
        pytest.param(
            "shelf.png", {"action": "relabel", "key": 0, "phrase": " . "}, 422, "holds no phrase", id="phrase"
        ),
        pytest.param("shelf.png", {"action": "relabel", "key": 0}, 422, "must have a phrase", id="no phrase"),
        pytest.param(
            "shelf.png",
            {"action": "redraw", "key": 0, "mask": {"size": [4, 4], "counts": "0`0"}},
            422,
            r"must be of the image's size [480, 640], got [4, 4]",
            id="size",
        ),
        *(
            pytest.param("shelf.png", {"action": "redraw", "key": 0, "mask": mask}, 422, message, id=f"mask {message}")
            for mask, message in BAD_MASKS
        ),
    ],
)
def test_reviews_that_are_refused(
    file: str, review: dict[str, Any], status: int, message: str, client: TestClient, run: Path
):
    response = client.post("/api/reviews", json={"file": file, "reviews": [review]})
    assert response.status_code == status and message in response.json()["error"]
    assert log.read_reviews(run) == []


@pytest.mark.parametrize("path", ["/api/image", "/api/thumbnail", "/api/pixels"])
@pytest.mark.parametrize("file", ["../run/run.json", "/etc/passwd", "more/../picnic.png", "none.png"])
def test_only_images_of_the_run_are_shown(path: str, file: str, client: TestClient):
    response = client.get(path, params={"file": file})
    assert response.status_code == 404 and response.json() == {"error": f"there is no image {file!r} in this run"}


def opened(response: Any) -> Image.Image:
    assert response.status_code == 200 and response.headers["Content-Type"] == "image/jpeg"
    return Image.open(io.BytesIO(response.content))


def test_images(client: TestClient):
    assert opened(client.get("/api/pixels", params={"file": "picnic.png"})).size == (640, 480)
    before = opened(client.get("/api/thumbnail", params={"file": "picnic.png"}))
    assert before.size == (360, 270)
    post_reviews(client, "picnic.png", *({"action": "reject", "key": i} for i in range(6)))
    plain = Image.open(ROOT / "examples" / "picnic.png").convert("RGB").resize((360, 270), Image.Resampling.BILINEAR)
    after = opened(client.get("/api/thumbnail", params={"file": "picnic.png"}))
    assert _difference(before, plain) > 5 > _difference(after, plain)


def _difference(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of grey values."""
    pairs = zip(a.convert("L").tobytes(), b.convert("L").tobytes(), strict=True)
    return sum(abs(x - y) for x, y in pairs) / (a.width * a.height)


def test_an_image_that_is_gone(client: TestClient, run: Path):
    (run.parent / "images" / "picnic.png").unlink()
    shutil.copy(ROOT / "docs" / "images" / "app.png", run.parent / "images" / "shelf.png")
    assert opened(client.get("/api/thumbnail", params={"file": "picnic.png"})).size == (360, 270)
    assert client.get("/api/image", params={"file": "picnic.png"}).json()["missing"].endswith("no such image")
    response = client.get("/api/pixels", params={"file": "picnic.png"})
    assert response.status_code == 409 and "picnic.png cannot be found" in response.json()["error"]
    assert "another image" in client.get("/api/image", params={"file": "shelf.png"}).json()["missing"]


def clicked(client: TestClient, **values: object) -> Any:
    body = {"file": "picnic.png", "key": None, "points": [[480, 300]], "labels": [1], **values}
    return client.post("/api/masks", json=body)


def test_clicks_return_masks_that_can_be_kept(client: TestClient, run: Path):
    first = clicked(client, phrase="a dog").json()
    assert first["models_loaded"] and 1 <= len(first["masks"]) <= 3
    mask = first["masks"][0]["mask"]
    assert decode_rle([RLE(**mask)])[0, 300, 480] and first["masks"][0]["path"].startswith("M")
    image = post_reviews(client, "picnic.png", {"action": "add", "phrase": "a dog", "mask": mask})["image"]
    added = image["instances"][-1]
    assert added["source"] == "added" and added["phrase"] == "a dog"

    (again,) = clicked(client, key=added["key"], points=[[480, 300], [20, 20]], labels=[1, 0]).json()["masks"]
    post_reviews(client, "picnic.png", {"action": "redraw", "key": added["key"], "mask": again["mask"]})
    (redrawn,) = clicked(client, key=0).json()["masks"]
    response = post_reviews(client, "picnic.png", {"action": "redraw", "key": 0, "mask": redrawn["mask"]})
    assert response["agreement"]["compared"] == 1 and 0.5 < response["agreement"]["mean_iou"] <= 1
    assert response["image"]["instances"][0]["redrawn"]
    last = next(apply.corrected_records(run)).instances
    assert last.rles[0] == redrawn["mask"] and last.rles[-1] == again["mask"]


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        pytest.param({"file": "none.png"}, 404, "no image", id="file"),
        pytest.param({"points": [], "labels": []}, 422, "", id="no click"),
        pytest.param({"labels": [0]}, 422, "background alone", id="background alone"),
        pytest.param({"points": [[700, 3]]}, 422, "must lie in the image", id="outside"),
        pytest.param({"labels": [1, 1]}, 422, "one per point", id="labels"),
        pytest.param({"key": "none"}, 422, "no instance 'none'", id="instance"),
        pytest.param({"phrase": ""}, 422, "no phrase", id="phrase"),
    ],
)
def test_clicks_that_are_refused(values: dict[str, object], status: int, message: str, client: TestClient):
    response = clicked(client, **values)
    assert response.status_code == status and message in response.json()["error"]


def test_an_address_that_is_taken():
    with server.listen("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            server.listen("127.0.0.1", port)
        with server.listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] != port
    for host in ("nonsense.invalid", "a" * 70 + ".invalid"):
        with pytest.raises(OutputError, match="expected an address of this machine"):
            server.listen(host, None)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_odd_requests_are_answered_in_one_sentence(count: int, client: TestClient, run: Path):
    (mask,) = encode_rle(disk(480, 640, 300, 200, 20)[None])
    requests = [
        {"file": "shelf.png", "reviews": [{"action": "redraw", "key": 0, "mask": mask}]},
        {"file": "shelf.png", "reviews": [{"action": "add", "phrase": "a cup", "mask": mask}, {"action": "undo"}]},
    ]

    def read(content: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        response = client.post("/api/reviews", content=content, headers=headers)
        if response.status_code == 200:
            return
        assert 400 <= response.status_code < 500 and set(response.json()) == {"error"}
        assert "\n" not in response.json()["error"]

    fuzz([json.dumps(request).encode() for request in requests], read, count)
    for file in ("shelf.png", "picnic.png"):
        assert client.get("/api/image", params={"file": file}).status_code == 200
    assert client.get("/api/summary").json()["error"] is None
    log.read_reviews(run)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"points": [[float("nan"), 1]]}, id="not finite"),
        pytest.param({"points": [[1e308, -1e308]]}, id="far away"),
        pytest.param({"points": []}, id="no points"),
        pytest.param({"points": "here"}, id="points as text"),
        pytest.param({"labels": [7]}, id="another label"),
        pytest.param({"labels": [1, 1]}, id="too many labels"),
        pytest.param({"key": -1}, id="row below 0"),
        pytest.param({"key": 10**30}, id="row beyond any"),
        pytest.param({"key": "nobody"}, id="no such id"),
        pytest.param({"key": [1]}, id="a list for a key"),
        pytest.param({"phrase": "..."}, id="no phrase"),
        pytest.param({"file": None}, id="no file"),
    ],
)
def test_odd_clicks_are_answered_in_one_sentence(changes: dict[str, Any], client: TestClient):
    body = {"file": "shelf.png", "key": 0, "points": [[300, 200]], "labels": [1], **changes}
    response = client.post("/api/masks", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500 and set(response.json()) == {"error"}
