"""Everything `quantharness` raises on purpose.

::

    HarnessError
    ├── UsageError            wrong usage or configuration: exit code 2
    │   ├── ConfigError       suite.toml or budgets.toml: file, key, line
    │   ├── ModelError        the model cannot be loaded or is not what it says
    │   ├── CasesError        no cases, a malformed case, NaN or a wrong shape in one
    │   ├── NumericsError     a format, axis, block or value the numerics cannot take
    │   └── PluginError       a plugin that does not load or register
    ├── GoldenError           the golden cannot be compared with: verdict `stale`
    │   ├── GoldenMissing     none was recorded
    │   ├── GoldenCorrupt     truncated, altered, a git-LFS pointer, not a golden
    │   └── GoldenMismatch    recorded from another model, other cases or schema
    ├── ReferenceInvalid      the reference is itself broken; it may not become a golden
    ├── UnsupportedError      a backend cannot run this model or scheme
    ├── MissingExtraError     an optional dependency is not installed
    └── BackendError          a backend crashed, hung or returned garbage: exit code 3
        ├── BackendTimeout    it did not answer in time
        └── BackendMemoryError  it took more memory than it was given
"""

from __future__ import annotations

from pathlib import Path


class HarnessError(Exception):
    """Base of every error raised on purpose; its text is meant for the user."""

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whatever the constructor's arguments are."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(
    kind: type[HarnessError], text: str, attributes: dict[str, object]
) -> HarnessError:
    """The same error in another process, without calling its constructor."""
    error = kind.__new__(kind, text)
    error.__dict__.update(attributes)
    return error


class UsageError(HarnessError):
    """The command, the API call or a configuration file is wrong (exit code 2)."""


class ConfigError(UsageError):
    """A configuration file is wrong: names the file, the key and the line."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        key: str | None = None,
        line: int | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.key = key
        self.line = line
        place = ""
        if path is not None:
            place = f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{place}{message}")


class ModelError(UsageError):
    """The model cannot be loaded, or is not what its name says."""


class CasesError(UsageError):
    """The cases are missing, empty, malformed, non-finite or of a wrong shape."""


class NumericsError(UsageError, ValueError):
    """A format, rounding, axis, block, scale or value that cannot be used."""


class PluginError(UsageError):
    """A plugin does not import, or does not register what it says."""


class GoldenError(HarnessError):
    """The golden cannot be compared with: the verdict is `stale`."""


class GoldenMissing(GoldenError):  # noqa: N818 - the name says what is wrong
    """No golden was recorded for this suite."""


class GoldenCorrupt(GoldenError):  # noqa: N818
    """The golden's bytes are not those that were sealed."""


class GoldenMismatch(GoldenError):  # noqa: N818
    """The golden belongs to another model, other cases or another schema."""


class ReferenceInvalid(HarnessError):  # noqa: N818
    """The reference run is itself broken, so it may not become a golden."""


class UnsupportedError(HarnessError):
    """A backend cannot run this model or scheme; says which operator, and why."""

    def __init__(self, message: str, *, operator: str | None = None) -> None:
        self.operator = operator
        super().__init__(message)


class MissingExtraError(HarnessError):
    """An optional dependency is missing; says which extra installs it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{package} is not installed: pip install 'quantharness[{extra}]'"
        )


class BackendError(HarnessError):
    """A backend crashed, ran out of memory or returned garbage (exit code 3)."""


class BackendTimeout(BackendError):  # noqa: N818
    """A backend did not answer within the time it was given."""


class BackendMemoryError(BackendError):
    """A backend took more memory than it was given."""
