"""The tiny models are what their script writes, and whole model directories."""

import json

import pytest
import torch
from scripts import ROOT, load_script

from gma_torch.decoder import GmaDecoder
from gma_torch.tokenizer import load_tokenizer

_TINY = ROOT / "deploy" / "models" / "tiny"
_MAKE = load_script(_TINY / "make_tiny.py")


@pytest.mark.parametrize("flavour", _MAKE.FLAVOURS)
def test_regenerating_gives_the_same_files(flavour, tmp_path):
    _MAKE.make_model(flavour, load_tokenizer(_TINY / flavour), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in (_TINY / flavour).iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (_TINY / flavour / name).read_bytes(), name


@pytest.mark.parametrize("flavour", _MAKE.FLAVOURS)
@torch.no_grad()
def test_every_text_can_be_encoded_fed_and_decoded(flavour):
    tokenizer = load_tokenizer(_TINY / flavour)
    text = "Zebra 1984, naïve \u65e5\u672c \U0001f600\t\x00\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    model = GmaDecoder.from_directory(_TINY / flavour)
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    logits = model(torch.tensor([ids]))
    assert logits.shape == (1, len(ids), model.config.vocab_size)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("flavour", _MAKE.FLAVOURS)
def test_chat_roles_use_special_tokens(flavour):
    tokenizer = load_tokenizer(_TINY / flavour)
    chat = json.loads((_TINY / flavour / "tokenizer_config.json").read_text())["gma_chat"]
    assert set(chat["roles"]) == {"system", "user", "assistant"}
    for role in chat["roles"].values():
        assert tokenizer.encode(role["prefix"]).ids[0] == tokenizer.token_to_id("<|im_start|>")
        assert tokenizer.encode(role["suffix"]).ids[0] == tokenizer.token_to_id("<|im_end|>")
