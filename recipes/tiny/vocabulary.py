"""The words of the tiny world: nouns, colours, plurals, look-alikes and words it does not know."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

COLORS = ("red", "yellow", "green", "blue", "purple", "pink")
# Names that already state a colour; tinting them would make the phrase a lie.
NEVER_TINTED = frozenset({"red apple", "green apple", "orange"})
# One colour-noun pair in eight is kept out of training, to measure how colours and nouns recombine.
HELD_OUT_SHARE = 8

# Each row: nouns that are easily taken for one another. A phrase whose look-alike is in the image is a hard negative.
LOOK_ALIKES = (
    ("dog", "wolf", "fox", "bear"),
    ("cat", "tiger", "lion"),
    ("horse", "zebra", "cow", "camel"),
    ("bear", "panda", "koala"),
    ("chicken", "bird", "duck", "eagle", "penguin"),
    ("frog", "turtle", "crocodile", "dinosaur"),
    ("fish", "tropical fish", "dolphin", "whale", "shark"),
    ("bee", "ladybug", "spider", "butterfly"),
    ("rabbit", "hedgehog", "monkey", "pig"),
    ("red apple", "tomato", "peach", "cherries", "strawberry"),
    ("green apple", "kiwi", "avocado", "broccoli"),
    ("orange", "lemon", "pumpkin", "peach"),
    ("banana", "corn", "carrot"),
    ("grapes", "eggplant", "cherries"),
    ("bread", "croissant", "cheese"),
    ("hamburger", "hot dog", "taco", "pizza"),
    ("donut", "cookie", "cake", "chocolate"),
    ("ice cream", "lollipop"),
    ("cup of coffee", "beer mug", "wine glass"),
    ("car", "taxi", "bus", "ambulance", "fire truck", "tractor"),
    ("bicycle", "motorcycle"),
    ("sailboat", "ship"),
    ("rocket", "flying saucer", "helicopter"),
    ("soccer ball", "basketball", "football", "tennis ball"),
    ("guitar", "violin", "trumpet"),
    ("camera", "television", "laptop", "phone"),
    ("telephone", "phone"),
    ("watch", "clock"),
    ("light bulb", "flashlight"),
    ("shoe", "high heel"),
    ("shirt", "jeans"),
    ("handbag", "backpack"),
    ("tree", "cactus"),
    ("sunflower", "rose"),
    ("clover", "leaf"),
    ("star", "sun", "moon"),
    ("snowflake", "snowman"),
    ("house", "tent"),
    ("ghost", "robot", "snowman"),
    ("hat", "crown"),
)

SAME_IN_PLURAL = frozenset(
    "fish;tropical fish;grapes;cherries;broccoli;bread;fries;sushi;corn;scissors;glasses;jeans;ice cream;cheese".split(
        ";"
    )
)
IRREGULAR = {
    "wolf": "wolves",
    "leaf": "leaves",
    "cup of coffee": "cups of coffee",
    "snowman": "snowmen",
    "tomato": "tomatoes",
}

# Nouns outside the vocabulary. Training sees the first list as words that name nothing in the image; the second is
# for evaluation only.
FOREIGN_TRAIN = tuple(
    "candle;ladder;bottle;spoon;bridge;mountain;river;pillow;table;mirror;window;anchor;feather;helmet;ribbon;basket;engine;"
    "blanket;statue;lantern;hammock;teapot;saddle;canoe;fountain;necklace;puppet;kettle;magnet;whistle;curtain;barrel;goose;"
    "squirrel;lobster;pear;mango;garlic;cucumber;muffin;pretzel;walnut;stapler;wallet;glove;sock;scarf;belt;broom;bucket;"
    "shovel;wrench;saw;needle;button;zipper;carpet;sofa;desk;shelf;oven;fridge;toaster;blender;fork;knife;plate;bowl;"
    "napkin;lamp;fan;piano;flute;harp;truck;van;tram;subway;scooter;skateboard;surfboard;kite;dice;"
    "chess board;puzzle;doll".split(";")
)
FOREIGN_TEST = tuple(
    "pigeon;llama;ostrich;moose;beaver;parrot;seal;crab;shrimp;ant;worm;plum;fig;radish;onion;pepper;"
    "cabbage;bagel;waffle;sandwich;soup;salad;steak;cupcake;candy;juice;teacup;jar;vase;pot;pan;chopsticks;rug;stool;couch;"
    "cabinet;drawer;heater;vacuum;printer;keyboard;monitor;speaker;headphones;microphone;banjo;cello;yacht;submarine;"
    "canyon;volcano;island;castle;tower;lighthouse;windmill;barn;tunnel;fence;gate;mailbox;hydrant;billboard".split(";")
)


@cache
def nouns() -> tuple[str, ...]:
    """The 149 nouns, in the order of the glyph atlas."""
    rows = Path(__file__).with_name("vocabulary.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return tuple(row.split("\t")[1] for row in rows)


@cache
def codepoints() -> tuple[int, ...]:
    """The Unicode code point of each noun's glyph, in the order of `nouns`."""
    rows = Path(__file__).with_name("vocabulary.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return tuple(int(row.split("\t")[0], 16) for row in rows)


@cache
def look_alikes(noun: str) -> tuple[str, ...]:
    """Nouns that share a row of `LOOK_ALIKES` with this one, without itself."""
    found = {other for row in LOOK_ALIKES if noun in row for other in row}
    return tuple(sorted(found - {noun}))


@cache
def is_held_out(color: str, noun: str) -> bool:
    """Whether this colour-noun pair never occurs in training, told by a hash so that it never changes."""
    return hashlib.sha256(f"{color} {noun}".encode()).digest()[0] % HELD_OUT_SHARE == 0


def plural(noun: str) -> str:
    """The plural of a noun of the vocabulary."""
    if noun in SAME_IN_PLURAL:
        return noun
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def word_phrase(name: str, rng: np.random.Generator, plural_form: str | None = None) -> str:
    """A name as somebody may type it: bare, with an article, or in the plural when one is given."""
    form = rng.choice(4)
    if form == 3 and plural_form is not None:
        return plural_form if rng.random() < 0.7 else f"the {plural_form}"
    if form == 0:
        return name
    if form == 1:
        return f"the {name}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def noun_phrase(noun: str, color: str | None, rng: np.random.Generator) -> str:
    """A phrase for a noun of the vocabulary, with the colour in front when there is one."""
    prefix = f"{color} " if color else ""
    return word_phrase(prefix + noun, rng, prefix + plural(noun))


def invented_word(rng: np.random.Generator) -> str:
    """A word nobody knows, two to four syllables long; a tokenizer has to spell it with pieces."""
    syllables = rng.integers(2, 5)
    return "".join(rng.choice(list("bcdfghjklmnprstvwz")) + rng.choice(list("aeiouy")) for _ in range(syllables))
