"""What an operator can set: one frozen object, read once at the edge.

Precedence: flags of the command, then environment variables ``BACKDROP_<NAME>``, then the file (TOML,
``backdrop.toml`` or what ``BACKDROP_CONFIG`` names), then the defaults here. An unknown key is an
error wherever it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, HttpUrl
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from backdrop_server.errors import SetupError

PREFIX = "BACKDROP_"
CONFIG_VARIABLE = "BACKDROP_CONFIG"
CONFIG_FILE = Path("backdrop.toml")
CLIENT_VARIABLES = ("BACKDROP_URL", "BACKDROP_KEY")
"""The client's own: a shell that has them set may start a server too."""
Port = Annotated[int, Field(ge=0, le=65535)]


def _split(value: object) -> object:
    """A list written as one text, as environment variables and flags have it."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _check_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for item in value:
        if not _HOST_AND_PORT.fullmatch(item):
            problem = "{item} is not host:port, as in 127.0.0.1:8000"
            raise PydanticCustomError("host_and_port", problem, {"item": repr(item)})
    return value


_HOST_AND_PORT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
Listed = Annotated[tuple[str, ...], NoDecode, pydantic.BeforeValidator(_split)]
Addresses = Annotated[Listed, pydantic.AfterValidator(_check_addresses)]


class Settings(BaseSettings):
    """Every setting of the gateway, and of Triton where `backdrop serve` starts it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    # Where things are.
    data_dir: Path = Field(Path("backdrop-data"), description="Folder of the database and results.")
    database: str = Field(
        "",
        description="SQLAlchemy URL; empty: SQLite in the data folder. PostgreSQL: postgresql://",
    )
    store: str = Field(
        "", description="Folder or fsspec URL (s3://...) for pictures; empty: in the data folder."
    )
    store_options: dict[str, Any] = Field({}, description="Options of the store's fsspec driver.")
    triton_url: Addresses = Field(
        (), description="HTTP host:port of each Triton; empty: `backdrop serve` starts its own."
    )

    # Where the gateway listens and how it is reached.
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port of the gateway; 0 takes any free one.")
    public_url: HttpUrl | None = Field(
        None, description="How customers reach it, for URLs in answers; empty: host and port."
    )

    triton_memory: int | None = Field(
        None,
        ge=1,
        description="MiB at which a Triton of our own is started again; empty: no limit.",
    )
    triton_cache: int = Field(
        64,
        ge=1,
        description="MiB in which a Triton of our own keeps its encoders' answers for later requests.",
    )

    # What is allowed in.
    max_in_flight: int = Field(16, ge=1, description="Jobs that one Triton gets at once.")
    max_waiting: int = Field(256, ge=0, description="Jobs that wait in this gateway; more get 503.")
    max_body_bytes: int = Field(
        132 * 2**20, ge=1024, description="Largest request body; a larger one gets 413."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Rate of a key that has none of its own; empty: no limit."
    )

    # Money.
    price_per_second: Decimal = Field(
        Decimal("0.0015"), ge=0, max_digits=12, decimal_places=9, description="Credits a second."
    )
    reservation_headroom: float = Field(
        2.0, ge=1, description="Reserved credits as a multiple of the estimate."
    )

    # What answers look like.
    base64_default: bool = Field(True, description="Default of the field `base64`.")
    keep_results: float = Field(3600.0, gt=0, description="Seconds for which results are kept.")
    job_timeout: float = Field(600.0, gt=0, description="Seconds that a job may take in Triton.")
    patience: float = Field(
        60.0, gt=0, description="Seconds that a caller waits for a Triton while none is up."
    )
    job_attempts: int = Field(
        5, ge=1, description="Losses of its Triton after which a job is tried beside no other such."
    )

    # URLs in requests.
    fetch_urls: bool = Field(True, description="Whether pictures and webhooks may be URLs.")
    fetch_hosts: Listed = Field((), description="Only these hosts (*.example.com); empty: all.")
    fetch_networks: Listed = Field((), description="Private networks that may be reached (CIDR).")
    fetch_timeout: float = Field(10.0, gt=0, description="Seconds for fetching one picture.")
    webhook_attempts: int = Field(8, ge=1, description="Tries to deliver a webhook.")
    webhook_backoff: float = Field(2.0, gt=0, description="Seconds before the first new try.")

    # Several gateways on one database.
    gateway_id: str = Field(
        "",
        pattern="^[^/]*$",
        description="This gateway's own name, without a slash; empty: host and port.",
    )
    heartbeat: float = Field(1.0, gt=0, description="Seconds between signs of life.")
    lapse: float = Field(
        10.0, gt=0, description="Seconds without one after which a gateway is dead."
    )

    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Logged from."
    )

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        if not self.database:
            return f"sqlite:///{self.data_dir.absolute() / 'backdrop.db'}"
        return _with_driver(self.database)

    @property
    def store_url(self) -> str:
        """The folder or URL in force for pictures."""
        return self.store or str(self.data_dir.absolute() / "pictures")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())


def _file() -> Path:
    """The settings file in force; raises SetupError where one is named that is not there."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not Path(named).is_file():
        raise SetupError(f"{CONFIG_VARIABLE} names {named}, and there is no such file")
    return Path(named) if named else CONFIG_FILE


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force; ``flags`` that are None were not given.

    Raises SetupError with one sentence that names the setting, the problem and what is allowed.
    """
    _refuse_unknown_variables()
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings(**given)
    except SettingsError as error:
        raise SetupError(f"the settings cannot be read: {error}") from None
    except ValueError as error:
        if not isinstance(error, pydantic.ValidationError):
            raise SetupError(f"the settings file {_file()} is not TOML: {error}") from None
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise SetupError(f"setting {name}: {_problem(first)}") from None


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"it is not known; known: {', '.join(sorted(Settings.model_fields))}"
    message: str = error["msg"]
    return message[:1].lower() + message[1:]


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known.union(CLIENT_VARIABLES):
            close = ", ".join(sorted(known))
            raise SetupError(f"the environment variable {name} is not known; known: {close}")


def _with_driver(url: str) -> str:
    """PostgreSQL's usual URL names no driver; SQLAlchemy needs one."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url
