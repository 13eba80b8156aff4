"""A conversation with a GMA model in PyTorch: one state, turn after turn, nothing re-read."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gma_torch.convert.data import ChatEncoder
from gma_torch.decoder import GmaDecoder
from gma_torch.tokenizer import load_tokenizer


class Chat:
    """One session; its whole past is the decoder's state and one pending token.

    Args:
        folder: a model directory with `gma_chat` in tokenizer_config.json.
        temperature: 0 is greedy; otherwise samples from the `top_p` most likely tokens.
    """

    def __init__(
        self,
        model: GmaDecoder,
        folder: Path,
        *,
        temperature: float = 0.0,
        top_p: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.tokenizer = load_tokenizer(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.roles = config["gma_chat"]
        self.encoder = ChatEncoder(self.tokenizer)
        ends = model.config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self.temperature, self.top_p = temperature, top_p
        self.gen = torch.Generator().manual_seed(seed)
        self.state = model.initial_state(1)
        self.pending: list[int] = []
        if self.roles["default_system"]:
            self.pending += self._message("system", self.roles["default_system"])

    def _message(self, role: str, text: str) -> list[int]:
        marks = self.roles["roles"][role]
        head, tail = self.encoder.marker(marks["prefix"]), self.encoder.marker(marks["suffix"])
        return head + self.encoder.text(text) + tail

    def tell(self, role: str, text: str) -> None:
        """Adds a message without asking for an answer."""
        self.pending += self._message(role, text)

    def _pick(self, logits: torch.Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        chance = torch.softmax(logits.double() / self.temperature, -1)
        ordered, index = chance.sort(descending=True)
        kept = ordered.cumsum(-1) - ordered < self.top_p
        return int(index[torch.multinomial(ordered * kept, 1, generator=self.gen)])

    @torch.no_grad()
    def ask(self, text: str, max_tokens: int = 200) -> str:
        """The answer to a user's message, at most `max_tokens` tokens of it."""
        self.pending += self._message("user", text)
        self.pending += self.encoder.marker(self.roles["generation_prefix"])
        logits, self.state = self.model.prefill(torch.tensor([self.pending]), self.state)
        answer: list[int] = []
        following = logits[0, -1]
        while True:
            token = self._pick(following)
            if token in self.ends or len(answer) == max_tokens:
                break
            answer.append(token)
            row, self.state = self.model.step(torch.tensor([token]), self.state)
            following = row[0]
        # What closes the answer is fed together with the next message.
        self.pending = self.encoder.marker(self.roles["roles"]["assistant"]["suffix"])
        return self.tokenizer.decode(answer)
