"""An operator without a defect, as the tests of planting hold others against it."""

import numpy as np

from harness.defects.plant import clean_weight
from harness.schemes.apply import plan_one, quantize_activation
from harness.schemes.linear_algebra import add_bias, product


def right_output(site, x):
    """What a faultless backend gives for a float32 input: float32, bias included."""
    entry = x
    if plan_one(site.scheme, site.operator).activations:
        entry = quantize_activation(site.operator, x, site.scheme).dequantize()
    result = product(site.operator, entry, clean_weight(site))
    return add_bias(site.operator, result).astype(np.float32)
