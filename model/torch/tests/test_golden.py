"""The golden files are what their script writes, and the chunkwise form reproduces them."""

import pytest
import torch
from safetensors.torch import load_file
from scripts import ROOT, load_script

from gma_torch.decoder import GmaDecoder

_GOLDEN = ROOT / "tests" / "golden"
_MAKE = load_script(_GOLDEN / "make_golden.py")


def test_the_folder_holds_exactly_the_cases_of_the_script():
    folders = {path.name for path in _GOLDEN.iterdir() if (path / "config.json").exists()}
    assert folders == set(_MAKE.case_names())


@pytest.mark.parametrize("case", _MAKE.case_names())
def test_regenerating_gives_the_same_files(case, tmp_path):
    _MAKE.make_case(case, tmp_path)
    stored = _GOLDEN / case
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (stored / name).read_bytes(), name
    new = load_file(tmp_path / "expected.safetensors")
    old = load_file(stored / "expected.safetensors")
    assert new.keys() == old.keys()
    for name, value in old.items():
        torch.testing.assert_close(new[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("case", _MAKE.case_names())
@torch.no_grad()
def test_float32_prefill_is_within_the_tolerances_of_the_server(case):
    model = GmaDecoder.from_directory(_GOLDEN / case)
    expected = load_file(_GOLDEN / case / "expected.safetensors")
    state = model.initial_state(1)
    parts = []
    for part in expected["tokens"].unsqueeze(0).split([1, 200, 311], dim=1):
        logits, state = model.prefill(part, state)
        parts.append(logits)
    logits = torch.cat(parts, dim=1)[0, expected["positions"]]
    scale = expected["logits"].abs().max()
    assert float((logits - expected["logits"]).abs().max() / scale) < 1e-5
    for name, value in expected.items():
        if name.startswith("state."):
            _, layer, block = name.split(".")
            got = getattr(state.layers[int(layer)], block)[0].double()
            assert float(((got - value).abs() / (1 + value.abs())).max()) < 1e-5, name
