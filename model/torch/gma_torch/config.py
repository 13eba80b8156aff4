"""Model configuration: `config.json` of a model directory, read, validated and written.

Sizes stand at the top level under the names of the Hugging Face ecosystem; what is particular to
GMA stands under the key `gma`, where every option is one value or a list with one value a layer,
and an absent option is off. Unknown keys under `gma` are an error, elsewhere they are ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

MODEL_TYPE = "gma"
DTYPES = ("float32", "bfloat16")
READS = ("static", "adapted")
ROUTES = ("projected", "key")
FORGETS = ("none", "head", "write")
VAR_PARAMS = ("bounded", "softplus")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, value and limit."""


@dataclass(frozen=True)
class LayerOptions:
    """The options of one layer; the defaults are plain GMA.

    Attributes:
        window: tokens that are read exactly, in one softmax with the slots; 0 = off.
        read: "static" (mixture responsibilities) or "adapted" (mean of the slot's rotated keys).
        route: where the routing vector of a write comes from: "projected" (route_k_proj), or "key"
            (`route` times the key before rotation; read "adapted", no short_conv, no route_norm).
        short_conv: width of the depthwise causal convolution; 0 = off.
        forget: "none", "head" (a gate per memory head and token) or "write" (tied to writes).
        route_norm: RMSNorm with gain on the routing vectors.
        out_norm: RMSNorm with gain on each head's output.
        out_gate: output multiplied by SiLU of a projection of the layer input.
        var_param: "bounded" or "softplus", how component_omega gives the variance.
    """

    window: int = 0
    read: str = "static"
    route: str = "projected"
    short_conv: int = 0
    forget: str = "none"
    route_norm: bool = False
    out_norm: bool = False
    out_gate: bool = False
    var_param: str = "bounded"

    @property
    def joint(self) -> bool:
        """Whether queries and keys exist besides the routing vectors."""
        return self.window > 0 or self.read == "adapted"


_CHOICES = {"read": READS, "route": ROUTES, "forget": FORGETS, "var_param": VAR_PARAMS}
OPTION_NAMES = tuple(f.name for f in fields(LayerOptions))


@dataclass(frozen=True)
class GmaConfig:
    """Shape of a GMA decoder; attributes are the keys of `config.json`.

    `num_memory_heads` divides `num_attention_heads`; query head h reads memory head
    h // (num_attention_heads / num_memory_heads). `slot_horizon`: L of docs/MATH.md 11.1, read
    "adapted" only; None: off.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    num_components: int
    routing_dim: int
    intermediate_size: int
    num_memory_heads: int | None = None
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    slot_horizon: int | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    torch_dtype: str = "float32"
    layers: tuple[LayerOptions, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in _SIZES:
            _check_size(name, getattr(self, name))
        if self.num_memory_heads is None:
            object.__setattr__(self, "num_memory_heads", self.num_attention_heads)
        _check_size("num_memory_heads", self.num_memory_heads)
        if self.num_attention_heads % self.num_memory_heads:
            raise ConfigError(
                f"num_memory_heads = {self.num_memory_heads}, must divide "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim = {self.head_dim}, must be even")
        for name in ("rms_norm_eps", "rope_theta"):
            _check_positive(name, getattr(self, name))
        if self.slot_horizon is not None:
            _check_size("slot_horizon", self.slot_horizon)
        if not isinstance(self.tie_word_embeddings, bool):
            raise ConfigError(
                f"tie_word_embeddings = {self.tie_word_embeddings!r}, must be true or false"
            )
        if self.torch_dtype not in DTYPES:
            raise ConfigError(f"torch_dtype = {self.torch_dtype!r}, must be one of {DTYPES}")
        self._check_token_ids()
        if not self.layers:
            object.__setattr__(self, "layers", (LayerOptions(),) * self.num_hidden_layers)
        if len(self.layers) != self.num_hidden_layers:
            raise ConfigError(
                f"{len(self.layers)} layers of options for {self.num_hidden_layers} layers"
            )
        for index, options in enumerate(self.layers):
            self._check_layer(index, options)

    def _check_token_ids(self) -> None:
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            for token in value if isinstance(value, list) else [] if value is None else [value]:
                if type(token) is not int or not 0 <= token < self.vocab_size:
                    raise ConfigError(
                        f"{name} = {value!r}, must be token ids in [0, {self.vocab_size})"
                    )

    def _check_layer(self, index: int, options: LayerOptions) -> None:
        for name in ("window", "short_conv"):
            value = getattr(options, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"gma.{name} = {value!r} (layer {index}), must be at least 0")
        if options.short_conv == 1:
            raise ConfigError(f"gma.short_conv = 1 (layer {index}), must be 0 (off) or at least 2")
        for name, choices in _CHOICES.items():
            if getattr(options, name) not in choices:
                raise ConfigError(
                    f"gma.{name} = {getattr(options, name)!r} (layer {index}), "
                    f"must be one of {choices}"
                )
        if options.route == "key" and (
            options.read != "adapted" or options.short_conv or options.route_norm
        ):
            raise ConfigError(
                f"gma.route = 'key' (layer {index}), must be 'projected' with short_conv, with "
                "route_norm or without read 'adapted'"
            )
        for name in ("route_norm", "out_norm", "out_gate"):
            if not isinstance(getattr(options, name), bool):
                raise ConfigError(
                    f"gma.{name} = {getattr(options, name)!r} (layer {index}), "
                    "must be true or false"
                )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GmaConfig:
        """Builds a config from the parsed `config.json`; ConfigError says what is wrong."""
        if not isinstance(data, dict):
            raise ConfigError("config.json must hold an object")
        if data.get("model_type") != MODEL_TYPE:
            raise ConfigError(f"model_type = {data.get('model_type')!r}, must be {MODEL_TYPE!r}")
        missing = [name for name in _SIZES if name not in data]
        if missing:
            raise ConfigError(f"missing key {missing[0]!r}, must be an integer in [1, 2^31)")
        known = {f.name for f in fields(cls)} - {"layers"}
        values = {name: value for name, value in data.items() if name in known}
        depth = values["num_hidden_layers"]
        _check_size("num_hidden_layers", depth)
        return cls(**values, layers=_layers_from_dict(data.get("gma", {}), depth))

    @classmethod
    def from_directory(cls, path: str | Path) -> GmaConfig:
        """Reads `config.json` of a model directory."""
        return cls.from_file(Path(path) / "config.json")

    @classmethod
    def from_file(cls, file: str | Path) -> GmaConfig:
        """Reads a `config.json`; ConfigError names the file and what is wrong with it."""
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON: {error}") from None
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`; options that are off everywhere are left out."""
        data: dict[str, Any] = {"model_type": MODEL_TYPE, "architectures": ["GmaForCausalLM"]}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "layers" and value is not None:
                data[item.name] = value
        options: dict[str, Any] = {}
        for name in OPTION_NAMES:
            values = [getattr(layer, name) for layer in self.layers]
            if any(value != getattr(LayerOptions(), name) for value in values):
                options[name] = values[0] if len(set(values)) == 1 else values
        data["gma"] = options
        return data

    def save(self, path: str | Path) -> None:
        """Writes `config.json` into the directory `path`."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        (Path(path) / "config.json").write_text(text, encoding="utf-8")

    def with_options(self, **options: Any) -> GmaConfig:
        """A copy whose options are set in every layer; a list gives one value a layer."""
        return replace(self, layers=_layers_from_dict(options, self.num_hidden_layers))


_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "num_components",
    "routing_dim",
    "intermediate_size",
)


def _check_size(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ConfigError(f"{name} = {value!r}, must be an integer in [1, 2^31)")


def _check_positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or not value > 0:
        raise ConfigError(f"{name} = {value!r}, must be a finite number above 0")


def _layers_from_dict(options: Any, depth: int) -> tuple[LayerOptions, ...]:
    """Spreads `{option: value or list}` over the layers."""
    if not isinstance(options, dict):
        raise ConfigError(f"gma = {repr(options)[:64]}, must be an object")
    layers = [{} for _ in range(depth)]
    for name, value in options.items():
        if name not in OPTION_NAMES:
            raise ConfigError(f"unknown key gma.{name}; the options are {', '.join(OPTION_NAMES)}")
        values = value if isinstance(value, list) else [value] * depth
        if len(values) != depth:
            raise ConfigError(
                f"gma.{name} lists {len(values)} values, must be {depth} (num_hidden_layers)"
            )
        for layer, one in zip(layers, values, strict=True):
            layer[name] = one
    return tuple(LayerOptions(**layer) for layer in layers)


PRESETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "from_scratch": {
        "short_conv": 4,
        "forget": "head",
        "route_norm": True,
        "out_norm": True,
        "out_gate": True,
    },
    "converted": {"window": 64, "read": "adapted", "forget": "write"},
}
