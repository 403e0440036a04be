"""Identity of a result: its manufacturer, its UIDs and the codes of its sentences.

UIDs are derived from what a result is made of (PS3.5 B.2: "2.25." and a UUID of version 5). The same image (its
identity, patient, study and pixels), model, sentences and threshold give the same UIDs in the same version of RadZero,
so a result that is sent twice is one result.
"""

import hashlib
import uuid

from pydicom.sr.coding import Code
from pydicom.uid import UID

from radzero import __version__

MANUFACTURER = "RadZero"
SCHEME = "99RADZERO"
"""Private coding scheme of sentences; DICOM's own schemes have codes for findings, but not for any sentence."""
_NAMESPACE = uuid.UUID("5b0e3d0e-9d4f-5c36-8a76-2b8fca1a53c0")


def derived_uid(*parts: str) -> UID:
    """Derive a UID from parts; it is the same whenever and wherever it is made by the same version of RadZero."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, json_parts(parts)).int}")


def json_parts(parts: tuple[str, ...]) -> str:
    """Join the version and the parts into a text that no other parts give, since each has its length before it."""
    return "".join(f"{len(part)}:{part}" for part in (__version__, *parts))


def sentence_code(sentence: str) -> Code:
    """Return a sentence as a code: the value is a hash, the meaning is the sentence in at most 64 characters."""
    return Code(hashlib.sha256(sentence.encode()).hexdigest()[:16], SCHEME, shortened(sentence, 64))


def shortened(text: str, length: int) -> str:
    """Cut text to ``length`` characters, without backslashes and line breaks, which DICOM's short texts forbid."""
    clean = " ".join(text.replace("\\", "/").split())
    return clean if len(clean) <= length else clean[: length - 3].rstrip() + "..."
