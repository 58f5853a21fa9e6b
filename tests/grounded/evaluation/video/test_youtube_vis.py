import json
from pathlib import Path
from typing import Any

import pytest

from grounded.errors import ResultError
from grounded.evaluation.video.youtube_vis import read_youtube_vis
from tests.grounded.evaluation.made import rle
from tests.grounded.evaluation.video.made import SIZE, masks

LEFT, RIGHT = (dict(rle(masks({1: place})[1])) for place in ("left", "right"))
VIDEO = {"id": 3, "height": SIZE[0], "width": SIZE[1], "length": 2, "file_names": ["cats/00000.jpg", "cats/00001.jpg"]}


def data(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 8, "video_id": 3, "category_id": 1, "segmentations": [LEFT, None]}
    return {"videos": [VIDEO], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}], **changes}


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_clips(tmp_path: Path):
    polygon = [[20, 2, 28, 2, 28, 12, 20, 12]]
    more = {"id": 9, "video_id": 3, "segmentations": [{"size": SIZE, "counts": [SIZE[0] * SIZE[1]]}, polygon]}
    contents = data(annotations=[*data()["annotations"], more])
    (clip,) = read_youtube_vis(written(tmp_path / "a.json", contents))
    assert (clip.name, list(clip.numbers), clip.lists_frames) == ("cats", [0, 1], True)
    assert [clip.read(number).ids for number in clip.numbers] == [(8,), (9,)], "an empty mask is not in sight"
    assert clip.read(1).rles == (RIGHT,)


@pytest.mark.parametrize(
    ("video", "name"),
    [
        pytest.param({**VIDEO, "file_names": ["0.jpg", "1.jpg"], "name": "dogs.mp4"}, "dogs.mp4", id="its name"),
        pytest.param({"id": 3, "height": 24, "width": 40, "length": 2}, "3", id="its id"),
    ],
)
def test_names(tmp_path: Path, video: dict, name: str):
    (clip,) = read_youtube_vis(written(tmp_path / "a.json", data(videos=[video])))
    assert clip.name == name


def test_track_ids_go_before_ids(tmp_path: Path):
    annotation = {**data()["annotations"][0], "track_id": 5}
    (clip,) = read_youtube_vis(written(tmp_path / "a.json", data(annotations=[annotation])))
    assert clip.read(0).ids == (5,)


def test_results_are_of_the_videos_of_the_truth(tmp_path: Path):
    truth = read_youtube_vis(written(tmp_path / "a.json", data()))
    results = [{"video_id": 3, "score": 0.9, "category_id": 1, "segmentations": [LEFT, RIGHT]}] * 2
    path = written(tmp_path / "results.json", results)
    (clip,) = read_youtube_vis(path, truth)
    assert clip.read(1).ids == (1, 2)
    with pytest.raises(ResultError, match="need a truth in the same format"):
        read_youtube_vis(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        pytest.param({"images": []}, "must hold lists of videos and annotations", id="no videos"),
        pytest.param(data(videos=[{"id": 1}]), "a video must have id, width, height and length", id="no size"),
        pytest.param(data(videos=[VIDEO, VIDEO]), "two videos have the same id", id="video twice"),
        pytest.param(data(annotations=data()["annotations"] * 2), "has two annotations of id 8", id="object twice"),
        pytest.param(data(annotations=["x"]), "must have id, video_id and segmentations", id="no annotation"),
        pytest.param(
            data(annotations=[{"id": 1, "video_id": 4, "segmentations": []}]),
            "a video that is listed, got 4",
            id="stray",
        ),
        pytest.param(
            data(annotations=[{"id": 1, "video_id": 3, "segmentations": [LEFT]}]),
            "a mask or null for 2 frames, got 1",
            id="frames are missing",
        ),
        pytest.param([{"score": 1}], "need a truth", id="results without truth"),
        pytest.param(3, "must hold lists of videos", id="a number"),
    ],
)
def test_bad_files(tmp_path: Path, contents: Any, message: str):
    path = written(tmp_path / "a.json", contents)
    with pytest.raises(ResultError, match=message) as error:
        read_youtube_vis(path)
    assert str(path) in str(error.value)


def test_a_bad_mask_is_named(tmp_path: Path):
    annotation = {"id": 8, "video_id": 3, "segmentations": [None, {"size": [2, 2], "counts": [4]}]}
    (clip,) = read_youtube_vis(written(tmp_path / "a.json", data(annotations=[annotation])))
    assert clip.read(0).ids == ()
    with pytest.raises(ResultError, match="clip cats, object 8, frame 1: a mask must be of the image's size"):
        clip.read(1)
