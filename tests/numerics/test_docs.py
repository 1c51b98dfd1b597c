"""docs/numerics.md says what is: its table is the catalogue's, its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path

from harness.numerics import FORMATS

PAGE = Path(__file__).parents[2] / "docs/numerics.md"
HEAD = "| --- | --- | --- | --- | --- | --- | --- |\n"


def row(fmt):
    """A format's row of the page's table."""
    element = FORMATS[fmt.element] if fmt.element else fmt
    nan = "yes" if element.nan_code is not None else "no"
    inf = "yes" if element.kind == "float" and element.inf_code is not None else "no"
    scale = f"`{fmt.scale}`, a block of {fmt.block}" if fmt.block else ""
    exponent = fmt.min.as_integer_ratio()[1].bit_length() - 1
    least = f"2**-{exponent}" if fmt.min < 1 and fmt.kind != "table" else f"{fmt.min:g}"
    cells = (f"`{fmt.name}`", fmt.bits, f"{fmt.max:g}", least, nan, inf, scale)
    return f"| {' | '.join(str(cell) for cell in cells)} |".replace("  ", " ")


def table():
    """Every format's row."""
    return "\n".join(row(fmt) for fmt in FORMATS.values())


def test_the_table_is_the_catalogue():
    """Every format is on the page, with its values, in the catalogue's order."""
    _, after = PAGE.read_text("utf-8").split(HEAD)

    assert after.split("\n\n")[0] == table()


def test_a_wrong_number_is_noticed():
    """A page with another largest value differs from the table."""
    page = PAGE.read_text("utf-8").replace("| `fp8_e4m3` | 8 | 448 |", "| 8 | 240 |")

    assert page.split(HEAD)[1].split("\n\n")[0] != table()


def test_the_examples_run():
    """Each example prints what the page says."""
    text = PAGE.read_text("utf-8").replace("```", "")
    parsed = doctest.DocTestParser().get_doctest(text, {}, "numerics", str(PAGE), 0)

    result = doctest.DocTestRunner(verbose=False).run(parsed)

    assert result.attempted > 25
    assert result.failed == 0
