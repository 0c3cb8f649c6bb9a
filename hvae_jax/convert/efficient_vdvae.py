"""Weights of Efficient-VDVAE, Rayhane-mamah/Efficient-VDVAE at f779c40, as `EfficientVDVAE`.

Reads the `state_dict()` of its PyTorch tree, and the parameters of its JAX tree, nested or with names joined by "/" or
".". Levels, blocks, widths, kernels, strides and latents are read off the arrays. A pool after the last level, whose
output nothing reads, is left out.

That code's loss is in nats per dimension, and the standard beta of its scales is 0.6931472, seven digits of log 2. With
`distribution_base="logstd"` its JAX tree leaves beta out of one term of the KL, which is then no KL; here it is one.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hvae_jax import models
from hvae_jax.convert.converter import Converter, Preset
from hvae_jax.convert.efficient_trees import TREES, TorchTree, blocks_of, entries
from hvae_jax.convert.state_dict import (
    Entry,
    MisfitError,
    Misfits,
    enumerated,
    size,
    template_of,
    to_variables,
    unwrapped,
)
from hvae_jax.likelihoods import Bernoulli, Likelihood, LogisticMixture
from hvae_jax.models import EfficientVDVAE
from hvae_jax.models.very_deep.efficient_levels import down_stages_of_levels, up_stages_of_levels
from hvae_jax.networks.scale_head import ScaleHead
from hvae_jax.records import checked

BETA = 0.6931472
_MOST = 6  # largest number of remarks on widths in an error

Base = Literal["std", "logstd"]
# the form of `ScaleHead` for each base
FORMS: Mapping[str, Literal["softplus_std", "log_std"]] = {"std": "softplus_std", "logstd": "log_std"}

# The ImageNets of this code are the box-filtered ones.
PRESETS: dict[str, Preset] = {
    "mnist": Preset(models.efficient_vdvae_mnist, "binary MNIST, 70 million parameters", "mnist", binarise="dynamic"),
    "cifar10": Preset(models.efficient_vdvae_cifar10, "CIFAR-10, 57 million parameters", "cifar10"),
    "cifar10_C1": Preset(
        functools.partial(models.efficient_vdvae_cifar10, "C1"), "CIFAR-10, 18 million parameters", "cifar10"
    ),
    "imagenet32": Preset(models.efficient_vdvae_imagenet32, "ImageNet 32x32, 145 million parameters", "imagenet32"),
    "imagenet32_C1": Preset(
        functools.partial(models.efficient_vdvae_imagenet32, "C1"),
        "ImageNet 32x32, 52 million parameters",
        "imagenet32",
    ),
    "imagenet32_compact": Preset(
        functools.partial(models.efficient_vdvae_imagenet32, "compact"),
        "ImageNet 32x32, 20 million parameters",
        "imagenet32",
    ),
    "imagenet64": Preset(models.efficient_vdvae_imagenet64, "ImageNet 64x64, 168 million parameters", "imagenet64"),
    "imagenet64_C1": Preset(
        functools.partial(models.efficient_vdvae_imagenet64, "C1"),
        "ImageNet 64x64, 57 million parameters",
        "imagenet64",
    ),
    "imagenet64_compact": Preset(
        functools.partial(models.efficient_vdvae_imagenet64, "compact"),
        "ImageNet 64x64, 43 million parameters",
        "imagenet64",
    ),
    "celeba64": Preset(models.efficient_vdvae_celeba64, "CelebA 64x64, 131 million parameters", "celeb_a64"),
    "celeba64_compact": Preset(
        functools.partial(models.efficient_vdvae_celeba64, "compact"),
        "CelebA 64x64, 25 million parameters",
        "celeb_a64",
    ),
    "faces256": Preset(
        models.efficient_vdvae_faces256, "CelebA-HQ or FFHQ 256x256, 209 million parameters; give --data", None
    ),
    "faces256_compact": Preset(
        functools.partial(models.efficient_vdvae_faces256, "compact"),
        "CelebA-HQ or FFHQ 256x256, 71 million parameters; give --data",
        None,
    ),
    "faces256_5_bits": Preset(
        models.efficient_vdvae_faces256_5_bits,
        "CelebA-HQ or FFHQ 256x256 at 5 bits, 198 million parameters; give --data",
        None,
        bits=5,
    ),
    "faces256_5_bits_C1": Preset(
        functools.partial(models.efficient_vdvae_faces256_5_bits, "C1"),
        "CelebA-HQ or FFHQ 256x256 at 5 bits, 67 million parameters; give --data",
        None,
        bits=5,
    ),
    "faces1024": Preset(
        models.efficient_vdvae_faces1024, "CelebA-HQ or FFHQ 1024x1024, 76 million parameters; give --data", None
    ),
    "digits": Preset(models.efficient_vdvae_digits, "scikit-learn's digits, for two cores; not published", "digits"),
}


@dataclasses.dataclass(frozen=True)
@checked
class EfficientVDVAEOptions:
    """Settings of Efficient-VDVAE's code in which a file differs from its preset; None takes the preset's.

    Attributes:
      structure: "file" to read blocks and widths off the file; "preset" to refuse a file whose blocks or widths differ.
      distribution_base: output of the layer to a latent's scale: its standard deviation ("std") or the logarithm of it
        ("logstd").
      gradient_smoothing_beta: beta of the latents' scales.
      use_residual_distribution: whether posteriors are offsets from the priors.
      output_distribution_base: the likelihood's `distribution_base`.
      output_gradient_smoothing_beta: beta of the likelihood's scales.
      min_mol_logscale: lower bound of the likelihood's log scales.
    """

    structure: Literal["preset", "file"] = "preset"
    distribution_base: Base | None = None
    gradient_smoothing_beta: float | None = None
    use_residual_distribution: bool | None = None
    output_distribution_base: Base | None = None
    output_gradient_smoothing_beta: float | None = None
    min_mol_logscale: float | None = None


def read(
    arrays: Mapping[str, Any], preset: Preset | None, options: EfficientVDVAEOptions = EfficientVDVAEOptions()
) -> tuple[EfficientVDVAE, dict[str, Any]]:
    """(model, variables) of a file, with the preset's blocks and widths or with those of the file.

    The published files hold larger models than the published settings describe.

    Raises ValueError if there is no preset or arrays do not fit, as `efficient_vdvae` does.
    """
    if preset is None:
        raise ValueError("The weights of Efficient-VDVAE do not determine its scales and the data: give a preset.")
    model = _with_options(as_published(preset.model()), options)
    if options.structure == "preset":
        try:
            return model, variables_of(arrays, model)
        except MisfitError as error:
            raise MisfitError(
                f"{error} The preset has {model.num_levels} blocks on the top-down path: --structure file reads a file "
                "of other blocks or widths."
            ) from error
    family = model.likelihood
    bases: dict[str, str] = {form: base for base, form in FORMS.items()}
    settings: dict[str, Any] = {"likelihood": family, "pad": model.pad}
    if isinstance(family, LogisticMixture):  # the number of components is the file's
        settings = {
            "output_distribution_base": bases[family.head.form],
            "output_gradient_smoothing_beta": family.head.beta,
            "min_mol_logscale": family.min_log_scale,
            "num_bits": 8 if family.values == 256 else 5,
        }
    found, variables = efficient_vdvae(
        arrays,
        distribution_base=bases[model.head.form],
        gradient_smoothing_beta=model.head.beta,
        use_residual_distribution=model.residual_posterior,
        **settings,
    )
    if found.image != model.image:
        raise MisfitError(f"The file is of images {found.image}, the preset of {model.image}.")
    return found.clone(unroll=model.unroll, remat=model.remat), variables


def as_published(model: EfficientVDVAE) -> EfficientVDVAE:
    """A preset's model with the likelihood that Efficient-VDVAE's code trains and evaluates."""
    family = model.likelihood
    if not isinstance(family, LogisticMixture):
        return model
    form = "published" if family.values == 256 else "efficient_vdvae_5_bits"
    return model.clone(likelihood=dataclasses.replace(family, form=form))


def _with_options(model: EfficientVDVAE, options: EfficientVDVAEOptions) -> EfficientVDVAE:
    """The model with the given settings. Raises ValueError if there are scales for a likelihood that has none."""

    def given(**values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    base, output_base = options.distribution_base, options.output_distribution_base
    head = given(form=base and FORMS[base], beta=options.gradient_smoothing_beta)
    output_head = given(form=output_base and FORMS[output_base], beta=options.output_gradient_smoothing_beta)
    outputs = given(min_log_scale=options.min_mol_logscale)
    family = model.likelihood
    if isinstance(family, LogisticMixture):
        family = dataclasses.replace(family, **outputs, head=dataclasses.replace(family.head, **output_head))
    elif outputs or output_head:
        raise ValueError(f"Settings of the likelihood's scales were given, but {family} has none.")
    return model.clone(
        likelihood=family,
        head=dataclasses.replace(model.head, **head),
        **given(residual_posterior=options.use_residual_distribution),
    )


def efficient_vdvae(
    state_dict: Mapping[str, Any],
    *,
    distribution_base: str = "std",
    gradient_smoothing_beta: float = BETA,
    use_residual_distribution: bool = False,
    output_distribution_base: str = "std",
    output_gradient_smoothing_beta: float = BETA,
    min_mol_logscale: float = -250.0,
    num_bits: int | float = 8,
    likelihood: Likelihood | None = None,
    pad: int | None = None,
) -> tuple[EfficientVDVAE, dict[str, Any]]:
    """(model, variables) of a state dict; the model gives the numbers of the public code.

    Args:
      state_dict: arrays or CPU tensors by name, of either tree.
      distribution_base to num_bits: the settings of these names in Efficient-VDVAE's code. x is whole numbers here,
        0..31 with 5 bits.
      likelihood: None infers it from the number of outputs: Bernoulli if there is one for each channel, with images of
        28x28 in frames of 32x32; otherwise that code's mixture of discretised logistics.
      pad: zeros on each side of x; None takes 2 with one output for each channel, 0 otherwise.

    Raises ValueError if a base is unknown, num_bits is neither 5 nor 8, or the state dict does not fit, naming
    arrays that are missing, not expected or of another shape.
    """
    for name, base in (
        ("distribution_base", distribution_base),
        ("output_distribution_base", output_distribution_base),
    ):
        if base not in FORMS:
            raise ValueError(f"efficient_vdvae({name}={base!r}): {' or '.join(map(repr, FORMS))}.")
    if num_bits not in (5, 8):
        raise ValueError(f"efficient_vdvae(num_bits={num_bits}): 8 or 5.")
    num_bits = int(num_bits)  # settings of that code have it as a float
    arrays = _flat(state_dict)
    tree = _tree(arrays)
    outputs = size(arrays, tree.bias("top_down", "output_conv"))
    channels = tree.inputs(tree.conv("bottom_up", "input_conv"))
    mixtures = outputs // (3 * channels + 1)
    form = "published" if num_bits == 8 else "efficient_vdvae_5_bits"
    if likelihood is None and outputs == channels:
        likelihood, pad = Bernoulli(), 2 if pad is None else pad
    elif likelihood is None:
        likelihood = LogisticMixture(
            mixtures,
            2**num_bits,
            channels,
            min_mol_logscale,
            form,
            ScaleHead(FORMS[output_distribution_base], output_gradient_smoothing_beta),
        )
    tree.check_whole()
    levels = tree.levels()
    side = levels[1][-1].side - 2 * (pad or 0)
    last = tree.conv("top_down", "output_conv")
    ups, downs = up_stages_of_levels(levels[0]), down_stages_of_levels(levels[1], [up.skip for up in levels[0]][::-1])
    model = EfficientVDVAE(
        image=(side, side, channels),
        ups=ups,
        downs=downs,
        likelihood=likelihood,
        pad=pad or 0,
        head=ScaleHead(FORMS[distribution_base], gradient_smoothing_beta),
        residual_posterior=use_residual_distribution,
        stem_size=tree.kernel(tree.conv("bottom_up", "input_conv")),
        readout_size=tree.kernel(last),
        edge=_edge(tree),
    )
    return model, variables_of(state_dict, model)


def _is_jax(arrays: Mapping[str, Any]) -> bool:
    """Whether arrays have the names of the JAX tree."""
    return any("block_up_level" in name for name in arrays)


def _tree(arrays: Mapping[str, Any]) -> TorchTree:
    """The tree that arrays are of."""
    return TREES["jax" if _is_jax(arrays) else "torch"](arrays)


def _edge(tree: TorchTree) -> int | None:
    """Kernel size of the bottlenecks' first layers; None if it differs between levels."""
    levels = range(tree.number(lambda i: tree.up(i, None)))
    sizes = {tree.kernel(tree.cell_conv(tree.up(level, None), 0, 0)) for level in levels}
    return sizes.pop() if len(sizes) == 1 else None


def variables_of(state_dict: Mapping[str, Any], model: EfficientVDVAE) -> dict[str, Any]:
    """The variables of a known model, such as a preset's. Raises ValueError as `efficient_vdvae` does."""
    arrays = _flat(state_dict)
    tree, is_jax = _tree(arrays), _is_jax(arrays)
    unread = f"{tree.pool(tree.up(tree.number(lambda i: tree.up(i, None)) - 1, None))}."
    arrays = {name: value for name, value in arrays.items() if not name.startswith(unread)}
    template = template_of(model)
    if is_jax and isinstance(model.likelihood, LogisticMixture):
        arrays = _mixture_by_channel(arrays, model.image[2], model.likelihood.mixtures)
    table = dict(entries(model, tree))
    _check_blocks(tree, table, arrays, Misfits.of(arrays, table, template))
    return to_variables(arrays, table, template)


def _check_blocks(tree: TorchTree, table: Mapping[str, Entry], arrays: Mapping[str, Any], misfits: Misfits) -> None:
    """Check which blocks there are, and their widths.

    Raises ValueError naming blocks that are missing, not expected or of another width, and all other misfits.
    """
    wanted, found = blocks_of(table), blocks_of(arrays)
    remarks, odd = [], set()  # the arrays of odd blocks are not named one by one
    for way, name in (("bottom_up", "bottom-up"), ("top_down", "top-down")):
        here, there = ([block for block in blocks if block.startswith(way)] for blocks in (found, wanted))
        which = {
            "missing": [block for block in there if block not in found],
            "not expected": [block for block in here if block not in wanted],
        }
        parts = [f"{enumerated(blocks)} {what}" for what, blocks in which.items() if blocks]
        if parts:
            remarks.append(f"it has {len(here)} {name} blocks, the configuration {len(there)}: {', '.join(parts)}")
        odd |= {block for blocks in which.values() for block in blocks}
    widths = _widths_that_differ(tree, [block for block in wanted if block in found], misfits)
    odd |= {block for blocks, _ in widths for block in blocks}
    remarks += [remark for _, remark in widths[:_MOST]]
    remarks += [f"and {len(widths) - _MOST} such remarks more"] if len(widths) > _MOST else []
    if remarks:
        others = misfits.outside(f"{block}." for block in odd).listed()
        raise MisfitError(f"The state dict is of another configuration: {'; '.join(remarks)}. {others}".rstrip())


def _widths_that_differ(tree: TorchTree, blocks: list[str], misfits: Misfits) -> list[tuple[list[str], str]]:
    """Runs of blocks whose first layer has another shape than the configuration's, each with a remark for the error."""
    runs: dict[tuple[int, ...], list[str]] = {}
    for block in blocks:
        first = tree.cell_conv(block, 0, 0)
        if first in misfits.misshapen:
            trees = [type(tree)({first: np.broadcast_to(0, shape)}) for shape in misfits.misshapen[first]]
            sizes = tuple(size for one in trees for size in (one.inputs(first), one.outputs(first), one.kernel(first)))
            runs.setdefault(sizes, []).append(block)
    remarks = []
    for (width, middle, kernel, our_width, our_middle, our_kernel), which in runs.items():
        kernels = [f", and first kernels of {k}x{k}" if kernel != our_kernel else "" for k in (kernel, our_kernel)]
        have = "has" if len(which) == 1 else "have"
        remark = (
            f"{enumerated(which)} {have} width {width} and {middle} in between{kernels[0]}, where the configuration "
            f"has {our_width} and {our_middle}{kernels[1]}"
        )
        remarks.append((which, remark))
    return remarks


def _flat(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Names joined by ".", and as `unwrapped` gives them."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                add(f"{prefix}{name}.", inner)
        else:
            flat[prefix[:-1].replace("/", ".")] = value

    add("", state_dict)
    return unwrapped(flat)


def _mixture_by_channel(arrays: dict[str, Any], channels: int, mixtures: int) -> dict[str, Any]:
    """The JAX tree's arrays with the outputs of the last layer in the order of the PyTorch tree, which is ours."""
    carried = dict(arrays)
    for name in ("top_down.output_conv.conv.kernel", "top_down.output_conv.conv.bias"):
        value = np.asarray(arrays[name]) if name in arrays else None
        if value is not None and value.shape[-1] == mixtures * (3 * channels + 1):
            # after the M logits: [3 M, C] in the JAX tree, [C, 3 M] in the PyTorch tree
            rest = value[..., mixtures:].reshape(*value.shape[:-1], 3 * mixtures, channels)
            rest = rest.swapaxes(-1, -2).reshape(*value.shape[:-1], -1)
            carried[name] = np.concatenate([value[..., :mixtures], rest], axis=-1)
    return carried


CONVERTER = Converter(
    code="efficient_vdvae",
    about="Weights of Efficient-VDVAE (Hazami et al., 2022), Rayhane-mamah/Efficient-VDVAE; PyTorch's tree or JAX's.",
    marks=("bottom_up.", "top_down."),
    presets=PRESETS,
    options=EfficientVDVAEOptions,
    read=read,
    names=lambda arrays, model: (name for name, _ in entries(model, _tree(_flat(arrays)))),
    untold=("head", "residual_posterior"),
    needs_preset=True,
)
