"""Captions of rendered pictures: templates, synonyms of the scenes, words that change nothing."""

from __future__ import annotations

from backdrop_export.training.render.canvas import Rng

SCENES: dict[str, tuple[str, ...]] = {
    "beach": ("a beach", "a sandy beach by the sea", "the sand of a tropical beach",
              "the shore of the ocean", "a sunny coast with waves", "sand by the sea"),
    "forest": ("a forest", "the woods", "a misty forest with tall trees", "a jungle path",
               "moss between old trees", "a green forest floor"),
    "desert": ("a desert", "sand dunes", "a hot desert with dunes", "dry dunes under the sky",
               "a dune in the desert"),
    "snow": ("snow", "a snowy winter landscape", "fresh snow between fir trees", "ice and snow",
             "a cold winter field", "a snow covered hill"),
    "night city": ("a city at night", "a night city street", "neon lights of a city at night",
                   "skyscraper windows at night", "a wet street at night", "a skyline at night"),
    "marble studio": ("a marble studio", "a marble plinth", "a marble podium in a studio",
                      "polished marble", "a marble table top in front of a plain wall",
                      "a white marble pedestal"),
    "wooden table": ("a wooden table", "a rustic wood table", "oak planks",
                     "a wooden tabletop with blurred background", "a table of old wood",
                     "a wooden desk"),
    "kitchen": ("a kitchen", "a kitchen counter", "a modern kitchen with tiles",
                "a kitchen worktop under a cabinet", "a bright kitchen shelf and counter"),
    "meadow": ("a meadow", "a flower meadow", "green grass with flowers", "a field of grass",
               "a lawn in spring", "a garden meadow in summer"),
    "mountains": ("mountains", "a mountain valley", "snowy mountain peaks", "rocky mountains",
                  "an alpine landscape with mountains", "a cliff in the mountains"),
    "sunset": ("a sunset", "a golden sunset sky", "sunset at the horizon", "the evening sun at dusk",
               "a dramatic red sunset", "the setting sun"),
    "water": ("water", "clear blue water", "a pool of water", "rippling water surface",
              "water with splashes and ripples", "shallow turquoise water"),
}  # fmt: skip
SCENE_NAMES = tuple(SCENES)
_PLACES = {
    "snow": "in", "forest": "in", "desert": "in", "night city": "in", "meadow": "in",
    "mountains": "in front of", "sunset": "in front of", "water": "in", "kitchen": "in",
}  # fmt: skip
_NOUNS = {
    "perfume": ("perfume bottle", "perfume"), "can": ("can", "drink can"),
    "tube": ("tube", "cream tube"),
    "shoe": ("shoe", "sneaker"), "bag": ("handbag", "bag"), "box": ("box", "package"),
    "cup": ("cup", "mug"), "jar": ("jar", "cream jar"),
}  # fmt: skip
_OPENINGS = (
    "",
    "",
    "",
    "a photo of ",
    "product photo of ",
    "a picture of ",
    "professional photo, ",
)
_ENDINGS = ("", "", "", ", soft light", ", high quality", ", realistic", ", bokeh", ", cinematic",
            ", natural light", ", sharp focus", ", best quality")  # fmt: skip


def _pick(rng: Rng, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def caption(rng: Rng, scene: str, kind: str, colour: str) -> str:
    """One of many captions for a picture of ``kind`` (or ``""``: no product) in ``scene``."""
    where = _pick(rng, SCENES[scene])
    if not kind or rng.random() < 0.2:
        return f"{_pick(rng, _OPENINGS)}{where}{_pick(rng, _ENDINGS)}"
    noun = _pick(rng, _NOUNS.get(kind, (kind,))) if rng.random() < 0.8 else "product"
    if rng.random() < 0.4:
        noun = f"{colour} {noun}"
    place = _PLACES.get(scene, "on") if rng.random() < 0.6 else _pick(rng, ("on", "in", "at"))
    return f"{_pick(rng, _OPENINGS)}a {noun} {place} {where}{_pick(rng, _ENDINGS)}"
