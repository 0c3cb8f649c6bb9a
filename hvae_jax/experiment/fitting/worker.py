"""The compiler's process: a request as JSON on standard input, a verdict as a line of JSON on standard output each.

A process of its own, whose JAX sees the CPU alone: the device that this machine may have stays with the program that
uses it, a compiler that crashes takes nothing with it, and its memory goes back to the system.
"""

import json
import sys
from typing import Any

from hvae_jax.experiment import settings
from hvae_jax.experiment.fitting.examples import example_of
from hvae_jax.experiment.fitting.judge import judged
from hvae_jax.experiment.fitting.verdict import to_json
from hvae_jax.runtime.chips import Chip


def main() -> None:
    """Answers the request: {"verdict": ...} for each program, or {"error": ...} for what is to be said in a line."""
    asked = json.load(sys.stdin)
    try:
        experiment = settings.from_json(asked["experiment"], asked["modules"])
        # whole, since here the environment says nothing of the machine any more
        chip = Chip(**asked["chip"] | {name: _tuples(asked["chip"][name]) for name in ("kinds", "layouts")})
        example = example_of(experiment)
        for program in asked["programs"]:
            verdict = judged(program, experiment, example, chip, asked["devices"], asked["compiles"])
            _answer({"verdict": to_json(verdict)})
    except (ValueError, OSError, ImportError) as error:
        _answer({"error": str(error)})


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _answer(answer: dict[str, Any]) -> None:
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
