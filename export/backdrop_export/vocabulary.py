"""A small byte-level BPE vocabulary in CLIP's published form, trained on a fixed list of words."""

from __future__ import annotations

import collections
import itertools
import json
from pathlib import Path

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"

WORDS = """
a an the and or of on in at with without by near under over above behind beside between into from
to for one two three several many small large big tiny huge tall short long wide narrow round
square flat thin thick product photo photograph picture image shot scene background foreground
surface table tabletop desk shelf stand podium pedestal platform plinth display studio backdrop
wall floor ceiling corner window door curtain mirror bottle jar can cup mug glass plate bowl vase
box bag pack package tube candle lamp bulb clock watch ring necklace bracelet earring shoe sneaker
boot sandal shirt dress jacket hat cap scarf glove belt handbag backpack wallet perfume cosmetics
cream lotion serum soap shampoo lipstick makeup skincare beauty bathroom towel sponge phone laptop
tablet keyboard mouse headphones speaker camera lens charger cable monitor television console chair
sofa couch armchair stool bed pillow blanket rug carpet cushion cabinet drawer bookshelf book
magazine kitchen counter sink oven stove pan pot knife fork spoon board tray basket napkin
tablecloth wood wooden oak pine walnut bamboo stone marble granite concrete brick slate ceramic
porcelain clay metal steel iron copper brass bronze gold golden silver chrome glassy crystal
plastic rubber leather suede velvet silk satin cotton linen wool paper cardboard sand soil gravel
pebble moss grass leaf leaves petal flower rose tulip lily orchid lavender daisy sunflower fern
palm cactus plant tree forest woods jungle meadow field garden park lawn mountain hill valley cliff
rock canyon desert dune beach shore coast sea ocean wave water lake river stream waterfall rain
snow ice frost fog mist cloud sky sun moon star night day dawn dusk sunrise sunset morning evening
noon spring summer autumn winter christmas easter halloween holiday party birthday wedding city
street road alley bridge building skyscraper tower house cottage cabin barn castle church market
shop store cafe restaurant bar office library museum gallery theater stadium airport station harbor
ship boat car truck bike room living bedroom hallway stairs balcony terrace patio rooftop porch
pool fountain bench fence gate path light lighting soft hard bright dark dim warm cool cold natural
ambient golden hour backlit rim neon glow glowing shadow shadows reflection reflective sparkle
bokeh blur blurred blurry sharp focus depth detailed detail texture smooth rough glossy matte shiny
clean dirty dusty wet dry new old antique vintage retro modern contemporary minimal minimalist
simple elegant luxury luxurious premium rustic cozy industrial scandinavian japanese tropical red
orange yellow green blue purple violet pink brown black white gray grey beige ivory cream teal
turquoise cyan magenta maroon navy olive coral peach mint emerald ruby sapphire pastel colorful
vivid muted monochrome gradient professional commercial advertising editorial catalog lifestyle
realistic photorealistic cinematic dramatic high low quality resolution ultra best worst poor bad
good great beautiful ugly deformed distorted disfigured extra missing cropped watermark text logo
signature frame border noise noisy grainy artifact oversaturated underexposed overexposed duplicate
cartoon illustration painting drawing sketch render front side top back view angle close up closeup
macro wide overhead level eye floating standing lying placed surrounded covered scattered arranged
hanging splash splashing droplet bubble smoke steam fire flame dust powder coffee tea milk juice
wine beer whiskey cocktail water lemon lime orange apple pear berry strawberry blueberry cherry
grape banana mango pineapple coconut avocado tomato pepper garlic herb mint basil cinnamon vanilla
chocolate cookie cake bread cheese honey sugar salt spice nut almond rice pasta salad meat fish cat
dog horse bird butterfly bee fish person woman man child hand hands face people model empty full
open closed single group pair set row stack pile line circle triangle arch column block cube sphere
"""
"""Words of product scenes: the vocabulary's training corpus."""


def byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte, as in GPT-2 and CLIP."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {byte: chr(byte) for byte in printable}
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    symbols: list[str] = []
    for symbol in word:
        if symbols and (symbols[-1], symbol) == pair:
            symbols[-1] += symbol
        else:
            symbols.append(symbol)
    return tuple(symbols)


def train_merges(text: str, count: int) -> list[tuple[str, str]]:
    """Byte-pair merges of the words in ``text``, most frequent first, ties by symbol order.

    At most ``count``; fewer when every word is one symbol already (Sennrich et al., 2016).
    """
    table = byte_symbols()
    frequencies = collections.Counter(text.split())
    words = {
        (*(table[byte] for byte in word.encode()[:-1]), table[word.encode()[-1]] + WORD_END): number
        for word, number in frequencies.items()
    }
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, number in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): number for word, number in words.items()}
    return merges


def vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and merges of a vocabulary with exactly ``size`` entries in CLIP's order.

    Bytes, bytes that end a word, merges, start, end. Past what the word list gives, any two bytes
    are merged, in order.
    """
    alphabet = list(byte_symbols().values())
    count = size - 2 * len(alphabet) - 2
    merges = train_merges(WORDS, count)
    known = set(merges)
    others = (pair for pair in itertools.product(alphabet, alphabet) if pair not in known)
    merges += itertools.islice(others, count - len(merges))
    tokens = [*alphabet, *(symbol + WORD_END for symbol in alphabet)]
    tokens += [first + second for first, second in merges]
    tokens += [START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, size: int, pad_token: str) -> None:
    """Write the four files of a published CLIP tokenizer of ``size`` entries into ``folder``."""
    ids, merges = vocabulary(size)
    folder.mkdir(parents=True)
    special = {"bos_token": START, "eos_token": END, "pad_token": pad_token, "unk_token": END}
    config = special | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in (
        ("vocab.json", ids),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special),
    ):
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
