"""What schemathesis cannot know: what a picture is, and where a webhook may go."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies

from backdrop_server.gateway.openapi import example_picture

_PICTURES = [example_picture("white", "teal"), example_picture("wheat", "sienna")]
schemathesis.openapi.format("picture", strategies.sampled_from(_PICTURES))
# Nobody listens there: delivery fails, as it may, and at once.
schemathesis.openapi.format("uri", strategies.just("http://127.0.0.1:9/hook"))
