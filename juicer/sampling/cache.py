"""The key-value cache of decoding, in preallocated buffers, so that a new token does not copy the previous ones."""

from collections.abc import Sequence

from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer


class BufferedLayer(DynamicLayer):
    """One layer's keys and values, each (rows, heads, capacity, width); the first `length` positions are in use.

    Prompts are filled in a few rows at a time, so short ones are not padded to the longest of all; all end at the same
    position. A layer with a sliding window keeps all positions too: its mask hides those outside the window.
    """

    is_sliding = False

    def __init__(self, rows: int, length: int, capacity: int) -> None:
        """
        Args:
            rows: number of sequences.
            length: of the longest prompt, in tokens.
            capacity: positions in total.
        """
        super().__init__()
        self._rows, self._length, self._capacity = rows, length, capacity
        self._start, self._longest = 0, length
        self.filling: slice | Tensor | None = None
        """The rows whose prompts are being filled in; None while decoding."""
        self.counts: Tensor | None = None
        """How many of those rows have each of the prompts that are being read, (prompts,) int64."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Add keys and values (rows, heads, positions, width); returns all that the new positions may attend to."""
        if not self.is_initialized:
            self._buffers = [
                # Zeros, because masked values are multiplied by 0, and 0 times NaN is NaN.
                states.new_zeros(self._rows, states.shape[1], self._capacity, states.shape[3])
                for states in (key_states, value_states)
            ]
            self.is_initialized = True
        if self.filling is not None:
            place = slice(self._length - key_states.shape[2], self._length)
            for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[self.filling, :, place] = (
                    states if self.counts is None else states.repeat_interleave(self.counts, 0)
                )
            return key_states, value_states
        place = slice(self._length, self._length + key_states.shape[2])
        self._buffers[0][:, :, place] = key_states
        self._buffers[1][:, :, place] = value_states
        self._length = place.stop
        keys, values = (buffer[:, :, self._start : self._length] for buffer in self._buffers)
        return keys, values

    def get_seq_length(self) -> int:
        return 0 if self.filling is not None else self._length - self._start

    def show(self, count: int) -> None:
        """Let the next token attend to the last `count` positions only, and make room for it."""
        if self._length == self._capacity:
            kept = max(count, self._longest)  # prompts as long as the first are still to be filled in
            for buffer in self._buffers:
                # The ranges overlap, so the positions are copied twice.
                buffer[:, :, :kept] = buffer[:, :, self._length - kept :].clone()
            self._length = kept
        self._start = self._length - count

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows with these ascending indices."""
        for place, buffer in enumerate(self._buffers):
            kept = buffer[: len(indices)]
            kept[:, :, : self._length] = buffer[indices, :, : self._length]
            self._buffers[place] = kept


class BufferedCache(Cache):
    """The cache of a whole model; arguments as for `BufferedLayer`."""

    def __init__(self, config: PreTrainedConfig, rows: int, length: int, capacity: int) -> None:
        count = len(DynamicCache(config=config).layers)
        self._buffered: Sequence[BufferedLayer] = [BufferedLayer(rows, length, capacity) for _ in range(count)]
        super().__init__(layers=list(self._buffered))

    def show(self, count: int) -> None:
        """Let the next token attend to the last `count` positions only, and make room for it."""
        for layer in self._buffered:
            layer.show(count)

    def fill(self, rows: slice | Tensor | None, counts: Tensor | None = None) -> None:
        """Announce the prompts of these rows, `counts` (prompts,) of them each; with None, the next tokens of all."""
        for layer in self._buffered:
            layer.filling, layer.counts = rows, counts
