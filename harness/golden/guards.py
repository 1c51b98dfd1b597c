"""When a golden may not be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from harness.errors import UsageError

#: Set by the CI services.
_CI: Final = (
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "BUILDKITE",
    "JENKINS_URL",
    "TF_BUILD",
)


def check_may_write(folder: Path, *, allow_ci: bool, allow_dirty: bool) -> None:
    """Refuse to record on a CI machine, or from files that git does not know.

    Args:
        folder: what the golden depends on: the suite's folder.
        allow_ci: record on a CI machine all the same.
        allow_dirty: record from uncommitted files all the same.

    Raises:
        UsageError: says which option gives leave.
    """
    if not allow_ci:
        for name in _CI:
            if os.environ.get(name, "").lower() not in ("", "0", "false"):
                raise UsageError(
                    f"goldens are not recorded on a CI machine ({name} is set); "
                    "--allow-ci if that is meant"
                )
    if not allow_dirty:
        changed = dirty_files(folder)
        if changed:
            raise UsageError(
                f"{folder} has changes that are not committed ({', '.join(changed[:3])}); "
                "a golden of them could not be traced: commit first, or --allow-dirty"
            )


def dirty_files(folder: Path) -> list[str]:
    """Files under a folder that differ from the last commit; none outside of git."""
    git = shutil.which("git")
    if git is None:
        return []
    command = [git, "-C", str(folder), "status", "--porcelain", "--", "."]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if found.returncode:
        return []
    # A new suite is not yet known to git: that is no danger, it cannot be stale.
    lines = [line for line in found.stdout.splitlines() if not line.startswith("??")]
    return [line[3:] for line in lines if not line.endswith("budgets.toml")]
