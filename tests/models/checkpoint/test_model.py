"""A quantized folder is a model like any other."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from harness.models.huggingface import folder_fingerprint, load_module

from .folders import DOWN, KEPT, copied, edit_tensor


def test_module_has_the_stored_weights():
    """The module's weights are what the checkpoint decodes to; no library is asked."""
    module = load_module(KEPT / "mo-nvfp4", headed="LlamaForCausalLM")
    with np.load(KEPT / "mo-nvfp4" / "decoded.npz") as decoded:
        for name, wanted in decoded.items():
            layer = module.get_submodule(name.removesuffix(".weight"))
            assert np.array_equal(layer.weight.detach().numpy(), wanted)
    assert str(module.lm_head.weight.dtype) == "torch.float32"


def test_fingerprint_sees_one_code(tmp_path):
    """Another code or another configuration is another model."""
    folder = copied("ct-fp8", tmp_path)
    before = folder_fingerprint(folder)
    assert before == folder_fingerprint(KEPT / "ct-fp8")

    def flip(array):
        array.view(np.uint8)[0, 0] ^= 1
        return array

    edit_tensor(folder, f"{DOWN}.weight", flip)
    assert folder_fingerprint(folder) != before


def test_plain_weights_are_the_base_s():
    """Layers that were not quantized keep their values."""
    module = load_module(KEPT / "ct-int4", headed="LlamaForCausalLM")
    base = load_module(KEPT / "base", headed="LlamaForCausalLM")
    found = module.lm_head.weight.detach().numpy()
    assert np.array_equal(found, base.lm_head.weight.detach().numpy())
    assert found.astype(ml_dtypes.bfloat16).astype(np.float32).tobytes() == (
        found.tobytes()
    )
