"""A quantizer under test: ours, or anybody's, behind one small shape.

In a plugin::

    from harness.properties import Quantizer


    def register(registry):
        registry.add_quantizer(Quantizer("mine", "mxfp4", my_quantize))

`my_quantize(x)` takes float32 (rows, n), n of any length, blocks (or for an element
format one scale a row) along the last axis, and returns anything with

* `codes`: (rows, n) integers, unpacked, as the format's codes;
* `scales`: (rows, groups), the decoded block scales;
* `global_scale`: NVFP4's tensor scale (a factor); 1 if absent;
* `dequantize()`: float32 (rows, n);
* `pack()`: optional; the codes' bytes, rows one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.registry import Registry
from harness.errors import PluginError
from harness.numerics import FORMATS, find_format, quantize
from harness.numerics.formats import Format, element_format

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Quantizer:
    """What is under test.

    Attributes:
        name: shown in test ids.
        format: a name in `numerics.FORMATS`: says what codes and scales mean.
        quantize: see the module's docstring.
        block: elements that share a scale; None: the format's; 0: the row.
    """

    name: str
    format: str
    quantize: Callable[[Array], Any]
    block: int | None = None

    @property
    def fmt(self) -> Format:
        """The format."""
        return find_format(self.format)

    @property
    def element(self) -> Format:
        """The format of an element."""
        return element_format(self.fmt.element or self.fmt.name)

    @property
    def size(self) -> int:
        """Elements that share a scale; 0: the row."""
        return self.fmt.block if self.block is None else self.block


class QuantizerRegistry(Registry):
    """The registry of plugins, with quantizers."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizers: dict[str, Quantizer] = {}

    def add_quantizer(self, quantizer: Quantizer) -> None:
        """Register a quantizer under its name.

        Raises:
            PluginError: not a `Quantizer`, or of an unknown format.
        """
        if not isinstance(quantizer, Quantizer):
            raise PluginError(
                f"{quantizer!r} is no harness.properties.Quantizer(name, format, "
                "quantize)"
            )
        find_format(quantizer.format)
        self.quantizers[quantizer.name] = quantizer


#: Formats that hold values by themselves: casts to 16 bits and scales do not count.
_CAST: Final = ("fp16", "bf16", "fp8_e8m0")


def own_quantizers() -> dict[str, Quantizer]:
    """Ours, one for each format that has scales."""
    made = {}
    for name in FORMATS:
        if name in _CAST:
            continue

        def ours(x: Array, name: str = name) -> Any:
            return quantize(x, name)

        made[name] = Quantizer(name, name, ours)
    return made


def load_quantizers(plugins: Sequence[str]) -> dict[str, Quantizer]:
    """The quantizers that plugins register; ours if none is given.

    Raises:
        PluginError: a plugin does not load, or registers no quantizer.
    """
    if not plugins:
        return own_quantizers()
    registry = QuantizerRegistry()
    for spec in plugins:
        registry.load_plugin(spec)
    if not registry.quantizers:
        raise PluginError(
            f"{', '.join(plugins)}: no quantizer was registered; call "
            "registry.add_quantizer(Quantizer(name, format, quantize)) in register()"
        )
    return registry.quantizers
