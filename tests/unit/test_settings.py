"""Where settings come from, which source wins, and what a wrong one is answered with."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from backdrop_server.errors import SetupError
from backdrop_server.settings import load_settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_beat_the_environment_which_beats_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "backdrop.toml").write_text('port = 1\nmax_waiting = 1\njob_attempts = 1\nhost = "::1"')
    monkeypatch.setenv("BACKDROP_PORT", "2")
    monkeypatch.setenv("BACKDROP_MAX_WAITING", "2")
    settings = load_settings({"port": 3, "max_waiting": None})
    assert (settings.port, settings.max_waiting, settings.job_attempts) == (3, 2, 1)
    assert settings.host == "::1"
    assert settings.max_in_flight == 16


def test_a_named_file_is_read_in_place_of_the_usual_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "backdrop.toml").write_text("port = 1")
    (here / "other.toml").write_text('price_per_second = "0.002"\ntriton_url = ["a:1", "b:2"]')
    monkeypatch.setenv("BACKDROP_CONFIG", "other.toml")
    settings = load_settings()
    assert settings.port == 8080
    assert settings.price_per_second == Decimal("0.002")
    assert settings.triton_url == ("a:1", "b:2")


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_TRITON_URL", "a:1, b:2")
    assert load_settings().triton_url == ("a:1", "b:2")


def test_the_database_and_the_store_lie_in_the_data_folder(here: Path) -> None:
    settings = load_settings({"data_dir": Path("there")})
    assert settings.database_url == f"sqlite:///{here}/there/backdrop.db"
    assert settings.store_url == f"{here}/there/pictures"
    named = load_settings({"database": "postgresql://me@here/it", "store": "s3://bucket/folder"})
    assert named.database_url == "postgresql+psycopg://me@here/it"
    assert named.store_url == "s3://bucket/folder"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("colour = 1", "setting colour: it is not known; known: base64_default,"),
        ("port = 65536", "setting port: input should be less than or equal to 65535"),
        ("max_in_flight = 0", "setting max_in_flight: input should be greater than or equal to 1"),
        ('log_level = "LOUD"', "setting log_level: string should match pattern"),
        ('gateway_id = "eu/1"', "setting gateway_id: string should match pattern"),
        (
            'triton_url = ["a:1", "http://b:2"]',
            "setting triton_url: 'http://b:2' is not host:port, as in 127.0.0.1:8000",
        ),
        ('triton_url = "a"', "setting triton_url: 'a' is not host:port"),
        ("port 1", "the settings file backdrop.toml is not TOML: "),
        ('price_per_second = "free"', "setting price_per_second: input should be a valid decimal"),
    ],
)
def test_a_wrong_file_is_one_sentence(here: Path, file: str, sentence: str) -> None:
    (here / "backdrop.toml").write_text(file)
    with pytest.raises(SetupError) as caught:
        load_settings()
    assert str(caught.value).startswith(sentence)


def test_the_clients_variables_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_KEY", "bd_key")
    monkeypatch.setenv("BACKDROP_URL", "http://127.0.0.1:1")
    assert load_settings().port == 8080


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_PROT", "1")
    with pytest.raises(SetupError, match="the environment variable BACKDROP_PROT is not known"):
        load_settings()


def test_a_named_file_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_CONFIG", "nowhere.toml")
    with pytest.raises(SetupError, match=r"BACKDROP_CONFIG names nowhere\.toml"):
        load_settings()
