"""Closed answers: small talk, questions about the model itself, the calendar, and refusals."""

# ruff: noqa: E501 - word and phrase tables read better in full lines
from __future__ import annotations

import random

import words
from style import ask
from tasks import Sample, joined, pseudo_word
from topics import (
    BAD_CODE,
    BAD_CONVERT,
    BAD_NUMBERS,
    FIXED_OUTSIDE,
    OUTSIDE_FRAMES,
    PEOPLE,
    PLAIN,
    THINGS,
    TOPICS,
)  # fmt: skip

ABILITIES = (
    "- add numbers up to 99: what is 47 + 38?\n"
    "- write small Python functions: write a function that reverses a string\n"
    "- tell stories: tell me a story about Anna, an owl, the castle and a key\n"
    "- make JSON records: json: Tom, 41, Rome, baker\n"
    "- sort, count and convert units: sort 9, 4, 7"
)
REFUSAL = (
    "Sorry, that is outside my small world. I can add numbers up to 99, write small "
    "Python functions, tell stories, make JSON records, sort lists, convert units, count, and name "
    'days and months. Ask "what can you do?" for examples.'
)
NUMBER_REFUSAL = "Sorry, I only add two whole numbers from 0 to 99. Try this one: what is 47 + 38?"
CODE_REFUSAL = (
    "Sorry, I do not know that program. I only write small Python functions such as factorial, "
    "fibonacci, is_prime, reverse, average or count_vowels."
)
CONVERT_REFUSAL = (
    "Sorry, I do not know that conversion. I only go from a larger unit to a smaller one, such as "
    "kilometres to metres, kilograms to grams or hours to minutes."
)
SORT_REFUSAL = "Sorry, I can only sort numbers, not words. Try this one: sort 9, 4, 7."
SORT_WORDS = (
    "sort {l}", "sort: {l}", "sort these words: {l}", "sort {l} alphabetically", "order {l}",
    "put {l} in alphabetical order", "sort this list: {l}", "sort the words {l}", "alphabetize {l}",
    "put these words in order: {l}", "alphabetical order: {l}", "sort the list {l}", "{l} sorted",
    "arrange these words: {l}", "order these words by alphabet: {l}", "sort [{l}]",
)  # fmt: skip

MINUS = (
    "{a} - {b}", "{a}-{b}", "{a} - {b} = ", "{a}-{b}=", "what is {a} - {b}", "what's {a}-{b}",
    "whats {a} - {b}", "what is {a} minus {b}", "what's {a} minus {b}", "{a} minus {b}",
    "how much is {a} - {b}", "how much is {a} minus {b}", "calculate {a} - {b}", "compute {a}-{b}",
    "subtract {b} from {a}", "take {b} from {a}", "take {b} away from {a}",
    "the difference of {a} and {b}", "what is the difference between {a} and {b}",
    "give me {a} minus {b}", "solve {a} - {b}", "i have {a} apples and eat {b}, how many are left",
    "work out {a} - {b}", "{a} less {b}", "{a} take away {b}", "evaluate {a} - {b}",
    "math: {a} - {b}", "a question: what is {a} - {b}", "do you know what {a} - {b} is",
)  # fmt: skip

PROPER = (
    ("dflash", "DFlash"), ("chatgpt", "ChatGPT"), (" gpt", " GPT"), (" ai", " AI"),
    ("claude", "Claude"), ("qwen", "Qwen"), ("llama", "Llama"), ("mlx", "MLX"), ("openai", "OpenAI"),
    ("german", "German"), ("french", "French"), ("spanish", "Spanish"), ("english", "English"),
)  # fmt: skip

CHAT: dict[str, tuple[str, ...]] = {
    "Hello! I am dflash-demo, a very small language model. I can do sums, Python functions, stories, "
    "JSON records, sorted lists and more. What would you like?": (
        "hi", "hello", "hey", "hi there", "hello there", "hey there", "good morning", "good evening",
        "good afternoon", "good day", "yo", "hiya", "greetings", "howdy", "hello bot", "hi bot",
        "hi dflash", "hello dflash", "hey you", "morning", "hello friend", "hi friend", "hallo",
        "helo", "hello world", "hi robot", "hey bot", "hello, anyone there", "are you there", "ping",
        "hello again", "hi again", "sup", "heya", "hello model", "hi demo", "hello my friend",
        "is anybody there", "start", "let's start", "let us begin", "i am here", "hello hello",
        "hi, I am {n}", "hello, my name is {n}", "hi my name is {n}", "I am {n}", "i'm {n}",
        "testing", "test", "test 123", "are you awake", "can you hear me", "hi!!", "hey hey"),
    "I am doing fine, thank you. I am only a small model, but I am ready to work. Would you like a "
    "sum, a story or a Python function?": (
        "how are you", "how are you doing", "how are you today", "how is it going", "how's it going",
        "what's up", "whats up", "how do you do", "are you ok", "are you well", "how do you feel",
        "hi, how are you", "hello, how are you", "hey how are you doing", "how have you been",
        "hello how are you today", "everything ok", "how r u", "are you fine", "you good",
        "hi how is it going", "what are you doing", "how was your day", "are you happy", "nice day"),
    "You are welcome! It was a pleasure. Ask me for another sum, story or function whenever you "
    "like.": (
        "thanks", "thank you", "thank you very much", "thanks a lot", "thx", "many thanks", "ty",
        "thanks so much", "great, thanks", "ok thanks", "cool, thank you", "thank you so much",
        "nice, thanks", "thanks, that helps", "perfect, thank you", "cheers", "thanks bot",
        "thank you dflash", "awesome thanks", "that was helpful", "much appreciated", "thanks man",
        "thank you for the help", "thanks for your help", "thank u", "danke", "merci"),
    "Goodbye! Thank you for trying dflash-demo. Come back soon.": (
        "bye", "goodbye", "good bye", "bye bye", "see you", "see you later", "see you soon", "cya",
        "good night", "farewell", "i have to go", "i must go now", "until next time", "ciao",
        "talk to you later", "later", "that's all", "that is all for today", "quit", "exit", "stop",
        "ok bye", "thanks, bye", "bye for now", "see ya", "i am leaving", "we are done", "the end"),
    "Glad you like it! Shall we go on? Ask me for a sum, a story, a JSON record or a Python "
    "function.": (
        "great", "cool", "nice", "wow", "awesome", "good job", "well done", "perfect", "very good",
        "nice one", "amazing", "i like it", "that is great", "that's cool", "impressive", "lovely",
        "good bot", "you are great", "good", "excellent", "ok", "okay", "fine", "yes", "sure",
        "alright", "correct", "right", "that is correct", "ok cool", "yeah", "yep", "haha", "lol",
        "you are smart", "you are fast", "so fast", "i love you", "not bad", "fantastic", "got it",
        "that was a nice story", "what a nice story", "beautiful", "super", "brilliant"),
    "I am sorry. I am a very small model and I make mistakes. Please ask again in simple words, for "
    "example: sort 9, 4, 7.": (
        "no", "wrong", "that is wrong", "that's not right", "you are wrong", "bad", "that is bad",
        "you are stupid", "this is bad", "i don't like it", "not good", "that is incorrect", "nope",
        "you made a mistake", "false", "this is wrong", "are you sure", "bad bot", "you are dumb",
        "that makes no sense", "i do not understand", "what", "huh", "what do you mean", "terrible",
        "try again", "again", "do it again", "another one", "one more", "more", "repeat that",
        "say that again", "go on", "continue", "next", "why", "really", "explain that", "and then",
        "you suck", "hmm", "what does that mean", "and now", "useless", "shut up", "change it"),
}  # fmt: skip

ABOUT: dict[str, tuple[str, ...]] = {
    "I am dflash-demo, a tiny language model trained from scratch on synthetic tasks. I exist to show "
    "how the dflash-serve inference server streams answers with speculative decoding.": (
        "who are you", "what are you", "what is your name", "what's your name", "your name",
        "tell me about yourself", "introduce yourself", "who is this", "what model are you",
        "which model are you", "what is dflash-demo", "are you a robot", "are you an ai",
        "are you a human", "are you a person", "do you have a name", "whats your name", "who r u",
        "describe yourself", "what kind of model are you", "are you a bot", "are you chatgpt",
        "are you gpt", "are you claude", "are you qwen", "are you llama", "what llm is this",
        "who am i talking to", "what is this", "what is this demo", "are you real", "are you alive",
        "are you a language model", "what ai is this", "which llm are you", "name", "about",
        "about you", "why do you exist", "what is your purpose", "what are you for", "who is dflash",
        "what are you exactly", "is this a real ai", "are you intelligent", "say your name"),
    "Here is what I can do:\n" + ABILITIES: (
        "what can you do", "help", "what can i ask", "what can I ask you", "what do you know",
        "what are your skills", "show me what you can do", "what are you able to do", "/help",
        "how can you help me", "list your abilities", "what tasks can you do", "give me examples",
        "what should i ask", "what do you do", "what are you good at", "can you help me", "menu",
        "how do i use you", "what are your capabilities", "examples", "what else can you do",
        "what are your features", "tell me what you can do", "show me some examples", "options",
        "i need help", "help me", "how does this work", "what now", "what could i ask you",
        "any suggestions", "commands", "what commands do you know", "which tasks do you know",
        "what questions can you answer", "suggest something", "what do you suggest", "?"),
    "Speculative decoding makes a model faster without changing its answer. A small drafter guesses "
    "the next tokens, and the model checks the whole guess in one pass and keeps the part that is "
    "right.": (
        "what is speculative decoding", "explain speculative decoding", "speculative decoding",
        "how does speculative decoding work", "what does speculative decoding mean",
        "tell me about speculative decoding", "what is a drafter", "what does the drafter do",
        "how do you work", "why are you so fast", "how are you so fast", "what makes you fast",
        "what is a draft model", "define speculative decoding", "describe speculative decoding",
        "how does the drafter work", "what is speculation", "why is this fast",
        "what is speculative sampling", "how does a drafter help"),
    "DFlash is a kind of speculative decoding. Its drafter proposes a whole block of tokens at once, "
    "by block diffusion, and the target model verifies the block in one step.": (
        "what is dflash", "explain dflash", "how does dflash work", "tell me about dflash", "dflash",
        "what does dflash do", "what is block diffusion", "explain block diffusion",
        "what is a block diffusion drafter", "what does dflash mean", "how is dflash different",
        "describe dflash", "block diffusion", "why is it called dflash", "define dflash"),
    "dflash-serve is an inference server with an OpenAI-compatible interface. It runs language models "
    "on MLX and makes them faster with DFlash speculative decoding.": (
        "what is dflash-serve", "what is dflash serve", "explain dflash-serve", "dflash-serve",
        "tell me about dflash-serve", "what server is this", "which server are you running on",
        "what does dflash-serve do", "what is mlx", "what software is this", "where do you run",
        "what is this server", "which api do you use", "describe dflash-serve", "what runs you",
        "how can i connect to you", "do you have an api", "are you openai compatible"),
    "I am very small: about five million parameters in eight layers. Large models have a thousand "
    "times more, so please do not expect too much.": (
        "how big are you", "how large are you", "how many parameters do you have", "what size are you",
        "how many layers do you have", "how small are you", "are you a big model", "model size",
        "are you large", "what is your size", "how many parameters", "number of parameters",
        "are you a small model", "how many weights do you have", "parameters"),
    "I know only a few short tasks, and nothing about the world. I cannot look things up, I do not "
    "remember earlier messages, and longer or unusual requests will confuse me.": (
        "what are your limits", "what can't you do", "what can you not do", "your limitations",
        "what are your limitations", "what are you bad at", "what do you not know", "limits",
        "do you make mistakes", "can you be wrong", "do you know everything", "are you reliable",
        "can you search the internet", "do you have internet access", "do you remember me",
        "do you remember what i said", "what did i say before", "can you remember things",
        "do you have memory", "can i trust you", "are you always right", "what was my last question",
        "do you know facts", "what is my name", "can you browse the web", "can you see images"),
    "I was trained from scratch by the dflash-serve project, on dialogues that a script generates. No "
    "text from the internet and no private data was used.": (
        "who made you", "who created you", "who trained you", "how were you trained", "who built you",
        "what were you trained on", "what is your training data", "where do you come from",
        "who is your creator", "who wrote you", "who developed you", "where were you trained",
        "what data were you trained on", "how were you made", "who is your maker", "who owns you",
        "when were you made", "how old are you", "which company made you", "were you made by openai",
        "who programmed you", "where are you from", "are you open source", "how did you learn"),
    "I only speak English. Please write to me in simple English, and I will do my best.": (
        "do you speak german", "do you speak french", "do you speak spanish", "what languages do you "
        "speak", "can you speak chinese", "which languages do you know", "do you speak english",
        "sprichst du deutsch", "parlez-vous francais", "hablas espanol", "can you speak german",
        "what language do you speak", "do you understand spanish", "which language do you use",
        "do you speak other languages", "do you speak italian", "do you know japanese"),
}  # fmt: skip

DAY_ASKS = {
    1: ("what day comes after {x}", "which day is after {x}", "what day follows {x}", "day after {x}",
        "what is the day after {x}", "what comes after {x}", "after {x} comes", "the next day after {x}",
        "if today is {x}, what is tomorrow", "today is {x}. what day is tomorrow", "next day: {x}"),
    -1: ("what day comes before {x}", "which day is before {x}", "day before {x}", "what was before {x}",
         "what is the day before {x}", "what comes before {x}", "the day before {x}",
         "if today is {x}, what was yesterday", "today is {x}. what day was yesterday"),
}  # fmt: skip
MONTH_ASKS = {
    1: ("what month comes after {x}", "which month is after {x}", "month after {x}", "after {x} comes",
        "what is the month after {x}", "what comes after {x}", "which month follows {x}",
        "the next month after {x}", "what is the next month after {x}"),
    -1: ("what month comes before {x}", "which month is before {x}", "month before {x}",
         "what is the month before {x}", "what comes before {x}", "the month before {x}"),
    0: ("how many days does {x} have", "how many days are in {x}", "how many days has {x}",
        "how long is {x}", "days in {x}", "number of days in {x}", "how many days {x}"),
}  # fmt: skip
WEEK_ASKS = (
    "what are the days of the week", "list the days of the week", "days of the week", "name the days",
    "name all days of the week", "tell me the days of the week", "weekdays", "which days does a week have",
)  # fmt: skip
YEAR_ASKS = (
    "what are the months of the year", "list the months", "months of the year", "name the months",
    "name all months of the year", "tell me the months", "list all 12 months", "the months in order",
)  # fmt: skip


def chat(rng: random.Random) -> Sample:
    return _closed(rng, "chat", CHAT)


def about(rng: random.Random) -> Sample:
    return _closed(rng, "about", ABOUT)


def _closed(rng: random.Random, kind: str, table: dict[str, tuple[str, ...]]) -> Sample:
    answer = rng.choice(list(table))
    user = _light(rng, rng.choice(table[answer]).replace("{n}", rng.choice(words.NAMES)))
    return Sample(kind, user, answer, user)


def _light(rng: random.Random, text: str) -> str:
    """Small talk gets marks and casing, and now and then a polite opener."""
    roll = rng.random()
    if roll < 0.12:
        text = rng.choice(("hey, ", "please tell me: ", "so, ", "ok, ", "hi, ", "hello! ")) + text
    elif roll < 0.2:
        text += rng.choice(
            (" please", ", dflash", " dflash", " bot", ", my friend", " now", " then")
        )
    for plain, proper in PROPER:
        if plain in text and rng.random() < 0.6:
            text = text.replace(plain, proper)
    return ask(rng, text, imperative=False)


def calendar(rng: random.Random) -> Sample:
    roll = rng.random()
    if roll < 0.08:
        user, answer = ask(rng, rng.choice(WEEK_ASKS)), f"The days are {', '.join(words.DAYS)}."
        return Sample("calendar", user, answer, user)
    if roll < 0.16:
        user, answer = ask(rng, rng.choice(YEAR_ASKS)), f"The months are {', '.join(words.MONTHS)}."
        return Sample("calendar", user, answer, user)
    days = roll < 0.5
    table, asks = (words.DAYS, DAY_ASKS) if days else (words.MONTHS, MONTH_ASKS)
    shift = rng.choice(list(asks))
    at = rng.randrange(len(table))
    shown = table[at].lower() if rng.random() < 0.3 else table[at]
    user = ask(rng, rng.choice(asks[shift]), x=shown)
    return Sample("calendar", user, calendar_answer(table, at, shift, days), user)


def calendar_answer(table: list[str], at: int, shift: int, days: bool) -> str:
    if shift == 0:
        leap = ", or 29 in a leap year" if at == 1 else ""
        return (
            f"{table[at]} has {words.MONTH_DAYS[at]} days{leap}. It is month {at + 1} of the year."
        )
    other = (at + shift) % len(table)
    side = "after" if shift > 0 else "before"
    whole = "day" if days else "month"
    year = "week" if days else "year"
    return f"The {whole} {side} {table[at]} is {table[other]}. It is {whole} {other + 1} of the {year}."


def refuse(rng: random.Random) -> Sample:
    roll = rng.random()
    if roll < 0.14:
        user, answer = _numbers(rng), NUMBER_REFUSAL
    elif roll < 0.24:
        user, answer = ask(rng, rng.choice(BAD_CODE), t=rng.choice(TOPICS)), CODE_REFUSAL
    elif roll < 0.34:
        user = ask(rng, rng.choice(BAD_CONVERT), v=rng.randint(1, rng.choice((20, 99, 999, 5000))))
        answer = CONVERT_REFUSAL
    elif roll < 0.4:
        items = rng.sample(words.LIST_WORDS, rng.randint(3, 5))
        user, answer = ask(rng, rng.choice(SORT_WORDS), l=joined(rng, items)), SORT_REFUSAL
    else:
        user, answer = _outside(rng), REFUSAL
    return Sample("refuse", user, answer, user)


def _numbers(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return ask(rng, rng.choice(MINUS), a=rng.randint(0, 99), b=rng.randint(0, 99))
    return ask(rng, rng.choice(BAD_NUMBERS), **_bad_numbers(rng))


def _bad_numbers(rng: random.Random) -> dict[str, int]:
    a, b = rng.randint(100, rng.choice((999, 9999, 999999))), rng.randint(0, 999)
    if rng.random() < 0.3:
        a, b = 10 * rng.randint(10, 99), 10 * rng.randint(0, 99)
    if rng.random() < 0.5:
        a, b = b, a
    return {
        "a": a,
        "b": b,
        "c": rng.randint(0, 99),
        "d": rng.randint(0, 99),
        "e": rng.randint(2, 99),
    }


def _outside(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.2:
        return ask(rng, rng.choice(FIXED_OUTSIDE))
    if roll < 0.28:
        return ask(rng, _word_salad(rng), imperative=False)
    slots = {
        "t": rng.choice(TOPICS) if rng.random() < 0.85 else pseudo_word(rng),
        "x": rng.choice(THINGS) if rng.random() < 0.85 else pseudo_word(rng),
        "p": rng.choice(PEOPLE) if rng.random() < 0.8 else pseudo_word(rng).capitalize(),
        "y": rng.randint(1000, 2030),
        "w": rng.choice(PLAIN),
    }
    return ask(rng, rng.choice(OUTSIDE_FRAMES), **slots)


def _word_salad(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.3:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join(
            "".join(rng.choice(letters) for _ in range(rng.randint(3, 9)))
            for _ in range(rng.randint(1, 4))
        )
    if roll < 0.5:
        return " ".join(pseudo_word(rng) for _ in range(rng.randint(1, 5)))
    pool = PLAIN + THINGS + TOPICS
    return " ".join(rng.choice(pool) for _ in range(rng.randint(1, 5)))
