"""The journal of a batch: what it makes of kills, repeats and failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from backdrop_client import BackdropError
from backdrop_client.journal import NAME, Journal


def test_a_key_stays_until_its_request_has_failed(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        key = journal.key_of("photo", "digest")
        assert len(key) == 64
        assert len({key, journal.key_of("other", "digest"), journal.key_of("photo", "new")}) == 3
        journal.begin("photo", key)
    with Journal(tmp_path) as journal:
        assert journal.key_of("photo", "digest") == key
        assert journal.files_of(key) is None
        journal.failed("photo", "digest", "why")
        again = journal.key_of("photo", "digest")
        assert again != key
        journal.done("photo", again, ["photo.jpg"], cost="1")
    with Journal(tmp_path) as journal:
        assert journal.key_of("photo", "digest") == again
        assert journal.files_of(again) == ["photo.jpg"]


def test_another_folder_is_another_batch(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as first, Journal(tmp_path / "b") as second:
        assert first.key_of("photo", "digest") != second.key_of("photo", "digest")


def test_a_line_that_a_kill_cut_short_was_not_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        key = journal.key_of("photo", "digest")
        journal.done("photo", key, ["photo.jpg"])
    path = tmp_path / NAME
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal(tmp_path) as journal:
            is_done = journal.files_of(key) is not None
            assert is_done == (length == len(whole) - 1)  # all but the line's end
            journal.done("other", "key", ["other.jpg"])
        with Journal(tmp_path) as journal:
            assert journal.files_of("key") == ["other.jpg"]


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(BackdropError, match="another batch is writing"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"mine": 1}\n')
    with pytest.raises(BackdropError, match="is not a journal of Backdrop's"):
        Journal(tmp_path)
    assert (tmp_path / NAME).read_text() == '{"mine": 1}\n'
