"""The article's digits experiment in PyTorch: the other side of the speed benchmark of `TopDownVAE`.

Our own code for the model, the loss and the training loop that J. Tomczak's "Hierarchical Variational Auto-Encoders"
and its notebook describe, on the same 1000 digits, with the same networks (721,808 parameters), optimiser and batches
(15 of 64 and one of 40 an epoch). PyTorch is needed for this script alone, nowhere else in the project: run it with
the Python of any environment that has torch, numpy and scikit-learn.

    echo 'train article 320' | python experiments/benchmarks/pytorch_top_down.py --threads 1

It is a worker: it reads one command per line from standard input and answers each with one line of JSON, so that a
driver can take turns between it and the JAX side.

    info                     torch's version, threads, parameters
    train MODE STEPS         whole epochs (16 steps each), STEPS or more in all: seconds, steps, the last step's loss
    sample N [BATCH] [MODE]  N images, BATCH (64) at a time: seconds, images; MODE is article unless given
    quit                     end; so does the end of the input

MODE is `article`, the article's own code, or `lean`, the same mathematics as a speed-minded PyTorch user writes it.
Each timing follows an untimed warm-up (one epoch, or one batch of images). A mode keeps its model and optimiser between
commands, so that training resumes. Every line but quit has one answer, {"error": ...} if it failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

PIXELS, VALUES, HIDDEN = 64, 17, 256
TOP, BOTTOM = 8, 16
TRAIN_IMAGES, BATCH, STEPS_PER_EPOCH = 1000, 64, 16
PARAMETERS = 721_808
TINY = 1e-7


class SigmoidGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def mlp(inputs: int, outputs: int, *last: nn.Module, depth: int = 1) -> nn.Sequential:
    """`depth` hidden layers (linear, activation, batch norm, in this order), a linear output, then `last`."""
    layers: list[nn.Module] = []
    for width in [inputs] + [HIDDEN] * (depth - 1):
        layers += [nn.Linear(width, HIDDEN), SigmoidGELU(), nn.BatchNorm1d(HIDDEN)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs), *last)


def draw(mean: Tensor, log_var: Tensor) -> Tensor:
    std = torch.exp(0.5 * log_var)
    return mean + std * torch.randn_like(std)


class TopDown(nn.Module):
    """z2 -> z1 -> x going down, x -> r1 -> r2 going up; each r gives its latent's offset from the prior."""

    def __init__(self) -> None:
        super().__init__()
        self.r1 = mlp(PIXELS, HIDDEN, nn.GELU())
        self.r2 = mlp(HIDDEN, HIDDEN, nn.LeakyReLU())
        self.delta1 = mlp(HIDDEN, 2 * BOTTOM)
        self.delta2 = mlp(HIDDEN, 2 * TOP)
        self.prior1 = mlp(TOP, 2 * BOTTOM)
        self.px = mlp(BOTTOM, PIXELS * VALUES, depth=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of p(x | z1), `[B, 64, 17]`, and the KL of each image, `[B]`, for x `[B, 64]`."""
        r1 = self.r1(x)
        r2 = self.r2(r1)
        dm1, dlv1 = self.delta1(r1).chunk(2, dim=1)
        dlv1 = F.hardtanh(dlv1, -7.0, 2.0)
        dm2, dlv2 = self.delta2(r2).chunk(2, dim=1)
        dlv2 = F.hardtanh(dlv2, -7.0, 2.0)
        m1, lv1 = self.prior1(draw(dm2, dlv2)).chunk(2, dim=1)
        logits = self.px(draw(m1 + dm1, lv1 + dlv1)).view(-1, PIXELS, VALUES)
        kl2 = 0.5 * (dm2**2 + torch.exp(dlv2) - dlv2 - 1).sum(-1)
        kl1 = 0.5 * (dm1**2 / torch.exp(lv1) + torch.exp(dlv1) - dlv1 - 1).sum(-1)
        return logits, kl1 + kl2

    def sample(self, n: int) -> Tensor:
        """n images `[n, 64]` from the prior."""
        m1, lv1 = self.prior1(torch.randn(n, TOP)).chunk(2, dim=1)
        probs = torch.softmax(self.px(draw(m1, lv1)).view(-1, VALUES), dim=-1)
        return torch.multinomial(probs, num_samples=1).view(n, PIXELS)


def article_loss(model: TopDown, x: Tensor) -> Tensor:
    """-ELBO by softmax, clamp, log and one-hot, with the article's two checks for NaN."""
    logits, kl = model(x)
    probs = torch.softmax(logits, dim=2)
    one_hot = F.one_hot(x.long(), num_classes=VALUES)
    log_px = (one_hot * torch.log(torch.clamp(probs, TINY, 1.0 - TINY))).sum(-1).sum(-1)
    for name, term in (("log p(x | z1)", log_px), ("KL", kl)):
        if np.isnan(term.detach().numpy()).any():
            raise ValueError(f"{name} is NaN")
    return -(log_px - kl).mean()


def lean_loss(model: TopDown, x: Tensor, index: Tensor) -> Tensor:
    """-ELBO by log_softmax and gather. `index` is x as `[B, 64, 1]` integers."""
    logits, kl = model(x)
    log_px = F.log_softmax(logits, dim=2).gather(2, index).sum((1, 2))
    return (kl - log_px).mean()


class Digits(Dataset[np.ndarray]):
    """The training images; an item is one NumPy row."""

    def __init__(self) -> None:
        self.images = load_digits().data[:TRAIN_IMAGES].astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


class Run:
    """Model, optimiser and data of one mode."""

    def __init__(self, mode: str) -> None:
        torch.manual_seed(0)
        self.mode = mode
        self.model = TopDown()
        assert sum(p.numel() for p in self.model.parameters()) == PARAMETERS
        digits = Digits()
        if mode == "article":
            self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=1e-3)
            self.loader = DataLoader(digits, batch_size=BATCH, shuffle=True)
        else:
            self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=1e-3, foreach=True)
            self.x = torch.from_numpy(digits.images)
            self.index = self.x.long().unsqueeze(-1)

    def losses(self) -> Iterator[Tensor]:
        """Yields the loss of each batch of one epoch; the caller takes its step before it asks for the next."""
        if self.mode == "article":
            for x in self.loader:
                yield article_loss(self.model, x)
        else:
            for rows in torch.randperm(len(self.x)).split(BATCH):
                yield lean_loss(self.model, self.x[rows], self.index[rows])

    def epoch(self) -> Tensor:
        """Trains for one epoch, and returns the last loss."""
        self.model.train()
        for loss in self.losses():
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward(retain_graph=self.mode == "article")
            self.optimizer.step()
        return loss

    def train(self, steps: int) -> dict[str, float]:
        epochs = -(-steps // STEPS_PER_EPOCH)
        loss = self.epoch()
        start = time.perf_counter()
        for _ in range(epochs):
            loss = self.epoch()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "steps": epochs * STEPS_PER_EPOCH, "loss": loss.item()}

    def sample(self, n: int, batch: int) -> dict[str, float]:
        """Samples in evaluation mode; the article's code lets autograd record it, lean does not."""
        self.model.eval()
        with torch.inference_mode(self.mode == "lean"):
            self.model.sample(min(n, batch))
            start = time.perf_counter()
            for first in range(0, n, batch):
                self.model.sample(min(batch, n - first))
            return {"seconds": time.perf_counter() - start, "images": n}


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch worker of the speed benchmark; see the top of this file.")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="torch's intra-op threads")
    torch.set_num_threads(parser.parse_args().threads)
    runs = {mode: Run(mode) for mode in ("article", "lean")}
    info = {"torch": torch.__version__, "threads": torch.get_num_threads(), "parameters": PARAMETERS}
    commands: dict[str, Callable[..., dict]] = {
        "info": lambda: info,
        "train": lambda mode, steps: runs[mode].train(int(steps)),
        "sample": lambda n, batch=BATCH, mode="article": runs[mode].sample(int(n), int(batch)),
    }
    for line in sys.stdin:
        name, *words = line.split() or [""]
        if name == "quit":
            break
        try:
            reply = commands[name](*words)
        except Exception as error:
            reply = {"error": f"{line.strip()}: {type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
