"""What a report says of a class among the latents."""

from typing import Any

import numpy as np
import pytest

from hvae_jax.report import classes, diagnosis, words


def report_of(y: np.ndarray | None) -> dict[str, Any]:
    """The part of a report that the section on classes reads: 8 examples, of which the class knows all."""
    q = np.eye(4)[(np.arange(8) + 1) % 4]
    found = {"level": "y", **diagnosis._classes(q, y)}
    return {
        "levels": ["z2", "y"],
        "rates": [{"value": value, "error": 0.1} for value in (1.0, 2.0)],
        "classes": [found],
    }


def test_the_sentence_on_a_class() -> None:
    """Nats of at most log K, classes in use, accuracies as labels and matched to them."""
    (said,) = words._classes(report_of(np.arange(8) % 4))
    assert said == (
        "y is one of 4 classes, which tells 1.39 ± 0.00 of at most 1.39 nats about x; as many as 4.0 equally "
        "frequent classes are in use. Its likeliest class is the label 0.0% ± 0.0% of the time, and 100.0% ± 0.0% if "
        "classes are matched to labels one to one (the most frequent label: 25.0%)."
    )
    assert words._classes({}) == []


@pytest.mark.parametrize("y", [None, np.array([-1] * 8)])
def test_without_labels(y: np.ndarray | None) -> None:
    """No accuracies, and dashes in their place on the page; no section for a model without classes."""
    report = report_of(y)
    assert words._classes(report)[0].endswith("are in use.")
    section = "".join(classes.classes(report))
    assert section.startswith('<h2 id="classes">Classes</h2>') and section.count(">&ndash;</td>") == 2
    assert '<td data-label="rate">2.00 ± 0.10</td>' in section  # the rate of y, not of z2
    assert classes.classes({"classes": []}) == []
