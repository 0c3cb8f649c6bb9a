"""Clips of a handwritten digit that moves over a black ground, bounces off its edges and is pushed at random."""

import dataclasses

import numpy as np

from hvae_jax.data.dataset import Dataset, Split, integer
from hvae_jax.data.prepare import uniform_words
from hvae_jax.data.rows import LazyRows, hashed
from hvae_jax.data.sklearn_digits import digits
from hvae_jax.records import checked

MOVING = "moving_digits"
"""Name of the data set."""
CLIPS = {"train": 8_000, "validation": 1_000, "test": 1_000}
"""Clips in each split."""
SIDE = 8
"""Height and width of a digit."""
FASTEST = 2
"""Largest speed on each axis, pixels a frame."""
PUSHES = np.array([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)])
"""Change of the speed (rows, columns) by each action: none, left, right, up, down."""


def moving_digits(frames: int = 4, size: int = 16, seed: int = 0) -> Dataset:
    """Clips of one of scikit-learn's 8x8 digits moving over a square, made when they are read; values 0..16.

    x is a strip, the frames side by side: `[N, size, frames * size, 1]` uint8. 8,000 train, 1,000 validation and 1,000
    test clips, whose digits are those of the same split of `digits`, so that the writers differ. Place and speed (-2 to
    2 pixels a frame on each axis) are drawn uniformly. Before each frame but the first the digit is pushed: one of five
    actions, drawn uniformly, changes the speed by a pixel a frame left, right, up or down, within its limits, or leaves
    it; then the digit moves, and bounces off the edges. y is the action before the last frame, 0..4. Without it, the
    other frames leave up to log 5 = 1.6 nats of the last frame open.

    A clip is a function of frames, size, seed, split and row alone.

    Args:
      frames: frames in a clip.
      size: height and width of a frame.
      seed: seed of places, speeds and actions.
    Raises ValueError for fewer than 2 frames or more than 64, or a size below 9 or above 128.

    Example:
        >>> hv.data.moving_digits(frames=2).event  # two frames of 16x16 side by side
        (16, 32, 1)
    """
    for name, value, least, most in (("frames", frames, 2, 64), ("size", size, SIDE + 1, 128)):
        if not least <= value <= most:
            raise ValueError(f"moving_digits({name}={value}): it has to be from {least} to {most}.")
    source = digits().splits
    splits = {}
    for number, (part, count) in enumerate(CLIPS.items()):
        rows = Clips(source[part].x[..., 0], count, frames, size, seed + (number << 64))
        splits[part] = Split(rows, rows.course(np.arange(count))[2][:, -1].astype(np.int32))
    protocol = f"clips of {frames} frames made from scikit-learn's digits, seed {seed}; y is the last action"
    return Dataset(f"{MOVING}:{frames}", splits, integer(17), protocol)


@dataclasses.dataclass(frozen=True, eq=False)
@checked
class Clips(LazyRows):
    """The clips of one split, made when they are read.

    Attributes:
      pictures: digits `[D, 8, 8]` uint8.
      count: number of clips.
      frames, size: as in `moving_digits`.
      key: key of the generator.
    """

    pictures: np.ndarray
    count: int
    frames: int
    size: int
    key: int

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, size, frames * size, 1)`."""
        return (self.count, self.size, self.frames * self.size, 1)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def fingerprint(self) -> str:
        """A hash of what is read."""
        return hashed([repr((self.count, self.frames, self.size, self.key)), self.pictures.tobytes().hex()])

    def course(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Digits `[n]`, places of their upper left corners `[n, frames, 2]` and actions `[n, frames - 1]` of rows."""
        words = uniform_words(numbers, 5 + self.frames - 1, self.key).astype(np.uint64)
        room = self.size - SIDE + 1  # number of places along an axis
        limits = np.array(
            [len(self.pictures), room, room, *(2 * FASTEST + 1,) * 2, *(len(PUSHES),) * (self.frames - 1)]
        )
        drawn = (words * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)  # uniform in 0..limit-1
        place, speed, actions = drawn[:, 1:3], drawn[:, 3:5] - FASTEST, drawn[:, 5:]
        places = [place]
        for step in range(self.frames - 1):
            speed = np.clip(speed + PUSHES[actions[:, step]], -FASTEST, FASTEST)
            moved = place + speed
            # reflected at both edges; a speed is less than the room but for the smallest sizes, hence the clip
            place = np.clip(
                np.where(moved < 0, -moved, np.where(moved >= room, 2 * (room - 1) - moved, moved)), 0, room - 1
            )
            speed = np.where(moved == place, speed, -speed)
            places.append(place)
        return drawn[:, 0], np.stack(places, axis=1), actions

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The clips with these row numbers, `[n, size, frames * size, 1]`."""
        which, places, _ = self.course(numbers)
        out = np.zeros((len(numbers), self.frames, self.size, self.size), np.uint8)
        n, f = np.ogrid[: len(numbers), : self.frames]
        within = np.arange(SIDE)
        rows = places[:, :, 0, None, None] + within[:, None]  # [n, frames, 8, 1]
        columns = places[:, :, 1, None, None] + within  # [n, frames, 1, 8]
        out[n[..., None, None], f[..., None, None], rows, columns] = self.pictures[which][:, None]
        return out.transpose(0, 2, 1, 3).reshape(len(numbers), *self.shape[1:])


def frames_of(name: str) -> int | None:
    """The number of frames that a data set's name asks for, "moving_digits" (4) or "moving_digits:6"; None for another.

    Raises ValueError for what is no number of frames.
    """
    if name == MOVING:
        return 4
    if not name.startswith(f"{MOVING}:"):
        return None
    frames = name.partition(":")[2]
    if not frames.isdecimal():
        raise ValueError(f"{name!r}: the number of frames is {frames!r}, but a whole number is needed: {MOVING}:4.")
    return int(frames)
