"""DEEP-VAE (paper §4.3): pictures of one domain without a source picture, by synthesising its deep features.

Whatever stands in a column of Table 3 offers what `DeepVAE` does, and is made from a domain the same way:

    fit()                       train what is still to train; returns itself
    sample(n)                   n new pictures, float32 (n, 3, H, W) in [-1, 1]
    reconstruct(images)         pictures (N, 3, H, W) in [-1, 1], encoded and decoded: the same shape and range
    interpolate(x, y, t)        pictures at the share t, 0 … 1, of the way from the codes of x to those of y
"""

from functools import cache

import torch
from torch import nn

from cdtlib.features.backbones import map_shape
from cdtlib.method import CascadedTranslation
from cdtlib.models.vae import VAE, ConditionalGenerator
from cdtlib.training.generation import train_generator, train_vae

Codes = dict[int, torch.Tensor]  # {5: the VAE's code (N, latent), 4: noise (N, noise), 3: …}


class DeepVAE:
    """DEEP-VAE of one domain, `side` ("a" or "b") of `method`, whose features and inverters it shares.

    Its VAE and its generators are runs, found or trained like those of the method. Random codes are drawn on the CPU
    from `seed` for all pictures at once, so pictures depend neither on the batch size nor on the device.
    Raises ValueError if a level of the cascade has no settings.
    """

    def __init__(self, method: CascadedTranslation, side: str):
        self.method, self.side = method, side
        self.settings = method.settings.generation
        self.levels = sorted(method.settings.levels, reverse=True)
        for name in ("epochs", "learning_rate", "width", "critic_width"):
            if missing := [i for i in self.levels[name == "critic_width" :] if i not in getattr(self.settings, name)]:
                raise ValueError(f"generation.{name}: nothing is set for level {missing[0]} of the cascade")

    def _shape(self, level: int) -> tuple[int, int, int]:
        return map_shape(self.method.backbone, level, self.method.settings.data.size)

    @cache
    def _trained(self, level: int) -> tuple[nn.Module, str]:
        """The VAE (level 5) or the generator of a level, and its run's id; trained after all deeper levels."""
        method, s = self.method, self.settings
        store, name, shape = method.store(self.side), method.name(self.side), self._shape(level)
        by_level = {key: getattr(s, key)[level] for key in ("epochs", "learning_rate", "width")}
        used = s.model_dump(include={"batch", "betas", "ema", "precision"}) | by_level
        inputs = {"features": store.id}
        if level == 5:
            used |= s.model_dump(include={"latent", "hidden", "halvings", "beta", "components"})
            with method._run(f"vae-{name}-level5", used, inputs) as run:
                store.resident("level_5", device=method.device)
                return train_vae(run, store, shape, s), run.id
        used |= s.model_dump(include={"noise", "style", "critic_steps", "lambda_gp", "lambda_reconstruction"})
        used["critic_width"] = s.critic_width[level]
        inputs["deeper"] = self._trained(level + 1)[1]
        channels = method.backbone.channels[level + 1]
        with method._run(f"generator-{name}-level{level}", used, inputs) as run:
            store.resident("level_5", f"level_{level}", device=method.device)
            return train_generator(run, level, self._rows(level), len(store), shape, channels, s), run.id

    def _rows(self, level: int):
        """What the generator of a level trains on (see `train_generator`)."""
        store, device = self.method.store(self.side), self.method.device
        lengths = {i: self.settings.noise for i in range(4, level, -1)}

        @torch.no_grad()
        def draw(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            rows = torch.randint(len(store), (n,), device=device)
            mean, log_variance = self.vae.encode(store.level(5, rows, device))
            own = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            codes = {i: torch.randn(2 * n, length, device=device) for i, length in lengths.items()}
            codes[5] = torch.cat([own, self.vae.prior(n)])
            reconstructed, sampled = self.maps(codes, level + 1)[level + 1].chunk(2)
            return store.level(level, rows, device), reconstructed, sampled

        return draw

    @property
    def vae(self) -> VAE:
        return self._trained(5)[0]

    def generator(self, level: int) -> ConditionalGenerator:
        return self._trained(level)[0]

    def fit(self) -> "DeepVAE":
        """Train what is still to train: the VAE, the generators, deepest first, and the inverter of the last level."""
        self._trained(self.levels[-1])
        self.method.inverter(self.side, self.levels[-1])
        return self

    # ---- codes, maps, pictures -----------------------------------------------------------------------------

    def draw(self, n: int, seed: int = 0) -> Codes:
        """n codes: level 5 of the VAE's prior, the noise of the levels below of N(0, I)."""
        vae, generator = self.vae, torch.Generator().manual_seed(seed)
        codes = {5: vae.prior(n, generator).cpu()}
        return codes | {i: torch.randn(n, self.settings.noise, generator=generator) for i in self.levels if i < 5}

    def encode(self, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] → the means of their codes of level 5, (N, latent)."""
        vae, statistics, device = self.vae, self.method.store(self.side).statistics[5], self.method.device
        with torch.no_grad():
            maps = (statistics.normalise(self.method.backbone(part.to(device))[5]) for part in images.split(batch))
            return torch.cat([vae.encode(x)[0].cpu() for x in maps])

    def maps(self, codes: Codes, level: int) -> dict[int, torch.Tensor]:
        """Codes → the normalised maps that are synthesised from them, {5: …, …, level: …}, deepest first."""
        maps = {5: self.vae.decode(codes[5])}
        for i in range(4, level - 1, -1):
            maps[i] = self.generator(i)(codes[i], maps[i + 1])
        return maps

    def decode(self, codes: Codes, batch: int = 64) -> torch.Tensor:
        """Codes → pictures, float32 (N, 3, H, W) in [-1, 1]."""
        self.fit()  # trains what is missing while gradients are on
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

    def reconstruct(self, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Pictures, encoded by the mean of their code and decoded; the shallower levels' noise comes from `seed`."""
        return self.decode(self.draw(len(images), seed) | {5: self.encode(images)})

    def interpolate(self, x: torch.Tensor, y: torch.Tensor, t: float, seed: int = 0) -> torch.Tensor:
        """Pictures at the share t of the way from the codes of x to those of y (Fig. 12); x, y (N, 3, H, W).

        A pair keeps its shallower levels' noise on the way: t = 0 is `reconstruct(x)`, t = 1 `reconstruct(y)`.
        """
        return self.decode(self.draw(len(x), seed) | {5: torch.lerp(self.encode(x), self.encode(y), t)})
