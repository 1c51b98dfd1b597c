"""Virtual environments of what has packages that do not go with others."""

from harness.environments.lock import Lock, locks, read_lock
from harness.environments.store import (
    VARIABLE,
    folder_of,
    interpreter,
    is_inside,
    launch,
    remove,
    set_up,
    variables,
)
from harness.environments.toolchain import NEEDS, Need, lacking

__all__ = [
    "NEEDS",
    "VARIABLE",
    "Lock",
    "Need",
    "folder_of",
    "interpreter",
    "is_inside",
    "lacking",
    "launch",
    "locks",
    "read_lock",
    "remove",
    "set_up",
    "variables",
]
