"""A language model of a few thousand weights as a GGUF file, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HIDDEN, HEADS, KV_HEADS, LAYERS, INNER = 32, 4, 2, 2, 48
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_letters() -> list[str]:
    """The letter of each byte in GPT-2's byte-level alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def write_gguf(
    path: Path,
    *,
    seed: int = 0,
    template: str | None = TEMPLATE,
    inner: int = INNER,
    hidden: int = HIDDEN,
    context: int = 256,
    arrays: dict[str, np.ndarray] | None = None,
    **fields,
):
    """Write the file; `arrays` replace weights, `fields` strings of its metadata."""
    from gguf import GGUFWriter

    tokens = [*SPECIAL, *byte_letters(), "he", "ll"]
    writer = GGUFWriter(str(path), fields.get("architecture", "llama"))
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_tokenizer_model(fields.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["h e", "l l"])
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    made = weights(len(tokens), seed, inner, hidden)
    for name, array in {**made, **(arrays or {})}.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weights(
    vocabulary: int, seed: int, inner: int = INNER, hidden: int = HIDDEN
) -> dict[str, np.ndarray]:
    """Random weights under llama.cpp's names."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float16)

    small = hidden // HEADS * KV_HEADS
    found = {
        "token_embd.weight": (3 * matrix(vocabulary, hidden)).astype(np.float16),
        "output_norm.weight": np.ones(hidden, np.float32),
    }
    for layer in range(LAYERS):
        block = {
            "attn_norm": np.ones(hidden, np.float32),
            "attn_q": matrix(hidden, hidden),
            "attn_k": matrix(small, hidden),
            "attn_v": matrix(small, hidden),
            "attn_output": matrix(hidden, hidden),
            "ffn_norm": np.ones(hidden, np.float32),
            "ffn_gate": matrix(inner, hidden),
            "ffn_up": matrix(inner, hidden),
            "ffn_down": matrix(hidden, inner),
        }
        found |= {f"blk.{layer}.{name}.weight": array for name, array in block.items()}
    return found
