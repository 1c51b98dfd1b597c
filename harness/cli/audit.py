"""`quantharness audit`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.options import add_json

if TYPE_CHECKING:
    from harness.models.checkpoint import Audit

EXAMPLE = "quantharness audit Model-FP8 --base Model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="a checkpoint of compressed-tensors, ModelOpt, Quark or FP8: config.json "
        "and safetensors",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="the unquantized model that it was made of: what was left alone must be "
        "equal, what was quantized near",
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Look; 0: nothing is wrong; 1: something is."""
    from harness.errors import UsageError
    from harness.models.checkpoint import audit
    from harness.reports.terminal import Progress, print_json

    for folder in (options.folder, options.base):
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"{folder}: no such folder; give the one that holds config.json"
            )
    progress = Progress()

    def on_layer(done: int, total: int) -> None:
        if done == 1:
            progress.on_start(total, "layers")
        progress.on_step()

    try:
        found = audit(options.folder, options.base, on_layer=on_layer)
    finally:
        progress.on_finish()
    if options.json:
        print_json({"schema": 1, "ok": found.ok, **dataclasses.asdict(found)})
    else:
        print("\n".join(lines(found)))
    return 0 if found.ok else 1


def lines(found: Audit) -> list[str]:
    """One line a finding, one a layer's error where it is the largest, and the sum."""
    shown = [str(finding) for finding in found.findings]
    stored = ", ".join(f"{count} as {name}" for name, count in found.layers.items())
    by = f" by {found.producer}" if found.producer else ""
    shown.append(
        f"{found.folder}: {stored or 'no'} quantized layers{by}; {found.plain} tensors "
        "left alone"
    )
    if found.errors:
        worst = max(found.errors, key=lambda name: found.errors[name][0])
        relative, beside = found.errors[worst]
        shown.append(
            f"furthest from the original: {worst}, {relative:.3g} of its norm, "
            f"{beside:.3g} times what rounding to the nearest leaves"
        )
    count = len(found.findings)
    against = "configuration and original" if found.base else "configuration"
    shown.append(
        f"{count} finding{'s' if count != 1 else ''}"
        if count
        else f"nothing is wrong: tensors agree with {against}"
    )
    return shown
