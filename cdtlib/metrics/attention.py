"""What a classifier of the two domains looks at: class-activation maps and occlusion (paper §4.1, to check "fixating on
the unique differences … such as background"; beyond the paper).

Maps are (N, H, W), as large as the pictures, positive where a picture's own domain is supported, in any range.
"""

import numpy as np
import torch
from torch.nn import functional as F

from cdtlib.training.classification import DomainClassifier

SIGN = {"a": -1.0, "b": 1.0}  # a classifier's logit is positive for domain B


@torch.no_grad()
def activation_maps(classifier: DomainClassifier, images: torch.Tensor, side: str, batch: int = 64) -> torch.Tensor:
    """Class-activation maps (Zhou et al. 2016) of pictures of domain `side`, float (N, 3, H, W) in [-1, 1] → (N, H, W).

    Each cell of level 5 stands at the centre of what it sees, bilinear in between.
    """
    device, scale = classifier.head.weight.device, 2 ** len(classifier.backbone.architecture.halvings[5])
    evidence = torch.cat([classifier.evidence(part.to(device)).cpu() for part in images.split(batch)])  # (N, h, w)
    maps = F.interpolate(SIGN[side] * evidence[:, None], scale_factor=scale, mode="bilinear", align_corners=False)
    margin = (images.shape[-1] - maps.shape[-1]) // 2  # AlexNet's cells leave one
    return F.pad(maps, [margin] * 4, mode="replicate")[:, 0]


@torch.no_grad()
def occlusion_maps(
    classifier: DomainClassifier, images: torch.Tensor, side: str, patch: int, stride: int
) -> torch.Tensor:
    """How much the logit for a picture's own domain falls when a patch is covered (Zeiler & Fergus 2014): (N, H, W).

    The patch, `patch` pixels wide, has ImageNet's mean colour, which a backbone sees as 0, and moves by `stride`; a
    pixel has the mean over the patches that covered it.
    """
    size = images.shape[-1]
    places = [*range(0, size - patch, stride), size - patch]
    grey = 2 * classifier.backbone.mean.cpu() - 1
    falls, covered = torch.zeros(len(images), size, size), torch.zeros(size, size)
    whole = classifier.logits(images)
    for top in places:
        for left in places:
            window = (..., slice(top, top + patch), slice(left, left + patch))
            hidden = images.clone()
            hidden[window] = grey
            falls[window] += SIGN[side] * (whole - classifier.logits(hidden)).view(-1, 1, 1)
            covered[window] += 1
    return falls / covered


def share_on(maps: torch.Tensor, masks: np.ndarray) -> np.ndarray:
    """Share of the positive part of each map (N, H, W) that lies on the masks, bool (N, H, W): (N,), NaN if there is
    nothing positive. A map that is the same everywhere has the share of the area that the mask covers."""
    positive = maps.clamp_min(0).double().numpy()
    total = positive.sum((1, 2))
    return np.divide((positive * masks).sum((1, 2)), total, out=np.full(len(total), np.nan), where=total > 0)
