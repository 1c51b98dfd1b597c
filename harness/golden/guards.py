"""When a golden may not be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.errors import UsageError

#: Set by CI services to something that is not false.
_CI: Final = (
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "BUILDKITE",
    "BITBUCKET_BUILD_NUMBER",
    "CIRCLECI",
    "CODEBUILD_BUILD_ID",
    "DRONE",
    "JENKINS_URL",
    "TEAMCITY_VERSION",
    "TF_BUILD",
    "TRAVIS",
)
_FALSE: Final = ("", "0", "false", "no", "off")


def ci_variable() -> str:
    """Name of the variable that says this is a CI machine; "" if none does."""
    return next(
        (
            name
            for name in _CI
            if os.environ.get(name, "").strip().lower() not in _FALSE
        ),
        "",
    )


def check_may_write(
    folders: Path | Sequence[Path], *, allow_ci: bool, allow_dirty: bool
) -> None:
    """Refuse to record on a CI machine, or from files that git does not know.

    Args:
        folders: what the golden depends on: the suite's folder, the model's file.
        allow_ci: record on a CI machine all the same.
        allow_dirty: record from uncommitted files all the same.

    Raises:
        UsageError: says which option gives leave.
    """
    if not allow_ci and (name := ci_variable()):
        raise UsageError(
            f"goldens are not recorded on a CI machine ({name} is set); "
            "--allow-ci if that is meant"
        )
    if allow_dirty:
        return
    for folder in [folders] if isinstance(folders, Path) else folders:
        if changed := dirty_files(folder):
            shown = ", ".join(changed[:3])
            raise UsageError(
                f"{folder} has changes that are not committed ({shown}); a golden of "
                "them could not be traced: commit first, or --allow-dirty"
            )


def dirty_files(path: Path) -> list[str]:
    """Files at or under a path that differ from the last commit; [] outside of git.

    Files that git does not know yet count only where it knows others of the folder:
    a suite that is wholly new has no earlier golden to be confused with. The suite's
    `budgets.toml` and its goldens do not count: outputs do not depend on them.
    """
    git = shutil.which("git")
    folder = path if path.is_dir() else path.parent
    if git is None or not folder.is_dir():
        return []
    lines = _git(git, folder, "status", "--porcelain", "-z", "--", str(path.resolve()))
    known = _git(git, folder, "ls-files", "-z", "--", str(path.resolve()))
    found = []
    for line in lines:
        state, name = line[:2], line[3:]
        # The second half of a rename entry is a bare name.
        if len(line) < 4 or line[2] != " " or (state == "??" and not known):
            continue
        if not name.endswith("budgets.toml") and "golden" not in Path(name).parts:
            found.append(name)
    return found


def _git(git: str, folder: Path, *arguments: str) -> list[str]:
    """Entries of a NUL-separated answer; none where git does not answer."""
    command = [git, "-C", str(folder), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return [entry for entry in answer.stdout.split("\0") if entry]
