"""`Codec`: arrays to bytes and back, without loss, by the bound of a model."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from hvae_jax.codec.bins import Bins, Gaussians
from hvae_jax.codec.container import Container, read_container
from hvae_jax.codec.order import Order, X, order_of
from hvae_jax.codec.program import Program, of_level
from hvae_jax.codec.streams import MOST_PRECISION, Stack, coder_library
from hvae_jax.codec.symbols import Pixels, check_discrete, check_values, pixels_of
from hvae_jax.likelihoods import Missing
from hvae_jax.runtime.errors import first_line
from hvae_jax.trace import Model

MOST_PRIOR_BITS = 18
_GRID_DRAWS = 512
_GRID_WIDTH = 2.0
"""Width of a fixed grid, in standard deviations of the prior's samples: their tails need bins too."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What was encoded, and what it took.

    Attributes:
      container: the contents of the file.
      net_bits: number of bits that the images added to the stack.
      initial_bits: number of bits that the first images popped from the reservoir, which the file holds beside the net
        bits.
      bound: log p(x | z) + log p(z) - log q(z | x) of each image at the latents that were coded, `[N]`, nats: the ELBO
        of these draws.
    """

    container: Container
    net_bits: int
    initial_bits: int
    bound: np.ndarray

    def to_bytes(self) -> bytes:
        """The file."""
        return self.container.to_bytes()

    @property
    def bound_bits(self) -> float:
        """-ELBO of all images in bits, to which the net bits compare."""
        return float(-self.bound.sum(dtype=np.float64) / math.log(2.0))

    @property
    def dimensions(self) -> int:
        """Number of elements of all images, the divisor of bits per dimension."""
        return math.prod(self.container.shape)


class Codec:
    """Lossless compression of whole numbers by a model with Gaussian levels and a discrete likelihood.

    Attributes:
      model, variables: the model.
      streams: largest number of images coded at once.
      initial: number of images in the first batch, which the reservoir feeds: fewer make a smaller file, more a faster
        start. Later batches have as many as the bits on the stack feed.
      prior_bits: b, where each latent has 2^b bins.
      precision: bits of the frequencies of decisions.
      seed: seed of the reservoir.

    Raises ValueError for settings out of range, a likelihood that is not discrete, levels that are not Gaussian, with
    their names; ImportError without constriction.

    Example:
        >>> model, x = hv.models.TopDownVAE((1,), hidden=2, likelihood=hv.Bernoulli()), np.ones((4, 6), np.uint8)
        >>> variables = jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1))
        >>> codec = hv.codec.Codec(model, variables)
        >>> bool((codec.decode(codec.encode(x).to_bytes()) == x).all())
        True
    """

    def __init__(
        self,
        model: Model,
        variables: Any,
        *,
        streams: int = 64,
        initial: int = 4,
        prior_bits: int = 12,
        precision: int = MOST_PRECISION,
        seed: int = 0,
    ) -> None:
        coder_library()
        model = _of_whole_images(model)
        check_discrete(model.likelihood)
        self.model, self.variables = model, variables
        self.streams, self.initial, self.seed = streams, initial, seed
        self.prior_bits, self.precision = prior_bits, precision
        _check_settings(streams, initial, prior_bits, precision, seed)
        self._programs: dict[tuple[tuple[int, ...], int], tuple[Program, Order, Mapping[int, Gaussians]]] = {}

    def replace(self, **changes: int) -> "Codec":
        """A codec with other settings that shares the compiled programs: `codec.replace(prior_bits=8, seed=1)`."""
        settings = {name: getattr(self, name) for name in ("streams", "initial", "prior_bits", "precision", "seed")}
        other = Codec(self.model, self.variables, **settings | changes)
        other._programs = self._programs
        return other

    def encode(self, x: Any, names: Sequence[str] = ()) -> Encoded:
        """Encode images.

        Args:
          x: whole numbers `[N, *event]`, of any dtype; those of another byte order than the machine's come back in its.
          names: names of the images, kept in the file; () for none.
        Raises ValueError for values that the likelihood does not have, missing ones (NaN) among them, and for another
        number of names than of images.
        """
        x = np.asarray(x)
        if x.ndim < 2 or not x.size:
            raise ValueError(f"x has shape {x.shape}, but it has to be a batch of at least one example, [N, ...].")
        if names and len(names) != len(x):
            raise ValueError(f"There are {len(names)} names for {len(x)} images: give one for each, or none.")
        assert self.model.likelihood is not None
        check_values(self.model.likelihood, x)
        # as decoding makes them, bit for bit: in the machine's byte order, and without a -0.0, which is coded as 0.0
        x = np.where(x == 0, x.dtype.type(0), x).astype(x.dtype.newbyteorder("="))
        program, order, grids = self._program(x.shape[1:], self.streams)
        stack = Stack(self.seed, self.precision)
        before, counts, blocks, bounds = stack.bits, [], [], []
        size = min(self.initial, self.streams)
        while (start := sum(counts)) < len(x):
            block = x[start : start + size]
            latents = sum(math.prod(shape) for shape in program.shapes)
            # half as much again as uniform bins take; what is not reached is not part of the file
            stack.provide(3 * self.prior_bits * latents * len(block) // 2 + 4096)
            stack.mark()
            batch = _Batch(program, order, stack, grids, self.prior_bits, len(block))
            bounds.append(batch.encode(block))
            counts.append(len(block))
            blocks.append(_block_hash(block))
            deepest = max(1.0, 1.05 * stack.dip / len(block))  # bits that one image needs at most
            size = int(np.clip(stack.above_lowest / deepest, 1, self.streams))
        container = Container(
            made_by=program.made_by,
            shape=x.shape,
            dtype=x.dtype.name,
            counts=tuple(counts),
            size=self.streams,
            prior_bits=self.prior_bits,
            precision=self.precision,
            seed=self.seed,
            reached=stack.reached,
            content=_content_hash(x),
            blocks=tuple(blocks),
            words=stack.words(),
            names=tuple(names),
        )
        return Encoded(container, stack.bits - before, 32 * stack.reached, np.concatenate(bounds))

    def decode(self, data: bytes | Container | Encoded, name: str = "the data") -> np.ndarray:
        """Decode what `encode` made: x `[N, *event]` in its dtype.

        Args:
          name: name of the file, for errors.
        Raises ValueError, before anything is decoded, for data that is damaged, of another model, or of a machine or
        library whose numbers are others; and if a decoded batch is not the one that was encoded.
        """
        found = data.container if isinstance(data, Encoded) else data
        found = read_container(found, name) if isinstance(found, bytes) else found
        _check_settings(found.size, 1, found.prior_bits, found.precision, found.seed)
        image = self.model.image
        if image is not None and tuple(image) != found.shape[1:]:
            raise ValueError(f"{name} holds images of {found.shape[1:]}, but the model's are {tuple(image)}.")
        try:
            program, order, grids = self._program(found.shape[1:], found.size)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} is of another model: images of {found.shape[1:]} do not fit ({first_line(error)})"
            ) from error
        check_made_by(found.made_by, program.made_by, name)
        stack = Stack(found.seed, found.precision, found.words)
        decoded: list[np.ndarray] = []
        for number in reversed(range(len(found.counts))):
            batch = _Batch(program, order, stack, grids, found.prior_bits, found.counts[number])
            block = batch.decode().astype(found.dtype)
            if _block_hash(block) != found.blocks[number]:
                raise ValueError(
                    f"{name}: batch {number + 1} of {len(found.counts)} was not decoded as it was encoded, so that "
                    "nothing is returned. The numbers of this machine differ from those of the one that wrote it."
                )
            decoded.append(block)
        x = np.concatenate(decoded[::-1])
        if _content_hash(x) != found.content or not stack.is_reservoir(found.reached):
            raise ValueError(f"{name}: what was decoded is not what was encoded, so that nothing is returned.")
        return x

    def _program(self, event: tuple[int, ...], size: int) -> tuple[Program, Order, Mapping[int, Gaussians]]:
        """The compiled program for images of this shape, this many at a time, its order and its fixed grids."""
        if (event, size) not in self._programs:
            program = Program(self.model, self.variables, event, size)
            order = order_of(program.dependencies, program.names)
            self._programs[event, size] = program, order, _fixed_grids(program, order)
        return self._programs[event, size]


def _of_whole_images(model: Model) -> Model:
    """A model of data with missing values as the one of whole images that it is where nothing is missing.

    `Missing` would also hide from the program which variables read x, since it puts a constant in place of NaN.
    """
    if not isinstance(model.likelihood, Missing):
        return model
    assert isinstance(model, nn.Module)
    return model.clone(likelihood=model.likelihood.of)


class _Batch:
    """One batch of images on its way: x and the latents that are known, zeros for the others."""

    def __init__(
        self, program: Program, order: Order, stack: Stack, grids: Mapping[int, Gaussians], bits: int, count: int
    ) -> None:
        self._program, self._order, self._stack, self._count = program, order, stack, count
        self._grids, self._bits = grids, bits
        self._x, self._latents = program.zeros()
        self._known: set[int] = set()
        self._ran: set[int] | None = None
        self._found: dict[str, Any] = {}

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Pop and push by x `[n, *event]`; returns the ELBO of these draws, `[n]`, nats."""
        self._set(X, x)
        numbers: dict[int, np.ndarray] = {}
        for operation in self._order.operations:
            level = operation.variable
            if operation.pops:
                bins, q = self._level(level, "q")
                numbers[level] = self._stack.pop(bins.cells(q))
                self._set(level, bins.z(numbers[level]))
            elif level == X:
                self._push_x(x.reshape(self._count, -1))
            elif self._order.by_prior[level]:
                self._stack.push_uniform(numbers[level], self._bits)
            else:
                bins, p = self._level(level, "p")
                self._stack.push(bins.cells(p), numbers[level])
        found = self._distributions(set(range(-1, len(self._latents))))
        bound = found["log_px"] + (found["log_p"] - found["log_q"]).sum(0)
        return np.asarray(bound)[: self._count]

    def decode(self) -> np.ndarray:
        """Undo `encode`: x `[n, *event]`, float32."""
        numbers: dict[int, np.ndarray] = {}
        for operation in reversed(self._order.operations):
            level = operation.variable
            if operation.pops:
                bins, q = self._level(level, "q")
                self._stack.push(bins.cells(q), numbers[level])
            elif level == X:
                self._set(X, self._pop_x())
            else:
                bins, p = self._level(level, "p")
                if self._order.by_prior[level]:
                    numbers[level] = self._stack.pop_uniform(p.mean.size, self._bits)
                else:
                    numbers[level] = self._stack.pop(bins.cells(p))
                self._set(level, bins.z(numbers[level]))
        return self._x[: self._count]

    def _set(self, variable: int, values: np.ndarray) -> None:
        """Make a variable known; rows beyond those of the batch stay zero."""
        array = self._x if variable == X else self._latents[variable]
        array[: self._count] = values.reshape(self._count, *array.shape[1:])
        self._known.add(variable)

    def _distributions(self, needs: set[int] | frozenset[int]) -> dict[str, Any]:
        """The program's numbers, computed anew if a needed variable was not known at the last run."""
        if self._ran is None or not needs <= self._ran:
            assert needs <= self._known, "a distribution was asked for before what it depends on"
            # copies, since a CPU's program may read an array in place, while the next level is written into it
            self._found = self._program(self._x.copy(), [z.copy() for z in self._latents])
            self._ran = set(self._known)
        return self._found

    def _level(self, level: int, kind: str) -> tuple[Bins, Gaussians]:
        """The bins of a level, and its q or p."""
        depends = self._program.dependencies
        needs = depends.posteriors[level] if kind == "q" else depends.priors[level]
        by_prior = self._order.by_prior[level]
        if by_prior:
            needs = needs | depends.priors[level]
        found = self._distributions(needs)
        prior = of_level(found, "p", level, self._count)
        fixed = self._grids.get(level)
        grid = prior if fixed is None else fixed.repeated(self._count)
        return Bins(grid, self._bits), of_level(found, kind, level, self._count)

    def _pixels(self) -> Pixels:
        """The code of p(x | z)."""
        record = self._distributions(self._program.dependencies.likelihood)["x"]
        rows = self._count

        def conditional(x: np.ndarray, element: int) -> Any:
            whole = np.zeros_like(self._x)
            whole[:rows] = x.reshape(rows, *whole.shape[1:])
            return _rows(self._program.conditional(record, whole, element), rows)

        return pixels_of(_rows(record, rows), conditional)

    def _push_x(self, x: np.ndarray) -> None:
        pixels = self._pixels()
        for part in reversed(range(pixels.parts)):
            chosen = x[:, pixels.elements(part)]
            self._stack.push(pixels.cells(part, x.astype(np.float32)), chosen.astype(np.int64).ravel())

    def _pop_x(self) -> np.ndarray:
        pixels = self._pixels()
        x = np.zeros((self._count, math.prod(self._program.event)), np.float32)
        for part in range(pixels.parts):
            found = self._stack.pop(pixels.cells(part, x))
            x[:, pixels.elements(part)] = found.reshape(self._count, -1)
        return x


def _rows(record: Any, rows: int) -> Any:
    """The first rows of a record's arrays, as NumPy arrays; the weights of a PixelCNN lose rows that nothing reads."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:rows], record)


def _fixed_grids(program: Program, order: Order) -> dict[int, Gaussians]:
    """Grids N(m, (2 s)^2), m and s the mean and standard deviation of each latent over samples of the prior.

    The samples are drawn level by level from noise of a fixed seed, by the same program.
    """
    wanted = [level for level, by_prior in enumerate(order.by_prior) if not by_prior]
    if not wanted:
        return {}
    rng, samples = np.random.Generator(np.random.PCG64(0)), []
    # parents before children: the pushes backwards
    down = [operation.variable for operation in reversed(order.operations) if not operation.pops]
    for _ in range(max(1, -(-_GRID_DRAWS // program.size))):
        x, latents = program.zeros()
        for level in (level for level in down if level != X):
            p = of_level(program(x, [z.copy() for z in latents]), "p", level, program.size)
            latents[level][:] = p.mean + p.std * rng.standard_normal(p.mean.shape)
        samples.append([latents[level] for level in wanted])
    grids = {}
    for level, parts in zip(wanted, zip(*samples, strict=True), strict=True):
        z = np.concatenate(parts).astype(np.float64)
        std = np.maximum(_GRID_WIDTH * z.std(0), 1e-6)
        grids[level] = Gaussians(z.mean(0).astype(np.float32), np.log(std).astype(np.float32))
    return grids


def check_made_by(written: Mapping[str, str], here: Mapping[str, str], name: str) -> None:
    """Raises ValueError, naming what differs, if a file was written by another model, library or machine."""
    differing = [key for key in here if written.get(key) != here[key]]
    if not differing:
        return
    models = ("parameters", "program", "arithmetic")
    others = [key for key in differing if key not in models]
    if others:
        key = others[0]
        raise ValueError(
            f"{name} was written with {key} {written.get(key)}, but here it is {here[key]}: decoding needs the very "
            "numbers that encoding computed. Decode it where it was written."
        )
    if "parameters" in differing or "program" in differing:
        what = "parameters" if "parameters" in differing else "settings"
        raise ValueError(f"{name} is of another model: the {what} are not those that it was written with.")
    raise ValueError(
        f"{name} was written by a machine that computes other numbers than this one, though libraries and model are "
        "the same. Decode it where it was written."
    )


def _check_settings(streams: int, initial: int, prior_bits: int, precision: int, seed: int) -> None:
    """Raises ValueError for a setting out of range."""
    for what, number, low, high in (
        ("streams", streams, 1, 4096),
        ("initial", initial, 1, 4096),
        ("prior_bits", prior_bits, 1, MOST_PRIOR_BITS),
        ("precision", precision, 8, MOST_PRECISION),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not low <= number <= high:
            raise ValueError(f"{what} is {number}, but it has to be from {low} to {high}.")


def _block_hash(x: np.ndarray) -> str:
    return hashlib.blake2b(np.asarray(x, order="C").tobytes(), digest_size=4).hexdigest()


def _content_hash(x: np.ndarray) -> str:
    described = f"{x.dtype} {x.shape} ".encode()
    return hashlib.sha256(described + np.asarray(x, order="C").tobytes()).hexdigest()[:32]
