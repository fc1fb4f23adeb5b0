"""`backdrop replace` and `backdrop credits` for one picture, as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from backdrop_client import Backdrop, cli_replace
from backdrop_client.fields import PICTURES
from backdrop_server.contract import NUMBERS, OUTPUT_FORMATS, SCHEDULERS, ReplaceOptions
from backdrop_server.triton.launcher import TritonServer
from tests.client.commands import BACKDROP, assert_one_sentence, environment, run, start
from tests.client.samples import PRODUCT, SCENE, fields
from tests.gateway.books import all_jobs
from tests.gateway.servers import GatewayProcess, free_port, wait_until

_QUICK = ("--ref", "scene.png", "-p", fields()["prompt"], "--scheduler", "Euler", "--steps", 20)
QUICK: tuple[object, ...] = (*_QUICK, "--strength", 0.1, "--seed", 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the two pictures in it."""
    (tmp_path / "product.png").write_bytes(PRODUCT)
    (tmp_path / "scene.png").write_bytes(SCENE)
    return tmp_path


@pytest.mark.triton
def test_one_picture_is_what_the_client_makes(
    folder: Path, gateway: GatewayProcess, client: Backdrop, server: TritonServer
) -> None:
    expected = client.replace(**fields()).image_bytes[0]
    key = gateway.make_key()
    done = run(
        "replace", "product.png", *QUICK, "-o", "a.png", cwd=folder, url=gateway.url, key=key
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.png\n"
    assert "seed 7, 0.0" in done.stderr
    assert key not in done.stderr
    assert (folder / "a.png").read_bytes() == expected

    way = ("--triton", server.grpc_url)
    done = run("replace", "product.png", *QUICK, *way, "-o", "new/b.png", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["files"], answer["seeds"], answer["cost"]) == (["new/b.png"], [7], None)
    assert answer["report"]["unet_evaluations"] == 2
    assert (folder / "new" / "b.png").read_bytes() == expected


@pytest.mark.triton
def test_every_option_reaches_the_server(folder: Path, gateway: GatewayProcess) -> None:
    options = {
        "--mask": "product.png",
        "--negative-prompt": "people",
        "--samples": 2,
        "--scheduler": "Heun",
        "--num-inference-steps": 21,
        "--guidance-scale": 3.5,
        "--seed": 8,
        "--strength": 0.2,
        "--cn-weight": 0.3,
        "--ip-adapter-weight": 0.4,
        "--output-format": "webp",
    }
    words = [word for pair in options.items() for word in pair]
    done = run(
        *("replace", "product.png", "--ref", "scene.png", "-p", "a beach", "--no-preserve-subject"),
        *(*words, "--json"),
        cwd=folder,
        url=gateway.url,
        key=gateway.make_key(),
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert files == ["product-replaced-1.webp", "product-replaced-2.webp"]
    assert all((folder / file).read_bytes()[8:12] == b"WEBP" for file in files)
    job = all_jobs(gateway)[-1]
    assert job.request.pictures == ("image", "ref_image", "mask_image")
    assert job.request.options == ReplaceOptions(
        "a beach", "people", 2, "Heun", 21, 3.5, 8, 0.2, 0.3, 0.4, False, "webp"
    )


@pytest.mark.triton
def test_quotes_and_credits(folder: Path, gateway: GatewayProcess) -> None:
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key("2.5"), "cwd": folder}
    done = run("replace", "product.png", *QUICK, "--quote", "--json", **way)
    quote = json.loads(done.stdout)
    assert Decimal(quote["reserved"]) > Decimal(quote["cost"]) > 0
    assert run("replace", "product.png", *QUICK, "--quote", **way).stdout.startswith("about 0.")
    assert run("credits", **way).stdout == "2.5\n"
    assert json.loads(run("credits", "--json", **way).stdout) == {"credits": "2.5"}


@pytest.mark.triton
def test_failures_are_a_sentence_and_a_status(folder: Path, gateway: GatewayProcess) -> None:
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key("0"), "cwd": folder}
    call = ("replace", "product.png", *QUICK)
    assert_one_sentence(run(*call, **way), 3, "not enough credits: 0.")
    assert_one_sentence(run(*call, **(way | {"key": "bd_wrong"})), 3, "key")
    wrong = ("--scheduler", "Eulr")
    assert_one_sentence(run(*call, *wrong, **way), 2, "scheduler: 'Eulr' is not known; allowed:")


def test_failures_without_a_server(folder: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    way: dict[str, Any] = {"url": nobody, "key": "bd_key", "cwd": folder}
    call = ("replace", "product.png", *QUICK, "--retries", 0)
    assert_one_sentence(run(*call, **way), 4, f"no answer from {nobody}")
    assert_one_sentence(run("credits", "--retries", 0, **way), 4, f"no answer from {nobody}")
    assert_one_sentence(run(*call, "--triton", nobody[7:], **way), 4, "no answer from 127.0.0.1")
    assert_one_sentence(run(*call, cwd=folder), 3, "there is no key")
    assert_one_sentence(
        run(*call, "-o", "a.bmp", **way), 2, "output: 'a.bmp' is of no known format"
    )
    assert_one_sentence(
        run("replace", "no.png", *QUICK, **way), 2, "image: 'no.png' cannot be read"
    )
    assert_one_sentence(run("replace", "scene.png", **way), 2, "ref_image: it is missing")
    assert_one_sentence(run(*call, "--url", "gopher://a", **way), 2, "url: it is no address")
    for wrong in ("http://127.0.0.1:1", "127.0.0.1", ""):
        words = f"triton: '{wrong}' is no address; allowed: host:port"
        assert_one_sentence(run(*call, "--triton", wrong, **way), 2, words)
    quote = ("--triton", "127.0.0.1:1", "--quote")
    assert_one_sentence(run(*call, *quote, **way), 2, "quote: Triton knows no prices")


@pytest.mark.parametrize(
    "wrong", [("--samples", 5), ("--steps", "many"), ("--nonsense",), ("extra", "words")]
)
def test_wrong_usage(wrong: tuple[object, ...], folder: Path) -> None:
    done = run("replace", "product.png", *QUICK, *wrong, cwd=folder, key="bd_key")
    assert done.returncode == 2
    assert "Usage: backdrop replace" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.triton
def test_ctrl_c_cancels_the_request(folder: Path, gateway: GatewayProcess) -> None:
    before = len(all_jobs(gateway))
    slow = ("--scheduler", "Heun", "--steps", 100, "--strength", 1, "--samples", 4)
    call = ("replace", "product.png", *QUICK, *slow, "-o", "a.png")
    with start(*call, cwd=folder, url=gateway.url, key=gateway.make_key()) as process:
        wait_until(lambda: len(all_jobs(gateway)) > before, 120)
        time.sleep(0.5)  # it waits for the job now, in one call or between two
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "error: interrupted; the request was cancelled"
    wait_until(lambda: all_jobs(gateway)[-1].status == "FAILED", 60)
    assert "cancelled" in str(all_jobs(gateway)[-1].error)


def test_every_field_is_an_option_with_the_contracts_range() -> None:
    """Help texts say defaults and choices; a range is checked before anything is sent."""
    hints = get_type_hints(cli_replace.replace, include_extras=True)
    options = {name: hint.__metadata__[0] for name, hint in hints.items() if name != "return"}
    defaults = ReplaceOptions(prompt="")
    assert {*vars(defaults), *PICTURES} - {"image"} <= set(options)
    for name, number in NUMBERS.items():
        assert (options[name].min, options[name].max) == (number.low, number.high)
        assert f"({number.default:g})" in options[name].help
    scheduler = options["scheduler"].help
    assert all(name in scheduler for name in SCHEDULERS)
    assert f"({defaults.scheduler})" in scheduler
    assert all(name in options["output_format"].help for name in OUTPUT_FORMATS)


def test_the_shell_completes(tmp_path: Path) -> None:
    asked = {
        "_BACKDROP_COMPLETE": "complete_bash",
        "COMP_WORDS": "backdrop repl",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [BACKDROP],
        env=environment() | asked,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["replace"], done.stderr
    script = environment() | {"_BACKDROP_COMPLETE": "source_bash"}
    done = subprocess.run([BACKDROP], env=script, capture_output=True, text=True, check=False)
    assert "complete -o default -F _backdrop_completion backdrop" in done.stdout
