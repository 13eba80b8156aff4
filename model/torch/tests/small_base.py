"""What the tests of conversion share: a small random base, and recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers

from gma_torch.convert.recipe import EndToEnd, Recipe, Stage
from gma_torch.convert.transfer import Transfer
from gma_torch.gguf_base import GgufBase
from gma_torch.llama import Llama

LAYERS, HEADS, GROUPS, WIDTH, HIDDEN, FF = 2, 4, 2, 8, 32, 48
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(path: Path) -> None:
    """A random model of the base's kind, with a byte-level vocabulary."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages }}")

    def tensor(name: str, *shape: int) -> None:
        scale = 1.0 if len(shape) == 1 else 1.5 / np.sqrt(shape[-1])
        writer.add_tensor(name, (scale * rng.standard_normal(shape)).astype(np.float32))

    tensor("token_embd.weight", len(tokens), HIDDEN)
    tensor("output_norm.weight", HIDDEN)
    for n in range(LAYERS):
        tensor(f"blk.{n}.attn_norm.weight", HIDDEN)
        tensor(f"blk.{n}.ffn_norm.weight", HIDDEN)
        tensor(f"blk.{n}.attn_q.weight", HEADS * WIDTH, HIDDEN)
        tensor(f"blk.{n}.attn_k.weight", GROUPS * WIDTH, HIDDEN)
        tensor(f"blk.{n}.attn_v.weight", GROUPS * WIDTH, HIDDEN)
        tensor(f"blk.{n}.attn_output.weight", HIDDEN, HEADS * WIDTH)
        tensor(f"blk.{n}.ffn_gate.weight", FF, HIDDEN)
        tensor(f"blk.{n}.ffn_up.weight", FF, HIDDEN)
        tensor(f"blk.{n}.ffn_down.weight", HIDDEN, FF)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Text:
    """Random tokens with repetitions, in the place of the text mixture."""

    def sequence(self, index: int, length: int) -> list[int]:
        gen = torch.Generator().manual_seed(index)
        return torch.randint(3, 40, (length,), generator=gen).tolist()


RECIPE = Recipe(
    window=8, components=4, routing_dim=4, initial_beta=[0.1, 0.2], start_sequences=2,
    start_length=64, stages=[Stage(2, 48, 3), Stage(1, 64, 1)], cycles=10, teacher_dtype="float32",
)  # fmt: skip
WIDE = replace(RECIPE, window=[8, 20])
END = replace(
    WIDE,
    end_to_end=EndToEnd(steps=4, accumulate=2, sequences=2, length=40, adapter_rank=2,
                        learning_rate=1e-2, adapter_learning_rate=1e-2),
)  # fmt: skip


def new_transfer(gguf_file: Path, recipe: Recipe = RECIPE) -> Transfer:
    base = GgufBase(gguf_file)
    return Transfer(recipe, Llama(base.config(), base.weights()), Text())
