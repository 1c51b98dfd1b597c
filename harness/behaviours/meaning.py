"""Does a reply still say the same? By the embedding of a sentence encoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.behaviours.types import Answer, BehaviourKind, Replies
from harness.errors import ConfigError, ModelError
from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]

#: all-MiniLM-L6-v2, out of a package.
_ENCODER: Final = "harness.models.zoo:minilm"
#: Of pairs of the reference's replies to different prompts so many are further apart
#: than what counts as the same.
_UNLIKE: Final = 0.99
#: Replies of the reference without which that share says nothing.
_FEWEST: Final = 15
#: Characters that are read: no encoder makes more tokens of them than it takes.
_READ: Final = 500


def _meaning(
    cases: Sequence[Case],
    replies: Replies,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """Whether a reply is nearer to the reference's than unlike replies are.

    Raises:
        ConfigError: too few replies to tell how near unlike ones are.
        ModelError: the encoder is not installed, or gives no embeddings.
    """
    reference: Replies | None = metadata.get("reference")
    if reference is None:
        return {case.id: Answer(replies[case.id].text, True) for case in cases}  # noqa: FBT003
    embed = _encoder(str(options.get("model", _ENCODER)))
    least = options.get("least")
    if least is None:
        least = unlike(embed, [reply.text for reply in reference.values()])
    found = {}
    for case in cases:
        if case.id in reference:
            own, other = (embed(r[case.id].text) for r in (replies, reference))
            cosine = float(own @ other)
            text = (
                f"{replies[case.id].text} (cosine {cosine:.3f}, at least {least:.3f})"
            )
            found[case.id] = Answer(text, cosine >= float(least))
    return found


def unlike(embed: Any, texts: Sequence[str]) -> float:
    """The cosine that 99 of 100 pairs of different texts stay below.

    Args:
        embed: text to an embedding of length 1.
        texts: replies to different prompts.

    Raises:
        ConfigError: fewer than 15 different ones.
    """
    different = sorted(set(texts))
    if len(different) < _FEWEST:
        raise ConfigError(
            f"behaviour meaning: the reference has {len(different)} different replies, "
            f"but {_FEWEST} should tell how near unlike ones are; write `least` "
            "(a cosine) in suite.toml"
        )
    table = np.stack([embed(text) for text in different])
    cosines = (table @ table.T)[np.triu_indices(len(different), 1)]
    return float(np.quantile(cosines, _UNLIKE))


@functools.cache
def _encoder(spec: str) -> Any:
    """Text to its embedding, float64, of length 1."""
    import torch

    from harness.models.load import load_model

    model = load_model(spec, Path())
    module = model.module().eval()

    @functools.lru_cache(maxsize=4096)
    def embed(text: str) -> Array:
        inputs = model.prepare({"text": text[:_READ]}, "")
        with torch.inference_mode():
            found = module(**{n: torch.from_numpy(a) for n, a in inputs.items()})
        vector = next(iter(found.values())).double().numpy()
        if vector.ndim != 2 or len(vector) != 1:
            raise ModelError(
                f"behaviour meaning: model={spec!r} gives shape {vector.shape}, but "
                "should give (1, width): an embedding of a text"
            )
        norm = np.linalg.norm(vector[0])
        unit: Array = vector[0] / (norm or 1.0)
        return unit

    return embed


KINDS: Final = (
    BehaviourKind(
        name="meaning",
        evaluate=_meaning,
        options={
            "model": f"the sentence encoder; default {_ENCODER}",
            "least": "least cosine; default: what 99 % of unlike replies are below",
        },
        reads="replies",
        relative=True,
        summary="its embedding is nearer to the reference's than unlike replies are",
    ),
)
