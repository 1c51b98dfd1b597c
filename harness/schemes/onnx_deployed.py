"""A quantized ONNX file as the model that is run: nothing of it is built anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ModelError
from harness.models.onnx_operators import OnnxOperator, find_operators
from harness.schemes.apply import OperatorPlan
from harness.schemes.checkpoint import node_of_file, onnx_checkpoint
from harness.schemes.onnx_model import QuantizedModel
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx


def deployed(model: onnx.ModelProto, scheme: Scheme) -> QuantizedModel:
    """The file, and where the model's operators are in it.

    Args:
        model: the unquantized one, in normal form.
        scheme: whose checkpoint is the file.

    Raises:
        ModelError: the file has other inputs or outputs than the model, or a layer
            that is none of the model's.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(onnx_checkpoint(scheme.checkpoint).proto)
    for what in ("input", "output"):
        own = [value.name for value in getattr(model.graph, what)]
        found = [value.name for value in getattr(proto.graph, what)]
        if own != found:
            raise ModelError(
                f"{scheme.checkpoint}: {what}s {found}, but should be the model's {own}"
            )
    entries = find_operators(model)
    _check_names(scheme, entries)
    held = {name for node in proto.graph.node for name in node.output}
    held |= {value.name for value in proto.graph.input}
    observed: dict[str, tuple[str, str]] = {}
    weights: dict[str, str] = {}
    plans: dict[str, OperatorPlan] = {}
    transposed = set()
    for entry in entries:
        layer = node_of_file(scheme, entry.name)
        if layer is None:
            plans[entry.name] = OperatorPlan(
                weights=False, activations=False, reason="not quantized in the file"
            )
            if {entry.input, entry.output} <= held:
                observed[entry.name] = (entry.input, entry.output)
            continue
        plans[entry.name] = OperatorPlan(
            weights=True, activations=layer.inputs is not None
        )
        observed[entry.name] = (layer.x, layer.result)
        weights[entry.name] = layer.decoded
        if layer.transposed:
            transposed.add(entry.name)
    return QuantizedModel(proto, observed, weights, plans, frozenset(transposed))


def _check_names(scheme: Scheme, entries: list[OnnxOperator]) -> None:
    """Every layer of the file belongs to one operator of the model."""
    found = {
        layer.name
        for entry in entries
        if (layer := node_of_file(scheme, entry.name)) is not None
    }
    strangers = sorted(set(onnx_checkpoint(scheme.checkpoint).layers) - found)
    if strangers or not found:
        shown = ", ".join(strangers[:3]) or "none"
        raise ModelError(
            f"{scheme.checkpoint}: quantized layers {shown} are not among the model's "
            f"operators {', '.join(entry.name for entry in entries[:3])}, ...; it "
            "should be made of this model, its nodes' names kept"
        )
