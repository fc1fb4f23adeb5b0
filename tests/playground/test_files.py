"""What the gateway serves for the page: files, headers, and the form from the contract."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import httpx
import pytest
import tomllib

from backdrop_server import playground
from backdrop_server.contract import MAX_PICTURE_SIDE, NUMBERS, OUTPUT_FORMATS, SCHEDULERS
from tests.gateway.servers import GatewayProcess

FOLDER = Path(playground.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_an_installed_package_has_every_file() -> None:
    setuptools = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"]["backdrop_server.playground"]
    names = [path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(names) > 10
    for name in names:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.triton
def test_files_have_their_types_and_a_strict_policy(gateway: GatewayProcess) -> None:
    paths = ["/", "/playground/form.json", "/playground/examples/product.jpg"]
    paths += [
        f"/playground/{path.name}" for path in FOLDER.iterdir() if path.suffix in (".js", ".css")
    ]
    for path in paths:
        answer = httpx.get(gateway.url + path).raise_for_status()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "*" not in policy
        assert "http" not in policy
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        expected = {".js": "text/javascript", ".css": "text/css", "": "text/html"}
        kind = expected.get(Path(path).suffix)
        assert kind is None or answer.headers["content-type"].startswith(kind)


@pytest.mark.triton
def test_nothing_else_is_served(gateway: GatewayProcess) -> None:
    for path in ("__init__.py", "..%2fsettings.py", "examples/__init__.py", "nothing.js"):
        answer = httpx.get(f"{gateway.url}/playground/{path}")
        assert answer.status_code == 404, path
        assert answer.json()["error"]
    assert httpx.post(f"{gateway.url}/").status_code == 405


@pytest.mark.triton
def test_the_form_is_the_contract(gateway: GatewayProcess) -> None:
    form = httpx.get(f"{gateway.url}/playground/form.json").json()
    fields = {field["name"]: field for field in form["settings"]}
    for name, number in NUMBERS.items():
        field = fields[name]
        assert (field["minimum"], field["maximum"]) == (number.low, number.high)
        assert field["default"] == number.default
        assert field["description"]
    assert fields["scheduler"]["enum"][:-1] == list(SCHEDULERS)
    assert fields["output_format"]["enum"][:-1] == list(OUTPUT_FORMATS)
    assert fields["preserve_subject"]["default"] is True
    assert form["limits"]["picture_side"] == MAX_PICTURE_SIDE
    asked = set(fields) | set(form["prompts"]) | {"image", "ref_image", "mask_image"}
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    body = document["paths"]["/v1/bg-replace"]["post"]["requestBody"]
    known = body["content"]["application/json"]["schema"]["properties"]
    assert set(known) - asked == {"base64", "dry_run", "timeout"}  # the page has a button to cancel
    assert not [path for path in document["paths"] if "playground" in path or path == "/"]
