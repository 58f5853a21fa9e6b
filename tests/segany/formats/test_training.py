"""Fine-tuned weights as people save them, through `segany.load`."""

import argparse
import collections
import enum
import importlib
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import segany
from segany import CheckpointError, SegAny
from segany.formats.training import find_weights
from tests.segany import reference
from tests.segany.reference import SMALL

PREFIXES = (
    "module.",
    "model.",
    "sam.",
    "sam_model.",
    "_orig_mod.",
    "net.",
    "_forward_module.",
    "lightning.sam_model.model.",
    "module.model.",
    "_orig_mod.module.sam.",
    "net.module._orig_mod.sam_model.",
)


@pytest.fixture(scope="module")
def state(sam):
    return sam.state_dict()


@pytest.fixture(scope="module")
def optimizer(sam):
    """The state of an optimizer after a step, whose entries have the shapes of the weights."""
    parameters = [parameter.detach().clone().requires_grad_() for parameter in list(sam.parameters())[:3]]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    adam = torch.optim.AdamW(parameters)
    adam.step()
    return adam.state_dict()


def with_prefix(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def assert_loads(path: Path, model: SegAny) -> None:
    loaded = segany.load(path)
    assert loaded.config == SMALL
    assert loaded.fingerprint() == model.fingerprint()


class EasyDict(dict):
    """A mapping with attributes, as many packages of configurations have one."""


class Stage(enum.Enum):
    DONE = "done"


@dataclass
class Hyperparameters:
    rate: float = 0.1


WRAPPED = {
    "model": lambda state, optimizer: {"model": state},
    "state_dict": lambda state, optimizer: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state, optimizer: {
        "model_state_dict": state,
        "optimizer": optimizer,
        "epoch": np.float64(3),
    },
    "flat, with an epoch": lambda state, optimizer: {**state, "epoch": 3},
    "Lightning": lambda state, optimizer: {
        "state_dict": with_prefix(state, "model.") | {"criterion.weight": torch.ones(3)},
        "optimizer_states": [optimizer],
        "hyper_parameters": EasyDict(rate=0.1),
        "callbacks": {"ModelCheckpoint": {"best": Path("/tmp/x"), "score": torch.tensor(0.5)}},
    },
    "DeepSpeed": lambda state, optimizer: {"module": with_prefix(state, "sam."), "lr_scheduler": None},
    "part by part": lambda state, optimizer: {
        part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        for part in ("image_encoder", "prompt_encoder", "mask_decoder")
    },
    "compiled parts": lambda state, optimizer: {
        name.replace("image_encoder.", "image_encoder._orig_mod.").replace(
            "mask_decoder.", "mask_decoder.module."
        ): value
        for name, value in state.items()
    },
    "averaged by PyTorch": lambda state, optimizer: {**with_prefix(state, "module."), "n_averaged": torch.tensor(4)},
    "objects of other packages": lambda state, optimizer: {
        "model": state,
        "args": argparse.Namespace(rate=0.1, out=Path("/tmp"), stage=Stage.DONE),
        "config": Hyperparameters(),
        "log": collections.defaultdict(list, loss=[np.float32(1.5), np.int64(2)]),
        "history": np.arange(3),
        "stage": Stage.DONE,
        "class": Hyperparameters,
    },
}


class TestWrapped:
    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
    def test_weights_are_found(self, wrap, state, optimizer, model, tmp_path):
        torch.save(wrap(state, optimizer), tmp_path / "last.pth")
        assert_loads(tmp_path / "last.pth", model)

    def test_the_format_before_pytorch_1_6(self, state, optimizer, model, tmp_path):
        content = WRAPPED["objects of other packages"](state, optimizer)
        torch.save(content, tmp_path / "last.pth", _use_new_zipfile_serialization=False)
        assert_loads(tmp_path / "last.pth", model)

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_prefixes(self, prefix, state):
        (found,) = find_weights({"state_dict": with_prefix(state, prefix)})
        assert found.state.keys() == state.keys()
        assert not found.others

    def test_prefixes_in_safetensors(self, state, model, tmp_path):
        save_file(with_prefix(state, "module.sam."), tmp_path / "model.safetensors")
        assert_loads(tmp_path / "model.safetensors", model)

    def test_hugging_face_names_with_a_prefix(self, tmp_path):
        theirs = reference.hugging_face_sam(SMALL)
        torch.save({"model": with_prefix(theirs.state_dict(), "module.")}, tmp_path / "last.pt")
        assert segany.load(tmp_path / "last.pt").config == SMALL

    def test_safetensors_and_pickles_are_told_by_their_contents(self, state, model, tmp_path):
        save_file(state, tmp_path / "last.pth")
        assert_loads(tmp_path / "last.pth", model)
        torch.save(state, tmp_path / "model.safetensors")
        assert_loads(tmp_path / "model.safetensors", model)

    @pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema", "swa_model"])
    def test_the_average_over_training_is_taken(self, key, state, model, tmp_path):
        other = SegAny(SMALL).state_dict()
        torch.save({"model": other, key: {"module": state}}, tmp_path / "last.pth")
        assert_loads(tmp_path / "last.pth", model)

    def test_of_two_models_none_is_guessed(self, state, tmp_path):
        torch.save({"student": state, "teacher": SegAny(SMALL).state_dict()}, tmp_path / "both.pth")
        with pytest.raises(CheckpointError, match=r"holds 2 different models \(student, teacher\)"):
            segany.load(tmp_path / "both.pth")

    def test_one_model_under_two_names_is_one(self, state, model, tmp_path):
        torch.save(with_prefix(state, "sam.") | with_prefix(state, "predictor.model."), tmp_path / "last.pth")
        assert_loads(tmp_path / "last.pth", model)

    def test_what_is_left_out_is_named(self, state, tmp_path, caplog):
        torch.save({"model": state | {"classifier.weight": torch.ones(2)}}, tmp_path / "last.pth")
        segany.load(tmp_path / "last.pth")
        assert "left out 1 tensors of no part of Segment Anything: classifier.weight" in caplog.text

    def test_the_normalisation_of_images_is_read(self, state, tmp_path):
        mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
        others = {"pixel_mean": mean.view(3, 1, 1), "pixel_std": std.view(3, 1, 1)}
        torch.save(state | others, tmp_path / "last.pth")
        config = segany.load(tmp_path / "last.pth").config
        assert (config.pixel_mean, config.pixel_std) == ((1, 2, 3), (4, 5, 6))

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, half, state, tmp_path):
        torch.save({"model": {name: value.to(half) for name, value in state.items()}}, tmp_path / "half.pth")
        assert {parameter.dtype for parameter in segany.load(tmp_path / "half.pth").parameters()} == {torch.float32}


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


class TestNothingIsUnpickled:
    """Names of a pickle are never imported, called or built."""

    @pytest.mark.parametrize(
        ("call", "new_format", "protocol"),
        [
            *((call, True, 2) for call in ("os.system", "eval", "exec", "open", "pathlib")),
            ("eval", False, 2),
            ("eval", True, 4),
            ("os.system", False, 4),
        ],
    )
    def test_harmful_files(self, call, new_format, protocol, state, tmp_path):
        trace = tmp_path / "trace"
        harmful = {
            "os.system": Harmful(os.system, f"touch {trace}"),
            "eval": Harmful(eval, f"open({str(trace)!r}, 'w')"),
            "exec": Harmful(exec, f"open({str(trace)!r}, 'w')"),
            "open": Harmful(open, str(trace), "w"),
            "pathlib": Harmful(Path.touch, Path(trace)),
        }[call]
        file = tmp_path / "harmful.pth"
        torch.save(
            {"model": state, "args": harmful}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format
        )
        try:
            segany.load(file)
        except CheckpointError as error:
            assert "\n" not in str(error)
            assert "python -c" in str(error)
        assert not trace.exists()
        with pytest.raises(CheckpointError):
            segany.load("tiny", adapter=file)
        assert not trace.exists()

    def test_no_module_is_imported(self, state, model, tmp_path, monkeypatch):
        (tmp_path / "foreign_package.py").write_text("class Config:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        package = importlib.import_module("foreign_package")
        torch.save({"model": state, "config": package.Config()}, tmp_path / "last.pth")
        del sys.modules["foreign_package"]
        assert_loads(tmp_path / "last.pth", model)
        assert "foreign_package" not in sys.modules

    @pytest.mark.parametrize("key", ["model", "net", None])
    def test_a_whole_object_is_refused_with_the_command_that_mends_it(self, key, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(model if key is None else {key: model, "epoch": 3}, "last.pth")
        with pytest.raises(
            CheckpointError, match=r"lie in an object of segany\.model\.SegAny, and nothing but"
        ) as error:
            segany.load("last.pth")
        command = str(error.value).partition('python -c "')[2].removesuffix('"')
        exec(command, {})  # what the user is told to run
        assert_loads(tmp_path / "last-weights.pth", model)

    def test_a_protocol_that_cannot_be_read_is_refused_likewise(self, state, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save({"state_dict": state, "epoch": 3}, "last.pth", pickle_protocol=4)
        with pytest.raises(CheckpointError, match="nothing but tensors is unpickled") as error:
            segany.load("last.pth")
        exec(str(error.value).partition('python -c "')[2].removesuffix('"'), {})
        assert_loads(tmp_path / "last-weights.pth", model)

    def test_other_pickles(self, tmp_path):
        (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2, {"a": 3}], protocol=2))
        with pytest.raises(CheckpointError, match=r"list\.pth"):
            segany.load(tmp_path / "list.pth")
