"""The importance-weighted bound as a plain PyTorch loop over samples: the other side of importance.py.

    python experiments/benchmarks/pytorch_importance.py --images 1000 --draws 100 --threads 2

The model is the IWAE paper's network of one stochastic layer (50 latents, two tanh layers of 200 either way,
Bernoulli) on random binary images. Each draw is a forward pass of the whole model, added to a running logsumexp.
Prints one line of JSON: seconds, after one untimed draw. Needs PyTorch, which the library does not.
"""

import argparse
import json
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS, LATENTS, HIDDEN = 784, 50, 200


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)
    )


def log_weight(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """One draw of log p(x, z) - log q(z | x), `[B]`."""
    mean, log_var = encoder(x).chunk(2, dim=1)
    eps = torch.randn_like(mean)
    z = mean + torch.exp(0.5 * log_var) * eps
    log_px = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1)
    return log_px + 0.5 * (eps**2 + log_var - z**2).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("images", 1000), ("draws", 100), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    encoder, decoder = mlp(PIXELS, 2 * LATENTS), mlp(LATENTS, PIXELS)
    x = torch.randint(0, 2, (chosen.images, PIXELS)).float()
    with torch.inference_mode():
        total = log_weight(encoder, decoder, x)
        start = time.perf_counter()
        for _ in range(chosen.draws):
            total = torch.logaddexp(total, log_weight(encoder, decoder, x))
        seconds = time.perf_counter() - start
    print(json.dumps({"torch": torch.__version__, "seconds": seconds, "finite": bool(total.isfinite().all())}))


if __name__ == "__main__":
    main()
