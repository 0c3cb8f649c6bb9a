"""The stack of bits: asymmetric numeral systems of `constriction` over whole numbers, and a reservoir below.

Bits back pops before anything was pushed. What the first images pop comes from the reservoir, pseudo-random words below
the stack that both sides make from a seed. Words of it that were never reached are not part of a file.
"""

import importlib
from typing import Any

import numpy as np

from hvae_jax.codec.halving import Halving

WORD = 32
"""Bits of a word."""
STATE_WORDS = 2
"""Words of the coder's state, which lie on top of the words that it has put down."""
MOST_PRECISION = 24
"""Bits of constriction's frequencies: no probability of a decision is below 2^-24."""


def coder_library() -> Any:
    """constriction's module of stream codes. Raises ImportError, with the command that installs it."""
    try:
        library: Any = importlib.import_module("constriction")
    except ImportError as error:
        raise ImportError("The codec needs constriction: pip install 'constriction>=0.5,<0.6'.") from error
    return library.stream


def frequencies(p: np.ndarray, precision: int) -> np.ndarray:
    """Probabilities as multiples k 2^-precision with 0 < k < 2^precision: the only place where they are rounded."""
    scale = float(1 << precision)
    return np.clip(np.rint(p * scale), 1.0, scale - 1.0) / scale


def reservoir(seed: int, words: int) -> np.ndarray:
    """The first words below the stack, uint32 `[words]`, the nearest one last.

    More words with the same seed continue at the front. They are raw output of NumPy's PCG64, which does not change
    between versions.
    """
    raw = np.random.PCG64(seed).random_raw(words)
    found = (np.atleast_1d(raw) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    found[:1] |= np.uint32(1)  # the top word of a stack must not be zero
    return found[::-1].copy()


class Stack:
    """A stack of bits that begins with a reservoir, or with the words of a file."""

    def __init__(self, seed: int, precision: int, words: np.ndarray | None = None) -> None:
        """Begin a stack.

        Args:
          seed: seed of the reservoir.
          precision: bits of the frequencies of decisions, at most 24.
          words: words of a file, which hold what was reached of the reservoir; None for an empty stack.
        """
        streams = coder_library()
        self._seed, self._precision, self._models = seed, precision, streams.model
        self._decision = streams.model.Bernoulli(perfect=False)
        self._make = streams.stack.AnsCoder
        self._below = 0 if words is not None else STATE_WORDS  # words of the reservoir under the coder
        self._coder = self._make(reservoir(seed, STATE_WORDS) if words is None else words)
        self._lowest = self._coder.num_words()
        self.mark()

    def mark(self) -> None:
        """Begin to measure `dip` here."""
        self._marked = self._dipped = self._coder.num_words()

    @property
    def dip(self) -> int:
        """How far below the mark the stack has been since, bits."""
        return WORD * (self._marked - self._dipped)

    def provide(self, bits: int) -> None:
        """Let the reservoir reach deep enough that so many bits can be popped."""
        missing = -(-bits // WORD) + STATE_WORDS - self._coder.num_words()
        if missing > 0:
            deeper = reservoir(self._seed, self._below + missing)[:missing]
            self._coder = self._make(np.concatenate([deeper, self._coder.get_compressed()]))
            self._below, self._lowest = self._below + missing, self._lowest + missing

    @property
    def bits(self) -> int:
        """Length above the whole reservoir, bits; negative if more was popped than pushed."""
        return self._coder.num_valid_bits() - WORD * self._below

    @property
    def above_lowest(self) -> int:
        """How many bits can be popped before untouched words of the reservoir are reached."""
        return WORD * (self._coder.num_words() - self._lowest)

    @property
    def reached(self) -> int:
        """Number of words of the reservoir that were reached."""
        return self._below - max(0, self._lowest - STATE_WORDS)

    def words(self) -> np.ndarray:
        """All words but those of the reservoir that were never reached, uint32."""
        return self._coder.get_compressed()[self._below - self.reached :]

    def is_reservoir(self, reached: int) -> bool:
        """Whether the stack holds the last `reached` words of the reservoir and nothing else: all was undone."""
        words = self._coder.get_compressed()
        return len(words) == reached and np.array_equal(words, reservoir(self._seed, reached))

    def push(self, cells: Halving, numbers: np.ndarray) -> None:
        """Push whole numbers by the probabilities of their halvings."""
        decisions = []
        for digit in reversed(range(cells.bits)):
            upper = (numbers >> digit & 1).astype(np.int32)
            decisions.append((upper, frequencies(cells.upper(), self._precision)))
            cells.go(upper)
        for upper, p in reversed(decisions):
            self._coder.encode_reverse(upper, self._decision, p)

    def pop(self, cells: Halving) -> np.ndarray:
        """Pop whole numbers, int64 `[n]`, that `push` with the same cells puts back."""
        for _ in range(cells.bits):
            cells.go(self._coder.decode(self._decision, frequencies(cells.upper(), self._precision)))
        self._popped()
        return cells.found

    def push_uniform(self, numbers: np.ndarray, bits: int) -> None:
        """Push whole numbers of so many equally likely bits."""
        self._coder.encode_reverse(numbers.astype(np.int32), self._models.Uniform(1 << bits))

    def pop_uniform(self, count: int, bits: int) -> np.ndarray:
        """Pop `count` whole numbers of so many equally likely bits, int64."""
        found = self._coder.decode(self._models.Uniform(1 << bits), count)
        self._popped()
        return found.astype(np.int64)

    def _popped(self) -> None:
        """Remember how low the stack is. Raises ValueError if it ran dry: what follows could not be undone."""
        if self._coder.num_words() < STATE_WORDS:
            raise ValueError("The stack of bits ran dry: it does not hold what was encoded.")
        self._lowest = min(self._lowest, self._coder.num_words())
        self._dipped = min(self._dipped, self._coder.num_words())
