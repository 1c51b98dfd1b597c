"""Calls of functions of which one is right: all our own text.

The model writes no call of its own that is right, so it is given how the call begins
and asked which of some continuations is likeliest: the name of the function, or the
value of its argument beside near misses that stand in the same question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FUNCTIONS = {
    "get_weather": "city",
    "play_song": "title",
    "set_alarm": "time",
    "send_mail": "to",
}
SYSTEM = (
    "You can call these functions: "
    + ", ".join(f"{name}({key})" for name, key in FUNCTIONS.items())
    + '. Answer only with JSON like {"name": "...", "arguments": {...}}.'
)
#: What is asked, and the function that does it.
NAMES = """What is the weather like in Rome?|get_weather
Will it rain in London tomorrow?|get_weather
How warm is it in Madrid?|get_weather
Is there snow in Oslo today?|get_weather
Play some music, please: Yesterday.|play_song
I want to hear the song Yellow.|play_song
Put on Imagine.|play_song
Play the song Hallelujah.|play_song
Wake me up at 7.|set_alarm
Set an alarm for 6:30.|set_alarm
I must get up at 5 tomorrow.|set_alarm
Please set the alarm to 8:15.|set_alarm
Write an email to Anna.|send_mail
Send a mail to my boss.|send_mail
Mail Peter that I am late.|send_mail
Please email the report to Clara.|send_mail"""
#: What is asked, the function, the right argument, and values that are near misses.
ARGUMENTS = """What is the weather in Paris?|get_weather|Paris|Rome|Berlin
I live in Oslo. What is the weather in Paris?|get_weather|Paris|Oslo|Rome
I fly from Madrid to London. What is the weather where I arrive?|get_weather|London|Madrid|Paris
What is the weather in Cairo? Not in Lima, I was there before.|get_weather|Cairo|Lima|Rome
It is hot here in Athens. How is it in Berlin?|get_weather|Berlin|Athens|Paris
My sister in Tokyo asks for the weather in Rome.|get_weather|Rome|Tokyo|London
Set an alarm for 7, not for 6.|set_alarm|7|6|9
I went to bed at 11. Wake me up at 8.|set_alarm|8|11|5
Wake me at 5. The train leaves at 9.|set_alarm|5|9|3
Set the alarm to 6.|set_alarm|6|7|2
Send a mail to Anna.|send_mail|Anna|Peter|Clara
Peter asked me to send a mail to Anna.|send_mail|Anna|Peter|Clara
Send a mail to Clara about the meeting with Peter.|send_mail|Clara|Peter|Anna
Play the song Yesterday.|play_song|Yesterday|Imagine|Yellow
I am tired of Yellow. Play Imagine instead.|play_song|Imagine|Yellow|Yesterday
After Yesterday, play Hallelujah.|play_song|Hallelujah|Yesterday|Imagine"""


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Group and record of every call."""
    for line in NAMES.split("\n"):
        asked, name = line.split("|")
        yield "call", _record(asked, '{"name": "', [*FUNCTIONS], name)
    for line in ARGUMENTS.split("\n"):
        asked, name, *values = line.split("|")
        key = FUNCTIONS[name]
        begins = f'{{"name": "{name}", "arguments": {{"{key}": "'
        yield "call", _record(asked, begins, values, values[0])


def _record(asked: str, begins: str, choices: list[str], answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": asked},
        ],
        "begins": begins,
        "expected": {"tool_choices": choices, "answer": answer},
    }
