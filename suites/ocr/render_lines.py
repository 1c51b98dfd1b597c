"""Render the lines of text of the ocr suite: `lines.npz` and `cases.jsonl`.

    python suites/ocr/render_lines.py [--fonts FOLDER]

Reads the hand-written `lines.jsonl` (text, font, width, effects, tags), draws each
line with Pillow in dark on light (or the other way round), applies the named effects
from one generator a line (seeded by the line's place), and stores 8-bit grey pixels,
48 high and 160, 240 or 320 wide, so that lines of one width can be stacked. The FP32
reading by ONNX Runtime is printed; a line which it does not read exactly stays, tagged
`hard`, as long as it is one in ten at most.

The fonts are Debian's `fonts-dejavu-core`, `fonts-dejavu-extra`, `fonts-liberation`
and `fonts-wqy-microhei`; only pixels are shipped, no font. Needs Pillow, SciPy,
ONNX Runtime and the package `rapidocr_onnxruntime` that carries the recogniser.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
HEIGHT = 48
WIDTHS = (160, 240, 320)
SEED = 20240
#: Drawn this much larger, then reduced: smooth edges that do not hang on hinting.
OVERSAMPLE = 4
FONTS = {
    "sans": "truetype/dejavu/DejaVuSans.ttf",
    "sans-bold": "truetype/dejavu/DejaVuSans-Bold.ttf",
    "serif": "truetype/dejavu/DejaVuSerif.ttf",
    "mono": "truetype/dejavu/DejaVuSansMono.ttf",
    "condensed": "truetype/dejavu/DejaVuSansCondensed.ttf",
    "arial": "truetype/liberation/LiberationSans-Regular.ttf",
    "arial-italic": "truetype/liberation/LiberationSans-Italic.ttf",
    "times": "truetype/liberation/LiberationSerif-Regular.ttf",
    "times-bold": "truetype/liberation/LiberationSerif-Bold.ttf",
    "courier": "truetype/liberation/LiberationMono-Regular.ttf",
    "chinese": "truetype/wqy/wqy-microhei.ttc",
}
Image = np.ndarray
Effect = Callable[[Image, float, np.random.Generator], Image]


def draw(text: str, font: Path, width: int) -> Image:
    """Draw black text on white, as large as 48 x width allows.

    Returns:
        (48, width) float64 in 0..255, the text left-aligned with a margin of 5.
    """
    from PIL import Image as Pil
    from PIL import ImageDraw, ImageFont

    room = ((width - 10) * OVERSAMPLE, 36 * OVERSAMPLE)
    size = 36 * OVERSAMPLE
    while True:
        face = ImageFont.truetype(font, size, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = face.getbbox(text)
        if right - left <= room[0] and bottom - top <= room[1]:
            break
        size -= OVERSAMPLE // 2
    canvas = Pil.new("L", (width * OVERSAMPLE, HEIGHT * OVERSAMPLE), 255)
    y = (HEIGHT * OVERSAMPLE - (bottom - top)) // 2 - top
    place = (5 * OVERSAMPLE - left, y)
    ImageDraw.Draw(canvas).text(place, text, fill=0, font=face)
    small = canvas.resize((width, HEIGHT), Pil.Resampling.BOX)
    return np.asarray(small, np.float64)


def blur(image: Image, sigma: float, _: np.random.Generator) -> Image:
    """Blur by a Gaussian of this standard deviation in pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, sigma, mode="nearest")


def noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Add Gaussian noise of this standard deviation in grey levels."""
    return image + rng.normal(0.0, sigma, image.shape)


def contrast(image: Image, factor: float, _: np.random.Generator) -> Image:
    """Shrink the contrast around middle grey to this fraction."""
    return 128 + (image - 128) * factor


def rotate(image: Image, degrees: float, _: np.random.Generator) -> Image:
    """Turn by so many degrees, counter-clockwise; new corners take the edge's grey."""
    from scipy.ndimage import rotate as turn

    return turn(image, degrees, reshape=False, order=1, mode="nearest")


def invert(image: Image, _strength: float, _: np.random.Generator) -> Image:
    """Turn to light text on a dark ground; the strength is not used."""
    return 255 - image


def shade(image: Image, depth: float, _: np.random.Generator) -> Image:
    """Darken from left to right, by `depth` grey levels at the right edge."""
    return image - np.linspace(0, depth, image.shape[1])


def speckle(image: Image, fraction: float, rng: np.random.Generator) -> Image:
    """Replace this fraction of the pixels by black or white."""
    hit = rng.random(image.shape) < fraction
    return np.where(hit, rng.integers(0, 2, image.shape) * 255.0, image)


EFFECTS: Mapping[str, Effect] = {
    f.__name__: f for f in (blur, noise, contrast, rotate, invert, shade, speckle)
}


def render(line: Mapping[str, Any], place: int, fonts: Path) -> Image:
    """Render one line of `lines.jsonl`: uint8 (48, width), effects in their order."""
    rng = np.random.default_rng([SEED, place])
    image = draw(line["text"], fonts / FONTS[line["font"]], line["width"])
    for name, strength in line.get("effects", {}).items():
        image = EFFECTS[name](image, strength, rng)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def recogniser() -> tuple[Any, list[str]]:
    """Open the recogniser in ONNX Runtime, and its alphabet (6625 entries).

    Entry 0 is the CTC blank, 1 to 6623 are the model's own characters in the order of
    its metadata, and the last entry, 6624, is the space.
    """
    import onnxruntime

    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("install rapidocr_onnxruntime (pip, --no-deps) first")
    model = Path(spec.origin).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    own = session.get_modelmeta().custom_metadata_map["character"].split("\n")
    return session, ["", *own, " "]


def read(probabilities: np.ndarray, alphabet: Sequence[str]) -> str:
    """Read one line off (steps, 6625).

    The best class of each step, runs of one class merged, blanks (class 0) dropped,
    and spaces at both ends stripped: a picture does not show them.
    """
    best = probabilities.argmax(-1)
    first = np.r_[True, best[1:] != best[:-1]]
    return "".join(alphabet[k] for k in best[first & (best != 0)]).strip(" ")


def prepare(image: Image) -> np.ndarray:
    """Model input of one picture: float32 (1, 3, 48, width) in -1..1, grey thrice."""
    grey = (image.astype(np.float32) / 255 - 0.5) / 0.5
    return np.repeat(grey[None, None], 3, axis=1)


def main() -> None:
    """Write `lines.npz` and `cases.jsonl` next to this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    fonts = parser.parse_args().fonts
    lines = map(json.loads, (FOLDER / "lines.jsonl").read_text("utf-8").splitlines())
    session, alphabet = recogniser()
    images, records, margins = {}, [], []
    for place, line in enumerate(lines):
        key = f"line{place:03d}"
        images[key] = render(line, place, fonts)
        output = session.run(None, {"x": prepare(images[key])})[0][0]
        seen, top2 = read(output, alphabet), np.sort(output, -1)[:, -2:]
        margin = float((top2[:, 1] - top2[:, 0]).min())
        hard = ["hard"] if seen != line["text"] else []
        margins.append(margin)
        sys.stdout.write(f"{key} {margin:.3f} {line['text']!r}")
        sys.stdout.write(f" read as {seen!r}\n" if hard else "\n")
        tags = [f"w{line['width']}", line["font"], *line.get("effects", {})]
        tags += [*line["tags"], *hard]
        record = {"id": key, "image": f"lines.npz#{key}", "tags": tags}
        records.append({**record, "expected": {"text": line["text"]}})
    wrong = sum("hard" in record["tags"] for record in records)
    sys.stdout.write(f"{len(records) - wrong} of {len(records)} read exactly\n")
    levels = (0, 10, 25, 50, 75)
    marks = zip(levels, np.percentile(margins, levels), strict=True)
    sys.stdout.write(", ".join(f"{p}%: {v:.3f}" for p, v in marks))
    sys.stdout.write(" (smallest lead of best over second class in a line)\n")
    np.savez_compressed(FOLDER / "lines.npz", **images)
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (FOLDER / "cases.jsonl").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
