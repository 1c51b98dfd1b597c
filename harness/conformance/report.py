"""What conformance finds: plain values, that cross from a worker process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: native, emulated: every check passes, in low-precision kernels or not; deviates: a
#: check fails; unsupported: the backend says that it cannot; error: its process died.
Level = Literal["native", "emulated", "deviates", "unsupported", "error"]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """One check of one scheme."""

    name: str
    #: None: there was nothing to check, and `detail` says why.
    passed: bool | None
    #: What was found; of a failure the worst example.
    detail: str
    #: Values, draws or calls that were checked.
    cases: int = 0

    def __post_init__(self) -> None:
        # NumPy's False is not Python's: it would be taken for a pass.
        assert self.passed is None or type(self.passed) is bool  # sanity check


@dataclass(frozen=True, kw_only=True)
class SchemeReport:
    """One scheme on one backend."""

    backend: str
    version: str
    scheme: str
    level: Level
    #: Why it is not supported, or the first check that fails.
    reason: str = ""
    #: What the backend declares about its kernels.
    execution: str = ""
    checks: tuple[CheckReport, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)
