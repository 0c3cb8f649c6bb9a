"""The public PyTorch code of the Ladder VAE, BIVA, VDVAE or NVAE, timed or trained: the other side of public_codes.py.

    python experiments/benchmarks/pytorch_public_codes.py --model ladder --code FOLDER_OF_addtt_ladder-vae-pytorch

Imports that code from the folder of its clone: addtt/ladder-vae-pytorch at a27d45c (which needs `boilr` and what that
needs but torchvision), vlievin/biva-pytorch at ba37aca, openai/vdvae at ea35b49, or NVlabs/NVAE at 9fc1a28. Builds the
published MNIST model of the first two, with the third the model of `--model vdvae` in `public_codes.py` or the
published CIFAR-10 model, and with the fourth that of `--model nvae`. NVAE's code runs on GPUs of several processes
only: here batch norm is PyTorch's own, which one process needs no more than, and swish is PyTorch's `silu`.
Reads one task per line of JSON from standard input, and answers each with one line:

    {"task": "step" | "elbo" | "sample", "repeats": 1}      -> {"seconds": [...], "loss": ..., "peak": bytes}
    {"task": "train", "steps": 100, "images": "x.npz", "seed": 0}   -> {"losses": [...], "seconds": ...}
    {"task": "score", "images": "x.npz", "draws": 1}        -> {"elbo": [one per image], "bound": [one per image]}

x.npz has `train` and `test`, 0 or 1 in uint8 `[N, 28, 28]`. "step" and "train" are the published training step: Ladder
with Adamax at 3e-4 and free bits of half a nat per layer, BIVA with Adamax at 2e-3 and free bits of two nats per
latent, VDVAE with AdamW at 2e-4, clipped gradients and averaged parameters (PyTorch's AdamW instead of apex's), NVAE
with Adamax at 1e-3, a balanced KL half way through its warm-up, and spectral regularisation, all in float32.
"""

import argparse
import contextlib
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BATCH = {"ladder": 64, "biva": 48, "vdvae": 8, "vdvae_cifar10": 32, "nvae": 16}


class Code(NamedTuple):
    """A model of a public code.

    Attributes:
      model: the module.
      begin: function of a batch x that carries out the data-dependent initialisation.
      score: function of x that returns the loss and the ELBO of each example.
      sample: function of n that returns n samples.
    """

    model: torch.nn.Module
    begin: Callable[[Tensor], Any]
    score: Callable[[Tensor], tuple[Tensor, Tensor]]
    sample: Callable[[int], Tensor]


def stub(path: str, **names: Any) -> None:
    """Registers a module that a public code imports and nothing here uses."""
    for end in range(1, path.count(".") + 2):
        name = ".".join(path.split(".")[:end])
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(sys.modules[path]).update(names)


def ladder(code: Path) -> Code:
    """The model of three levels in the README of the code."""
    stub("torchvision.utils", make_grid=None, save_image=None)  # for boilr's plots
    sys.path.insert(0, str(code))
    from boilr.nn.init import data_dependent_init
    from models.lvae import LadderVAE

    model = LadderVAE(
        color_ch=1,
        z_dims=[32] * 3,
        blocks_per_layer=4,
        downsample=[1, 1, 1],
        nonlin="elu",
        merge_type="residual",
        batchnorm=True,
        stochastic_skip=True,
        n_filters=64,
        dropout=0.2,
        free_bits=0.5,
        learn_top_prior=True,
        img_shape=(28, 28),
        likelihood_form="bernoulli",
        res_block_type="bacdbacd",
        gated=True,
        analytical_kl=True,
    )

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        out = model(x)
        return out["kl_loss"] - out["ll"].mean(), out["ll"] - out["kl_sep"]

    return Code(model, lambda x: data_dependent_init(model, {"x": x}), score, model.sample_prior)


def biva(code: Path) -> Code:
    """The model of eleven latents that the MNIST command of the code trains."""
    stub("booster", Diagnostic=dict)
    sys.path.insert(0, str(code))
    from biva.evaluation import VariationalInference
    from biva.model import BivaStage, DeepVae, get_deep_vae_mnist

    stages, latents = get_deep_vae_mnist()
    model = DeepVae(
        Stage=BivaStage,
        tensor_shp=(-1, 1, 28, 28),
        stages=stages,
        latents=latents,
        nonlinearity="elu",
        q_dropout=0.5,
        p_dropout=0.5,
        features_out=1,
        no_skip=False,
        log_var_act=torch.nn.Softplus,
    )
    evaluator = VariationalInference(torch.distributions.Bernoulli, iw_samples=1)
    free = [2.0] * (2 * len(latents) - 1)

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, elbo, *_ = evaluator.compute_elbo(x, model(x), freebits=free)
        return loss.mean(), elbo

    return Code(model, model, score, lambda n: model.sample_from_prior(n)["x_"])


BLOCKS = {
    "vdvae": ("32x3,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,8x2,16m8,16x3,32m16,32x5", 64),
    "vdvae_cifar10": (
        "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
        "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
        384,
    ),
}


def vdvae(code: Path, name: str) -> Code:
    """A model of 32x32 images, standardised as the code standardises CIFAR-10."""
    sys.path.insert(0, str(code))
    from vae import VAE

    enc_blocks, dec_blocks, width = BLOCKS[name]
    settings = types.SimpleNamespace(
        enc_blocks=enc_blocks,
        dec_blocks=dec_blocks,
        width=width,
        custom_width_str="",
        bottleneck_multiple=0.25,
        zdim=16,
        no_bias_above=64,
        image_size=32,
        image_channels=3,
        num_mixtures=10,
        dataset="cifar10",
    )
    model = VAE(settings)

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.permute(0, 2, 3, 1)
        out = model((x - 120.63838) / 64.16736, x / 127.5 - 1.0)
        return out["elbo"], -out["elbo"]  # of the batch, nats per dimension

    return Code(model, lambda x: None, score, lambda n: model.forward_uncond_samples(n))


class NormSwish(torch.nn.BatchNorm2d):
    """Batch norm and swish in one process, in place of the code's own for several GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.silu(super().forward(x))


def nvae(code: Path) -> Code:
    """A model of 32x32 colour images with five groups at each of two resolutions."""
    stub("tensorboardX", SummaryWriter=None)
    stub("thirdparty.swish", Swish=types.SimpleNamespace(apply=torch.nn.functional.silu))
    stub("thirdparty.inplaced_sync_batchnorm", SyncBatchNormSwish=NormSwish)
    torch.nn.SyncBatchNorm = torch.nn.BatchNorm2d  # which it is in one process
    if torch.get_default_device().type == "cpu":
        Tensor.cuda = lambda self, *_, **__: self
    sys.path.insert(0, str(code))
    import utils
    from model import AutoEncoder

    settings = types.SimpleNamespace(
        dataset="cifar10",
        num_x_bits=8,
        num_mixture_dec=10,
        use_se=True,
        res_dist=True,
        num_nf=0,
        num_latent_scales=2,
        num_groups_per_scale=5,
        ada_groups=False,
        min_groups_per_scale=1,
        num_latent_per_group=20,
        num_channels_enc=32,
        num_channels_dec=32,
        num_preprocess_blocks=1,
        num_preprocess_cells=2,
        num_cell_per_cond_enc=1,
        num_postprocess_blocks=1,
        num_postprocess_cells=2,
        num_cell_per_cond_dec=1,
    )
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it counts
        model = AutoEncoder(settings, None, utils.get_arch_cells("res_mbconv"))
    alpha = utils.kl_balancer_coeff(model.num_latent_scales, model.groups_per_scale, fun="square")

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x / 255.0
        logits, _, _, rates, _ = model(x)
        distortion = utils.reconstruction_loss(model.decoder_output(logits), x)
        elbo = -distortion - sum(rates)
        if not model.training:
            return -elbo.mean(), elbo
        rate, _, _ = utils.kl_balancer(rates, 0.5, kl_balance=True, alpha_i=alpha)
        regularisers = model.spectral_norm_parallel() + model.batchnorm_loss()
        return (distortion + rate).mean() + 1e-2 * regularisers, elbo

    return Code(model, lambda x: None, score, lambda n: model.decoder_output(model.sample(n, 1.0)).sample())


class Side:
    """One model of the public code, and the tasks it answers."""

    def __init__(self, name: str, code: Path, device: str = "cpu", compiled: bool = False) -> None:
        torch.manual_seed(0)
        torch.set_default_device(device)
        self.device = device
        self.deep = name.startswith("vdvae")
        self.colours = self.deep or name == "nvae"
        made = vdvae(code, name) if self.deep else {"ladder": ladder, "biva": biva, "nvae": nvae}[name](code)
        self.model, self.first, self.score, self.draw = made
        self.batch = BATCH[name]
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.parameters] if self.deep else []
        if self.deep:
            self.optimiser: Any = torch.optim.AdamW(self.parameters, lr=2e-4, betas=(0.9, 0.9), weight_decay=0.01)
        elif name == "nvae":
            self.optimiser = torch.optim.Adamax(self.parameters, lr=1e-3, eps=1e-3, weight_decay=3e-4)
        else:
            self.optimiser = torch.optim.Adamax(self.parameters, lr=3e-4 if name == "ladder" else 2e-3)
        self.ready = False
        if compiled:
            self.model.forward = torch.compile(self.model.forward)

    def begin(self, x: Tensor) -> None:
        """Data-dependent initialisation, once."""
        if not self.ready:
            self.model.train()
            with torch.no_grad():
                self.first(x)
            self.ready = True

    def step(self, x: Tensor) -> float:
        self.model.train()
        self.optimiser.zero_grad()
        loss, _ = self.score(x)
        loss.backward()
        if self.deep:
            torch.nn.utils.clip_grad_norm_(self.parameters, 200.0)
        self.optimiser.step()
        for average, p in zip(self.average, self.parameters, strict=False):
            average.mul_(0.9999).add_(p.data, alpha=1 - 0.9999)
        return loss.item()

    @torch.no_grad()
    def elbo(self, x: Tensor) -> Tensor:
        self.model.eval()
        return self.score(x)[1]

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        self.model.eval()
        return self.draw(n)

    def timed(self, task: str, repeats: int, batch: int) -> dict[str, Any]:
        x = torch.randint(0, 256, (batch, 3, 32, 32)) if self.colours else torch.randint(0, 2, (batch, 1, 28, 28))
        x = x.float()
        self.begin(x)
        seconds, last = [], 0.0
        for _ in range(repeats):
            start = time.perf_counter()
            answer = self.sample(batch) if task == "sample" else getattr(self, task)(x)
            if self.device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            last = float(np.mean(answer)) if isinstance(answer, float | np.ndarray) else float(answer.mean())
        rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
        held = 1024 * int(rows["VmHWM"].split()[0])  # not ru_maxrss, which begins with what its parent held
        peak = held if self.device == "cpu" else torch.cuda.max_memory_allocated()
        return {"seconds": seconds, "loss": last, "peak": peak}

    def train(self, steps: int, images: str, seed: int) -> dict[str, Any]:
        x = torch.tensor(np.load(images)["train"]).float()[:, None]
        order = np.random.default_rng(seed)
        self.begin(x[order.permutation(len(x))[: self.batch]])
        rows, losses = np.empty(0, int), []
        start = time.perf_counter()
        for _ in range(steps):
            if len(rows) < self.batch:
                rows = order.permutation(len(x))
            losses.append(self.step(x[rows[: self.batch]]))
            rows = rows[self.batch :]
        return {"losses": losses, "seconds": time.perf_counter() - start}

    def scored(self, images: str, draws: int) -> dict[str, Any]:
        x = torch.tensor(np.load(images)["test"]).float()[:, None]
        values = torch.cat([torch.stack([self.elbo(part) for _ in range(draws)]) for part in x.split(100)], dim=1)
        bound = torch.logsumexp(values, 0) - np.log(draws)
        return {"elbo": values.mean(0).tolist(), "bound": bound.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(BATCH), required=True)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="the forward pass by torch.compile")
    parser.add_argument("--tf32", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = chosen.tf32
    side = Side(chosen.model, chosen.code, chosen.device, chosen.compile)
    print(json.dumps({"parameters": sum(p.numel() for p in side.parameters), "torch": torch.__version__}), flush=True)
    for text in sys.stdin:
        task = json.loads(text)
        name = task.pop("task")
        ask = {"train": side.train, "score": side.scored}.get(name)
        answer = ask(**task) if ask else side.timed(name, task.get("repeats", 1), task.get("batch", 48))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
