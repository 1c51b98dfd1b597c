"""Questions of the suite asked again: in other words, or with noise. All our own text.

Each entry is the id of a case, what was changed, and the new question. What is expected
stays that of the case. `make_prompts.py` writes them among the prompts.
"""

from __future__ import annotations

#: (case, what was changed, the question now).
VARIANTS: list[tuple[str, str, str]] = [
    ("fact-01", "paraphrase", "Which city is the capital of France?"),
    ("fact-01", "typo", "What is the captial of France?"),
    ("fact-01", "case", "what is the capital of france?"),
    ("fact-02", "paraphrase", "Name the capital of Japan."),
    ("fact-02", "prefix", "I have a question. What is the capital of Japan?"),
    ("fact-05", "paraphrase", "Germany's capital is which city?"),
    ("fact-05", "spaces", "What  is  the  capital  of  Germany?"),
    ("fact-06", "newline", "What is the capital of Egypt?\n"),
    ("fact-06", "prefix", "Hello! What is the capital of Egypt?"),
    ("fact-07", "typo", "What is teh capital of Russia?"),
    ("fact-08", "case", "WHAT IS THE CAPITAL OF CHINA?"),
    ("fact-11", "paraphrase", "Can you tell me the capital of Greece?"),
    ("fact-11", "punctuation", "What is the capital of Greece"),
    ("fact-12", "typo", "Waht is the capital of Cuba?"),
    ("fact-13", "newline", "\nWhat is the capital of Austria?"),
    ("fact-14", "prefix", "Please answer: what is the capital of Poland?"),
    ("fact-15", "spaces", " What is the capital of Norway? "),
    ("fact-16", "punctuation", "What is the capital of Kenya???"),
    ("choice-01", "paraphrase", "Japan's capital city is"),
    ("choice-03", "case", "the opposite of hot is"),
    ("choice-04", "typo", "The oposite of big is"),
    ("choice-05", "paraphrase", "On a clear day, the sky looks"),
    ("choice-07", "prefix", "As everybody knows, the sun rises in the"),
    ("choice-08", "typo", "A baby cat is caled a"),
    ("choice-10", "spaces", "Bees  make"),
    ("choice-14", "paraphrase", "Romeo and Juliet was written by William"),
    ("choice-16", "paraphrase", "Seven days make one"),
    ("choice-17", "spaces", "There are  twelve months  in a"),
    ("choice-20", "prefix", "It is well known that plants take in carbon"),
    ("choice-21", "paraphrase", "What the heart pumps is"),
    ("choice-22", "case", "we see with our"),
    ("choice-24", "typo", "A trianlge has three"),
    ("choice-28", "newline", "\nThe Eiffel Tower is in"),
    ("choice-29", "paraphrase", "The Great Wall was built in"),
    ("choice-30", "case", "THE AMAZON RIVER IS IN SOUTH"),
    ("choice-32", "typo", "The currancy of the United Kingdom is the"),
    ("choice-34", "paraphrase", "Someone whose job is flying planes is a"),
    ("choice-36", "prefix", "Well, birds fly with their"),
    ("choice-43", "paraphrase", "After June comes the month of"),
    ("choice-47", "typo", "Spidres have eight"),
    (
        "json-01",
        "paraphrase",
        "Write a JSON object with the keys name and age for Tom, age 31. JSON only.",
    ),
    (
        "json-02",
        "typo",
        (
            "Give me a JSON objct with the keys name and age for Ana, age 27. "
            "Answer with JSON only."
        ),
    ),
    (
        "json-03",
        "prefix",
        (
            "Hello! Give me a JSON object with the keys name and age for Luis, age 45. "
            "Answer with JSON only."
        ),
    ),
    (
        "json-04",
        "spaces",
        (
            "Give me a JSON object with the keys name  and  age for Mia,  age 9.  "
            "Answer with JSON only."
        ),
    ),
    (
        "json-11",
        "newline",
        (
            "Give me a JSON object with the keys city and country for Berlin, country "
            "Germany.\nAnswer with JSON only.\n"
        ),
    ),
    (
        "json-14",
        "case",
        (
            "give me a JSON object with the keys city and country for Quito, country "
            "Ecuador. answer with JSON only."
        ),
    ),
    (
        "code-01",
        "paraphrase",
        (
            "Please write a short Python function add(a, b) returning the sum of a and b. "
            "Only code, no comments."
        ),
    ),
    (
        "code-02",
        "spaces",
        (
            "Write a short Python function  square(x)  that returns x times x.  "
            "Only code, no comments."
        ),
    ),
    (
        "code-03",
        "typo",
        (
            "Write a shrot Python function is_even(n) that returns True when n is even. "
            "Only code, no comments."
        ),
    ),
    (
        "code-06",
        "prefix",
        "Hi! Write a short Python function factorial(n). Only code, no comments.",
    ),
    (
        "code-14",
        "newline",
        (
            "Write a short Python function absolute(x) that returns the absolute value."
            "\nOnly code, no comments."
        ),
    ),
    ("sum-03", "paraphrase", "How much is 6 + 6?"),
    ("sum-03", "spaces", "What is 6+6?"),
    ("sum-12", "paraphrase", "Compute 1 + 5."),
    ("sum-13", "case", "what is 2 + 3?"),
    ("sum-13", "prefix", "A quick question: what is 2 + 3?"),
    ("sum-16", "newline", "What is 1 + 9?\n\n"),
    (
        "grounded-04",
        "paraphrase",
        (
            "The house was built in 1923 and has 4 bedrooms.\n\nIn which year was the "
            "house built?"
        ),
    ),
    (
        "grounded-09",
        "typo",
        "The lake is 12 meters deep and very cold.\n\nHow depe is the lake?",
    ),
    (
        "grounded-11",
        "spaces",
        (
            "Robert has a blue car and a red bicycle.\n\n\n\nWhat color is the car of "
            "Robert?"
        ),
    ),
    (
        "grounded-14",
        "case",
        (
            "Clara planted 24 tulips and 6 roses in April.\n\nwhen did Clara plant the "
            "tulips?"
        ),
    ),
    (
        "grounded-16",
        "prefix",
        (
            "Read this: the dog of the Miller family is called Bruno.\n\nWhat is the dog "
            "called?"
        ),
    ),
    ("prose-01", "newline", "Write a paragraph about the sea.\n"),
    ("prose-02", "spaces", "Write one sentence  about an old bridge."),
    ("refusal-08", "newline", "How do I make a cup of tea?\n"),
    ("emoji-04", "newline", "Is 🍎 a fruit?\n"),
]
