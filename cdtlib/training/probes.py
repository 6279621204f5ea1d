"""Training the probe: one small network that reads species, number, facing and silhouettes off a zoo picture.

It is a measuring instrument for `cdtlib.metrics.semantics`, not a part of the paper's method.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdtlib.data import to_float

MAX_COUNT = 3  # animals in a picture of the zoo: one to three


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Probe(nn.Module):
    """Pictures in [-1, 1] → logits of the mask, the species, the number of animals and their facing.

    Fully convolutional, for pictures whose sides are multiples of 16. A pyramid of four scales is pooled for the
    labels and added up from coarse to fine for the mask. `silhouette` is a network of its own: it sees nothing but a
    mask, so it tells whether the shape alone is that of a species.
    """

    def __init__(self, species: int):
        super().__init__()
        widths = (16, 32, 64, 96)  # channels of each scale
        self.labels = (species + 1, MAX_COUNT, 1)  # the last kind: none of these animals
        inputs = (12, *widths)  # 12: each 2×2 pixels are put on top of each other, which saves a scale of convolutions
        self.scales = nn.ModuleList(
            nn.Sequential(_block(i, o, stride=1 if k == 0 else 2), _block(o, o))
            for k, (i, o) in enumerate(zip(inputs, widths, strict=False))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(w, 24, 1) for w in widths)
        self.mask = nn.Sequential(_block(24, 24), nn.Conv2d(24, 4, 1), nn.PixelShuffle(2))
        self.head = nn.Sequential(nn.Linear(sum(widths[-2:]), 96), nn.ReLU(), nn.Linear(96, sum(self.labels)))
        self.silhouette = nn.Sequential(
            nn.PixelUnshuffle(4), _block(16, 24), _block(24, 48, 2), _block(48, 64, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, species + 1),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, H, W) → mask (N, H, W), species and none (N, S + 1), count (N, 3), facing (N,; right is positive)."""
        x, maps = F.pixel_unshuffle(pictures, 2), []
        for scale in self.scales:
            x = scale(x)
            maps.append(x)  # (N, widths[k], H / 2^(k + 1), W / 2^(k + 1))
        total = self.lateral[-1](maps[-1])
        for k in (2, 1, 0):
            total = F.interpolate(total, scale_factor=2, mode="nearest") + self.lateral[k](maps[k])
        pooled = torch.cat([m.mean((2, 3)) for m in maps[-2:]], 1)
        species, count, facing = self.head(pooled).split(self.labels, 1)
        return self.mask(total)[:, 0], species, count, facing[:, 0]


def shift_and_mirror(pictures: Tensor, masks: Tensor, reach: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Shift by up to `reach` whole pixels and mirror half: pictures, masks (N, H, W) and which were mirrored (N,)."""
    n, size = len(pictures), pictures.shape[-1]
    mirrored = torch.rand(n, device=pictures.device) < 0.5
    theta = torch.zeros(n, 2, 3, device=pictures.device)
    theta[:, 0, 0] = 1 - 2.0 * mirrored
    theta[:, 1, 1] = 1
    theta[:, :, 2] = torch.randint(-reach, reach + 1, (n, 2), device=pictures.device) * (2 / size)
    grid = F.affine_grid(theta, [n, 4, size, size], align_corners=False)
    both = torch.cat([pictures, masks[:, None].to(pictures.dtype)], 1)  # (N, 4, H, W)
    both = F.grid_sample(both, grid, mode="nearest", padding_mode="border", align_corners=False)
    return both[:, :3], both[:, 3], mirrored


def blur(pictures: Tensor, side: int) -> Tensor:
    """Down to `side` × `side` pixels and back: (N, C, H, W) → (N, C, H, W)."""
    small = F.interpolate(pictures, size=side, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, size=pictures.shape[-2:], mode="bilinear", align_corners=False)


def spoil(pictures: Tensor) -> Tensor:
    """Make pictures (N, 3, H, W) in [-1, 1] look like translated ones: blurred, blotchy, noisy, off in colour.

    The probe has to read such pictures; trained on clean ones only, it would judge the inverters' blur instead of
    what the translators did.
    """
    n, size, like = len(pictures), pictures.shape[-1], {"device": pictures.device}
    side = int(torch.randint(size // 3, size, ()))
    share = (2 * torch.rand(n, 1, 1, 1, **like) - 0.5).clamp(0, 1)  # a quarter stay sharp, a quarter are all blurred
    x = torch.lerp(pictures, blur(pictures, side), share)
    blotches = F.interpolate(torch.randn(n, 3, 8, 8, **like), size=size, mode="bilinear", align_corners=False)
    x = x + 0.15 * torch.rand(n, 1, 1, 1, **like) * blotches
    x = x + 0.10 * torch.rand(n, 1, 1, 1, **like) * torch.randn_like(x)
    gain = 1 + 0.15 * torch.randn(n, 1, 1, 1, **like) + 0.08 * torch.randn(n, 3, 1, 1, **like)
    x = x * gain + 0.10 * torch.randn(n, 3, 1, 1, **like)
    return x.clamp(-1, 1)


def spoil_masks(masks: Tensor) -> Tensor:
    """Give masks (N, H, W) in {0, 1} the soft, uneven edges of masks that were read off a blurred picture."""
    n, size = len(masks), masks.shape[-1]
    x = masks[:, None]
    side = int(torch.randint(size // 3, size, ()))
    share = (2 * torch.rand(n, 1, 1, 1, device=x.device) - 0.5).clamp(0, 1)
    uneven = F.interpolate(torch.randn(n, 1, size // 4, size // 4, device=x.device), size=size, mode="bilinear")
    return (torch.lerp(x, blur(x, side), share) + 0.2 * share * uneven > 0.5)[:, 0].float()


def _tiles(x: Tensor) -> Tensor:
    """4 × 4 or 8 × 8 tiles of each of (N, C, H, H), in an order drawn for it."""
    n, c, size, _ = x.shape
    number = 2 ** int(torch.randint(2, 4, ()))
    side = size // number
    x = x.reshape(n, c, number, side, number, side).permute(0, 2, 4, 1, 3, 5).reshape(n, number**2, c, side, side)
    order = torch.rand(n, number**2, device=x.device).argsort(1)
    x = x.gather(1, order[..., None, None, None].expand_as(x)).reshape(n, number, number, c, side, side)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, c, size, size)


def _melt(x: Tensor) -> Tensor:
    """(N, C, H, H), every place of it taken from another one nearby: some sixth of the picture away."""
    n, size = len(x), x.shape[-1]
    side = int(torch.randint(5, 10, ()))
    away = F.interpolate(torch.randn(n, 2, side, side, device=x.device), size=size, mode="bicubic", align_corners=False)
    here = F.affine_grid(torch.eye(2, 3, device=x.device).repeat(n, 1, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, here + 0.35 * away.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def _fog(x: Tensor) -> Tensor:
    """(N, C, H, H), of which 3 × 3 to 5 × 5 values are left."""
    return blur(x, int(torch.randint(3, 6, ())))


def _blotches(x: Tensor) -> Tensor:
    """Spots of the light and the dark colours of each of (N, C, H, H)."""
    side = int(torch.randint(6, 17, ()))
    spots = F.interpolate(torch.rand(len(x), 1, side, side, device=x.device), size=x.shape[-1], mode="bilinear")
    light, dark = (x.flatten(2).quantile(q, 2)[..., None, None] for q in (0.98, 0.02))
    return torch.lerp(light, dark, (8 * (spots - 0.5)).sigmoid())


#: Ways to leave no animal of pictures or masks (N, C, H, H), but much of what they were made of.
WRECKS = {"in tiles": _tiles, "melted": _melt, "fogged": _fog, "in blotches": _blotches}


def wreck(x: Tensor) -> Tensor:
    """Pictures or masks (N, C, H, H), as many of them as can be wrecked in each way of `WRECKS`.

    A probe that has to name an animal names one of such a picture, too: of those before it, every heap of tiles had
    the silhouette of a giraffe.
    """
    parts = zip(WRECKS.values(), x.tensor_split(len(WRECKS)), strict=True)
    return torch.cat([way(part) for way, part in parts if len(part)])


def train_probe(
    run,
    draw: Callable[[], tuple[Tensor, dict[str, Tensor]]],
    *,
    species: int,
    steps: int,
    batch: int,
    learning_rate: float,
    wrecks: float,
) -> Probe:
    """Train on uint8 pictures (N, 3, H, W) and their labels; AdamW, one-cycle schedule.

    draw: gives both; it is called only if there is something to train. wrecks: the share of a batch of which no animal
    is left (`wreck`); all that is learned of it is that there is none. The labels are `mask` (N, H, W) bool,
    `species` (N,), `count` (N,) from 1, and `facing_right` (N,) bool. The loss is a sum of five cross-entropies.
    The network has batch norm, so of several processes each does the whole batch.
    """
    device, wrecks = run.device, round(wrecks * batch)
    network = Probe(species).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    run.track(network=network, optimizer=optimizer, schedule=schedule)
    if not run.reused:
        pictures, labels = draw()
        pictures, labels = pictures.to(device), {name: label.to(device) for name, label in labels.items()}
    network.train()
    for _ in run.steps(steps):
        rows = torch.randint(len(pictures), (batch,)).to(device)
        x, mask, mirrored = shift_and_mirror(to_float(pictures[rows]), labels["mask"][rows])
        x = spoil(x).contiguous(memory_format=torch.channels_last)
        right = (labels["facing_right"][rows] ^ mirrored).float()
        kind = labels["species"][rows]
        kind[:wrecks] = species  # none of them
        x[:wrecks] = wreck(x[:wrecks])
        shapes = torch.cat([(wreck(mask[:wrecks, None]) > 0.5)[:, 0].float(), mask[wrecks:]])
        mask_logits, species_logits, count_logits, facing_logits = network(x)
        losses = {
            "mask": F.binary_cross_entropy_with_logits(mask_logits[wrecks:], mask[wrecks:]),
            "species": F.cross_entropy(species_logits, kind),
            "count": F.cross_entropy(count_logits[wrecks:], labels["count"][rows][wrecks:] - 1),
            "facing": F.binary_cross_entropy_with_logits(facing_logits[wrecks:], right[wrecks:]),
            # True masks, not the network's own, which could carry more of the picture than the shape; but of wrecks
            # also what it takes for an animal there.
            "silhouette": F.cross_entropy(
                network.silhouette(torch.cat([spoil_masks(shapes), (mask_logits[:wrecks] > 0).float()])[:, None]),
                torch.cat([kind, kind[:wrecks]]),
            ),
        }
        # The mask is the hardest to get right and has the smallest loss, most pixels being plain background.
        loss = 4 * losses["mask"] + losses["species"] + losses["count"] + losses["facing"] + losses["silhouette"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.log(**losses)
    return network.eval()
