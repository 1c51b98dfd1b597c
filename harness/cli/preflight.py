"""`quantharness preflight`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from harness.cli.options import add_json, add_plugin

if TYPE_CHECKING:
    from harness.execution.jobs import PreflightRun

EXAMPLE = "quantharness preflight model.onnx --backend openvino --scheme fp8_e4m3"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .onnx file, a Hugging Face folder, or package.module:factory",
    )
    parser.add_argument(
        "--backend", required=True, metavar="NAME", help="a backend, or NAME@VARIANT"
    )
    parser.add_argument(
        "--scheme",
        action="append",
        default=[],
        metavar="NAME",
        help="whether this scheme can be expressed, too (repeatable)",
    )
    add_plugin(parser)
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Look; 0: it would run; 1: something is missing or not supported."""
    from harness.backends.registry import load_registry
    from harness.execution.preflight import preflight
    from harness.reports.terminal import Progress, print_json
    from harness.schemes.catalogue import scheme_by_name

    registry = load_registry(options.plugin)
    extra = tuple(registry.schemes)
    schemes = [
        registry.schemes.get(name) or scheme_by_name(name, extra=extra)
        for name in options.scheme
    ]
    progress = Progress()

    def on_progress(done: int, total: int) -> None:
        if done == 1:
            progress.on_start(total, "operators")
        progress.on_step()

    try:
        found = preflight(
            registry,
            options.model,
            options.backend,
            schemes,
            plugins=options.plugin,
            on_progress=on_progress,
        )
    finally:
        progress.on_finish()
    if options.json:
        print_json({"schema": 1, "runs": runs(found), **dataclasses.asdict(found)})
    else:
        print("\n".join(lines(found, options.backend)))
    return 0 if runs(found) else 1


def runs(found: PreflightRun) -> bool:
    """Whether nothing is missing and every scheme asked for is supported."""
    missing = any(finding.kind == "missing" for finding in found.findings or ())
    supported = all(support.supported for support in found.schemes.values())
    return found.availability.available and not missing and supported


def lines(found: PreflightRun, backend: str) -> list[str]:
    """One line a finding and a scheme, and what it comes to."""
    if not found.availability.available:
        return [f"{backend}: not here: {found.availability.reason}"]
    shown = [
        f"{finding.kind:10} {finding.what}: {finding.count} x, {finding.detail}"
        for finding in found.findings or ()
    ]
    if found.findings is None:
        shown.append(f"{backend} cannot be asked what it lacks: run a suite")
    for name, support in found.schemes.items():
        answer = (
            "supported" if support.supported else f"not supported: {support.reason}"
        )
        shown.append(f"{'scheme':10} {name}: {answer}")
    verdict = "would run" if runs(found) else "would not run"
    return [*shown, f"{backend} {found.availability.version}: it {verdict}"]
