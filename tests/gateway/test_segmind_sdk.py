"""The official SDK, unchanged, against this gateway: its calls, its answers, its errors."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from segmind import SegmindClient, v2
from segmind.exceptions import SegmindError

from tests import pictures
from tests.gateway.servers import GatewayProcess, body, in_base64

pytestmark = pytest.mark.triton
SLUG = "bg-replace"


def opened(data: bytes) -> Image.Image:
    """A picture whose every pixel could be read."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.fixture
def sdk(gateway: GatewayProcess) -> Iterator[SegmindClient]:
    made = SegmindClient(api_key=gateway.make_key(), base_url=f"{gateway.url}/v1")
    yield made
    made._client.close()


@pytest.mark.parametrize("samples", [1, 4])
def test_run_submits_and_polls(sdk: SegmindClient, samples: int) -> None:
    done = sdk.run(SLUG, **body(samples=samples))
    assert done["status"] == "COMPLETED"
    assert done["metrics"]["inference_time"] > 0
    assert done["seeds"] == [7 + k for k in range(samples)]
    files = [httpx.get(link).raise_for_status().content for link in done["output"]]
    assert [opened(file).size for file in files] == [(300, 200)] * samples
    assert len(set(files)) == samples


def test_run_with_base64_has_the_pictures_in_the_result(sdk: SegmindClient) -> None:
    done = sdk.run(SLUG, **body(base64=True, output_format="png"))
    (text,) = done["output"]
    assert opened(base64.b64decode(text, validate=True)).format == "PNG"


def test_run_sync_answers_bytes(sdk: SegmindClient) -> None:
    answer = sdk.run_sync(SLUG, **body(base64=False))
    assert answer.headers["content-type"] == "image/jpeg"
    assert opened(answer.content).size == (300, 200)


def test_run_sync_answers_json_for_several_samples(sdk: SegmindClient) -> None:
    answer = sdk.run_sync(SLUG, **body(base64=True, samples=4)).json()
    files = [base64.b64decode(text, validate=True) for text in answer["images"]]
    assert [opened(file).format for file in files] == ["JPEG"] * 4


@pytest.mark.parametrize("samples", [1, 4])
def test_submit_async_and_wait(sdk: SegmindClient, samples: int) -> None:
    job = sdk.submit_async(SLUG, **body(samples=samples))
    assert job.submit_response["status"] == "QUEUED"
    assert job.status()["status"] in ("QUEUED", "PROCESSING", "COMPLETED")
    done = job.wait(timeout=60, interval=0.1)
    assert len(done["output"]) == samples
    assert job.result() == done


def test_v1_and_v2_make_the_same_picture(sdk: SegmindClient) -> None:
    (link,) = sdk.run(SLUG, **body())["output"]
    assert httpx.get(link).content == sdk.run_sync(SLUG, **body(base64=False)).content


def test_a_wrong_key_is_its_error_401(gateway: GatewayProcess) -> None:
    sdk = SegmindClient(api_key="SG_0123456789abcdef", base_url=f"{gateway.url}/v1")
    for call in (sdk.run, sdk.run_sync, sdk.submit_async):
        with pytest.raises(SegmindError) as raised:
            call(SLUG, **body())
        assert raised.value.status == 401
        assert raised.value.detail == "the API key is unknown"
    sdk._client.close()


def test_too_few_credits_are_its_error_406(gateway: GatewayProcess) -> None:
    sdk = SegmindClient(api_key=gateway.make_key("0.0001"), base_url=f"{gateway.url}/v1")
    for call in (sdk.run, sdk.run_sync, sdk.submit_async):
        with pytest.raises(SegmindError, match="not enough credits") as raised:
            call(SLUG, **body())
        assert raised.value.status == 406
    sdk._client.close()


def test_a_refused_body_is_its_error_400_with_our_sentence(sdk: SegmindClient) -> None:
    for call in (sdk.run, sdk.run_sync, sdk.submit_async):
        with pytest.raises(SegmindError) as raised:
            call(SLUG, **body(samples=5))
        assert raised.value.status == 400
        expected = "samples: 5 is out of range; allowed: a whole number from 1 to 4"
        assert raised.value.detail == expected


def test_a_failed_job_is_its_inference_failed(sdk: SegmindClient) -> None:
    job = sdk.submit_async(SLUG, **body(image=in_base64(pictures.damaged_png())))
    with pytest.raises(v2.InferenceFailed) as raised:
        job.wait(timeout=60, interval=0.1)
    assert raised.value.detail is not None
    assert raised.value.detail.startswith("image: it is damaged")
    assert raised.value.status_body["status"] == "FAILED"
    result = job.result()
    assert result["error"] == raised.value.detail
    assert result["credits_consumed"] == "0"
    with pytest.raises(SegmindError) as over_v1:
        sdk.run_sync(SLUG, **body(image=in_base64(pictures.damaged_png())))
    assert (over_v1.value.status, over_v1.value.detail) == (400, raised.value.detail)
