"""Small Python functions: a closed set of bodies, with a free choice of the function's name."""

# ruff: noqa: E501 - word and phrase tables read better in full lines
from __future__ import annotations

import random
from dataclasses import dataclass

import words
from style import ask
from tasks import Sample, rare_word


@dataclass(frozen=True, slots=True)
class Function:
    """A known function: default name, arguments, docstring, body, and how people ask for it."""

    name: str
    arguments: str
    doc: str
    body: str
    wishes: tuple[str, ...]


def _f(name: str, arguments: str, doc: str, body: str, *wishes: str) -> Function:
    return Function(name, arguments, doc, body, wishes)


FUNCTIONS = (
    _f("add", "a, b", "Return the sum of a and b.", "return a + b", "adds two numbers",
       "returns the sum of two numbers", "adds a and b", "sums two values", "addition"),
    _f("subtract", "a, b", "Return a minus b.", "return a - b", "subtracts two numbers",
       "returns the difference of two numbers", "subtracts b from a", "subtraction"),
    _f("multiply", "a, b", "Return the product of a and b.", "return a * b",
       "multiplies two numbers", "returns the product of two numbers", "multiplication"),
    _f("divide", "a, b", "Return a divided by b.", "return a / b", "divides two numbers",
       "divides a by b", "returns the quotient of two numbers", "division"),
    _f("square", "x", "Return x squared.", "return x * x", "squares a number",
       "returns the square of a number", "computes x squared", "squaring a number"),
    _f("cube", "x", "Return x to the power of three.", "return x ** 3", "cubes a number",
       "returns the cube of a number", "computes x cubed"),
    _f("is_even", "n", "Return True if n is even.", "return n % 2 == 0",
       "checks if a number is even", "tests whether a number is even", "tells if n is even",
       "returns true for even numbers", "even number check"),
    _f("is_odd", "n", "Return True if n is odd.", "return n % 2 == 1",
       "checks if a number is odd", "tests whether a number is odd", "tells if n is odd",
       "returns true for odd numbers", "odd number check"),
    _f("is_positive", "n", "Return True if n is greater than zero.", "return n > 0",
       "checks if a number is positive", "tests whether a number is greater than zero"),
    _f("absolute", "x", "Return x without its sign.", "return -x if x < 0 else x",
       "returns the absolute value of a number", "computes the absolute value", "absolute value"),
    _f("larger", "a, b", "Return the larger of a and b.", "return a if a > b else b",
       "returns the larger of two numbers", "finds the bigger of two numbers",
       "returns the maximum of two numbers"),
    _f("smaller", "a, b", "Return the smaller of a and b.", "return a if a < b else b",
       "returns the smaller of two numbers", "returns the minimum of two numbers"),
    _f("largest", "items", "Return the largest item of a list.",
       "best = items[0]\n    for item in items:\n        if item > best:\n            best = item\n"
       "    return best",
       "finds the maximum of a list", "returns the largest number in a list", "max of a list",
       "finds the biggest element of a list", "finds the largest value in a list"),
    _f("smallest", "items", "Return the smallest item of a list.",
       "best = items[0]\n    for item in items:\n        if item < best:\n            best = item\n"
       "    return best",
       "finds the minimum of a list", "returns the smallest number in a list", "min of a list",
       "finds the smallest element of a list"),
    _f("total", "items", "Return the sum of a list.",
       "result = 0\n    for item in items:\n        result += item\n    return result",
       "sums a list", "returns the sum of a list", "adds up all numbers in a list",
       "computes the total of a list", "sum of a list of numbers"),
    _f("average", "items", "Return the mean of a list.", "return sum(items) / len(items)",
       "computes the average of a list", "returns the mean of a list", "average of numbers",
       "calculates the average", "mean of a list"),
    _f("reverse", "text", "Return text backwards.", "return text[::-1]", "reverses a string",
       "turns a string around", "returns a string backwards", "reversing a string",
       "reverses text", "string reversal"),
    _f("is_palindrome", "text", "Return True if text reads the same backwards.",
       "text = text.lower()\n    return text == text[::-1]", "checks if a word is a palindrome",
       "tests for palindromes", "checks whether a string is a palindrome", "palindrome check"),
    _f("count_vowels", "text", "Return how many vowels text has.",
       'return sum(letter in "aeiou" for letter in text.lower())', "counts the vowels in a string",
       "counts vowels", "returns the number of vowels in a text", "vowel counting"),
    _f("count_words", "text", "Return how many words text has.", "return len(text.split())",
       "counts the words in a string", "counts words", "returns the number of words in a text",
       "word count"),
    _f("shout", "text", "Return text in capital letters.", "return text.upper()",
       "makes a string uppercase", "converts text to capital letters", "upper cases a string"),
    _f("factorial", "n", "Return the product of 1 to n.",
       "result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
       "computes the factorial", "returns the factorial of a number", "calculates n factorial",
       "factorial", "finds the factorial of n"),
    _f("fibonacci", "n", "Return the n-th Fibonacci number.",
       "a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
       "computes fibonacci numbers", "returns the nth fibonacci number", "fibonacci",
       "calculates the fibonacci sequence", "finds the n-th Fibonacci number"),
    _f("is_prime", "n", "Return True if n is a prime number.",
       "if n < 2:\n        return False\n    return all(n % d for d in range(2, int(n ** 0.5) + 1))",
       "checks if a number is prime", "tests whether a number is prime", "prime number check",
       "tells if n is a prime number", "checks for primes"),
    _f("gcd", "a, b", "Return the greatest common divisor of a and b.",
       "while b:\n        a, b = b, a % b\n    return a", "computes the greatest common divisor",
       "returns the gcd of two numbers", "gcd", "finds the greatest common divisor of a and b"),
    _f("unique", "items", "Return the items without repeats, in order.",
       "return list(dict.fromkeys(items))", "removes duplicates from a list",
       "returns the unique items of a list", "deduplicates a list"),
    _f("greet", "name", "Return a greeting for name.", 'return f"Hello, {name}!"',
       "greets a person by name", "says hello to a person", "returns a greeting", "greeting"),
    _f("to_fahrenheit", "celsius", "Return the temperature in Fahrenheit.",
       "return celsius * 9 / 5 + 32", "converts celsius to fahrenheit", "celsius to fahrenheit",
       "turns celsius into fahrenheit"),
)  # fmt: skip

FRAMES = (
    "write a python function that {w}", "write a function that {w}", "python function that {w}",
    "a python function which {w}", "code a function that {w}", "python code that {w}",
    "give me a python function that {w}", "I need a python function that {w}",
    "implement a function that {w}", "write python code that {w}", "function that {w}",
    "create a python function that {w}", "show me a function that {w}", "python: {w}",
    "define a python function that {w}", "make a small python function that {w}",
    "write some python that {w}", "python program that {w}", "how do i write a function that {w}",
    "write a def that {w}", "code: {w}", "write a method in python that {w}",
)  # fmt: skip
NAME_FRAMES = (
    "write the {w} function in python", "python {w} function", "write a {w} function",
    "{w} in python", "code for {w}", "python code for {w}", "implement {w}", "write {w} in python",
    "function for {w}", "write a python function for {w}", "show me {w} in python",
    "how do I do {w} in python", "give me {w} code", "program {w}", "can you code {w}",
)  # fmt: skip
NAMED = (
    " and is called {f}", " called {f}", " named {f}", ", call it {f}", ". name it {f}",
    ", name: {f}", " with the name {f}", ". call the function {f}", " (call it {f})",
)  # fmt: skip


def code(rng: random.Random) -> Sample:
    function = rng.choice(FUNCTIONS)
    if rng.random() < 0.2:
        template = rng.choice(NAME_FRAMES)
        wish = rng.choice((function.name, function.name.replace("_", " "), function.name + "()"))
    else:
        wish = rng.choice(function.wishes)
        third_person = wish.split()[0].endswith("s") and " " in wish and wish not in _NOUN_WISHES
        template = rng.choice(FRAMES if third_person else NAME_FRAMES)
        if third_person and rng.random() < 0.15:
            template = template.replace("that {w}", "to {w}").replace("which {w}", "to {w}")
            wish = infinitive(wish)
    template = template.replace("{w}", wish)
    name = function.name
    if rng.random() < 0.2:
        name = free_name(rng)
        template += rng.choice(NAMED)
    user = ask(rng, template, f=name)
    return Sample("code", user, source(function, name), user)


_NOUN_WISHES = {"addition", "mean of a list"}


def infinitive(wish: str) -> str:
    """Turn "adds two numbers" into "add two numbers"."""
    verb, _, rest = wish.partition(" ")
    for ending, base in (("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("lies", "ly"), ("s", "")):
        if verb.endswith(ending):
            return f"{verb[: -len(ending)]}{base} {rest}"
    return wish


def free_name(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return rare_word(rng)
    if rng.random() < 0.3:
        return rng.choice(words.NOUN_NAMES)
    first = rng.choice(words.VERBS_NAMES + words.NOUN_NAMES)
    return f"{first}_{rng.choice(words.NOUN_NAMES + words.LIST_WORDS)}"


def source(function: Function, name: str) -> str:
    return (
        f"```python\ndef {name}({function.arguments}):\n"
        f'    """{function.doc}"""\n    {function.body}\n```'
    )
