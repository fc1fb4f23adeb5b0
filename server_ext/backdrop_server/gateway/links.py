"""Links to results that carry their own permission, and the signature on a webhook."""

from __future__ import annotations

import hashlib
import hmac
import time

LINK_PATH = "/v2/results/{job_id}/{name}"


class Signer:
    """Signs with the secret that all gateways on one database share."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def link(self, public_url: str, job_id: str, name: str, expires_at: float) -> str:
        """The absolute URL of a result, good until ``expires_at`` (epoch seconds)."""
        expires = int(expires_at)
        path = LINK_PATH.format(job_id=job_id, name=name)
        return f"{public_url}{path}?expires={expires}&signature={self._sign(path, expires)}"

    def allows(self, job_id: str, name: str, expires: int, signature: str) -> bool:
        """Whether a link's signature is ours and its time is not over."""
        expected = self._sign(LINK_PATH.format(job_id=job_id, name=name), expires)
        return hmac.compare_digest(expected.encode(), signature.encode()) and time.time() < expires

    def webhook_secret(self, key_id: int) -> str:
        """The secret with which a key's webhooks are signed; known to the key's owner and to us."""
        text = hmac.new(self._secret, f"webhook {key_id}".encode(), hashlib.sha256).hexdigest()
        return f"whsec_{text}"

    def _sign(self, path: str, expires: int) -> str:
        message = f"{path} {expires}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def webhook_signature(secret: str, timestamp: int, body: bytes) -> str:
    """``sha256=`` and the HMAC-SHA256 in hex over the timestamp, a dot, and the body."""
    message = f"{timestamp}.".encode() + body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
