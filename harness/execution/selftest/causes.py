"""Which causes say rightly what a planted defect is.

Planters and diagnosis do not know each other; only whoever compares them does. Several
names are right where a defect is several things at once: a scale that is ignored where
all scales are alike is a constant ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from harness.diagnose.types import UNKNOWN
from harness.execution.selftest.trial import Trial

_SCALE = ("constant ratio", "ratio by channel", "ratio by block", "some scales wrong")
_STUCK = ("scales stuck", "one scale for all", *_SCALE)

#: Defect -> causes that name it rightly.
CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "fn_read_as_fnuz": ("codes read as another format", "constant ratio"),
    "e4m3_read_as_e5m2": ("codes read as another format",),
    "negative_zero_is_nan": ("codes read as another format", "output not finite"),
    "nibbles_swapped": ("codes of a byte swapped", "columns permuted along K"),
    "table_reversed": ("code table reversed", "codes read as another format"),
    "signs_flipped": ("signs flipped", "constant ratio", "code table reversed"),
    "rounded_toward_zero": ("rounding mode", "codes off by one"),
    "rounded_ties_away": ("rounding mode", "codes off by one"),
    "rounded_down": ("rounding mode", "codes off by one"),
    "rounded_twice": ("rounded twice", "codes off by one"),
    "subnormals_flushed": ("subnormals flushed", "codes wrong", "codes off by one"),
    "codes_off_by_one": ("codes off by one", "zero point wrong"),
    "zero_point_off_by_one": ("zero point wrong", "codes off by one"),
    "columns_interleaved": ("columns permuted along K", "codes wrong"),
    "columns_permuted": ("columns permuted along K", "codes wrong"),
    "channels_shifted": ("output channels shifted", "output channels permuted"),
    "weight_transposed": ("weight transposed",),
    "columns_dropped": ("tail of K dropped", "ratio by input channel", "codes wrong"),
    "other_operators_weight": ("another operator's weight",),
    "left_unquantized": ("not quantized",),
    "coarser_format": ("another format",),
    "blocks_too_wide": ("scale over another group",),
    "weight_perturbed": ("another weight", "codes wrong", "codes off by one"),
    "scale_ratio": (*_SCALE, "scale missing"),
    "scale_missing": ("scale missing", *_SCALE),
    "scale_reciprocal": ("scale inverted", *_SCALE),
    "scale_power_of_two": ("scale rounded to a power of two", *_SCALE),
    "tensor_scale_missing": ("tensor scale missing", "constant ratio"),
    "tensor_scale_of_other": ("another operator's tensor scale", "constant ratio"),
    "scales_of_other": ("another operator's scales", *_SCALE),
    "scales_shifted_along_k": ("scales shifted along K", *_SCALE),
    "scales_shifted_along_n": ("scales shifted along N", *_SCALE),
    "scales_all_the_first": _STUCK,
    "scales_stuck_in_slices": _STUCK,
    "scales_of_pairs": _STUCK,
    "scales_transposed": ("scales transposed", *_SCALE),
    "scales_swizzled": ("scales swizzled", *_SCALE),
    "second_shard_not_loaded": ("scales of another shard", *_SCALE),
    "some_scales_corrupt": ("some scales wrong", *_SCALE),
    "scale_bytes_as_numbers": ("scale bytes misread", *_SCALE),
    "subnormal_scales_flushed": ("subnormal scales flushed", *_SCALE),
    "zero_blocks_are_nan": ("zero blocks divided by zero", "output not finite"),
    "amax_without_abs": ("scale from values without magnitude",),
    "largest_value_of_other_format": ("scale computed wrongly",),
    "scale_in_bf16": ("scale of low precision",),
    "exponent_too_small": ("scale computed wrongly",),
    "exponent_too_large": ("scale computed wrongly",),
    "exponent_from_largest": ("scale computed wrongly",),
    "stored_nibbles_swapped": ("codes of a byte swapped", "columns permuted along K"),
    "stored_bytes_interleaved": ("columns permuted along K", "codes wrong"),
    "stored_codes_off_by_one": ("codes off by one", "codes wrong", "zero point wrong"),
    "stored_signs_flipped": ("signs flipped", "codes wrong", "signs lost"),
    "stored_offset_missing": ("zero point wrong", "codes wrong", "code table reversed"),
    # Zero times the right output of those channels.
    "stored_tail_unwritten": (
        "output channels not computed",
        "constant ratio",
        "output zero",
    ),
    # Where a channel has one scale, half of it is FN read as FNUZ; so is half of every
    # scale that is a byte of E4M3.
    "stored_scales_halved": (
        "codes read as another format",
        "scale bytes misread",
        *_SCALE,
    ),
    "stored_scales_swapped": (
        "scales shifted along K",
        "scales shifted along N",
        *_SCALE,
    ),
    "stored_scales_shifted": (
        "scales shifted along K",
        "scales shifted along N",
        *_SCALE,
    ),
    "stored_scales_transposed": ("scales transposed", *_SCALE),
    "stored_scales_of_other": ("another operator's scales", *_SCALE),
    "stored_scales_missing": ("scale missing", *_SCALE),
    "stored_scales_nan": ("zero blocks divided by zero", "output not finite"),
    "stored_scales_power_of_two": ("scale rounded to a power of two", *_SCALE),
    "stored_scales_reciprocal": ("scale inverted", *_SCALE),
    "stored_tensor_scale_missing": ("tensor scale missing", "constant ratio"),
    "stored_tensor_scale_of_other": (
        "another operator's tensor scale",
        "constant ratio",
    ),
    "stored_zero_points_missing": ("zero point wrong", "offset missing"),
    "stored_zero_points_off_by_one": ("zero point wrong", "codes off by one"),
    "stored_rows_shifted": ("output channels shifted", "output channels permuted"),
    "stored_rotary_order": ("output channels permuted",),
    "stored_tensor_stale": ("another operator's weight",),
    "input_left_unquantized": ("input not quantized",),
    "input_also_quantized": ("input also quantized",),
    "input_scale_ratio": ("constant ratio",),
    "input_range_too_small": ("static range wrong",),
    "input_not_clamped": ("input not clamped", "output not finite"),
    "input_rounded_toward_zero": ("rounding mode",),
    "input_rounded_ties_away": ("rounding mode",),
    "input_rounded_twice": ("rounded twice",),
    "input_subnormals_flushed": ("subnormals flushed",),
    "input_in_e5m2": ("another format",),
    "input_largest_value_of_other_format": ("scale computed wrongly",),
    "input_one_scale_for_all": ("one scale for all", "scale over another group"),
    "input_scale_of_first_row": ("one scale for all",),
    "input_amax_without_abs": ("scale from values without magnitude",),
    "input_scales_shifted_along_k": ("scales shifted along K",),
    "input_scales_shifted_along_rows": ("scales shifted along rows", "ratio by row"),
    "input_exponent_too_small": ("scale computed wrongly",),
    "input_blocks_too_wide": ("scale over another group",),
    "input_nibbles_swapped": ("codes of a byte swapped", "columns permuted along K"),
    "input_overflows": ("input overflows", "output not finite"),
    "input_stale_scale": ("one scale for all",),
    "input_batch_mates_in_amax": ("one scale for all", "scale over another group"),
    "bias_missing": ("bias missing",),
    "bias_twice": ("bias repeated",),
    "bias_shifted": ("bias permuted", "offset by channel"),
    "zeros": ("output zero",),
    "output_scale_ratio": ("constant ratio",),
    "summed_twice": ("constant ratio",),
    "output_in_bf16": ("output of low precision",),
    "output_in_fp16": ("output of low precision",),
    "accumulator_too_short": ("accumulator too short",),
    "last_channels_zero": ("output channels not computed", "output zero"),
    "last_rows_zero": ("rows not computed", "output zero"),
    "rows_shifted": ("rows shifted", "rows of the input shifted"),
    "reads_past_the_end": ("tail of K added twice", "ratio by input channel"),
    "output_clipped": ("output saturates",),
    "activation_fused_twice": ("activation applied",),
    "last_value_nan": ("output not finite",),
    "reads_garbage": ("not repeatable",),
    "wrong_after_first_batch_entry": ("constant ratio",),
    "wrong_from_position_16": ("constant ratio",),
    "wrong_for_long_inputs": ("constant ratio",),
    # Which rows are large is a number of each.
    "wrong_for_large_rows": ("constant ratio", "ratio by row"),
    "wrong_after_first_call": ("constant ratio",),
    "wrong_now_and_then": ("constant ratio", "not repeatable"),
}


def right_cause(
    trial: Trial, accepted: Mapping[str, Sequence[str]] = CAUSES
) -> bool | None:
    """Whether the cause that was named is one of those a defect may be called.

    None: none was named, or nobody said what the defect may be called.
    """
    if trial.planting is None or not trial.cause or trial.cause == UNKNOWN:
        return None
    names = accepted.get(trial.planting.defect)
    return None if names is None else trial.cause in names
