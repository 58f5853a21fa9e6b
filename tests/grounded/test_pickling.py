"""A pipeline and a predictor in other processes: spawned workers, data loaders, joblib, copies."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import segany
from grounded.data.instances import Instances
from grounded.pipeline import Pipeline
from tests.data import PICNIC
from tests.grounded.conftest import SEGMENTER

TEXTS = ["a dog", "pizza", "a bus"]


def counts(results: list[Instances]) -> list[int]:
    return [len(result) for result in results]


def test_pickle_holds_the_configuration_and_no_weights(bundled: Pipeline):
    pipeline = bundled.with_config(mask_nms_threshold=0.7)
    stored = pickle.dumps(pipeline)
    assert len(stored) < 10_000
    loaded = pickle.loads(stored)
    assert loaded.config == pipeline.config and loaded.segmenter is not pipeline.segmenter
    assert pickle.loads(stored) is loaded, "a worker that unpickles it for every task loads it once"
    assert loaded.segment(PICNIC, "a dog").rles == pipeline.segment(PICNIC, "a dog").rles


def test_deepcopy(bundled: Pipeline):
    duplicate = copy.deepcopy(bundled)
    assert duplicate.config == bundled.config and duplicate.segmenter is not bundled.segmenter


@pytest.mark.parametrize("part", ["detector", "segmenter", "text_encoder"])
def test_models_given_as_objects_are_refused(bundled: Pipeline, part: str):
    for pipeline in (
        replace(bundled, **{part: copy.copy(getattr(bundled, part))}),
        Pipeline(bundled.detector, bundled.text_encoder, bundled.segmenter),
    ):
        with pytest.raises(pickle.PicklingError, match="models that were given as objects"):
            pickle.dumps(pipeline)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: Pipeline):
    from grounded.models.build import resolve_paths

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    config = replace(
        bundled.config,
        detector=replace(bundled.config.detector, checkpoint="weights"),
        clip=replace(bundled.config.clip, checkpoint="local-dir:weights"),
        video=replace(bundled.config.video, checkpoint="weights"),
    )
    resolved = resolve_paths(config)
    assert resolved.detector.checkpoint == resolved.video.checkpoint == str(tmp_path / "weights")
    assert resolved.clip.checkpoint == f"local-dir:{tmp_path / 'weights'}"
    assert resolved.segmenter.checkpoint == "bundled:tiny", "no path"


def test_predictor_of_loaded_weights():
    predictor = segany.Predictor(segany.load("tiny"))
    stored = pickle.dumps(predictor)
    assert len(stored) < 10_000
    loaded = pickle.loads(stored)
    assert loaded.fingerprint == predictor.fingerprint and pickle.loads(stored) is loaded


def test_predictor_of_weights_that_changed_since():
    model = segany.load("tiny")
    torch.nn.init.zeros_(model.mask_decoder.iou_token.weight)
    stored = pickle.dumps(segany.Predictor(model))
    with pytest.raises(segany.CheckpointError, match="tiny: holds other weights than the predictor that was pickled"):
        pickle.loads(stored)


def test_predictor_of_a_model_given_as_an_object():
    predictor = segany.Predictor(segany.SegAny(SEGMENTER).eval())
    assert pickle.loads(pickle.dumps(predictor)).fingerprint == predictor.fingerprint


class Segmented(Dataset[int]):
    """Counts the instances of each text, with a pipeline of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> int:
        return len(self.pipeline.segment(PICNIC, TEXTS[index]))


@pytest.mark.slow
def test_spawned_workers(bundled: Pipeline):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(bundled.segment, [PICNIC] * 3, TEXTS))
    assert [r.rles for r in results] == [bundled.segment(PICNIC, text).rles for text in TEXTS]


@pytest.mark.slow
@pytest.mark.long
def test_data_loader(bundled: Pipeline):
    loader = DataLoader(Segmented(bundled), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert list(loader) == counts([bundled.segment(PICNIC, text) for text in TEXTS])


@pytest.mark.slow
@pytest.mark.long
def test_joblib(bundled: Pipeline):
    joblib = pytest.importorskip("joblib")
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(bundled.segment)(PICNIC, text) for text in TEXTS)
    assert counts(results) == counts([bundled.segment(PICNIC, text) for text in TEXTS])
