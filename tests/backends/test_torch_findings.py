"""Where torch's CPU kernels are wrong: repros that need only torch.

Each test states what should be and is expected to fail (strict); see
docs/deviations.md. Measured with 2.13.0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

VNNI = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
SATURATES = """\
import torch
a = torch.full((4, 64), 127, dtype=torch.int8)
print(torch._int_mm(a, a.t().contiguous())[0, 0].item())
"""


@pytest.mark.skipif(not VNNI, reason="torch calls oneDNN here only where there is VNNI")
@pytest.mark.xfail(
    strict=True, reason="torch 2.13.0: _int_mm with K=1 returns memory it never wrote"
)
def test_int_mm_of_one_term_is_the_product():
    """(4, 1) by (1, 38), the second a transposed view: each sum has one term."""
    a = torch.arange(1, 5, dtype=torch.int8)[:, None]
    b = torch.arange(38, dtype=torch.int8)[:, None].t()
    # What stands in memory before shows that nothing is written.
    torch.full((4, 38), -1, dtype=torch.int32)

    assert torch.equal(a.int() @ b.int(), torch._int_mm(a, b))


def test_int_mm_of_one_term_is_right_when_contiguous():
    """The same numbers, the second operand not a view."""
    a = torch.arange(1, 5, dtype=torch.int8)[:, None]
    b = torch.arange(38, dtype=torch.int8)[None]

    assert torch.equal(a.int() @ b.int(), torch._int_mm(a, b))


@pytest.mark.skipif(not VNNI, reason="torch calls oneDNN here only where there is VNNI")
@pytest.mark.xfail(
    strict=True,
    reason="torch 2.13.0: under ONEDNN_MAX_CPU_ISA=AVX2 _int_mm sums pairs in 16 bits, "
    "see https://github.com/uxlfoundation/oneDNN/issues/476",
)
def test_int_mm_does_not_saturate_under_avx2():
    """64 products of 127 and 127 make 1032256, with any instructions."""
    environment = dict(os.environ, ONEDNN_MAX_CPU_ISA="AVX2")
    done = subprocess.run(
        [sys.executable, "-c", SATURATES],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "1032256" == done.stdout.strip()


def repeated(scales):
    """What decoding a block format does: a scale for each of 32 elements, 48 in all."""
    return scales.repeat_interleave(32, dim=-1)[..., :48] * 2


@pytest.mark.quant_slow
@pytest.mark.xfail(
    strict=True,
    reason="torch 2.13.0: inductor writes the first block alone, with its scale, and "
    "leaves the part of one behind it unwritten",
)
def test_inductor_repeats_and_cuts_as_eager_does():
    """Two blocks of 32, the second cut in the middle."""
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.compiler.reset()

    assert torch.equal(repeated(scales), torch.compile(repeated)(scales))


@pytest.mark.quant_slow
def test_inductor_is_right_where_scales_are_spread_by_an_index():
    """`torch-compile@gathered`."""
    places = torch.arange(48) // 32
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.compiler.reset()
    found = torch.compile(lambda x: x[..., places] * 2)(scales)

    assert torch.equal(repeated(scales), found)
