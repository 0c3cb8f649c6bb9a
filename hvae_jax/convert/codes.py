"""What was published, by preset: from the arrays of a file to a model that scores as its public code did.

The presets of `models` have exact likelihoods, and VDVAE's has a clamp. Those that are made here have the form of
likelihood that the weights were trained and measured with, and no clamp, so that published numbers come out again.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from hvae_jax import models
from hvae_jax.convert import efficient_vdvae as efficient
from hvae_jax.convert import vdvae as deep
from hvae_jax.convert.efficient_vdvae import FORMS
from hvae_jax.likelihoods import Likelihood, LogisticMixture, Quantised
from hvae_jax.models import VDVAE, EfficientVDVAE
from hvae_jax.models.very_deep.block_strings import down_string, up_string

Code = Literal["vdvae", "efficient_vdvae"]
Structure = Literal["preset", "file"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published configuration.

    Attributes:
      make: the model as `models` has it.
      data: the data set of its numbers, by name; None where it is not one of ours and has to be given.
      bits: of each pixel that x keeps.
      binarise: as `data.load` takes it.
    """

    make: Callable[[], Any]
    data: str | None
    bits: int = 8
    binarise: str | None = None


@dataclasses.dataclass(frozen=True)
class Unsaid:
    """Settings of a public code that no weight tells, by their names there. None is the preset's.

    Attributes:
      no_bias_above: of vdvae, the largest side whose maps begin with a learned one.
      distribution_base: of efficient_vdvae, as are those below.
      gradient_smoothing_beta: of the latents' scales.
      use_residual_distribution: whether posteriors are offsets from priors.
      output_distribution_base: of the likelihood's scales.
      output_gradient_smoothing_beta: of these.
      min_mol_logscale: where their logarithms are cut off.
    """

    no_bias_above: int | None = None
    distribution_base: Literal["std", "logstd"] | None = None
    gradient_smoothing_beta: float | None = None
    use_residual_distribution: bool | None = None
    output_distribution_base: Literal["std", "logstd"] | None = None
    output_gradient_smoothing_beta: float | None = None
    min_mol_logscale: float | None = None

    def check(self, code: Code) -> None:
        """Raises ValueError for a setting of the other code."""
        given = {name for name, value in vars(self).items() if value is not None}
        wrong = given - {"no_bias_above"} if code == "vdvae" else given & {"no_bias_above"}
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))} is not a setting of {code}.")

    def applied(self, model: Any) -> Any:
        """The model with these in place of its own."""

        def given(**values: Any) -> dict[str, Any]:
            return {name: value for name, value in values.items() if value is not None}

        if isinstance(model, VDVAE):
            return model.clone(**given(no_bias_above=self.no_bias_above))
        scale = given(form=FORMS.get(self.output_distribution_base), beta=self.output_gradient_smoothing_beta)
        outputs = given(min_log_scale=self.min_mol_logscale)
        if scale and isinstance(model.likelihood, LogisticMixture):
            outputs["head"] = dataclasses.replace(model.likelihood.head, **scale)
        if (outputs or scale) and not isinstance(model.likelihood, LogisticMixture):
            raise ValueError(f"Settings of the likelihood's scales were given, but {model.likelihood} has none.")
        return model.clone(
            likelihood=dataclasses.replace(model.likelihood, **outputs) if outputs else model.likelihood,
            head=dataclasses.replace(
                model.head, **given(form=FORMS.get(self.distribution_base), beta=self.gradient_smoothing_beta)
            ),
            **given(residual_posterior=self.use_residual_distribution),
        )


THE_PRESETS = Unsaid()

# VDVAE's ImageNets are van den Oord's, Efficient-VDVAE's the box-filtered ones.
PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "vdvae": {
        "cifar10": Preset(models.vdvae_cifar10, "cifar10"),
        "imagenet32": Preset(models.vdvae_imagenet32, "downsampled_imagenet32"),
        "imagenet64": Preset(models.vdvae_imagenet64, "downsampled_imagenet64"),
        "ffhq256": Preset(models.vdvae_ffhq256, None),  # its way up sees 8 bits: see `Quantised`
        "ffhq1024": Preset(models.vdvae_ffhq1024, None),
        "digits": Preset(models.vdvae_digits, "digits"),
        "mnist": Preset(models.vdvae_mnist, "mnist", binarise="dynamic"),
        "cifar10_small": Preset(models.vdvae_cifar10_small, "cifar10"),
    },
    "efficient_vdvae": {
        "mnist": Preset(models.efficient_vdvae_mnist, "mnist", binarise="dynamic"),
        "digits": Preset(models.efficient_vdvae_digits, "digits"),
        "cifar10": Preset(models.efficient_vdvae_cifar10, "cifar10"),
        "cifar10_C1": Preset(functools.partial(models.efficient_vdvae_cifar10, "C1"), "cifar10"),
        "imagenet32": Preset(models.efficient_vdvae_imagenet32, "imagenet32"),
        "imagenet32_C1": Preset(functools.partial(models.efficient_vdvae_imagenet32, "C1"), "imagenet32"),
        "imagenet32_compact": Preset(functools.partial(models.efficient_vdvae_imagenet32, "compact"), "imagenet32"),
        "imagenet64": Preset(models.efficient_vdvae_imagenet64, "imagenet64"),
        "imagenet64_C1": Preset(functools.partial(models.efficient_vdvae_imagenet64, "C1"), "imagenet64"),
        "imagenet64_compact": Preset(functools.partial(models.efficient_vdvae_imagenet64, "compact"), "imagenet64"),
        "celeba64": Preset(models.efficient_vdvae_celeba64, "celeb_a64"),
        "celeba64_compact": Preset(functools.partial(models.efficient_vdvae_celeba64, "compact"), "celeb_a64"),
        "faces256": Preset(models.efficient_vdvae_faces256, None),
        "faces256_compact": Preset(functools.partial(models.efficient_vdvae_faces256, "compact"), None),
        "faces256_5_bits": Preset(models.efficient_vdvae_faces256_5_bits, None, bits=5),
        "faces256_5_bits_C1": Preset(functools.partial(models.efficient_vdvae_faces256_5_bits, "C1"), None, bits=5),
        "faces1024": Preset(models.efficient_vdvae_faces1024, None),
    },
}


def preset_of(code: str, name: str | None) -> Preset:
    """A preset by name. Raises ValueError that names the known ones."""
    known = PRESETS[code]
    if name is None or name not in known:
        given = "It has to be said which configuration the file is of" if name is None else f"Unknown preset {name!r}"
        raise ValueError(f"{given}: --preset is one of {', '.join(known)} for {code}.")
    return known[name]


def as_published(model: Any) -> Any:
    """A model of a preset with the likelihood that its public code trains and measures, and without a clamp.

    A `VDVAE` of 32 values becomes one of 256 of which the leading five bits are scored, as FFHQ-256 was.
    """
    family: Likelihood = model.likelihood
    if isinstance(model, EfficientVDVAE):
        if isinstance(family, LogisticMixture):
            form = "published" if family.values == 256 else "efficient_vdvae_5_bits"
            return model.clone(likelihood=dataclasses.replace(family, form=form))
        return model
    if isinstance(family, LogisticMixture) and family.values == 32:
        mean, deviation = model.standardise
        family = Quantised(dataclasses.replace(family, form="vdvae_5_bits"), 8)
        model = model.clone(likelihood=family, standardise=(8 * mean, 8 * deviation))
    elif isinstance(family, LogisticMixture):
        model = model.clone(likelihood=dataclasses.replace(family, form="published"))
    return model.clone(clamp=None)


def published(
    code: Code,
    arrays: Mapping[str, np.ndarray],
    preset: str,
    *,
    enc_blocks: str | None = None,
    dec_blocks: str | None = None,
    structure: Structure = "preset",
    unsaid: Unsaid = THE_PRESETS,
) -> tuple[Any, dict[str, Any]]:
    """(model, variables) of the arrays of a public file.

    Args:
      arrays: by name.
      preset: a name in `PRESETS[code]`.
      enc_blocks, dec_blocks: of VDVAE, for a file of other blocks than its preset's, block strings in their place;
        widths are then read off the file. The published FFHQ-1024 has two blocks on the way up fewer than its preset.
      structure: of Efficient-VDVAE, "file" to read levels, blocks and widths off the file. The published files are of
        larger models than the published settings.
      unsaid: settings that are not the preset's, and that no weight tells.

    Raises ValueError for an unknown preset, options of the other code, and a file that does not fit: with the blocks
    that differ, and every other array that is missing, not expected or of another shape.
    """
    unsaid.check(code)
    model = unsaid.applied(as_published(preset_of(code, preset).make()))
    _check_code(code, arrays)
    if code == "vdvae":
        if structure != "preset":
            raise ValueError(
                "A file of VDVAE does not say at which side its blocks are: give --enc-blocks and --dec-blocks instead "
                "of --structure."
            )
        return _vdvae(arrays, model, preset, enc_blocks, dec_blocks)
    if enc_blocks is not None or dec_blocks is not None:
        raise ValueError("--enc-blocks and --dec-blocks are VDVAE's: --structure file reads the blocks off the file.")
    return _efficient_vdvae(arrays, model, preset, structure)


def _check_code(code: str, arrays: Mapping[str, Any]) -> None:
    """Raises ValueError for the arrays of the other code."""
    marks = {"vdvae": ("encoder.enc_blocks.", "decoder.dec_blocks."), "efficient_vdvae": ("bottom_up.", "top_down.")}
    for other, parts in marks.items():
        if other != code and any(part in name for name in arrays for part in parts):
            raise ValueError(f"These are weights of {other}, not of {code}: hvae import {other} takes them.")
    if not any(part in name for name in arrays for part in marks[code]):
        some = ", ".join(list(arrays)[:4])
        raise ValueError(f"These are no weights of {code}: it holds {len(arrays)} arrays, {some}, ...")


def _vdvae(
    arrays: Mapping[str, Any], model: VDVAE, preset: str, enc_blocks: str | None, dec_blocks: str | None
) -> tuple[VDVAE, dict[str, Any]]:
    ups, downs = up_string(model.ups), down_string(model.downs)
    try:
        if enc_blocks is None and dec_blocks is None:
            return model, deep.variables_of(arrays, model)
        found, variables = deep.vdvae(
            arrays,
            ups if enc_blocks is None else enc_blocks,
            downs if dec_blocks is None else dec_blocks,
            model.image[0],
            standardise=model.standardise,
            likelihood=_with_mixtures(model.likelihood, deep.mixtures(arrays)),
            no_bias_above=model.no_bias_above,
        )
    except ValueError as error:
        raise ValueError(
            f"{error} Preset {preset} has --enc-blocks {ups} --dec-blocks {downs}: a file of other blocks is read with "
            "those that it has."
        ) from error
    return found.clone(unroll=model.unroll, remat=model.remat), variables


def _with_mixtures(family: Likelihood, mixtures: int) -> Likelihood:
    """The likelihood with as many components as a file's outputs are of."""
    if isinstance(family, Quantised):
        return dataclasses.replace(family, of=dataclasses.replace(family.of, mixtures=mixtures))
    return dataclasses.replace(family, mixtures=mixtures) if isinstance(family, LogisticMixture) else family


def _efficient_vdvae(
    arrays: Mapping[str, Any], model: EfficientVDVAE, preset: str, structure: Structure
) -> tuple[EfficientVDVAE, dict[str, Any]]:
    if structure == "preset":
        try:
            return model, efficient.variables_of(arrays, model)
        except ValueError as error:
            raise ValueError(
                f"{error} Preset {preset} has {model.num_levels} blocks on the way down: a file of other blocks or "
                "widths is read with --structure file."
            ) from error
    family, bases = model.likelihood, {form: base for base, form in FORMS.items()}
    mixture = family if isinstance(family, LogisticMixture) else None
    options: dict[str, Any] = {"likelihood": family, "pad": model.pad}
    if mixture is not None:
        options = {
            "output_distribution_base": bases[mixture.head.form],
            "output_gradient_smoothing_beta": mixture.head.beta,
            "min_mol_logscale": mixture.min_log_scale,
            "num_bits": 8 if mixture.values == 256 else 5,
        }
    found, variables = efficient.efficient_vdvae(
        arrays,
        distribution_base=bases[model.head.form],
        gradient_smoothing_beta=model.head.beta,
        use_residual_distribution=model.residual_posterior,
        **options,
    )
    if found.image != model.image:
        raise ValueError(f"The file is of images {found.image}, but preset {preset} is of {model.image}.")
    return found.clone(unroll=model.unroll, remat=model.remat), variables
