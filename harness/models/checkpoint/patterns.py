"""Names of layers as configurations write them: names, globs, `re:` and classes."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from harness.errors import ModelError


@dataclass(frozen=True)
class Patterns:
    """A list of names of layers, as a target or ignore list of a configuration."""

    given: tuple[str, ...] = ()
    #: Whether a name covers everything below it too.
    prefixes: bool = False

    @property
    def classes(self) -> bool:
        """Whether all layers of a class are meant, as by "Linear"."""
        return any(entry[:1].isupper() for entry in self.given)

    def names(self, layer: str) -> bool:
        """Whether one of the entries names the layer itself."""
        return bool(self.matching(layer))

    def matching(self, layer: str) -> str:
        """The first entry that names the layer; "" when none does.

        Raises:
            ModelError: an entry is no regular expression.
        """
        for entry in self.given:
            if _matches(entry, layer) or (
                self.prefixes and layer.startswith(f"{entry}.")
            ):
                return entry
        return ""


def _matches(entry: str, layer: str) -> bool:
    if entry.startswith("re:"):
        try:
            return re.match(entry[3:], layer) is not None
        except re.error as error:
            raise ModelError(
                f"quantization_config: {entry!r} is no regular expression ({error})"
            ) from None
    if any(letter in entry for letter in "*?["):
        return fnmatch.fnmatchcase(layer, entry)
    return layer == entry
