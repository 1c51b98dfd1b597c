"""SmolLM2 on llama.cpp: every type of weight that the suite runs, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.llama_cpp_backend import LlamaCppBackend
from harness.backends.registry import load_registry
from harness.compare.explained import Explained
from harness.errors import ModelError
from harness.execution.suite import load_suite
from harness.models.zoo import smollm2
from harness.schemes.apply import plan_one

pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
pytestmark = pytest.mark.quant_slow

TEXT = "The quick brown fox jumps over 13 lazy dogs, and 27 + 15 is 42. " * 3


@pytest.fixture(scope="module")
def model():
    try:
        return smollm2()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def suite(request):
    folder = request.config.rootpath / "suites" / "smollm2"
    return load_suite(folder, load_registry())


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_k", "mxfp4", "nvfp4", "f16"])
def test_every_product_is_explained(model, suite, kind):
    """One block in ten, each of its linears against the oracle on its own input."""
    scheme = next(t.scheme for t in suite.targets if t.scheme.name == f"gguf_{kind}")
    ids = np.array([model.tokenizer.encode(TEXT)])
    asked = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "positions": np.array([[3, ids.shape[1] - 1]]),
    }
    blocks = tuple(f"model.layers.{index}." for index in range(0, 30, 10))
    chosen = {
        o.name: o
        for o in model.operators()
        if o.name.startswith(blocks) and plan_one(scheme, o).weights
    }
    session = LlamaCppBackend().load(model, scheme)
    found = session.run(asked, capture=chosen)
    explained = Explained(scheme, session.arithmetic(), calls=1)
    for name, operator in chosen.items():
        explained.add(operator, found[f"{name}/input"], found[name])
    detail = session.arithmetic().detail
    session.close()

    entries = explained.result()
    # Of the seven of a block down_proj alone has rows of whole super-blocks.
    each, name = (1, "q4_K") if kind == "q4_k" else (7, kind)
    assert 3 * each == len(entries)
    assert f"{30 * each} products of {name}" in detail or kind == "f16"
    assert all(entry.residual_sq <= entry.explained_sq for entry in entries)
