"""A scheme with what a suite's golden and a library's quantizer add to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Outputs, Session
from harness.backends.registry import Registry
from harness.errors import (
    MissingExtraError,
    ModelError,
    UnsupportedError,
    UsageError,
)
from harness.execution.cases_run import moderate, run_cases, spread
from harness.execution.jobs import QuantizedFile, QuantizeJob, SuiteRef
from harness.execution.loaded import Loaded
from harness.golden.store import Golden
from harness.schemes.checkpoint import scheme_of_checkpoint
from harness.schemes.quantizers import quantize_model, quantized_file
from harness.schemes.torchao_configs import is_torchao, with_activations
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Cases that a quantizer is shown, and calls at most: a recurrent model's case is many.
_CASES: Final = 32
_CALLS: Final = 64
#: Computes the model that is shown, as its quantizer would deploy it.
_SHOWN_BY: Final = "onnxruntime"


def calibrated(scheme: Scheme, golden: Golden) -> Scheme:
    """The scheme with every operator's amax over the golden's cases.

    A golden that was recorded before results were looked at holds those of inputs. A
    scheme that a library's quantizer makes is the file that it made.

    Raises:
        UsageError: it has not made one.
    """
    if scheme.quantizer:
        file = _file(scheme, golden)
        if not file.exists():
            raise UsageError(
                f"scheme {scheme.name}: {scheme.quantizer} has not quantized this "
                "model here yet; `quantharness run` lets it"
            )
        return _as_made(scheme, file)
    amax: Mapping[str, float] = {
        name: entry["amax"] for name, entry in golden.operators.items()
    }
    outputs: Mapping[str, float] = {
        name: entry["output_amax"]
        for name, entry in golden.operators.items()
        if "output_amax" in entry
    }
    return dataclasses.replace(scheme, calibration=amax, output_calibration=outputs)


def with_file(
    scheme: Scheme,
    golden: Golden,
    ref: SuiteRef,
    ask: Callable[[QuantizeJob], QuantizedFile],
) -> Scheme:
    """The calibrated scheme, its file made first where a quantizer makes it.

    Raises:
        UnsupportedError: the quantizer is not installed, or fails on this model.
        UsageError: an option that the quantizer has not.
        BackendError: its process died.
    """
    if scheme.quantizer:
        file = _file(scheme, golden)
        made = ask(QuantizeJob(suite=ref, scheme=scheme, file=str(file)))
        if made.failure:
            raise UnsupportedError(made.failure)
    return calibrated(scheme, golden)


def _as_made(scheme: Scheme, file: Path) -> Scheme:
    """The scheme that the quantizer's file or folder holds."""
    found = dataclasses.replace(
        scheme_of_checkpoint(file, name=scheme.name),
        quantizer=scheme.quantizer,
        options=scheme.options,
        summary=scheme.summary,
    )
    return with_activations(found) if is_torchao(found) else found


def _file(scheme: Scheme, golden: Golden) -> Path:
    return quantized_file(
        scheme.quantizer,
        scheme.options,
        golden.model_fingerprint,
        golden.cases_fingerprint,
    )


def run_quantizer(
    job: QuantizeJob, registry: Registry, loaded: Loaded
) -> QuantizedFile:
    """Let the scheme's quantizer write its file.

    Raises:
        UsageError: an option that it has not.
    """
    suite = loaded.get(job.suite)

    def calls() -> Iterator[Mapping[str, Array]]:
        session = registry.backend(_SHOWN_BY).load(suite.model, None)
        recorder = _Recorder(session)
        try:
            cases = spread(moderate(suite.cases), _CASES)
            run_cases(recorder, suite.model, cases, batch=job.suite.batch)
        finally:
            session.close()
        count = min(_CALLS, len(recorder.calls))
        for index in np.linspace(0, len(recorder.calls) - 1, count).astype(int):
            yield recorder.calls[index]

    scheme = job.scheme
    try:
        quantize_model(
            scheme.quantizer,
            scheme.options,
            suite.model,
            calls,
            Path(job.file),
        )
        # What it wrote is read now: what is not read is no target.
        _as_made(scheme, Path(job.file))
    except (ModelError, MissingExtraError, UnsupportedError) as error:
        return QuantizedFile(failure=str(error))
    return QuantizedFile()


class _Recorder:
    """Runs a session and keeps what it was called with."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: list[dict[str, Array]] = []

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Mapping[str, Array] | Outputs:
        self.calls.append({name: np.array(array) for name, array in inputs.items()})
        return self._session.run(inputs, capture=capture)

    def close(self) -> None:
        self._session.close()
