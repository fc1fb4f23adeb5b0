"""The sample code of the public page, with nothing changed but the URL, the key and the pictures."""

from __future__ import annotations

import functools
import http.server
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.servers import GatewayProcess, body, gateway_process

pytestmark = pytest.mark.triton
# As customers paste it: files read or fetched into base64, all fields said, bytes wanted.
SAMPLE = """
import requests
import base64

# Use this function to convert an image file from the filesystem to base64
def image_file_to_base64(image_path):
    with open(image_path, 'rb') as f:
        image_data = f.read()
    return base64.b64encode(image_data).decode('utf-8')

# Use this function to fetch an image from a URL and convert it to base64
def image_url_to_base64(image_url):
    response = requests.get(image_url)
    image_data = response.content
    return base64.b64encode(image_data).decode('utf-8')

api_key = "{key}"
url = "{url}/v1/bg-replace"

# Request payload
data = {{
  "image": image_url_to_base64("{pictures}/product.png"),  # Or use image_file_to_base64("IMAGE_PATH")
  "ref_image": image_file_to_base64("scene.png"),
  "prompt": "Perfume bottle placed on top of a rock, in a jungle",
  "negative_prompt": "bad quality, painting, blur",
  "samples": 1,
  "scheduler": "DPM2 Karras",
  "num_inference_steps": 25,
  "guidance_scale": 7.5,
  "seed": 467455,
  "strength": 1,
  "cn_weight": 0.9,
  "ip_adapter_weight": 0.5,
  "base64": False
}}

headers = {{'x-api-key': api_key}}

response = requests.post(url, json=data, headers=headers)
print(response.content)  # The response is the generated image
"""


@pytest.fixture
def picture_site(tmp_path: Path) -> Iterator[str]:
    """A web server with the customer's pictures; its URL."""
    for name, pixels in (("product", pictures.product()), ("scene", pictures.scene())):
        (tmp_path / f"{name}.png").write_bytes(pictures.png(pixels))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


def run_sample(gateway: GatewayProcess, folder: Path, site: str, program: str) -> bytes:
    """The bytes that the sample got."""
    program = program.format(key=gateway.make_key(), url=gateway.url, pictures=site)
    program += "\nopen('answer', 'wb').write(response.content)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return (folder / "answer").read_bytes()


def test_the_sample_gets_a_jpeg(gateway: GatewayProcess, tmp_path: Path, picture_site: str) -> None:
    answer = run_sample(gateway, tmp_path, picture_site, SAMPLE)
    picture = Image.open(io.BytesIO(answer))
    picture.load()
    assert (picture.format, picture.size) == ("JPEG", (300, 200))


def test_pictures_may_be_urls(server: TritonServer, tmp_path: Path, picture_site: str) -> None:
    program = SAMPLE.replace(
        'image_url_to_base64("{pictures}/product.png")', '"{pictures}/product.png"'
    )
    assert program != SAMPLE
    folder = tmp_path / "gateway"
    with gateway_process(folder, server.http_url, fetch_networks="127.0.0.0/8") as gateway:
        answer = run_sample(gateway, tmp_path, picture_site, program)
    assert Image.open(io.BytesIO(answer)).size == (300, 200)


def test_a_request_sent_again_is_its_job_although_its_url_is_dead(
    server: TritonServer, tmp_path: Path, picture_site: str
) -> None:
    request = body(image=f"{picture_site}/product.png")
    folder = tmp_path / "gateway"
    with (
        gateway_process(folder, server.http_url, fetch_networks="127.0.0.0/8") as gateway,
        gateway.client(gateway.make_key()) as client,
    ):
        client.headers["Idempotency-Key"] = "order-1"
        first = client.post("/v2/bg-replace", json=request).raise_for_status()
        (tmp_path / "product.png").unlink()
        again = client.post("/v2/bg-replace", json=request).raise_for_status()
        assert again.json() == first.json()
        assert client.post("/v1/bg-replace", json=request).status_code == 200
        client.headers["Idempotency-Key"] = "order-2"
        assert "image: " in client.post("/v2/bg-replace", json=request).json()["error"]
