"""The keys and values that decoding keeps, in buffers large enough from the start: no new token copies the old ones."""

from collections.abc import Sequence

from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer


class BufferedLayer(DynamicLayer):
    """One layer's keys and values, each (rows, heads, capacity, width) of which the first `length` positions are used.

    Prompts are filled in some rows at a time, so that short ones are not padded to the longest of all; they end at
    the same position. A layer with a sliding window keeps all positions too: its mask hides what is outside.
    """

    is_sliding = False

    def __init__(self, rows: int, length: int, capacity: int) -> None:
        """
        Args:
            rows: sequences.
            length: of the longest prompt.
            capacity: positions in all.
        """
        super().__init__()
        self._rows, self._length, self._capacity = rows, length, capacity
        self.filling: slice | None = None
        """The rows whose prompts are being read."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Add keys and values (rows, heads, positions, width); returns those that may be attended to."""
        if not self.is_initialized:
            self._buffers = [
                # Zeros: what is never attended to is multiplied by 0, and 0 times NaN is NaN.
                states.new_zeros(self._rows, states.shape[1], self._capacity, states.shape[3])
                for states in (key_states, value_states)
            ]
            self.is_initialized = True
        if self.filling is not None:
            place = slice(self._length - key_states.shape[2], self._length)
            self._buffers[0][self.filling, :, place] = key_states
            self._buffers[1][self.filling, :, place] = value_states
            return key_states, value_states
        place = slice(self._length, self._length + key_states.shape[2])
        self._buffers[0][:, :, place] = key_states
        self._buffers[1][:, :, place] = value_states
        self._length = place.stop
        keys, values = (buffer[:, :, : self._length] for buffer in self._buffers)
        return keys, values

    def get_seq_length(self) -> int:
        return 0 if self.filling is not None else self._length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only; `indices` ascend."""
        for place, buffer in enumerate(self._buffers):
            kept = buffer[: len(indices)]
            kept[:, :, : self._length] = buffer[indices, :, : self._length]
            self._buffers[place] = kept


class BufferedCache(Cache):
    """The cache of a whole model; arguments as for a layer."""

    def __init__(self, config: PreTrainedConfig, rows: int, length: int, capacity: int) -> None:
        count = len(DynamicCache(config=config).layers)
        self._buffered: Sequence[BufferedLayer] = [BufferedLayer(rows, length, capacity) for _ in range(count)]
        super().__init__(layers=list(self._buffered))

    def fill(self, rows: slice | None) -> None:
        """What follows are the prompts of these rows; None: the next tokens of all rows."""
        for layer in self._buffered:
            layer.filling = rows
