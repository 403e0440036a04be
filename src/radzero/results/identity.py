"""Who made a result, and the names and numbers that it goes by.

UIDs are derived from what a result is of (PS3.5 B.2: "2.25." and a UUID of version 5), so that the same film (its
identity, patient, study and pixels), model, sentences and threshold give the same UIDs: a result that is sent twice is
one result.
"""

import hashlib
import uuid

from pydicom.sr.coding import Code
from pydicom.uid import UID

from radzero import __version__

MANUFACTURER = "RadZero"
SCHEME = "99RADZERO"
"""Private coding scheme of sentences: DICOM's own have codes for findings, not for what somebody may ask."""
_NAMESPACE = uuid.UUID("5b0e3d0e-9d4f-5c36-8a76-2b8fca1a53c0")


def derived_uid(*parts: str) -> UID:
    """A UID of its parts, the same whenever and wherever it is made."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, json_parts(parts)).int}")


def json_parts(parts: tuple[str, ...]) -> str:
    """Parts as one text that no other parts have."""
    return "".join(f"{len(part)}:{part}" for part in (__version__, *parts))


def sentence_code(sentence: str) -> Code:
    """A sentence as a coded concept: a hash as its value, and as much of it as a code meaning holds."""
    return Code(hashlib.sha256(sentence.encode()).hexdigest()[:16], SCHEME, shortened(sentence, 64))


def shortened(text: str, length: int) -> str:
    """Text of at most ``length`` characters, without what DICOM's short texts may not hold."""
    clean = " ".join(text.replace("\\", "/").split())
    return clean if len(clean) <= length else clean[: length - 3].rstrip() + "..."
