import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from grounded.errors import OutputError
from grounded.labelling.review import apply, log, server
from grounded.labelling.review.session import Desk
from segany.utils.rle import RLE, decode_rle
from tests.data import ROOT


def say(client: TestClient, file: str, *said: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/api/reviews", json={"file": file, "said": list(said)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def files(client: TestClient, **query: object) -> list[str]:
    found = client.get("/api/pictures", params=query).json()
    assert found["read"] == found["of"] == 4
    return [one["file"] for one in found["pictures"]]


@pytest.mark.parametrize("path", ["/", "/page.js", "/style.css"])
def test_the_page_asks_for_nothing_from_elsewhere(path: str, client: TestClient):
    answer = client.get(path)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert set(re.findall(r"https?://[^\"]*", answer.text)) <= {"http://www.w3.org/2000/svg"}


def test_every_start_has_its_own_token(desk: Desk, client: TestClient):
    assert server.build(desk) is not None
    with TestClient(server.build(desk), base_url="http://localhost:1") as other:
        answer = other.post(
            "/api/reviews",
            json={"file": "picnic.png", "said": []},
            headers={"X-Grounded-Token": client.headers["X-Grounded-Token"]},
        )
    assert answer.status_code == 403 and "load it again" in answer.json()["error"]


@pytest.mark.parametrize("token", ["", "guessed", "ä"])
@pytest.mark.parametrize("path", ["/api/reviews", "/api/masks"])
def test_changes_need_the_token(path: str, token: str, client: TestClient, run: Path):
    body = {"file": "picnic.png", "said": [{"action": "accept", "key": 0}], "points": [], "labels": []}
    answer = client.post(path, json=body, headers={"X-Grounded-Token": token.encode()})
    assert answer.status_code == 403
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
def test_names_that_are_answered_to(host: str, name: str, status: int, desk: Desk):
    with TestClient(server.build(desk, host)) as client:
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
    say(client, "picnic.png", {"action": "accept", "key": 0})
    assert files(client, sort="name", state="unreviewed", limit=2, after=first[-1]) == ["shelf.png", "street.png"]
    assert files(client, sort="name", state="partly") == ["picnic.png"]


@pytest.mark.parametrize("query", [{"sort": "size"}, {"state": "odd"}])
def test_lists_there_are_not(query: dict[str, str], client: TestClient):
    assert client.get("/api/pictures", params=query).status_code == 422


def test_a_review_is_on_the_disk_and_in_the_answer(client: TestClient, run: Path):
    answer = say(client, "shelf.png", {"action": "reject", "key": 0}, {"action": "accept", "key": 1})
    assert [one["state"] for one in answer["picture"]["instances"]] == ["reject", "accept", None, None, None]
    assert answer["agreement"]["reviewed"] == 2 and answer["agreement"]["rejected_share"] == 0.5
    assert [one.action for one in log.read(run)] == ["reject", "accept"]
    answer = say(client, "shelf.png", {"action": "relabel", "key": 2, "phrase": " an old  telephone "})
    assert answer["picture"]["instances"][2]["phrase"] == "an old telephone"
    assert answer["picture"]["instances"][2]["asked"] == "telephone"
    assert "an old telephone" in client.get("/api/summary").json()["phrases"]
    assert files(client, phrase="an old telephone") == ["shelf.png"]
    for state in ("reject", "relabel", "partly"):
        assert files(client, state=state) == ["shelf.png"]


def test_undo_takes_back_the_latest_of_the_picture(client: TestClient):
    say(client, "shelf.png", {"action": "reject", "key": 0}, {"action": "accept", "key": 1})
    say(client, "picnic.png", {"action": "accept", "key": 0})
    shown = say(client, "shelf.png", {"action": "undo"})["picture"]
    assert [one["state"] for one in shown["instances"]][:2] == ["reject", None]
    shown = say(client, "shelf.png", {"action": "undo"})["picture"]
    assert shown["states"] == ["unreviewed"] and shown["version"] == 4
    answer = client.post("/api/reviews", json={"file": "shelf.png", "said": [{"action": "undo"}]})
    assert answer.status_code == 422 and "nothing has been said" in answer.json()["error"]


def test_a_picture_without_instances_is_accepted_as_such(client: TestClient):
    answer = say(client, "more/nothing.png", {"action": "accept"})
    assert answer["picture"]["states"] == ["done"] and answer["agreement"]["pictures"] == 1
    assert files(client, state="done") == ["more/nothing.png"]
    answer = say(client, "more/nothing.png", {"action": "undo"})
    assert answer["picture"]["states"] == ["unreviewed"] and answer["agreement"]["pictures"] == 0


@pytest.mark.parametrize(
    ("file", "said", "status", "message"),
    [
        pytest.param("../run/run.json", {"action": "accept", "key": 0}, 404, "no picture", id="outside"),
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
            "mask of size",
            id="size",
        ),
    ],
)
def test_reviews_that_are_refused(
    file: str, said: dict[str, Any], status: int, message: str, client: TestClient, run: Path
):
    answer = client.post("/api/reviews", json={"file": file, "said": [said]})
    assert answer.status_code == status and message in answer.json()["error"]
    assert log.read(run) == []


@pytest.mark.parametrize("path", ["/api/picture", "/api/thumbnail", "/api/image"])
@pytest.mark.parametrize("file", ["../run/run.json", "/etc/passwd", "more/../picnic.png", "none.png"])
def test_only_pictures_of_the_run_are_shown(path: str, file: str, client: TestClient):
    answer = client.get(path, params={"file": file})
    assert answer.status_code == 404 and answer.json() == {"error": f"there is no picture {file!r} in this run"}


def opened(answer: Any) -> Image.Image:
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "image/jpeg"
    return Image.open(io.BytesIO(answer.content))


def test_pictures(client: TestClient):
    assert opened(client.get("/api/image", params={"file": "picnic.png"})).size == (640, 480)
    before = opened(client.get("/api/thumbnail", params={"file": "picnic.png"}))
    assert before.size == (360, 270)
    say(client, "picnic.png", *({"action": "reject", "key": i} for i in range(6)))
    plain = Image.open(ROOT / "examples" / "picnic.png").convert("RGB").resize((360, 270), Image.Resampling.BILINEAR)
    after = opened(client.get("/api/thumbnail", params={"file": "picnic.png"}))
    assert _difference(before, plain) > 5 > _difference(after, plain)


def _difference(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of grey values."""
    pairs = zip(a.convert("L").tobytes(), b.convert("L").tobytes(), strict=True)
    return sum(abs(x - y) for x, y in pairs) / (a.width * a.height)


def test_a_picture_that_is_gone(client: TestClient, run: Path):
    (run.parent / "pictures" / "picnic.png").unlink()
    shutil.copy(ROOT / "examples" / "app.png", run.parent / "pictures" / "shelf.png")
    assert opened(client.get("/api/thumbnail", params={"file": "picnic.png"})).size == (360, 270)
    assert client.get("/api/picture", params={"file": "picnic.png"}).json()["missing"].endswith("no such image")
    answer = client.get("/api/image", params={"file": "picnic.png"})
    assert answer.status_code == 409 and "picnic.png cannot be found" in answer.json()["error"]
    assert "another picture" in client.get("/api/picture", params={"file": "shelf.png"}).json()["missing"]


def clicked(client: TestClient, **values: object) -> Any:
    body = {"file": "picnic.png", "key": None, "points": [[480, 300]], "labels": [1], **values}
    return client.post("/api/masks", json=body)


def test_clicks_answer_with_masks_that_can_be_kept(client: TestClient, run: Path):
    first = clicked(client, phrase="a dog").json()
    assert first["models_loaded"] and 1 <= len(first["masks"]) <= 3
    mask = first["masks"][0]["mask"]
    assert decode_rle([RLE(**mask)])[0, 300, 480] and first["masks"][0]["path"].startswith("M")
    shown = say(client, "picnic.png", {"action": "add", "phrase": "a dog", "mask": mask})["picture"]
    added = shown["instances"][-1]
    assert added["source"] == "added" and added["phrase"] == "a dog"

    (again,) = clicked(client, key=added["key"], points=[[480, 300], [20, 20]], labels=[1, 0]).json()["masks"]
    say(client, "picnic.png", {"action": "redraw", "key": added["key"], "mask": again["mask"]})
    (redrawn,) = clicked(client, key=0).json()["masks"]
    answer = say(client, "picnic.png", {"action": "redraw", "key": 0, "mask": redrawn["mask"]})
    assert answer["agreement"]["compared"] == 1 and 0.5 < answer["agreement"]["mean_iou"] <= 1
    assert answer["picture"]["instances"][0]["redrawn"]
    last = next(apply.corrected(run)).instances
    assert last.rles[0] == redrawn["mask"] and last.rles[-1] == again["mask"]


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        pytest.param({"file": "none.png"}, 404, "no picture", id="file"),
        pytest.param({"points": [], "labels": []}, 422, "", id="no click"),
        pytest.param({"labels": [0]}, 422, "background alone", id="background alone"),
        pytest.param({"points": [[700, 3]]}, 422, "must lie in the picture", id="outside"),
        pytest.param({"labels": [1, 1]}, 422, "one per point", id="labels"),
        pytest.param({"key": "none"}, 422, "no instance 'none'", id="instance"),
        pytest.param({"phrase": ""}, 422, "no phrase", id="phrase"),
    ],
)
def test_clicks_that_are_refused(values: dict[str, object], status: int, message: str, client: TestClient):
    answer = clicked(client, **values)
    assert answer.status_code == status and message in answer.json()["error"]


def test_an_address_that_is_taken():
    with server.listen("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            server.listen("127.0.0.1", port)
        with server.listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] != port
