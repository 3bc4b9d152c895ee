"""What a CUDA graph of an iteration would hold, asked of a CPU: the operations below autograd, and replays of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal"}
"""Operations that return when the device has finished, with a number for the host."""


class Tape(TorchDispatchMode):
    """Records every operation while it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """The recorded operations once more, on the recorded memory, with the recorded scalars."""
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, result in self.operations:
                if not computes(func):
                    continue
                for old, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def calls(self) -> list[tuple[str, list[Any], list[tuple[int, torch.Size]]]]:
        """Of each operation: its name, its scalars, and what memory it sees that is not the iteration's own."""
        own, rows = set(), []
        for func, args, kwargs, result in self.operations:
            seen = _tensors((args, kwargs))
            known = {tensor.untyped_storage()._cdata for tensor in seen}
            outside = [(x.data_ptr(), x.shape) for x in seen if x.untyped_storage()._cdata not in own]
            scalars = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, bool | int | float)]
            rows.append((func._schema.name.removeprefix("aten::"), scalars, outside))
            own |= {tensor.untyped_storage()._cdata for tensor in _tensors(result)} - known
        return rows


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def computes(func: Any) -> bool:
    """Not a view, and no bare memory."""
    returns = func._schema.returns
    view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return (
        not view
        and "empty" not in func._schema.name
        and func._schema.name not in ("aten::detach", "aten::_unsafe_view")
    )
