"""What gets which format: a scheme is a frozen value, never a subclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Granularity = Literal["tensor", "channel", "row", "block", "head", "token"]


@dataclass(frozen=True, kw_only=True)
class TensorScheme:
    """How one kind of tensor is stored."""

    #: A name in `numerics.FORMATS`.
    format: str
    #: tensor: one scale; channel: one an output channel (weights); row: one a row of
    #: the reduction axis, or one a sample for a convolution (activations); block:
    #: the format's own blocks, or `block` elements, along the reduction axis; head,
    #: token (KV cache): one a token and head, one a token.
    granularity: Granularity
    #: Elements that share a scale, for group-wise integers; None: the format's own.
    block: int | None = None
    #: False: activations use the scale calibrated from the reference (amax of the
    #: golden's cases), as static quantization does.
    dynamic: bool = True
    #: The scale rule, a part of the scheme's identity ("MXFP4" is not one thing);
    #: None: the format's default in `numerics`.
    rule: str | None = None
    #: False: integers with a zero point, so that the codes cover the range.
    symmetric: bool = True


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A recipe: which tensors get which format, and what is left alone."""

    name: str
    weights: TensorScheme | None
    activations: TensorScheme | None = None
    kv_cache: TensorScheme | None = None
    #: What results of quantized operators are rounded to, bias included: `int8` or
    #: `int16`, one static scale; see `schemes.outputs`.
    outputs: TensorScheme | None = None
    #: Operators left alone, as fnmatch patterns over operator names.
    keep: tuple[str, ...] = ()
    #: One line for people.
    summary: str = ""
    #: Operator name -> amax of its input over the golden's cases (float32 values).
    calibration: Mapping[str, float] = field(default_factory=dict)
    #: The same of its output, for `outputs`.
    output_calibration: Mapping[str, float] = field(default_factory=dict)
    #: Folder of a quantized checkpoint, or quantized ONNX file, whose stored weights
    #: (and static scales) are used as they are; "": weights are quantized from the
    #: model's own.
    checkpoint: str = ""
    #: A library's quantizer that makes such a file of the model, a name in
    #: `schemes.quantizers`, and what it is called with.
    quantizer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weight_only(self) -> bool:
        """Whether activations stay as they are, keys and values included."""
        return self.activations is None and self.kv_cache is None
