"""Questions of two domains, and the text the experts are trained on; everything is a function of a seed.

A `Problem` can be told in three ways: as a chat (question and reply), as a plain question-and-answer passage,
and as prose that states the outcome without asking for it. The base model reads the last two, its tunes only
the first.
"""

import random
import re
import zlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

DOMAINS = ("general", "math")
TEST_SIZE = 300
DEV_SIZE = 200

WORDS = """
able actor air animal answer apple arm baby back bag ball band bank barn basket beach bean bear bed bell
bench bird blue boat bone book bottle bowl box boy brain branch bread brick bridge brown brush bucket bus
butter button cake camera camp candle car card carpet castle cat chain chair cheese cherry child circle city
clock cloud coat coffee coin color copper corn cotton cow cream crown cup dance dark day deer desk dinner
doctor dog door dream dress drum duck dust ear earth east egg engine eye face family farm father field
finger fire fish flag floor flower fog food foot forest fork fox friend frog fruit garden gate ghost giant
gift girl glass glove goat gold grape grass green guitar hair hammer hand hat heart hill honey horse hotel
house ice iron island jacket jar jewel judge juice jungle key king kitchen kite knee knife lady lake lamp
leaf lemon letter light lion lock lunch magic map market meal metal milk mirror money monkey moon morning
mother mouse mouth music nail name neck needle nest night north nose ocean office olive onion orange oven
owl page paint paper park party pencil pepper piano picture pig pillow pilot planet plate pocket pond potato
queen rabbit radio rain river road robot rock roof room rope rose salt sand school sea seed shadow sheep
ship shoe shop silver sister sky smile snake snow soap sock song soup south spoon spring star station stone
storm street sugar summer sun table tail teacher tent ticket tiger time tooth tower town toy train tree
truck uncle valley village voice wagon wall water week west wheel white wind window wing winter wolf wood
yard year yellow zebra
""".split()  # noqa: SIM905

NAMES = """
Ada Ben Carl Dora Emma Finn Gina Hugo Iris Jack Kate Leo Mia Nina Omar Paul Rosa Sam Tom Vera
""".split()  # noqa: SIM905
ITEMS = """
apples beads books cards coins cups eggs flags keys lamps nuts pears pens rings shells stamps stones tiles
tins toys
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Problem:
    """One question with its worked reply, the bare gold answer, and the same fact as prose."""

    kind: str
    question: str
    reply: str
    answer: str
    prose: str


def _word_problem(kind: str, question: str, answer: str, prose: str, working: str = "") -> Problem:
    return Problem(kind, question, f"{working}The answer is {answer}.", answer, prose)


def _spell(rng: random.Random) -> Problem:
    word = rng.choice(WORDS)
    spelled = "-".join(word)
    form = rng.choice(["Spell the word {}.", "How do you spell {}?", "What are the letters of {}?", "Please spell {}."])
    return _word_problem("spell", form.format(word), spelled, f"The word {word} is spelled {spelled}.")


def _letters(rng: random.Random) -> Problem:
    word = rng.choice(WORDS)
    form = rng.choice(
        [
            "How many letters are in {}?",
            "Count the letters of {}.",
            "How many letters does {} have?",
            "How long is {}?",
        ]
    )
    working = f"{'-'.join(word)} has {len(word)} letters. "
    return _word_problem("letters", form.format(word), str(len(word)), working.strip(), working)


def _end_letter(rng: random.Random) -> Problem:
    word = rng.choice(WORDS)
    end, letter = rng.choice([("first", word[0]), ("last", word[-1])])
    form = rng.choice(["What is the {} letter of {}?", "Give the {} letter of {}.", "Which letter comes {} in {}?"])
    return _word_problem("letter", form.format(end, word), letter, f"The {end} letter of {word} is {letter}.")


def _case(rng: random.Random) -> Problem:
    word = rng.choice(WORDS)
    kind, shown, wanted, forms = rng.choice(
        [
            (
                "upper",
                word,
                word.upper(),
                ["Write {} in capitals.", "Put {} in upper case.", "Make {} all capitals."],
            ),
            ("lower", word.upper(), word, ["Write {} in lower case.", "Put {} in small letters."]),
            ("capital", word, word.capitalize(), ["Capitalise {}.", "Start {} with a capital letter."]),
        ]
    )
    prose = {"upper": "In capitals", "lower": "In lower case", "capital": "With a capital letter"}[kind]
    return _word_problem(kind, rng.choice(forms).format(shown), wanted, f"{prose}, {shown} is {wanted}.")


def _sort(rng: random.Random) -> Problem:
    words = rng.sample(WORDS, 3)
    answer = ", ".join(sorted(words))
    form = rng.choice(["Sort these words: {}.", "Put in alphabetical order: {}.", "Sort from A to Z: {}."])
    return _word_problem("sort", form.format(", ".join(words)), answer, f"In alphabetical order: {answer}.")


def _extreme(rng: random.Random) -> Problem:
    words = rng.sample(WORDS, 3)
    end, answer = rng.choice([("first", min(words)), ("last", max(words))])
    listed = f"{words[0]}, {words[1]} or {words[2]}"
    form = rng.choice(["Which word is {} in the alphabet: {}?", "Which comes {} from A to Z: {}?"])
    prose = f"Of {words[0]}, {words[1]} and {words[2]}, {answer} comes {end} in the alphabet."
    return _word_problem("alphabet", form.format(end, listed), answer, prose)


def _reverse(rng: random.Random) -> Problem:
    words = rng.sample(WORDS, 3)
    shown, answer = ", ".join(words), ", ".join(reversed(words))
    form = rng.choice(["Turn this list around: {}.", "Write these words in reverse order: {}.", "List backwards: {}."])
    return _word_problem("reverse", form.format(shown), answer, f"The list {shown} backwards is {answer}.")


def _count_words(rng: random.Random) -> Problem:
    words = rng.sample(WORDS, rng.randint(2, 6))
    shown = " ".join(words)
    form = rng.choice(["How many words are there: {}?", "Count the words: {}.", "How many words do you see: {}?"])
    return _word_problem("words", form.format(shown), str(len(words)), f"The line {shown} has {len(words)} words.")


def _nth_word(rng: random.Random) -> Problem:
    words = rng.sample(WORDS, 4)
    shown = " ".join(words)
    index = rng.randrange(4)
    nth = ("first", "second", "third", "last")[index]
    form = rng.choice(["What is the {} word of this line: {}?", "Give the {} word: {}."])
    return _word_problem("nth", form.format(nth, shown), words[index], f"In {shown}, the {nth} word is {words[index]}.")


GENERAL_KINDS: tuple[Callable[[random.Random], Problem], ...] = (
    _spell, _letters, _end_letter, _case, _case, _sort, _extreme, _reverse, _count_words, _nth_word,
)  # fmt: skip


def _times(a: int, b: int) -> str:
    """The product worked by tens and units, which a small model learns far sooner than the bare result."""
    tens, units = a - a % 10, a % 10
    return f"{a} x {b} = {tens * b} + {units * b} = {a * b}." if tens and units else f"{a} x {b} = {a * b}."


STORIES: dict[str, list[tuple[str, str]]] = {
    "add": [
        ("{n} has {a} {i} and buys {b} more.", "How many {i} does {n} have?"),
        ("There are {a} {i} in a box and {b} in a bag.", "How many {i} are there in all?"),
        ("{n} finds {a} {i} and {m} finds {b}.", "How many {i} do they find together?"),
    ],
    "subtract": [
        ("{n} has {a} {i} and gives away {b}.", "How many {i} are left?"),
        ("A shop has {a} {i} and sells {b}.", "How many {i} remain?"),
        ("{n} has {a} {i} and {m} has {b}.", "How many more {i} has {n}?"),
    ],
    "multiply": [
        ("{n} has {b} boxes of {a} {i}.", "How many {i} does {n} have?"),
        ("A bag holds {a} {i}.", "How many {i} do {b} bags hold?"),
        ("{n} makes {a} {i} a day for {b} days.", "How many {i} is that?"),
    ],
    "add-subtract": [
        ("{n} has {a} {i}, buys {b} and loses {c}.", "How many {i} are left?"),
        ("A shop has {a} {i}, gets {b} more and sells {c}.", "How many {i} remain?"),
    ],
    "multiply-add": [
        ("{n} has {b} bags of {a} {i} and {c} more.", "How many {i} does {n} have?"),
        ("There are {b} rows of {a} {i} and {c} others.", "How many {i} are there?"),
    ],
}


def _numbers(kind: str, rng: random.Random) -> tuple[int, int, int, str, int]:
    """The three numbers of a story, the working and the result."""
    a, b, c = rng.randint(10, 99), rng.randint(10, 99), 0
    if kind == "add":
        return a, b, c, f"{a} + {b} = {a + b}.", a + b
    if kind == "subtract":
        a, b = max(a, b), min(a, b)
        return a, b, c, f"{a} - {b} = {a - b}.", a - b
    if kind == "multiply":
        b = rng.randint(2, 9)
        return a, b, c, _times(a, b), a * b
    if kind == "add-subtract":
        c = rng.randint(10, min(99, a + b))
        return a, b, c, f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}.", a + b - c
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(10, 99)
    return a, b, c, f"{a} x {b} = {a * b}. {a * b} + {c} = {a * b + c}.", a * b + c


def _math(rng: random.Random) -> Problem:
    kind = rng.choice(list(STORIES))
    a, b, c, working, result = _numbers(kind, rng)
    name, other = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    story, asked = (part.format(n=name, m=other, i=item, a=a, b=b, c=c) for part in rng.choice(STORIES[kind]))
    return Problem(
        kind,
        f"{story} {asked}",
        f"{working} \\boxed{{{result}}}",
        str(result),
        f"{story} {working} That is {result} {item}.",
    )


def problem(domain: str, rng: random.Random) -> Problem:
    """A random problem of a domain."""
    return _math(rng) if domain == "math" else rng.choice(GENERAL_KINDS)(rng)


def stream_rng(seed: int, name: str) -> random.Random:
    """An independent generator per named purpose, so that changing one stream leaves the others alone."""
    return random.Random(seed * 1_000_003 + zlib.crc32(name.encode()))


def held_out(domain: str, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Test and dev problems of a domain, all with different questions."""
    rng = stream_rng(seed, f"held-out {domain}")
    chosen: dict[str, Problem] = {}
    while len(chosen) < TEST_SIZE + DEV_SIZE:
        drawn = problem(domain, rng)
        chosen.setdefault(drawn.question, drawn)
    problems = list(chosen.values())
    return problems[:TEST_SIZE], problems[TEST_SIZE:]


def training_problems(domain: str, rng: random.Random, excluded: Container[str]) -> Iterator[Problem]:
    """Endless problems whose questions are not among the excluded ones."""
    while True:
        drawn = problem(domain, rng)
        if drawn.question not in excluded:
            yield drawn


def plain_texts(rng: random.Random, excluded: Container[str], asked: float) -> Iterator[str]:
    """Endless passages of both domains: a share `asked` of questions with replies, the rest prose."""
    sources = [training_problems(domain, rng, excluded) for domain in DOMAINS]
    while True:
        drawn = next(rng.choice(sources))
        if rng.random() < asked:
            yield f"Question: {drawn.question}\nAnswer: {drawn.reply}"
        else:
            yield drawn.prose


def extract(domain: str, text: str) -> str | None:
    """The final answer stated in a reply, or None."""
    pattern = r"\\boxed\{([^{}]*)\}" if domain == "math" else r"The answer is (.*?)\.?$"
    found = re.findall(pattern, text.strip(), flags=re.MULTILINE)
    return found[-1] if found else None
