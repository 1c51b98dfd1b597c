"""Make the sound clips of the vad suite: `clips.npz` and `cases.jsonl`.

    python suites/vad/make_clips.py

Reads the hand-written `clips.jsonl`. A line with a `say` is spoken by espeak-ng
(Debian package `espeak-ng`); a line with a `sound` is computed by one of the
generators below. Each clip is 32 chunks of 512 samples at 16 kHz, int16; every
random draw comes from one generator a clip, seeded by its place. The FP32 reading
by ONNX Runtime is printed; a clip that it takes for what it is not stays, tagged
`hard`, as long as it is one in twenty at most.

Needs SciPy, ONNX Runtime and the package `silero_vad` that carries the model.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
RATE = 16_000
CHUNK = 512
CONTEXT = 64
CHUNKS = 32
LENGTH = CHUNK * CHUNKS
SEED = 71
#: A clip is speech when its largest probability is above this.
THRESHOLD = 0.5
Sound = np.ndarray
Make = Callable[[np.ndarray, np.random.Generator], Sound]


def speak(line: Mapping[str, Any]) -> Sound:
    """Speak `say` by espeak-ng at the line's voice, speed (words a minute) and pitch.

    Returns:
        float64 in -1..1 at 16 kHz, peak 1, of any length.

    Raises:
        SystemExit: espeak-ng is not installed.
    """
    from scipy.signal import resample_poly

    options = ["-v", line["voice"], "-s", str(line.get("speed", 160))]
    options += ["-p", str(line.get("pitch", 50)), "--stdout", line["say"]]
    command = which("espeak-ng")
    if command is None:
        raise SystemExit("install espeak-ng (apt-get install espeak-ng) first")
    heard = subprocess.run([command, *options], check=True, capture_output=True)
    with wave.open(io.BytesIO(heard.stdout)) as file:
        rate, raw = file.getframerate(), file.readframes(2**24)
    sound = np.frombuffer(raw, "<i2").astype(np.float64)
    step = np.gcd(rate, RATE)
    sound = resample_poly(sound, RATE // step, rate // step)
    return sound / np.abs(sound).max()


def fit(sound: Sound, lead: float) -> Sound:
    """Put `lead` seconds of silence before, then cut or fill with zeros to a clip."""
    out = np.zeros(LENGTH)
    start = round(lead * RATE)
    room = min(len(sound), LENGTH - start)
    out[start : start + room] = sound[:room]
    return out


def coloured(rng: np.random.Generator, slope: float) -> Sound:
    """Noise whose power falls as 1 / f ** slope (0 white, 1 pink, 2 brown); peak 1."""
    spectrum = np.fft.rfft(rng.normal(size=LENGTH))
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    frequency[0] = frequency[1]
    sound = np.fft.irfft(spectrum / frequency ** (slope / 2), LENGTH)
    return sound / np.abs(sound).max()


def tones(t: np.ndarray, *frequencies: float) -> Sound:
    """Sum of sines of these frequencies in Hz; peak at most 1."""
    waves = [np.sin(2 * np.pi * f * t) for f in frequencies]
    return np.sum(waves, axis=0) / len(waves)


def clicks(rng: np.random.Generator, count: int) -> Sound:
    """`count` single-sample clicks of random sign and place."""
    out = np.zeros(LENGTH)
    out[rng.choice(LENGTH, count, replace=False)] = rng.choice([-1.0, 1.0], count)
    return out


def chirp(t: np.ndarray, low: float, high: float) -> Sound:
    """A sine that goes evenly from `low` to `high` Hz over the clip."""
    return np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * t[-1])))


def knocks(t: np.ndarray, rng: np.random.Generator, period: float) -> Sound:
    """Bursts of white noise every `period` seconds that die away in 20 ms."""
    return rng.normal(size=LENGTH) / 4 * np.exp(-(t % period) / 0.02)


def swells(t: np.ndarray, sound: Sound, rate: float) -> Sound:
    """Let a sound swell and break off `rate` times a second: a reversed envelope."""
    return sound * (t * rate % 1.0) ** 2


SOUNDS: Mapping[str, Make] = {
    "silence": lambda t, _: 0 * t,
    "white": lambda _, rng: coloured(rng, 0),
    "pink": lambda _, rng: coloured(rng, 1),
    "brown": lambda _, rng: coloured(rng, 2),
    "blue": lambda _, rng: coloured(rng, -1),
    "tone-low": lambda t, _: tones(t, 110),
    "tone-mid": lambda t, _: tones(t, 440),
    "tone-high": lambda t, _: tones(t, 3000),
    "chord": lambda t, _: tones(t, 262, 330, 392),
    "chord-minor": lambda t, _: tones(t, 220, 262, 330, 440),
    "beats": lambda t, _: tones(t, 500, 504),
    "hum-50": lambda t, _: tones(t, 50, 100, 150, 200),
    "hum-60": lambda t, _: tones(t, 60, 120, 180, 240),
    "dial": lambda t, _: tones(t, 350, 440),
    "dtmf": lambda t, _: tones(t, 770, 1336) * (t * 4 % 1 < 0.5),
    "clicks-few": lambda _, rng: clicks(rng, 5),
    "clicks-many": lambda _, rng: clicks(rng, 200),
    "chirp-up": lambda t, _: chirp(t, 100, 7000),
    "chirp-down": lambda t, _: chirp(t, 5000, 80),
    "siren": lambda t, _: np.sin(2 * np.pi * 700 * t + 60 * np.sin(2 * np.pi * 2 * t)),
    "square": lambda t, _: np.sign(np.sin(2 * np.pi * 220 * t)),
    "saw": lambda t, _: 2 * (t * 150 % 1) - 1,
    "knocks": lambda t, rng: knocks(t, rng, 0.25),
    "hammer": lambda t, rng: knocks(t, rng, 0.11),
    "swell-noise": lambda t, rng: swells(t, coloured(rng, 1), 3),
    "swell-tone": lambda t, _: swells(t, tones(t, 330, 660), 2),
    "swell-fast": lambda t, rng: swells(t, coloured(rng, 0), 9),
    "surf": lambda t, rng: coloured(rng, 1.5) * (0.6 + 0.4 * np.sin(2 * np.pi * t)),
    "dc": lambda t, _: 0 * t + 0.5,
    "vibrato": lambda t, _: np.sin(2 * np.pi * 440 * t + 4 * np.sin(12 * np.pi * t)),
    "buzz": lambda t, rng: np.sign(np.sin(2 * np.pi * 97 * t)) * coloured(rng, 0),
    "step": lambda t, _: np.where(t < 0.5, 0.0, np.sin(2 * np.pi * 1000 * t)),
}


def add_noise(
    sound: Sound, kind: str, snr_db: float, rng: np.random.Generator
) -> Sound:
    """Add noise `snr_db` below the mean power of the sound where it is not silent."""
    loud = sound[np.abs(sound) > 1e-3]
    noise = SOUNDS[kind](np.arange(LENGTH) / RATE, rng)
    ratio = np.sqrt(np.mean(loud**2) / np.mean(noise**2))
    return sound + noise * ratio * 10 ** (-snr_db / 20)


def make(line: Mapping[str, Any], place: int) -> np.ndarray:
    """Make one clip of `clips.jsonl`: int16 (16384,), peak `volume` of full scale."""
    rng = np.random.default_rng([SEED, place])
    if "say" in line:
        sound = fit(speak(line), line.get("lead", 0.1))
        if "noise" in line:
            sound = add_noise(sound, line["noise"], line["snr_db"], rng)
    else:
        sound = SOUNDS[line["sound"]](np.arange(LENGTH) / RATE, rng)
    peak = max(float(np.abs(sound).max()), 1e-12)
    return np.rint(sound / peak * line.get("volume", 0.5) * 32767).astype(np.int16)


def load() -> Any:
    """Open the voice activity detector in ONNX Runtime."""
    import onnxruntime

    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise SystemExit("install silero_vad (pip, --no-deps) first")
    model = Path(spec.origin).parent / "data" / "silero_vad_op18_ifless.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its unused initializers are not our matter
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model, options, providers=providers)


def probabilities(session: Any, clip: np.ndarray) -> np.ndarray:
    """Speech probability of each chunk (32,), state and 64 samples carried over."""
    sound = np.r_[np.zeros(CONTEXT), clip / 32768].astype(np.float32)
    state, seen = np.zeros((2, 1, 128), np.float32), []
    for k in range(CHUNKS):
        window = sound[None, k * CHUNK : (k + 1) * CHUNK + CONTEXT]
        feed = {"input": window, "state": state, "sr": np.array(RATE, np.int64)}
        output, state = session.run(["output", "stateN"], feed)
        seen.append(float(output[0, 0]))
    return np.array(seen)


def main() -> None:
    """Write `clips.npz` and `cases.jsonl` next to this file."""
    lines = map(json.loads, (FOLDER / "clips.jsonl").read_text("utf-8").splitlines())
    session, clips, records, peaks = load(), {}, [], []
    for place, line in enumerate(lines):
        key, speech = f"clip{place:03d}", "say" in line
        clips[key] = make(line, place)
        peak = float(probabilities(session, clips[key]).max())
        wrong = (peak > THRESHOLD) != speech
        name = line.get("say") or line["sound"]
        mark = "  WRONG" if wrong else ""
        sys.stdout.write(f"{key} {peak:.4f} {name}{mark}\n")
        tags = ["speech" if speech else "other", *line["tags"]]
        tags += ["hard"] if wrong else []
        record = {"id": key, "audio": f"clips.npz#{key}", "tags": tags}
        records.append({**record, "expected": {"speech": speech}})
        peaks.append(peak)
    right = sum("hard" not in record["tags"] for record in records)
    narrow = sum(0.3 < peak < 0.7 for peak in peaks)
    sys.stdout.write(f"{right} of {len(records)} as labelled at {THRESHOLD}, ")
    sys.stdout.write(f"{narrow} with a largest probability between 0.3 and 0.7\n")
    np.savez_compressed(FOLDER / "clips.npz", **clips)
    text = "\n".join(json.dumps(record) for record in records) + "\n"
    (FOLDER / "cases.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
