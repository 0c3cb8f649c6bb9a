"""Stages of BIVA and of the models it is compared with: latents, blocks, resolutions, and the published settings."""

import dataclasses

from hvae_jax.records import checked


@dataclasses.dataclass(frozen=True)
@checked
class Stage:
    """The latents of one stage, and the gated blocks between them and the stage below, or x.

    Attributes:
      latents: size of each latent vector, or number of channels of each latent feature map.
      blocks: (channels, kernel size, stride) of each block on the way up. The way down has the same blocks in reverse
        order, and upsamples where the way up has a stride.
      kernel: kernel size of the convolutions to a latent's mean and log variance; None makes the latents vectors, from
        linear layers.

    Raises ValueError if there are no blocks, a block does not have three numbers, or a number is below 1.

    Example:
        >>> stage = hv.models.Stage(latents=8, blocks=((64, 3, 1), (64, 3, 2)))
        >>> stage.channels, stage.last_kernel
        (64, 3)
    """

    latents: int
    blocks: tuple[tuple[int, int, int], ...]
    kernel: int | None = None

    def __post_init__(self) -> None:
        sizes = [self.latents, *(size for block in self.blocks for size in block)]
        sizes += [] if self.kernel is None else [self.kernel]
        if not self.blocks or min(sizes) < 1:
            raise ValueError(
                f"{self}: at least one block, each (channels, kernel size, stride), and every number 1 or more."
            )

    @property
    def channels(self) -> int:
        """Channels of the feature maps that the latents are inferred from."""
        return self.blocks[-1][0]

    @property
    def last_kernel(self) -> int:
        """Kernel size of the last block on the way up."""
        return self.blocks[-1][1]


def sides(image: tuple[int, ...], pad: int, stages: tuple[Stage, ...]) -> tuple[tuple[int, int], ...]:
    """Return height and width of each stage's feature maps, top first as the stages are.

    Example:
        >>> from hvae_jax.models.biva import mnist_stages, sides
        >>> sides((28, 28, 1), 0, mnist_stages())  # halved by the stage next to x, and by the top one
        ((7, 7), (14, 14), (14, 14), (14, 14), (14, 14), (14, 14))
    """
    rows, columns = (side + 2 * pad for side in image[:2])
    # Stages are listed top first, and resolutions follow from x at the bottom.
    found: list[tuple[int, int]] = []
    for stage in reversed(stages):  # from x up
        for _, _, stride in stage.blocks:
            rows, columns = rows // stride, columns // stride
        found.append((rows, columns))
    return tuple(reversed(found))


def check_stages(owner: str, image: tuple[int, ...], pad: int, stages: tuple[Stage, ...]) -> None:
    """Check that the stages fit the image.

    Raises ValueError, naming `owner`, if there are no stages, image is not three positive numbers, pad is negative, or
    a stride does not divide the resolution of its block's input.
    """
    if min(image) < 1 or pad < 0:
        raise ValueError(
            f"{owner}(image={image}, pad={pad}): image is height, width and channels of one x, and pad is 0 or more."
        )
    if not stages:
        raise ValueError(f"{owner}(stages=()): at least one stage is needed, such as {Stage(8, ((64, 3, 2),))}.")
    # The frame is part of what the strides divide.
    rows, columns = (side + 2 * pad for side in image[:2])
    for stage in reversed(stages):
        if not isinstance(stage, Stage):
            raise ValueError(f"{owner}(stages=...) has {stage!r}: it has to be a Stage, {Stage(8, ((64, 3, 2),))} say.")
        for _, _, stride in stage.blocks:
            if rows % stride or columns % stride:
                raise ValueError(
                    f"{owner}(image={image}, pad={pad}): a block of stride {stride} in {stage} meets feature maps of "
                    f"{rows}x{columns}, which it does not divide. Pad or resize x, or change the strides."
                )
            rows, columns = rows // stride, columns // stride


def mnist_stages() -> tuple[Stage, ...]:
    """The six published stages for 28x28 images: latent vectors of 8 to 48, three blocks of 64 channels each.

    Example:
        >>> from hvae_jax.models.biva import mnist_stages
        >>> [stage.latents for stage in mnist_stages()]
        [8, 16, 24, 32, 40, 48]
    """
    return (
        Stage(8, ((64, 3, 1), (64, 3, 1), (64, 3, 2))),
        *(Stage(size, ((64, 3, 1),) * 3) for size in (16, 24, 32, 40)),
        Stage(48, ((64, 5, 1), (64, 5, 1), (64, 5, 2))),
    )


def cifar10_stages() -> tuple[Stage, ...]:
    """The fifteen published stages for 32x32 images, with latent maps and three blocks of 96 channels each.

    The latents have 10 to 38 channels at 4x4, 8x8 and 16x16. The kernels to their means and log variances are as large
    as the maps.

    Example:
        >>> from hvae_jax.models.biva import cifar10_stages
        >>> [stage.latents for stage in cifar10_stages()][:5]
        [10, 12, 14, 16, 18]
    """
    even, halving = ((96, 3, 1),) * 3, ((96, 3, 1), (96, 3, 1), (96, 3, 2))
    return (
        Stage(10, halving, 4),
        *(Stage(size, even, 8) for size in (12, 14, 16)),
        Stage(18, halving, 8),
        *(Stage(size, even, 16) for size in range(20, 38, 2)),
        Stage(38, ((96, 5, 1), (96, 5, 1), (96, 5, 2)), 16),
    )
