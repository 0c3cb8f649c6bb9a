"""Docstrings of public names: a first line, an example that runs, and a signature that can be read."""

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.examples import Example, examples, failures
from support.public_names import PACKAGE, Public, public

import hvae_jax as hv

# What examples take for granted, as the docstring of the package says.
NAMES = {"hv": hv, "jax": jax, "jnp": jnp, "np": np}

# Public names without an example, by reason. Protocols, abstract classes and errors have none either.
WITHOUT_EXAMPLE = {
    "shown by the example of what makes or writes it": {
        *("Accuracy", "Classes", "ClassUse", "Container", "Drawn", "Encoded", "FeatureScores", "Features"),
        *("Importance", "Imputed", "Information", "KernelDistance", "Measured", "Multipliers", "Neighbours"),
        *("Reconstruction", "TrainState", "Usage", "read_container"),
    },
    "reads files that are fetched, prepared or a user's own; tests/data makes small ones": {
        *("binarized_mnist", "celeb_a64", "cifar10", "downsampled_imagenet", "fashion_mnist", "from_folder"),
        *("from_tfds", "imagenet_resized", "mnist", "omniglot", "omniglot_resized", "svhn_cropped"),
    },
    "a piece of a whole run, which the commands and docs/ show": {
        *("Machine", "Provenance", "Task", "Watching", "abstract_state", "make_dispatch", "run", "train"),
    },
    "takes a trained model with a class among its latents": {"of_class"},
    "a part or a base class of others, whose examples run it": {
        *("Around", "FlowNormal", "Ground", "InverseAutoregressive", "VolumePreserving"),
    },
}

# Longest annotation, in characters as help() prints it, and the ones that are longer.
LONGEST_ANNOTATION = 150
LONGER = {("Experiment", "training")}  # tyro's mark on it: flags of training have no prefix


@pytest.mark.slow
@pytest.mark.parametrize("example", tuple(examples(PACKAGE)), ids=lambda example: example.name)
def test_example(example: Example) -> None:
    """An example prints what it shows."""
    printed = failures(example, NAMES)
    assert not printed, printed


def needs_example(one: Public) -> bool:
    """Whether a name is a function or a class to be called: no constant, Protocol, abstract class, error or record."""
    value = one.value
    if inspect.isfunction(value):
        return True
    if not inspect.isclass(value) or issubclass(value, Exception) or inspect.isabstract(value):
        return False
    # A record of p(x | z) is made by its family, whose example shows it.
    return not (getattr(value, "_is_protocol", False) or one.name.endswith("Record"))


def test_public_names_have_an_example() -> None:
    """Whatever a researcher calls has an example, or stands on the list with the reason, and not both."""
    listed = set().union(*WITHOUT_EXAMPLE.values())
    without = {one.name for one in public() if needs_example(one) and ">>>" not in (one.value.__doc__ or "")}
    assert not without - listed, "write an example into its docstring, or give a reason in WITHOUT_EXAMPLE"
    assert not listed - without, "has an example, or is no public name: take it off WITHOUT_EXAMPLE"


# Verbs in the third person, with which no function's first line begins: "Draw ...", not "Draws ...".
THIRD_PERSON = re.compile(
    r"(Add|Append|Average|Build|Check|Compose|Compute|Convert|Decode|Describe|Draw|Estimate|Evaluate|Expand|Fill|Give|"
    r"Interpolate|Load|Make|Measure|Move|Open|Raise|Read|Replace|Return|Run|Sample|Solve|Stack|Suggest|Sum|Take|Train|"
    r"Turn|Write)e?s\b"
)


def fault_of_first_line(value: Any) -> str | None:
    """What is wrong with the first line of a docstring, if anything."""
    if not value.__doc__:
        return "there is no docstring"
    first, _, rest = value.__doc__.partition("\n")
    if not first.endswith("."):
        return f"no period ends it: {first}"
    if rest.strip() and not rest.startswith("\n"):
        return f"no empty line follows: {first}"
    if first.startswith(("This ", "It ")) or (inspect.isfunction(value) and THIRD_PERSON.match(first)):
        return f"no noun phrase and no imperative: {first}"
    return None


def test_first_lines() -> None:
    """A docstring begins with one line, a noun phrase or an imperative that ends with a period."""
    faults = {
        f"{one.room}.{one.name}": fault
        for one in public()
        if callable(one.value) and (fault := fault_of_first_line(one.value))
    }
    assert not faults


def annotations(value: Any) -> dict[str, str]:
    """Annotations of a function, of a class's fields and of its public methods, as help() prints them."""
    methods = {} if inspect.isfunction(value) else {n: getattr(m, "__func__", m) for n, m in vars(value).items()}
    functions = {"": value, **{n: m for n, m in methods.items() if inspect.isfunction(m) and not n.startswith("_")}}
    found = {}
    for name, function in functions.items():
        try:
            signature = inspect.signature(function)
        except ValueError:  # of a class of Python's own, such as an error
            continue
        taken = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        for argument, annotation in {**taken, "->": signature.return_annotation}.items():
            if annotation is not inspect.Parameter.empty:
                found[".".join(filter(None, (name, argument)))] = inspect.formatannotation(annotation)
    return found


def test_annotations_can_be_read() -> None:
    """No wall of a Union in help(): a long annotation has a name (`hvae_jax.runtime.annotations`)."""
    long = {
        (one.name, argument)
        for one in public()
        if inspect.isfunction(one.value) or inspect.isclass(one.value)
        for argument, text in annotations(one.value).items()
        if len(text) > LONGEST_ANNOTATION
    }
    assert long <= LONGER


def test_array_like_has_a_name() -> None:
    """Files annotate with `runtime.annotations.ArrayLike`, not with `jax.typing.ArrayLike`, which prints as a Union."""
    imported = re.compile(r"^from jax\.typing import .*\bArrayLike\b", re.MULTILINE)
    assert not [str(file) for file in PACKAGE.rglob("*.py") if imported.search(file.read_text())]
