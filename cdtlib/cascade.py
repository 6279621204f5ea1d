"""The cascade at test time (§3, "Inference", Fig. 3): picture → features → translate 5, 4, 3 → invert → picture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cdtlib import saved
from cdtlib.features.backbones import BACKBONES, Backbone, map_shape
from cdtlib.features.normalise import ChannelStatistics
from cdtlib.models.inverter import Inverter
from cdtlib.settings import Settings
from cdtlib.training.translation import Translators, make_translator

OTHER = {"a": "b", "b": "a"}


@dataclass
class Cascade:
    """Everything that translates between domains "a" and "b"."""

    backbone: Backbone
    statistics: dict[str, dict[int, ChannelStatistics]]  # by domain, by level
    translators: dict[int, Translators]  # by level, deepest first
    inverters: dict[str, dict[int, nn.Module]]  # by domain, by level
    device: str = "cpu"

    @torch.no_grad()
    def pyramid(self, images: torch.Tensor, domain: str) -> dict[int, torch.Tensor]:
        """Pictures of `domain`, float32 (N, 3, H, W) in [-1, 1] → {level: normalised maps (N, C, h, w) in [-1, 1]}."""
        maps = self.backbone(images.to(self.device), deepest=max(self.translators))
        return {i: self.statistics[domain][i].normalise(maps[i]) for i in self.translators}

    @torch.no_grad()
    def translate_maps(self, maps: dict[int, torch.Tensor], to: str) -> dict[int, torch.Tensor]:
        """Normalised maps of the other domain by level → translated maps by level (b̃_5, b̃_4, …), deepest first."""
        translated: dict[int, torch.Tensor] = {}
        for level in sorted(self.translators, reverse=True):
            if level not in maps:
                break
            translate = self.translators[level][to]
            deeper = translated.get(level + 1)
            translated[level] = translate(maps[level]) if deeper is None else translate(maps[level], deeper)
        return translated

    @torch.no_grad()
    def invert(self, maps: torch.Tensor, level: int, domain: str) -> torch.Tensor:
        """Normalised maps of `level` → pictures of `domain`, float32 (N, 3, H, W) in [-1, 1]."""
        return self.inverters[domain][level](maps)

    def translate(self, images: torch.Tensor, to: str, level: int | None = None, batch: int = 64) -> torch.Tensor:
        """Pictures of the other domain → pictures of domain `to` ("a" or "b"), float32 (N, 3, H, W) in [-1, 1].

        H and W are best what it was trained with (`settings.data.size`). Raises ValueError for another range, or none.
        `level` stops the cascade there and inverts its translated map; by default the shallowest one.
        """
        if to not in OTHER:
            raise ValueError(f'to: the domains are "a" and "b", got {to!r}')
        level = min(self.translators) if level is None else level
        if level not in self.translators:
            raise ValueError(f"level: the cascade has {', '.join(map(str, self.translators))}, got {level!r}")
        if level not in self.inverters[to]:
            raise ValueError(f"level: there is no inverter of domain {to!r} for level {level}")
        if not len(images) or images.abs().max() > 1:
            raise ValueError("images: at least one, with values in [-1, 1] (of uint8 by cdtlib.data.to_float)")
        made = []
        for part in images.split(batch):
            maps = {i: x for i, x in self.pyramid(part, OTHER[to]).items() if i >= level}
            made.append(self.invert(self.translate_maps(maps, to)[level], level, to).cpu())
        return torch.cat(made)

    def save(self, folder: Path, settings: Settings) -> Path:
        """Write all but the backbone into `folder`, where `load` finds it (see `cdtlib.saved`)."""
        tensors = {}
        for side in "ab":
            for i, s in self.statistics[side].items():
                tensors |= {f"mean.{side}.{i}": s.mean, f"std.{side}.{i}": s.std}
            for i, translators in self.translators.items():
                state = translators[side].state_dict()
                tensors |= {f"translator.{side}.{i}.{k}": v for k, v in state.items()}
            for i, inverter in self.inverters[side].items():
                tensors |= {f"inverter.{side}.{i}.{k}": v for k, v in inverter.state_dict().items()}
        return saved.write(folder, tensors, settings, method="cascade", backbone=self.backbone.fingerprint)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> tuple["Cascade", Settings]:
        """Read what `save` wrote. Raises FileNotFoundError, DamagedFile, or ValueError if the backbone's weights are
        not those that it was trained with."""
        tensors, settings, about = saved.read(folder)
        backbone = BACKBONES[settings.backbone]().to(device)
        if backbone.fingerprint != about["backbone"]:
            raise ValueError(
                f"{folder} was trained on the features of other {settings.backbone} weights ({about['backbone']}) than "
                f"these ({backbone.fingerprint}): give the same ones with --weights"
            )

        def part(network: nn.Module, prefix: str) -> nn.Module:
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            network.load_state_dict(state)
            return network.to(device).eval()

        statistics, translators, inverters = {}, {}, {}
        for i in settings.levels:
            shape = map_shape(backbone, i, settings.data.size)
            channels, side, _ = map_shape(backbone, i + 1, settings.data.size) if i < 5 else (None, None, None)
            pair = (make_translator(i, shape, channels, settings.translation[i], side) for _ in range(2))
            translators[i] = Translators(*(part(g, f"translator.{s}.{i}.") for s, g in zip("ab", pair, strict=True)))
        for side in "ab":
            statistics[side] = {
                i: ChannelStatistics(tensors[f"mean.{side}.{i}"], tensors[f"std.{side}.{i}"]) for i in settings.levels
            }
            inverters[side] = {}
            for i in settings.levels:
                if any(k.startswith(f"inverter.{side}.{i}.") for k in tensors):
                    s = settings.inversion
                    halvings = backbone.architecture.halvings[i]
                    network = Inverter(backbone.channels[i], s.width[i], halvings, s.refine)
                    inverters[side][i] = part(network, f"inverter.{side}.{i}.")
        return cls(backbone, statistics, translators, inverters, device), settings
