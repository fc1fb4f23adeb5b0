"""`backdrop replace` on folders and CSV files; killed half way, and started again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backdrop_client import Backdrop
from backdrop_client.journal import NAME
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.client.commands import assert_one_sentence, run, start
from tests.client.samples import PRODUCT, SCENE, fields
from tests.gateway.books import all_jobs, check_books
from tests.gateway.servers import GatewayProcess, free_port, gateway_process, wait_until

PHOTOS = 50
QUICK = ("--scheduler", "Euler", "--steps", 20, "--strength", 0.1)
SCENE_AND_PROMPT = ("--ref", "scene.png", "-p", fields()["prompt"])


def photos(folder: Path, count: int) -> list[str]:
    """Write tiny photos, each with its own product, and the scene beside the folder; their stems."""
    folder.mkdir()
    (folder.parent / "scene.png").write_bytes(SCENE)
    for number in range(count):
        data = pictures.png(pictures.product(64, 64, seed=number))
        (folder / f"photo{number:02d}.png").write_bytes(data)
    return [f"photo{number:02d}" for number in range(count)]


def entries(folder: Path, event: str) -> list[dict[str, Any]]:
    """What the journal says of an event; its last line may not be whole yet."""
    journal = folder / NAME
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    return [entry for entry in map(json.loads, lines) if entry.get("event") == event]


@pytest.mark.triton
def test_a_batch_that_is_killed_half_way_ends_with_all_and_none_twice(
    server: TritonServer, tmp_path: Path
) -> None:
    names = photos(tmp_path / "photos", PHOTOS)
    out = tmp_path / "out"
    call = ("replace", "photos", *SCENE_AND_PROMPT, *QUICK, "-o", out, "--concurrency", 8)
    with gateway_process(tmp_path / "gateway", server.http_url) as gateway:
        way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key("100")}
        with start(*call, cwd=tmp_path, **way) as process:
            wait_until(lambda: len(entries(out, "done")) >= PHOTOS // 2, 300)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        killed_at = len(entries(out, "done"))
        assert killed_at < PHOTOS
        under_the_axe = len(entries(out, "submit")) - killed_at
        assert under_the_axe > 0

        done = run(*call, "--json", cwd=tmp_path, **way)
        assert done.returncode == 0, done.stderr
        outcomes = json.loads(done.stdout)
        states = Counter(outcome["state"] for outcome in outcomes)
        assert states == {"there": killed_at, "made": PHOTOS - killed_at}
        assert [outcome["name"] for outcome in outcomes] == names
        assert sorted(path.name for path in out.iterdir()) == [NAME, *(f"{n}.jpg" for n in names)]
        for name in names:
            with Image.open(out / f"{name}.jpg") as picture:
                picture.load()
                assert picture.size == (64, 64)

        with Backdrop(**way) as client:
            left = client.credits()
        jobs = check_books(gateway)
    assert len(jobs) == PHOTOS
    assert {job.status for job in jobs} == {"COMPLETED"}
    costs = [Decimal(entry["cost"]) for entry in entries(out, "done")]
    assert len(costs) == PHOTOS
    assert sum(costs) == sum(job.billed or Decimal(0) for job in jobs) == 100 - left


@pytest.mark.triton
def test_a_batch_goes_on_with_what_is_new(tmp_path: Path, gateway: GatewayProcess) -> None:
    photos(tmp_path / "photos", 3)
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key(), "cwd": tmp_path}
    call = ("replace", "photos", *SCENE_AND_PROMPT, *QUICK)
    done = run(*call, **way)
    assert done.returncode == 0, done.stderr
    assert "made" in done.stdout
    assert "credits" in done.stdout
    out = tmp_path / "photos-replaced"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    assert len(before) == 3

    jobs = len(all_jobs(gateway))
    (tmp_path / "photos" / "photo01.png").write_bytes(PRODUCT)  # another picture now
    (tmp_path / "photos" / "photo03.png").write_bytes(PRODUCT)
    (out / "photo02.jpg").unlink()  # its job's results are still there
    done = run(*call, **way)
    assert done.returncode == 0, done.stderr
    assert "there from before" in done.stdout
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    assert len(after) == 4
    assert after["photo00.jpg"] == before["photo00.jpg"]
    assert after["photo01.jpg"] != before["photo01.jpg"]
    assert len(all_jobs(gateway)) == jobs + 2


CSV = """image,prompt,seed,samples,preserve_subject,output_format,output
product.png,a beach,3,2,no,webp,pair
product.png,,4,,,,
scene.png,a forest,5,,,png,
"""


@pytest.mark.triton
def test_a_csv_file_has_a_request_a_line(tmp_path: Path, gateway: GatewayProcess) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    (folder / "product.png").write_bytes(PRODUCT)
    (folder / "scene.png").write_bytes(SCENE)
    (folder / "requests.csv").write_text(CSV)
    jobs = len(all_jobs(gateway))
    done = run(
        *("replace", "requests/requests.csv", "--ref", "requests/scene.png", "-p", "a road"),
        *(*QUICK, "--json", "-o", "out"),
        cwd=tmp_path,
        url=gateway.url,
        key=gateway.make_key(),
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert [(outcome["files"], outcome["seeds"]) for outcome in outcomes] == [
        (["pair-1.webp", "pair-2.webp"], [3, 4]),
        (["0002-product.jpg"], [4]),
        (["0003-scene.png"], [5]),
    ]
    assert all((tmp_path / "out" / file).is_file() for one in outcomes for file in one["files"])
    options = sorted(
        (job.request.options for job in all_jobs(gateway)[jobs:]), key=lambda one: one.seed
    )
    assert [one.prompt for one in options] == ["a beach", "a road", "a forest"]
    assert [one.preserve_subject for one in options] == [False, True, True]


@pytest.mark.triton
def test_one_bad_photo_fails_alone_and_is_tried_anew(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    photos(tmp_path / "photos", 2)
    bad = tmp_path / "photos" / "bad.png"
    bad.write_bytes(pictures.damaged_png())
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key(), "cwd": tmp_path}
    call = ("replace", "photos", *SCENE_AND_PROMPT, *QUICK)
    for _ in range(2):
        done = run(*call, **way)
        assert done.returncode == 2, done.stderr
        assert "image: it is damaged" in done.stdout
        assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "photos-replaced").glob("*.jpg"))) == 2
    keys = {entry["key"] for entry in entries(tmp_path / "photos-replaced", "submit")}
    assert len(keys) == 4  # two photos once, the bad one twice
    bad.write_bytes(PRODUCT)
    assert run(*call, **way).returncode == 0


@pytest.mark.triton
def test_over_triton_without_a_gateway(tmp_path: Path, server: TritonServer) -> None:
    photos(tmp_path / "photos", 3)
    call = ("replace", "photos", *SCENE_AND_PROMPT, *QUICK, "--triton", server.grpc_url, "--json")
    states = []
    for _ in range(2):
        done = run(*call, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        states.append({outcome["state"] for outcome in json.loads(done.stdout)})
    assert states == [{"made"}, {"there"}]


@pytest.mark.triton
def test_an_error_that_all_would_meet_stops_the_batch(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    photos(tmp_path / "photos", 5)
    call = ("replace", "photos", *SCENE_AND_PROMPT, *QUICK, "--concurrency", 1, "--retries", 0)
    for key, url, status, words in (
        (gateway.make_key("0"), gateway.url, 3, "not enough credits"),
        ("bd_wrong", gateway.url, 3, "key"),
        ("bd_key", f"http://127.0.0.1:{free_port()}", 4, "no answer from"),
    ):
        done = run(*call, "--json", cwd=tmp_path, url=url, key=key)
        assert done.returncode == status, done.stderr
        outcomes = json.loads(done.stdout)
        assert [outcome["state"] for outcome in outcomes] == ["failed", *["left"] * 4]
        assert words in outcomes[0]["error"]
    done = run(*call, cwd=tmp_path, url=gateway.url, key=gateway.make_key())
    assert done.returncode == 0, done.stdout


@pytest.mark.triton
def test_ctrl_c_leaves_the_jobs_to_the_next_start(tmp_path: Path, gateway: GatewayProcess) -> None:
    photos(tmp_path / "photos", 3)
    jobs = len(all_jobs(gateway))
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key()}
    slow = ("--scheduler", "Euler", "--steps", 100, "-o", "out", "--concurrency", 3)
    call = ("replace", "photos", *SCENE_AND_PROMPT, *slow)
    with start(*call, cwd=tmp_path, **way) as process:
        wait_until(lambda: len(all_jobs(gateway)) == jobs + 3, 120)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].endswith("the same command goes on from here")
    done = run(*call, "--json", cwd=tmp_path, **way)
    assert done.returncode == 0, done.stderr
    assert len(all_jobs(gateway)) == jobs + 3


@pytest.mark.triton
def test_two_batches_do_not_write_to_one_folder(tmp_path: Path, gateway: GatewayProcess) -> None:
    photos(tmp_path / "photos", 1)
    way: dict[str, Any] = {"url": gateway.url, "key": gateway.make_key()}
    slow = ("--scheduler", "Euler", "--steps", 100, "--samples", 2)
    call = ("replace", "photos", *SCENE_AND_PROMPT, *slow, "-o", "out")
    with start(*call, cwd=tmp_path, **way) as first:
        wait_until(lambda: bool(entries(tmp_path / "out", "submit")), 120)
        second = run(*call, cwd=tmp_path, **way)
        assert_one_sentence(second, 1, "another batch is writing to out now")
        first.communicate(timeout=300)
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,colour\na,b\n", "colour: it is no field; allowed: image, ref_image"),
        ("image,seed\na.png,many\n", "seed: 'many' in line 1 is wrong; allowed: a whole number"),
        ("image,strength\na.png,0.5\na.png,x\n", "strength: 'x' in line 2 is wrong"),
        ("image,preserve_subject\na.png,perhaps\n", "allowed: true, false"),
        ("image,output\na.png,../up\n", "output: '../up' in line 1 is no plain file name"),
        ("image,output\na.png,x\nb.png,X\n", "output: 'x' is there 2 times"),
        ("image,samples,output\na,2,x\nb,1,X-2\n", "output: 'x-2' is there 2 times"),
        ("image,seed\na.png\n", "line 1: it has not as many cells as the header"),
        ("image,seed\na.png,1,2\n", "line 1: it has not as many cells as the header"),
        ("image\n", "image: there is nothing to do in requests.csv"),
        ("prompt\na beach\n", "image: it is missing for 0001"),
        ('image\n"a.png\n', "requests.csv cannot be read"),
    ],
)
def test_a_wrong_csv_file_is_refused_before_anything_is_sent(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "requests.csv").write_text(text)
    nobody = f"http://127.0.0.1:{free_port()}"
    call = ("replace", "requests.csv", *SCENE_AND_PROMPT)
    assert_one_sentence(run(*call, cwd=tmp_path, url=nobody, key="bd_key"), 2, words)
    assert not (tmp_path / "requests-replaced").exists()


def test_wrong_folders(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 1)
    way: dict[str, Any] = {"cwd": tmp_path, "key": "bd_key"}
    call = ("replace", "photos", *SCENE_AND_PROMPT)
    assert_one_sentence(
        run(*call, "-o", "photos", **way), 2, "output: it is the folder of the photos"
    )
    assert_one_sentence(run(*call, "-o", "scene.png", **way), 1, "scene.png: File exists")
    (tmp_path / "photos" / "photo00.png").unlink()
    assert_one_sentence(run(*call, **way), 2, "image: there is nothing to do in photos")
    assert_one_sentence(
        run("replace", "none.csv", **way), 2, "none.csv cannot be read (No such file"
    )
    assert "not a batch" in run(*call, "--quote", **way).stderr
