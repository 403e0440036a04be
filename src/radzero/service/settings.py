"""Set the limits of a service, and who may use it."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from radzero.images import ReadLimits

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""Form of a token that an Authorization header can carry (RFC 6750, 2.1); a cookie can too (RFC 6265, 4.1.1)."""


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and access of a service.

    Attributes:
        host: address that the service binds to.
        port: TCP port; 0 takes a free one.
        tokens: bearer tokens, one of which every request must carry; no token is needed when empty.
        max_upload_bytes: largest body of one request, in bytes.
        max_pixels: largest number of pixels of one image; see :class:`~radzero.images.ReadLimits`.
        max_sentences: largest number of sentences of one request.
        max_sentence_characters: largest number of characters of one sentence.
        max_files: largest number of files of one batch request.
        max_result_values: largest number of sentences times pixels of one request for DICOM results; each of these
            values takes some 12 bytes.
        max_batch: largest number of images in one pass through the network.
        batch_wait_s: seconds that a pass waits for images that are being decoded.
        max_pending: largest number of requests that wait or are worked on; further ones are answered 429.
        max_pending_bytes: largest total of their bodies, and of answers that are being sent, in bytes.
        time_limit_s: seconds that one request may take, waiting included.
        cache_bytes: size in bytes of the caches of images that were read and are kept for further sentences.
        decoders: number of threads that decode images.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: frozenset[str] = field(default=frozenset(), repr=False)
    max_upload_bytes: int = 256 * 2**20
    max_pixels: int = ReadLimits().max_pixels
    max_sentences: int = 256
    max_sentence_characters: int = 2000
    max_files: int = 64
    max_result_values: int = 2**26
    max_batch: int = 16
    batch_wait_s: float = 0.005
    max_pending: int = 128
    max_pending_bytes: int = 2**30
    time_limit_s: float = 60.0
    cache_bytes: int = 2**30
    decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("max_upload_bytes", "max_pixels", "max_sentences", "max_sentence_characters", "max_files"):
            self._positive(name)
        for name in ("max_result_values", "max_batch", "max_pending", "max_pending_bytes", "time_limit_s", "decoders"):
            self._positive(name)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"a port is between 0 and 65535, not {self.port}")
        if not all(len(token) >= 16 and _TOKEN.fullmatch(token) for token in self.tokens):
            raise ValueError(
                "a token has at least 16 characters, all of them letters, digits or -._~+/, and may end in =; "
                "`openssl rand -hex 32` makes one"
            )
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines, so tokens are needed: put one per line into a file "
                "and give --token-file, or stay on 127.0.0.1"
            )

    def _positive(self, name: str) -> None:
        if getattr(self, name) <= 0:
            raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def read_limits(self) -> ReadLimits:
        """Limits on the files that are read."""
        return ReadLimits(max_pixels=self.max_pixels, max_file_bytes=self.max_upload_bytes)


def read_tokens(path: Path) -> frozenset[str]:
    """Read tokens from a file, one per line; empty lines and those that begin with # are ignored.

    Raises:
        ValueError: when the file holds no token.
        OSError: when the file cannot be read.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    tokens = frozenset(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ValueError(f"{path}: holds no token; `openssl rand -hex 32 > {path}` makes one")
    return tokens


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
