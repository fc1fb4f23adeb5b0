"""Example pictures that ship with the client, rendered by `docs/render_examples.py`."""

from importlib.resources import files
from pathlib import Path

_SUFFIXES = (".jpg", ".png")


def path(name: str) -> Path:
    """Return the path of the example picture `name`, such as `product.jpg`."""
    folder = Path(str(files(__name__)))
    names = sorted(item.name for item in folder.iterdir() if item.suffix in _SUFFIXES)
    if name not in names:
        available = ", ".join(names) or "none"
        raise FileNotFoundError(f"no example picture {name!r}; available: {available}")
    return folder / name
