"""`QUANTHARNESS_THREADS`, alike for every backend."""

import pytest

from harness.backends.threads import threads
from harness.backends.torch_backend import TorchBackend
from harness.errors import UsageError
from harness.models.zoo import vad


@pytest.mark.parametrize(("given", "count"), [("", 0), ("0", 0), ("1", 1), ("16", 16)])
def test_unset_and_zero_leave_it_to_the_engine(monkeypatch, given, count):
    """Any other number is that many."""
    monkeypatch.setenv("QUANTHARNESS_THREADS", given)
    assert count == threads()


def test_it_need_not_be_set(monkeypatch):
    """As for most users."""
    monkeypatch.delenv("QUANTHARNESS_THREADS", raising=False)
    assert threads() == 0


@pytest.mark.parametrize("given", ["many", "-1", "1.5", " 2"])
def test_what_is_no_number_is_named(monkeypatch, given):
    """The variable, and what was found."""
    monkeypatch.setenv("QUANTHARNESS_THREADS", given)

    with pytest.raises(UsageError, match=f"QUANTHARNESS_THREADS='{given}'"):
        threads()


def test_torch_takes_zero_and_says_what_it_does_not_take(monkeypatch):
    """Torch itself raises on no threads, and on words."""
    pytest.importorskip("torch")
    monkeypatch.setenv("QUANTHARNESS_THREADS", "0")
    TorchBackend().load(vad(), None).close()
    monkeypatch.setenv("QUANTHARNESS_THREADS", "two")

    with pytest.raises(UsageError, match="'two'"):
        TorchBackend().load(vad(), None)
