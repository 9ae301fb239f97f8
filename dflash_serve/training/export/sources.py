"""State dicts of drafters wherever trainers leave them: safetensors, torch files, run folders.

Knows no tensor names. PyTorch is imported only for its own files, and only if installed.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_shard, read_weights

_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    UnpicklingError,
    ValueError,
)
"""What torch raises over a damaged file, or one that holds more than tensors."""
_TORCH_FILES = ("training_state.pt", "pytorch_model*.bin", "*.pt", "*.bin")
_NESTS = ("draft_state_dict", "model_state_dict", "state_dict", "model")
"""Under which key SpecForge and others keep the weights of a saved training state."""


def read_source(path: Path) -> dict[str, mx.array]:
    """All tensors of a file, or of the directory's safetensors or torch files, by their own names.

    Raises:
        AdapterError: nothing readable is there, a file is damaged, or PyTorch is needed.
    """
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise AdapterError(f"no file or directory {path}")
    if any(path.glob("model*.safetensors*")):
        return read_weights(path)
    if any(path.glob("**/*.distcp")):
        raise AdapterError(
            f"{path} is a distributed checkpoint (.distcp), which only PyTorch can read: convert "
            "the file that TorchSpec's extract_dflash_checkpoint.py makes of it"
        )
    for pattern in ("*.safetensors", *_TORCH_FILES):
        found = sorted(path.glob(pattern))
        if len(found) > 1 and not pattern.startswith("pytorch_model"):
            names = ", ".join(file.name for file in found[:4])
            raise AdapterError(f"{path} holds several files: name one of {names}")
        if found:
            weights: dict[str, mx.array] = {}
            for file in found:
                weights.update(_read_file(file))
            return weights
    raise AdapterError(f"{path} holds no .safetensors, .pt or .bin file")


def _read_file(path: Path) -> dict[str, mx.array]:
    if path.suffix == ".safetensors":
        return read_shard(path)
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise AdapterError(f"{path} is neither .safetensors nor .pt, .pth or .bin")
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise AdapterError(f"{path} can only be read with PyTorch: pip install torch") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise AdapterError(f"{path} cannot be read: {reason}") from error
    return {
        name: _array(tensor)
        for name, tensor in _innermost(path, state).items()
        if torch.is_tensor(tensor)
    }


def _array(tensor: Any) -> mx.array:
    """In the tensor's dtype; float64 becomes float32."""
    if not tensor.is_floating_point():
        return mx.array(tensor.numpy())
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = name if name in ("float16", "bfloat16") else "float32"
    return mx.array(tensor.detach().float().numpy()).astype(getattr(mx, dtype))


def _innermost(path: Path, state: Any) -> Mapping[str, Any]:
    if not isinstance(state, Mapping):
        raise AdapterError(f"{path} holds a {type(state).__name__}, not a state dict")
    nest = next((key for key in _NESTS if isinstance(state.get(key), Mapping)), None)
    return state if nest is None else _innermost(path, state[nest])
