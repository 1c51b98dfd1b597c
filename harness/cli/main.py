"""The command line: one parser, one file a command, imported when it is run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from harness import __version__
from harness.errors import BackendError, HarnessError, UsageError

#: Command -> one line for `quantharness --help`; its module has `configure`, `execute`.
COMMANDS: Final = {
    "run": "run suites against their goldens and print the matrix of verdicts",
    "record": "record the goldens of suites, or renew them and show what changes",
    "gate": "run, compared with a baseline run too: for pre-merge",
    "nightly": "run, append to the history, write the drift report",
    "report": "render the HTML report of a run or of a history",
    "explain": "what a target was judged on, and its operators one by one",
    "selftest": "plant known defects and print what the gate catches and misses",
    "calibrate": "propose budgets from what a clean run measures",
    "conformance": "does a backend compute what its formats promise? a level a scheme",
    "audit": "does a quantized checkpoint hold what its configuration says?",
    "preflight": "what a backend lacks or casts for a model, before it is compiled",
    "hunt": "search for the prompts that a target gets most wrong",
    "setup": "make the environment of a backend whose packages break others",
    "doctor": "backends, versions, hardware; what is missing and how to add it",
}
_EXAMPLES: Final = """\
examples:
  quantharness run suites                          everything, against the goldens
  quantharness run suites/minilm --backend torch   one suite on one backend
  quantharness gate suites --baseline reports/RUN  is this branch worse?
  quantharness explain reports/RUN minilm/torch/mxfp4
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0: every verdict passes; 1: one fails; 2: wrong usage; 3: infrastructure.
    """
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    execute: Callable[[argparse.Namespace], int] = options.execute
    try:
        return execute(options)
    except UsageError as error:
        return _fail(error, 2)
    except BackendError as error:
        return _fail(error, 3)
    except HarnessError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader of our output went away: nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _fail(error: HarnessError, code: int) -> int:
    if os.environ.get("QUANTHARNESS_DEBUG"):
        traceback.print_exc()
    print(f"quantharness: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantharness",
        description="Golden-output regression tests for quantized models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"quantharness {__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"harness.cli.{name}")
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(command)
        command.set_defaults(execute=module.execute)
    return parser
