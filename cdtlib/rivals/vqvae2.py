"""VQ-VAE-2 (Razavi et al. 2019): pictures as two maps of discrete codes, drawn anew by two autoregressive priors.

Widths, depths and schedules are those of rosinality's vq-vae-2-pytorch, the best known public code, not of the paper's
experiments on ImageNet and faces; the priors are PixelSNAILs (Chen et al. 2018).
"""

import itertools
import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cdtlib.rivals.common import Generating, batched, draw
from cdtlib.settings import Positive, Precision, Share, Strict, Weight
from cdtlib.training.common import autocast


class Prior(Strict):
    """A PixelSNAIL and its training."""

    epochs: Annotated[float, Field(gt=0)] = 420.0
    batch: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    width: Annotated[int, Field(gt=0, multiple_of=16)] = 256  # channels
    kernel: Annotated[int, Field(ge=3)] = 5
    blocks: Positive = 4
    residuals: Positive = 4  # residual blocks of a block
    conditioning: Positive = 3  # bottom: residual blocks on the codes of the top
    dropout: Share = 0.1
    precision: Precision = "fp32"


class Options(Strict):
    """The settings of the auto-encoder and of its two priors."""

    epochs: Annotated[float, Field(gt=0)] = 560.0
    batch: Positive = 128
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    width: Positive = 128  # channels
    residuals: Positive = 2  # residual blocks of an encoder or decoder
    residual_width: Positive = 32
    codes: Positive = 512  # of a codebook
    length: Positive = 64  # of a code
    decay: Share = 0.99  # of the moving averages that codes are
    dead: Share = 0.03  # a code that is used less than this, relative to the mean code, is set to an encoder's output
    beta: Weight = 0.25  # weight of the commitment term
    precision: Precision = "fp32"
    top: Prior = Prior()
    bottom: Prior = Prior()


# ---- the auto-encoder (§3.1) -------------------------------------------------------------------------------


class Codebook(nn.Module):
    """Vector quantisation: maps (N, length, h, w) → maps of codes, each the nearest one, and their indices (N, h, w).

    Codes are no parameters: each is the moving average of the vectors that it stood for (van den Oord et al. 2017,
    appendix A.1). Those that are hardly used start again as one of the batch's vectors, as most do at first.
    """

    def __init__(self, codes: int = 512, length: int = 64, decay: float = 0.99, dead: float = 0.03):
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codes", torch.randn(codes, length))
        self.register_buffer("uses", torch.zeros(codes))  # a batch, moving average
        self.register_buffer("sums", torch.zeros(codes, length))  # of what they stood for in a batch, moving average

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Also returns the commitment term ‖sg[e] - x‖², the mean over elements. Gradients pass straight through."""
        vectors = x.movedim(1, 3).flatten(0, 2)  # (N · h · w, length)
        # ‖v - e‖² without ‖v‖², which is the same for all codes
        nearest = (self.codes.square().sum(1) - 2 * vectors @ self.codes.T).argmin(1)
        indices = nearest.view(len(x), *x.shape[2:])
        quantised = self.look_up(indices)
        if self.training:
            self.learn(vectors.detach(), nearest)
        return x + (quantised - x).detach(), F.mse_loss(x, quantised), indices

    def look_up(self, indices: torch.Tensor) -> torch.Tensor:
        """Indices (N, h, w) → maps of codes (N, length, h, w)."""
        return F.embedding(indices, self.codes).movedim(3, 1).contiguous()

    @torch.no_grad()
    def learn(self, vectors: torch.Tensor, nearest: torch.Tensor, epsilon: float = 1e-5) -> None:
        uses = torch.bincount(nearest, minlength=len(self.uses)).to(self.uses)
        self.uses.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, nearest, vectors), 1 - self.decay)
        total, n = self.uses.sum(), len(self.uses)
        smoothed = (self.uses + epsilon) / (total + n * epsilon) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        dead = self.uses < self.dead * total / n
        again = vectors[torch.randint(len(vectors), (n,), device=vectors.device)]
        self.codes[dead], self.uses[dead], self.sums[dead] = again[dead], total / n, again[dead] * total / n


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class AutoEncoder(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1], H and W divisible by 8, as H/8 × W/8 codes (top) and H/4 × W/4 (bottom).

    `encode` gives what is quantised, continuous; `quantise` the maps of codes; `decode` pictures of about that range.
    """

    def __init__(self, o: Options):
        super().__init__()
        c, length = o.width, o.length

        def down(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, c // 2, 4, stride=2, padding=1)

        def up(channels: int, out: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1)

        def residuals() -> list[nn.Module]:
            return [*(Residual(c, o.residual_width) for _ in range(o.residuals)), nn.ReLU()]

        self.encode_bottom = nn.Sequential(
            down(3), nn.ReLU(), nn.Conv2d(c // 2, c, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1),
            *residuals(),
        )  # fmt: skip
        self.encode_top = nn.Sequential(
            down(c), nn.ReLU(), nn.Conv2d(c // 2, c, 3, padding=1), *residuals(), nn.Conv2d(c, length, 1)
        )
        self.top, self.bottom = (Codebook(o.codes, length, o.decay, o.dead) for _ in range(2))
        self.decode_top = nn.Sequential(nn.Conv2d(length, c, 3, padding=1), *residuals(), up(c, length))
        self.join = nn.Conv2d(length + c, length, 1)
        self.enlarge = up(length, length)
        self.decode_both = nn.Sequential(
            nn.Conv2d(2 * length, c, 3, padding=1), *residuals(), up(c, c // 2), nn.ReLU(), up(c // 2, 3)
        )

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What becomes the top's codes, (N, length, H/8, W/8), and, with these, the bottom's: (N, width, H/4, W/4)."""
        bottom = self.encode_bottom(x)
        return self.encode_top(bottom), bottom

    def quantise(self, top: torch.Tensor, bottom: torch.Tensor) -> tuple[tuple, tuple, torch.Tensor]:
        """Maps of codes and their indices, of the top and the bottom each, and the sum of the commitment terms."""
        with torch.autocast(top.device.type, enabled=False):
            top, commitment_top, top_indices = self.top(top.float())
        joined = self.join(torch.cat([self.decode_top(top), bottom], dim=1))
        with torch.autocast(top.device.type, enabled=False):
            bottom, commitment_bottom, bottom_indices = self.bottom(joined.float())
        return (top, bottom), (top_indices, bottom_indices), commitment_top + commitment_bottom

    def decode(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        return self.decode_both(torch.cat([self.enlarge(top), bottom], dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(*self.quantise(*self.encode(x))[0])


# ---- the priors (§3.2) -------------------------------------------------------------------------------------


class Walk:
    """Where sampling is on its way through the positions, in reading order, and what layers keep of those before.

    With a walk, a network is given the map at one position, (N, C, 1, 1), and computes it from what it has kept. So
    drawing a picture costs as much as one pass over it.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.row = self.column = 0
        self.kept: dict[nn.Module, tuple[torch.Tensor, ...]] = {}


class Conv(nn.Conv2d):
    """A convolution with weight normalisation (Salimans & Kingma 2016) that keeps the size of a map."""

    def __init__(self, c_in: int, c_out: int, kernel: int | tuple[int, int] = 1, bias: bool = True):
        super().__init__(c_in, c_out, kernel, padding="same", bias=bias)
        self.gain = nn.Parameter(self._norm(self.weight.detach()))  # (C, 1, 1, 1)

    @staticmethod
    def _norm(weight: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)

    def normalised(self) -> torch.Tensor:
        return self.weight * (self.gain / self._norm(self.weight))

    def forward(self, x: torch.Tensor, walk: Walk | None = None) -> torch.Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class Causal(Conv):
    """A convolution that sees no later position; its window starts `above` rows above and `left` columns left."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int], above: int, left: int):
        super().__init__(c_in, c_out, kernel)
        self.above, self.left = above, left
        rows, columns = torch.arange(kernel[0])[:, None] - above, torch.arange(kernel[1]) - left
        self.register_buffer("seen", ((rows < 0) | (rows == 0) & (columns <= 0)).float(), persistent=False)
        with torch.no_grad():
            self.gain.copy_(self._norm(self.weight * self.seen))

    @classmethod
    def residual(cls, c_in: int, c_out: int, kernel: int) -> "Causal":
        """It sees its own position, too: what is there comes from earlier codes."""
        return cls(c_in, c_out, (kernel, kernel), kernel - 1, kernel // 2)

    def normalised(self) -> torch.Tensor:
        weight = self.weight * self.seen
        return weight * (self.gain / self._norm(weight))

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (self.left, max(0, self.kernel_size[1] - 1 - self.left), self.above, 0))

    def forward(self, x: torch.Tensor, walk: Walk | None = None) -> torch.Tensor:
        if walk:
            self.keep(x, walk)
            return self.recall(walk)
        y = F.conv2d(self.pad(x), self.normalised(), self.bias)
        return y[..., : x.shape[2], : x.shape[3]]

    def keep(self, x: torch.Tensor, walk: Walk) -> None:
        """Note what is at the walk's position, (N, C, 1, 1)."""
        if self not in walk.kept:
            space = self.pad(x.new_zeros(*x.shape[:2], walk.height, walk.width)).movedim(1, 3).contiguous()
            walk.kept[self] = space, self.normalised().movedim(1, 3).flatten(1).contiguous()
        walk.kept[self][0][:, walk.row + self.above, walk.column + self.left] = x[..., 0, 0]

    def recall(self, walk: Walk) -> torch.Tensor:
        space, weight = walk.kept[self]
        (h, w), i, j = self.kernel_size, walk.row, walk.column
        return F.linear(space[:, i : i + h, j : j + w].flatten(1), weight, self.bias)[..., None, None]


class Gated(nn.Module):
    """x + GLU of two convolutions of x, the first of which may be joined by another map, the second by a condition."""

    def __init__(
        self, channels: int, first: Conv, second: Conv, dropout: float, auxiliary: int = 0, condition: int = 0
    ):
        super().__init__()
        self.first, self.second, self.dropout = first, second, nn.Dropout(dropout)
        self.auxiliary = Conv(auxiliary, first.out_channels) if auxiliary else None
        self.condition = Conv(condition, 2 * channels, bias=False) if condition else None

    def forward(self, x, walk=None, auxiliary=None, condition=None) -> torch.Tensor:
        y = self.first(F.elu(x), walk)
        if auxiliary is not None:
            y = y + self.auxiliary(F.elu(auxiliary))
        y = self.second(self.dropout(F.elu(y)), walk)
        if condition is not None:
            y = y + self.condition(condition)
        return x + F.glu(y, dim=1)


class Attention(nn.Module):
    """Each position's query attends to the keys of the positions before it; the first has none, and gets zeros."""

    def __init__(self, queries: int, keys: int, channels: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value = Conv(queries, channels), Conv(keys, channels), Conv(keys, channels)
        self.heads = 8
        while self.heads > 1 and channels < 8 * self.heads:  # fewer where a head would have but a few channels
            self.heads //= 2
        self.dropout = dropout

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, walk: Walk | None = None) -> torch.Tensor:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3)  # (N, heads, positions, channels)

        q, k, v = split(self.query(queries)), split(self.key(keys)), split(self.value(keys))
        if walk:
            y = self._recall(q, k, v, walk)
        else:
            dropout = self.dropout if self.training else 0.0
            before = q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]
            y = F.pad(F.scaled_dot_product_attention(*before, dropout_p=dropout, is_causal=True), (0, 0, 1, 0))
        return y.transpose(2, 3).flatten(1, 2).unflatten(2, queries.shape[2:])

    def _recall(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, walk: Walk) -> torch.Tensor:
        if self not in walk.kept:
            walk.kept[self] = tuple(x.repeat(1, 1, walk.height * walk.width, 1) for x in (k, v))
        keys, values = walk.kept[self]
        position = walk.row * walk.width + walk.column
        keys[:, :, position], values[:, :, position] = k[:, :, 0], v[:, :, 0]
        if not position:
            return torch.zeros_like(v)
        return F.scaled_dot_product_attention(q, keys[:, :, :position], values[:, :, :position])


class Block(nn.Module):
    """Residual blocks, then attention or, without it, a convolution; both are told the place in the map."""

    def __init__(self, o: Prior, attention: bool, condition: int):
        super().__init__()
        c = o.width

        def pointwise(channels: int, inner: int, auxiliary: int = 0) -> Gated:
            return Gated(channels, Conv(channels, inner), Conv(inner, 2 * channels), o.dropout, auxiliary)

        self.residuals = nn.ModuleList(
            Gated(
                c, Causal.residual(c, c, o.kernel), Causal.residual(c, 2 * c, o.kernel), o.dropout, condition=condition
            )
            for _ in range(o.residuals)
        )
        self.attention = None
        if attention:
            self.keys, self.queries = pointwise(2 * c + 2, c), pointwise(c + 2, c)
            self.attention = Attention(c + 2, 2 * c + 2, c // 2, o.dropout)
            self.out = pointwise(c, c, auxiliary=c // 2)
        else:
            self.out = Conv(c + 2, c)

    def forward(self, x, place, condition=None, walk=None) -> torch.Tensor:
        y = x
        for residual in self.residuals:
            y = residual(y, walk, condition=condition)
        if self.attention is None:
            return self.out(torch.cat([y, place], dim=1))
        keys, queries = self.keys(torch.cat([x, y, place], dim=1)), self.queries(torch.cat([y, place], dim=1))
        return self.out(y, auxiliary=self.attention(queries, keys, walk))


class PixelSNAIL(nn.Module):
    """The distribution of each code of a map given those before it, in reading order.

    Call with indices (N, H, W) and, with `conditional`, those of the top, (N, H/2, W/2): logits (N, codes, H, W).
    The published prior of the top has attention, and the conditional one of the bottom has none (§3.2).
    """

    def __init__(self, codes: int, o: Prior, conditional: bool):
        super().__init__()
        c, k = o.width, o.kernel
        self.codes = codes
        self.above = Causal(codes, c, (k // 2, k), k // 2, k // 2)
        self.left = Causal(codes, c, ((k + 1) // 2, k // 2), (k + 1) // 2 - 1, k // 2)
        self.blocks = nn.ModuleList(Block(o, not conditional, c if conditional else 0) for _ in range(o.blocks))
        self.out = Conv(c, codes)
        self.conditioning = None
        if conditional:
            residuals = (Gated(c, Conv(c, c, 3), Conv(c, 2 * c, 3), o.dropout) for _ in range(o.conditioning))
            self.conditioning = nn.Sequential(Conv(codes, c, 3), *residuals)

    def forward(self, indices: torch.Tensor, top: torch.Tensor | None = None) -> torch.Tensor:
        x = self.one_hot(indices)
        return self.logits(self.above(x) + self.left(x), self.places(x), self.condition(top))

    def logits(self, x, places, condition=None, walk=None) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, places, condition, walk)
        return self.out(F.elu(x))

    def one_hot(self, indices: torch.Tensor) -> torch.Tensor:
        return F.one_hot(indices, self.codes).movedim(3, 1).to(self.out.weight)

    def places(self, x: torch.Tensor) -> torch.Tensor:
        """Row and column of each position of a map, -½ … ½: (N, 2, H, W)."""
        row, column = (torch.arange(side, device=x.device) / side - 0.5 for side in x.shape[2:])
        return torch.stack(torch.meshgrid(row, column, indexing="ij")).expand(len(x), -1, -1, -1)

    def condition(self, top: torch.Tensor | None) -> torch.Tensor | None:
        return None if top is None else F.interpolate(self.conditioning(self.one_hot(top)), scale_factor=2)

    @torch.no_grad()
    def sample(self, noise: torch.Tensor, top: torch.Tensor | None = None) -> torch.Tensor:
        """Indices (N, H, W), one after the other, from uniform noise in [0, 1) of that shape."""
        walk, indices = Walk(*noise.shape[1:]), torch.zeros_like(noise, dtype=torch.long)
        places, condition = self.places(noise[:, None]), self.condition(top)
        first = self.above, self.left  # they see no code at their own position
        for layer in first:
            layer.keep(noise.new_zeros(len(noise), self.codes, 1, 1), walk)
        for row, column in itertools.product(range(walk.height), range(walk.width)):
            walk.row, walk.column = row, column
            here = (..., slice(row, row + 1), slice(column, column + 1))
            x = sum(layer.recall(walk) for layer in first)
            logits = self.logits(x, places[here], None if condition is None else condition[here], walk)
            indices[here] = chosen(logits, noise[here])
            for layer in first:
                layer.keep(self.one_hot(indices[here]), walk)
        return indices


def chosen(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Indices (N, H, W), drawn from logits (N, codes, H, W) by uniform noise (N, H, W) in [0, 1)."""
    shares = logits.double().softmax(1).cumsum(1)
    return (shares < noise[:, None]).sum(1).clamp_max(logits.shape[1] - 1)


# ---- training and use --------------------------------------------------------------------------------------

# Priors for few steps on a CPU
_SHALLOW = {"learning_rate": 1e-3, "kernel": 3, "blocks": 2, "residuals": 2, "precision": "bf16"}
_TINY = {"epochs": 0.3, "batch": 8, "width": 16, "kernel": 3, "blocks": 1, "residuals": 1, "conditioning": 1}

# Half the width, shallow and narrow priors of a smaller window, and few steps at a larger rate: some 15 minutes of a
# CPU core for 1,200 photos and copies
_PHOTOS = {
    **{"epochs": 12.0, "batch": 16, "learning_rate": 1e-3, "width": 64, "precision": "bf16"},
    "top": _SHALLOW | {"epochs": 12.0, "batch": 16, "width": 64},
    "bottom": _SHALLOW | {"epochs": 6.0, "batch": 8, "width": 64},
}


class VQVAE2(Generating):
    """Trained with `Options`; draws pictures from codes that its priors draw."""

    name = "VQ-VAE-2"
    Options = Options
    PROFILES = {
        "photos": _PHOTOS,
        "photos-gpu": {  # two (auto-encoder) and four times (priors) as many updates, of twice the copies
            **_PHOTOS,
            "top": _PHOTOS["top"] | {"epochs": 24.0},
            "bottom": _PHOTOS["bottom"] | {"epochs": 12.0},
        },
        # The same for eight minutes, with a quarter of the codes, so that priors see each often enough to know it
        "demo": {
            **{"epochs": 5.0, "batch": 16, "learning_rate": 1e-3, "width": 64, "codes": 128, "precision": "bf16"},
            "top": _SHALLOW | {"epochs": 6.5, "batch": 16, "width": 64},
            "bottom": _SHALLOW | {"epochs": 8.0, "batch": 8, "width": 48},
        },
        "smoke": {
            **{"epochs": 0.3, "batch": 8, "width": 8, "residuals": 1, "residual_width": 4, "codes": 16, "length": 4},
            "top": _TINY,
            "bottom": _TINY,
        },
    }

    def steps(self, o: Options | Prior) -> int:
        """Training steps of the auto-encoder or of a prior."""
        return math.ceil(o.epochs * len(self.training_pictures) / o.batch)

    @cached_property
    def trained(self) -> tuple[AutoEncoder, str]:
        """The auto-encoder, and its run's id."""
        o, pictures = self.options, self.training_pictures
        used = o.model_dump(exclude={"top", "bottom"})
        with self.run(f"autoencoder-{self.domain['train'].name}", {"pictures": pictures.id}, **used) as run:
            model = AutoEncoder(o).to(run.device, memory_format=torch.channels_last)
            opt = torch.optim.Adam(model.parameters(), lr=o.learning_rate, fused=True)
            run.track(model=model, opt=opt)
            if not run.reused:
                pictures.resident("images", device=run.device)
            for _ in run.steps(self.steps(o)):
                x = draw(pictures, o.batch, run.device)  # (B, 3, H, W)
                with autocast(o.precision, run.device):
                    codes, _, commitment = model.quantise(*model.encode(x))
                    made = model.decode(*codes).float()
                reconstruction = F.mse_loss(made, x)
                opt.zero_grad()
                (reconstruction + o.beta * commitment).backward()
                opt.step()
                run.log(reconstruction=reconstruction, commitment=commitment)
        return model.eval().requires_grad_(False), run.id

    @cached_property
    def codes(self) -> dict[str, torch.Tensor]:
        """The codes of all training pictures: int32 (N, H/8, W/8) of the top, (N, H/4, W/4) of the bottom."""
        model, pictures = self.trained[0], self.training_pictures
        parts = []
        with torch.no_grad():
            for start in range(0, len(pictures), 32):
                x = pictures.images(slice(start, start + 32), self.device)
                parts.append([indices.int() for indices in model.quantise(*model.encode(x))[1]])
        return {level: torch.cat(maps) for level, maps in zip(("top", "bottom"), zip(*parts, strict=True), strict=True)}

    def usage(self) -> dict[str, dict[str, float]]:
        """By level, the share of its codes that training pictures use, and the perplexity of their use: that of as many
        codes, used alike."""
        measured = {}
        for level, indices in self.codes.items():
            uses = torch.bincount(indices.flatten(), minlength=self.options.codes).double()
            entropy = torch.special.entr(uses / uses.sum()).sum()
            measured[level] = {"share": (uses > 0).double().mean().item(), "perplexity": entropy.exp().item()}
        return measured

    @cached_property
    def priors(self) -> dict[str, PixelSNAIL]:
        """The prior of the top, and that of the bottom given the top."""
        return {"top": self._prior("top", self.options.top), "bottom": self._prior("bottom", self.options.bottom)}

    def _prior(self, level: str, o: Prior) -> PixelSNAIL:
        used = o.model_dump() | {"codes": self.options.codes}
        with self.run(f"{level}-{self.domain['train'].name}", {"autoencoder": self.trained[1]}, **used) as run:
            model = PixelSNAIL(self.options.codes, o, conditional=level == "bottom")
            model.to(run.device, memory_format=torch.channels_last)
            opt = torch.optim.Adam(model.parameters(), lr=o.learning_rate, fused=True)
            run.track(model=model, opt=opt)
            codes = {} if run.reused else self.codes
            for _ in run.steps(self.steps(o)):
                rows = torch.randint(len(codes[level]), (o.batch,), device=run.device)
                wanted, top = (codes[name][rows].long() for name in (level, "top"))  # (B, h, w) each
                with autocast(o.precision, run.device):
                    logits = model(wanted, top if level == "bottom" else None).float()
                nats = F.cross_entropy(logits, wanted)  # of a code
                opt.zero_grad()
                nats.backward()
                opt.step()
                run.log(nats=nats)
        return model.eval().requires_grad_(False)

    def fit(self) -> "VQVAE2":
        self.priors  # noqa: B018 (found or trained when they are first asked for)
        return self

    def sample(self, n: int, seed: int = 0, batch: int = 50) -> torch.Tensor:
        model, priors, side = self.trained[0], self.priors, self.settings.data.size // 8
        generator = torch.Generator().manual_seed(seed)
        noise = [torch.rand(n, scale * side, scale * side, generator=generator) for scale in (1, 2)]
        made = []
        with torch.no_grad():
            for for_top, for_bottom in zip(*(x.split(batch) for x in noise), strict=True):
                top = priors["top"].sample(for_top.to(self.device))
                bottom = priors["bottom"].sample(for_bottom.to(self.device), top)
                made.append(model.decode(model.top.look_up(top), model.bottom.look_up(bottom)).cpu())
        return torch.cat(made).clamp(-1, 1)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        return batched(self.trained[0], images, self.device).clamp(-1, 1)

    def interpolate(self, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
        """What is interpolated is not quantised yet: between two codes there are no others."""
        model = self.trained[0]

        def between(pairs: torch.Tensor) -> torch.Tensor:
            ends = (model.encode(end) for end in pairs.chunk(2, dim=1))
            return model.decode(*model.quantise(*(torch.lerp(a, b, t) for a, b in zip(*ends, strict=True)))[0])

        return batched(between, torch.cat([x, y], dim=1), self.device).clamp(-1, 1)
