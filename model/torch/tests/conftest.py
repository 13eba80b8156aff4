"""One thread: the machine is shared, and results must not depend on the thread count."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from small_base import RECIPE, new_transfer, write_gguf

from gma_torch.convert import apply as apply_module
from gma_torch.convert.apply import save_delta
from gma_torch.convert.base import PinnedBase, sha256
from gma_torch.convert.transfer import Transfer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def pin(gguf_file: Path, tmp_path: Path) -> tuple[PinnedBase, Path]:
    """A pinned wheel around the small base, and the wheel."""
    wheel = tmp_path / "base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, "package/base.gguf")
    pinned = PinnedBase("no-such-package", "1.0", sha256(wheel), "package/base.gguf",
                        sha256(gguf_file), gguf_file.stat().st_size)  # fmt: skip
    return pinned, wheel


@pytest.fixture
def pinned_delta(
    gguf_file: Path, pin: tuple[PinnedBase, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Transfer]:
    """A delta after a few steps, in the default one's place, and the transfer that made it."""
    monkeypatch.setattr(apply_module, "SMOLLM2_135M_INSTRUCT", pin[0])
    transfer = new_transfer(gguf_file)
    transfer.start()
    for stage in RECIPE.schedule()[:5]:
        transfer.train_step(stage, 1.0)
    save_delta(tmp_path / "delta.safetensors", transfer.mixers, RECIPE.window, {})
    return tmp_path / "delta.safetensors", transfer
