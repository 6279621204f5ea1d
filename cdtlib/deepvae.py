"""DEEP-VAE (paper §4.3): pictures of one domain without a source picture, by synthesising its deep features.

Whatever stands in a column of Table 3 offers what `DeepVAE` does, and is made from a domain the same way::

    fit()                       train what is still to train; returns itself
    sample(n)                   n new pictures, float32 (n, 3, H, W) in [-1, 1]
    reconstruct(images)         pictures (N, 3, H, W) in [-1, 1], encoded and decoded: the same shape and range
    interpolate(x, y, t)        pictures at the share t, 0 … 1, of the way from the codes of x to those of y
"""

from functools import cache

import torch
from torch import nn

from cdtlib import processes
from cdtlib.features.backbones import map_shape
from cdtlib.method import CascadedTranslation
from cdtlib.models.vae import VAE, ConditionalGenerator, Mixture
from cdtlib.training.generation import codes_of, drawn, train_generator, train_prior, train_vae

Codes = dict[int, torch.Tensor]  # by level: {5: (N, latent), 4: (N, latent_below), 3: …}


class DeepVAE:
    """DEEP-VAE of one domain, `side` ("a" or "b") of `method`, whose features and inverters it shares.

    Its VAE and its generators are runs, found or trained like those of the method. Random codes are drawn on the CPU
    from `seed` for all pictures at once, so pictures depend neither on the batch size nor on the device.
    Raises ValueError if the backbone is an AlexNet, a level of the cascade has no settings, the prior more components
    than there are pictures, or if several processes cannot share the halves of a batch equally.
    """

    def __init__(self, method: CascadedTranslation, side: str):
        self.method, self.side = method, side
        self.settings = method.settings.generation
        self.levels = sorted(method.settings.levels, reverse=True)
        if "alexnet" in method.settings.backbone:
            raise ValueError("DEEP-VAE doubles the side from level to level, which AlexNet's levels do not: use VGG-19")
        needed = dict.fromkeys(("epochs", "learning_rate", "width"), self.levels)
        needed["critic_width"] = self.levels[1:]  # the VAE has no critic
        for name, levels in needed.items():
            if missing := [i for i in levels if i not in getattr(self.settings, name)]:
                raise ValueError(f"generation.{name}: nothing is set for level {missing[0]} of the cascade")
        half = self.settings.batch // 2
        halves = {"first": half, "second": self.settings.batch - half}
        processes.check({f"the {name} half of generation.batch": n for name, n in halves.items()})
        if (rows := len(method.domains[side]["train"]) * method.settings.data.views) < self.settings.components:
            raise ValueError(
                f"generation.components: {self.settings.components} Gaussians cannot be fitted to the {rows} training "
                f"pictures of {method.name(side)} and their copies; set fewer, or give more pictures"
            )

    @cache
    def _trained(self, level: int) -> tuple[nn.Module, str]:
        """The VAE (level 5) or the generator of a level, and its run's id; trained after all deeper levels."""
        method, s = self.method, self.settings
        store, name = method.store(self.side), method.name(self.side)
        shape = map_shape(method.backbone, level, method.settings.data.size)
        by_level = {key: getattr(s, key)[level] for key in ("epochs", "learning_rate", "width")}
        used = s.model_dump(include={"batch", "betas", "components", "ema", "precision"}) | by_level
        inputs = {"features": store.id}
        if level == 5:
            used |= s.model_dump(include={"latent", "hidden", "halvings", "beta"})
            with method._run(f"vae-{name}-level5", used, inputs) as run:
                store.resident("level_5", device=method.device)
                return train_vae(run, store, shape, s), run.id
        used |= s.model_dump(include={"latent_below", "beta_below", "style", "style_width"})
        used |= s.model_dump(include={"critic_steps", "lambda_gp", "lambda_reconstruction"})
        used |= {"reconstruction_first": s.reconstruction_first} if s.reconstruction_first else {}
        used["critic_width"] = s.critic_width[level]
        inputs["deeper"] = self._trained(level + 1)[1]
        channels = method.backbone.channels[level + 1]
        with method._run(f"generator-{name}-level{level}", used, inputs) as run:
            store.resident(*(f"level_{i}" for i in range(5, level - 1, -1)), device=method.device)
            return train_generator(run, level, store, self._deeper(level), shape, channels, s), run.id

    def _deeper(self, level: int):
        """What the generator of a level is given in training (see `train_generator`)."""
        store, device = self.method.store(self.side), self.method.device

        @torch.no_grad()
        def deeper(rows: torch.Tensor, n: int) -> torch.Tensor:
            codes, rows = {}, processes.share(rows)
            for i in range(5, level, -1):
                part = self._part(i)
                own = drawn(*part.encode(store.level(i, rows, device)), processes.noise_like)
                codes[i] = torch.cat([own, processes.share(part.prior.draw(n))]) if n else own
            return self.maps(codes, level + 1)[level + 1]

        return deeper

    def _part(self, level: int) -> VAE | ConditionalGenerator:
        return self._trained(level)[0]

    @cache
    def _prior(self) -> Mixture:
        """The prior of the codes of all levels together: which style goes with which content is learned, too."""
        s, store, device = self.settings, self.method.store(self.side), self.method.device
        inputs = {"features": store.id, "deeper": self._trained(self.levels[-1])[1]}
        prior = Mixture(sum(self._lengths()), max(1, s.components)).to(device)
        if not s.components:
            return prior
        used = s.model_dump(include={"components"})
        with self.method._run(f"prior-{self.method.name(self.side)}", used, inputs) as run:
            return train_prior(
                run, prior, lambda: torch.cat([codes_of(self._part(i), store, i) for i in self.levels], dim=1)
            )

    def _lengths(self) -> list[int]:
        """The lengths of the codes, by level."""
        return [self.settings.latent if i == 5 else self.settings.latent_below for i in self.levels]

    def fit(self) -> "DeepVAE":
        """Train what is still to train: VAE, generators (deepest first), prior, and the inverter of the last level."""
        self._prior()
        self.method.inverter(self.side, self.levels[-1])
        return self

    # ---- codes, maps, pictures -----------------------------------------------------------------------------

    def draw(self, n: int, seed: int = 0) -> Codes:
        """n codes of the prior, of all levels."""
        self.fit()  # while gradients are on, and before a training sets seeds
        generator = torch.Generator().manual_seed(seed)
        codes = self._prior().draw(n, generator).cpu().split(self._lengths(), dim=1)
        return dict(zip(self.levels, codes, strict=True))

    def encode(self, images: torch.Tensor, batch: int = 64) -> Codes:
        """Pictures (N, 3, H, W) in [-1, 1] → the means of their codes, of all levels."""
        self.fit()
        statistics, device, codes = self.method.store(self.side).statistics, self.method.device, []
        with torch.no_grad():
            for part in images.split(batch):
                maps = self.method.backbone(part.to(device))
                codes.append({i: self._part(i).encode(statistics[i].normalise(maps[i]))[0].cpu() for i in self.levels})
        return {i: torch.cat([part[i] for part in codes]) for i in self.levels}

    def maps(self, codes: Codes, level: int) -> dict[int, torch.Tensor]:
        """Codes → the normalised maps that are synthesised from them, {5: …, …, level: …}, deepest first."""
        maps = {5: self._part(5).decode(codes[5])}
        for i in range(4, level - 1, -1):
            maps[i] = self._part(i)(codes[i], maps[i + 1])
        return maps

    def decode(self, codes: Codes, batch: int = 64) -> torch.Tensor:
        """Codes → pictures, float32 (N, 3, H, W) in [-1, 1]."""
        self.fit()
        last, made = self.levels[-1], []
        inverter = self.method.inverter(self.side, last)
        with torch.no_grad():
            for start in range(0, len(codes[5]), batch):
                part = {i: z[start : start + batch].to(self.method.device) for i, z in codes.items()}
                made.append(inverter(self.maps(part, last)[last]).cpu())
        return torch.cat(made)

    # ---- the protocol of Table 3 ---------------------------------------------------------------------------

    def sample(self, n: int, seed: int = 0) -> torch.Tensor:
        """n pictures from codes of the prior (Fig. 11)."""
        return self.decode(self.draw(n, seed))

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures, encoded by the means of their codes and decoded."""
        return self.decode(self.encode(images))

    def interpolate(self, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
        """Pictures at the share t of the way from the codes of x to those of y (Fig. 12); x, y (N, 3, H, W).

        t = 0 is `reconstruct(x)`, t = 1 `reconstruct(y)`.
        """
        start, end = self.encode(x), self.encode(y)
        return self.decode({i: torch.lerp(start[i], end[i], t) for i in self.levels})
