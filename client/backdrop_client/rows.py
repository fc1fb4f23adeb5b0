"""The requests of a batch: one for each picture of a folder, or each line of a CSV file."""

from __future__ import annotations

import collections
import csv
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backdrop_client.errors import InvalidInput, invalid
from backdrop_client.fields import FIELDS, FLAGS, INTEGERS, NUMBERS, PICTURES, is_link

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
REQUIRED = ("image", "ref_image", "prompt")
_MOST_SAMPLES = 16
"""Beyond what any server takes: more names are not looked at."""
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclasses.dataclass(frozen=True)
class Row:
    """One request; ``name`` is that of its output file, without suffix, unlike all others'."""

    name: str
    fields: Mapping[str, Any]


def read_rows(source: Path, defaults: Mapping[str, Any]) -> list[Row]:
    """The requests of a folder or a CSV file; ``defaults``: fields of every request.

    Raises InvalidInput where there is none, or a line is wrong.
    """
    rows = _of_folder(source, defaults) if source.is_dir() else _of_csv(source, defaults)
    if not rows:
        allowed = "a folder of pictures, or a CSV file with a line for each request"
        raise invalid("image", f"there is nothing to do in {source}", allowed)
    for row in rows:
        for name in REQUIRED:
            if row.fields.get(name) is None:
                raise invalid(name, f"it is missing for {row.name}", "an option or a column")
    return rows


def names_of(name: str, samples: int) -> list[str]:
    """Names of a request's files without suffix: ``name``, or ``name-1`` and so on for several."""
    return [name] if samples == 1 else [f"{name}-{k + 1}" for k in range(samples)]


def _of_folder(folder: Path, defaults: Mapping[str, Any]) -> list[Row]:
    paths = sorted(path for path in folder.iterdir() if _is_photo(path))
    stems = collections.Counter(path.stem for path in paths)
    return [
        Row(path.stem if stems[path.stem] == 1 else path.name, {**defaults, "image": path})
        for path in paths
    ]


def _is_photo(path: Path) -> bool:
    is_hidden = path.name.startswith(".")
    return path.suffix.lower() in PICTURE_SUFFIXES and not is_hidden and path.is_file()


def _of_csv(path: Path, defaults: Mapping[str, Any]) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(reader.fieldnames or ())
            rows = [
                _row(number, line, path.parent, defaults) for number, line in enumerate(reader, 1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise invalid("image", f"{path} cannot be read ({reason})", "a CSV file in UTF-8") from None
    _check_names(rows)
    return rows


def _check_columns(columns: Any) -> None:
    for column in columns:
        if column not in (*FIELDS, "output"):
            raise invalid(str(column)[:60], "it is no field", ", ".join((*FIELDS, "output")))


def _check_names(rows: list[Row]) -> None:
    """No two lines may write one file, on a disk that takes A for a either."""
    counts = {row.name: min(row.fields.get("samples", 1), _MOST_SAMPLES) for row in rows}
    names = [name for row in rows for name in names_of(row.name, counts[row.name])]
    for name, count in collections.Counter(map(str.lower, names)).items():
        if count > 1:
            raise invalid("output", f"{name!r} is there {count} times", "one name a line")


def _row(
    number: int, line: Mapping[str | None, Any], folder: Path, defaults: Mapping[str, Any]
) -> Row:
    """The request of a line; an empty cell was not given, a path starts at the CSV's folder."""
    if None in line or None in line.values():
        raise invalid(f"line {number}", "it has not as many cells as the header", "one a column")
    given = {str(name): text.strip() for name, text in line.items() if text and text.strip()}
    output = given.pop("output", None)
    fields = {**defaults, **{name: _value(number, name, given[name]) for name in given}}
    for name in PICTURES:
        if name in given and not is_link(given[name]):
            fields[name] = folder / given[name]
    if output is None:
        image = str(fields.get("image", ""))
        output = f"{number:04d}-{Path(image).stem}" if not is_link(image) else f"{number:04d}"
    return Row(_plain_name(number, output), fields)


def _plain_name(number: int, output: str) -> str:
    if Path(output).name != output or output.startswith(".") or not output.isprintable():
        problem = f"{output!r} in line {number} is no plain file name"
        raise invalid("output", problem, "a name without folders and suffix")
    return output


def _value(number: int, name: str, text: str) -> object:
    """A cell as its field takes it; ranges are the server's to check."""
    kinds: dict[str, tuple[Callable[[str], object], str]] = {
        **dict.fromkeys(INTEGERS, (int, "a whole number")),
        **dict.fromkeys(NUMBERS, (float, "a number")),
        **dict.fromkeys(FLAGS, (lambda cell: _FLAGS[cell.lower()], "true, false")),
    }
    if name not in kinds:
        return text
    read, allowed = kinds[name]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise _wrong_cell(number, name, text, allowed) from None


def _wrong_cell(number: int, name: str, text: str, allowed: str) -> InvalidInput:
    return invalid(name, f"{text[:60]!r} in line {number} is wrong", allowed)
