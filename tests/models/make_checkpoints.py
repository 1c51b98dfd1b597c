"""Makes the quantized checkpoints of the tests with the vendors' own libraries.

Run it where they are installed; it needs no GPU and takes about a minute:

    python tests/models/make_checkpoints.py tests/models/checkpoints

Each folder is a tiny language model as the library saves it; `decoded.npz` beside it
has the weights that the library itself decodes (bfloat16 as its bits in uint16), and
`made-with.json` the versions.
"""

from __future__ import annotations

import copy
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def base() -> LlamaForCausalLM:
    """One layer, no square weights beside q and o, everything but zero."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=32,
            tie_word_embeddings=False,
            architectures=["LlamaForCausalLM"],
        )
    )
    for name, tensor in made.state_dict().items():
        if "norm" in name:
            tensor.mul_(1 + 0.1 * torch.randn_like(tensor))
    return made.to(torch.bfloat16).eval()


def note(folder: Path, *packages: str) -> None:
    """Which versions made it."""
    versions = {package: version(package) for package in (*packages, "torch")}
    (folder / "made-with.json").write_text(json.dumps(versions, indent=1) + "\n")


def keep(folder: Path, decoded: dict[str, torch.Tensor]) -> None:
    """The library's own decoded weights, by tensor name."""
    arrays = {}
    for name, tensor in decoded.items():
        whole = tensor.detach().contiguous()
        if whole.dtype == torch.bfloat16:
            arrays[name] = whole.view(torch.uint16).numpy()
        else:
            arrays[name] = whole.float().numpy()
    np.savez_compressed(folder / "decoded.npz", **arrays)


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Every Linear by name."""
    named = model.named_modules()
    return {name: m for name, m in named if isinstance(m, torch.nn.Linear)}


def compressed_tensors(model: torch.nn.Module, folder: Path, weights: dict) -> None:
    """By LLM Compressor's own library, as `save_pretrained` does."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
        preset_name_to_scheme,
    )
    from compressed_tensors.quantization.utils import (
        calculate_qparams,
        generate_gparam,
    )

    model = copy.deepcopy(model)
    if "preset" in weights:
        scheme = preset_name_to_scheme(weights["preset"], ["Linear"])
        if "group_size" in weights:
            scheme.weights.group_size = weights["group_size"]
        if "block" in weights:
            scheme.weights.block_structure = weights["block"]
    else:
        scheme = QuantizationScheme(
            targets=["Linear"], weights=QuantizationArgs(**weights)
        )
    # Static activation scales want data; here the weights are what is looked at.
    if scheme.input_activations and not scheme.input_activations.dynamic:
        scheme.input_activations = None
    config = QuantizationConfig(config_groups={"g": scheme}, ignore=["lm_head"])
    apply_quantization_config(model, config)
    for module in linears(model).values():
        if not hasattr(module, "weight_scale"):
            continue
        args, w = module.quantization_scheme.weights, module.weight.data
        low, high = extremes(w, args)
        extra = {}
        if hasattr(module, "weight_global_scale"):
            divisor = generate_gparam(*torch.aminmax(w.float()))
            module.weight_global_scale.data = divisor
            extra["global_scale"] = divisor
        scale, zero = calculate_qparams(low, high, args, **extra)
        module.weight_scale.data = scale.reshape(module.weight_scale.shape).to(
            module.weight_scale.dtype
        )
        if hasattr(module, "weight_zero_point"):
            point = module.weight_zero_point
            point.data = zero.reshape(point.shape).to(point.dtype)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save(model, folder, state)
    compressor.update_config(str(folder))
    compressor.decompress_model(model)
    keep(
        folder,
        {
            f"{name}.weight": module.weight
            for name, module in linears(model).items()
            if hasattr(module, "quantization_scheme")
        },
    )
    note(folder, "compressed-tensors")


def save(model: torch.nn.Module, folder: Path, state: dict) -> None:
    """A state dict and the configuration, as `save_pretrained` lays them out."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def extremes(w: torch.Tensor, args: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest value of each group of a weight."""
    strategy = str(getattr(args.strategy, "value", args.strategy))
    if strategy == "tensor":
        return torch.aminmax(w)
    if strategy == "channel":
        return torch.aminmax(w, dim=1, keepdim=True)
    if strategy == "block":
        r, c = args.block_structure
        blocks = w.unflatten(0, (-1, r)).unflatten(2, (-1, c))
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    return torch.aminmax(w.unflatten(-1, (-1, args.group_size)), dim=-1)


def modelopt(model: torch.nn.Module, folder: Path, config: str) -> None:
    """By NVIDIA's ModelOpt: what TensorRT-LLM and vLLM deploy."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from safetensors import safe_open

    model = copy.deepcopy(model)

    def calibrate(m: torch.nn.Module) -> None:
        m(torch.arange(16).reshape(1, 16))

    mtq.quantize(model, copy.deepcopy(getattr(mtq, config)), calibrate)
    with torch.no_grad():
        export_hf_checkpoint(model, export_dir=folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    keep(
        folder,
        {
            key.removesuffix("_scale"): modelopt_decoded(state, key, config)
            for key in state
            if key.endswith(".weight_scale")
        },
    )
    note(folder, "nvidia-modelopt")


def modelopt_decoded(state: dict, key: str, config: str) -> torch.Tensor:
    """A weight as ModelOpt's own tensor classes decode it."""
    from modelopt.torch.export.quant_utils import from_quantized_weight
    from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor

    scale, weight = state[key], state[key.removesuffix("_scale")]
    if config.startswith("NVFP4"):
        shape = (weight.shape[0], weight.shape[1] * 2)
        return NVFP4QTensor(shape, torch.float32, weight).dequantize(
            dtype=torch.float32,
            scale=scale,
            double_scale=state[f"{key}_2"],
            block_sizes={-1: 16},
        )
    if config.startswith("MXFP8"):
        return MXFP8QTensor(weight.shape, torch.float32, weight).dequantize(
            dtype=torch.float32, scale=scale, block_sizes={-1: 32}
        )
    if scale.ndim:
        scale = scale[:, None]
    return from_quantized_weight(weight, scale, "fp8", torch.float32)


def quark(model: torch.nn.Module, folder: Path, spec: str) -> None:
    """By AMD Quark: what Ryzen AI and ROCm deploy."""
    from quark.torch import ModelQuantizer
    from quark.torch.export.api import export_safetensors
    from quark.torch.quantization.config import config as specs

    options = {"ch_axis": -1} if "MX" in spec else {}
    if "Channel" in spec:
        options = {"ch_axis": 0}
    observed = getattr(specs, spec)(is_dynamic=False, **options)
    weights = observed.to_quantization_spec()
    config = specs.QConfig(
        global_quant_config=specs.QLayerConfig(weight=weights), exclude=["lm_head"]
    )
    quantizer = ModelQuantizer(config)
    data = torch.utils.data.DataLoader([torch.arange(16)], batch_size=1)
    made = quantizer.freeze(quantizer.quantize_model(copy.deepcopy(model), data))
    decoded = {
        f"{name}.weight": module.weight_quantizer(module.weight.data)
        for name, module in made.named_modules()
        if getattr(module, "weight_quantizer", None) is not None
    }
    found = {name: tensor.clone() for name, tensor in decoded.items()}
    with torch.no_grad():
        export_safetensors(made, str(folder), custom_mode="quark")
    (folder / "generation_config.json").unlink(missing_ok=True)
    keep(folder, found)
    note(folder, "amd-quark")


COMPRESSED = {
    "ct-fp8": {"preset": "FP8_DYNAMIC"},
    "ct-fp8-tensor": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    "ct-fp8-block": {"preset": "FP8_BLOCK", "block": [16, 16]},
    "ct-int8": {"preset": "W8A8"},
    "ct-w8a16": {"preset": "W8A16", "group_size": 16},
    "ct-int4": {"preset": "W4A16", "group_size": 16},
    "ct-int4-asym": {"preset": "W4A16_ASYM", "group_size": 16},
    "ct-nvfp4": {"preset": "NVFP4A16"},
    "ct-mxfp4": {"preset": "MXFP4A16"},
    "ct-mxfp8": {"preset": "MXFP8A16"},
}
MODELOPT = {
    "mo-fp8": "FP8_DEFAULT_CFG",
    "mo-fp8-channel": "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "mo-nvfp4": "NVFP4_DEFAULT_CFG",
    "mo-mxfp8": "MXFP8_DEFAULT_CFG",
}
QUARK = {
    "qk-fp8": "FP8E4M3PerTensorSpec",
    "qk-fp8-channel": "FP8E4M3PerChannelSpec",
    "qk-mxfp4": "OCP_MXFP4Spec",
    "qk-mxfp6": "OCP_MXFP6E2M3Spec",
    "qk-int8": "Int8PerChannelSpec",
}


def main(target: Path, wanted: list[str]) -> None:
    """All of them, or those whose names are given."""
    model = base()
    if not wanted or "base" in wanted:
        save(model, target / "base", model.state_dict())
        note(target / "base", "transformers")
    for name, weights in COMPRESSED.items():
        if not wanted or name in wanted:
            compressed_tensors(model, target / name, weights)
    for name, config in MODELOPT.items():
        if not wanted or name in wanted:
            modelopt(model, target / name, config)
    for name, spec in QUARK.items():
        if not wanted or name in wanted:
            quark(model, target / name, spec)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
