# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the tensors that upstream hands out: a numpy array with the few methods callers use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tensor:
    """As a torch tensor on the CPU, as far as it goes."""

    def __init__(self, array: NDArray[Any]):
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> Any:
        return self._array.dtype

    def size(self, dim: int) -> int:
        return int(self._array.shape[dim])

    def numpy(self) -> NDArray[Any]:
        return self._array

    def cpu(self) -> Tensor:
        return self

    def detach(self) -> Tensor:
        return self

    def squeeze(self, dim: int) -> Tensor:
        return Tensor(self._array.squeeze(dim))

    def tolist(self) -> list[Any]:
        return list(self._array.tolist())

    def flatten(self) -> Tensor:
        return Tensor(self._array.reshape(-1))

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, *_args: Any, **_kwargs: Any) -> NDArray[Any]:
        raise TypeError("this stand-in wants .numpy(): on a card it would be needed too")


def tokens(values: list[int]) -> Tensor:
    """Shape (1, n), int32, as the frontend makes them."""
    return Tensor(np.array([values], dtype=np.int32))
