"""How pictures lie in fc7 (§4.2, Fig. 10): t-SNE to see it, and numbers in the full space, since t-SNE only shows.

In every function features are float tensors (n, d), a row for each picture (`cdtlib.features.classifier`); distances
between them are Euclidean, as in t-SNE. Raises TypeError or ValueError for anything else, for values that are not
finite, and for too few pictures.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cdtlib.metrics.distances import checked, precision_recall

FOLDS = 5  # of the cross-validation


def tsne(features: torch.Tensor, *, perplexity: float, seed: int = 0) -> np.ndarray:
    """Project features (n, d) to float64 (n, 2) by t-SNE (van der Maaten & Hinton 2008), started from their PCA.

    The same features and seed give the same points. perplexity: about how many neighbours a point heeds. Raises
    ValueError for one that does not fit (`check_perplexity`), or if all rows are the same.
    """
    (x,) = _checked(features=features)
    check_perplexity(perplexity, len(x))
    if (x == x[0]).all():
        raise ValueError(f"the features of all {len(x)} pictures are the same: there is nothing to project")
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(x).astype(float)


def check_perplexity(perplexity: float, pictures: int) -> None:
    """ValueError unless 3 · perplexity, the number of neighbours that t-SNE looks at, is below that of pictures."""
    if perplexity < 1 or 3 * perplexity >= pictures:
        raise ValueError(
            f"perplexity {perplexity:g} does not fit {pictures} pictures: t-SNE looks at the 3 · perplexity nearest "
            f"neighbours of each, so it must be at least 1 and below {pictures / 3:g}"
        )


def target_share(
    x: torch.Tensor, source: torch.Tensor, target: torch.Tensor, *, k: int = 10, paired: bool = False
) -> float:
    """The mean share of target pictures among the `k` nearest neighbours of each row of `x`, in source ∪ target.

    source, target: equal numbers, so that without any difference the share is about 0.5.
    paired: row i of `x` comes from row i of `source`, which then is not counted as a neighbour of it: a translation
    that changes nothing scores as the untouched source does, `target_share(source, source, target, paired=True)`.

    The share tells which of the two is nearer, not whether either is near: noise can have 1.
    """
    x, source, target = _checked(x=x, source=source, target=target)
    n = len(source)
    if len(target) != n:
        raise ValueError(f"source has {n} pictures and target {len(target)}: the share needs equal numbers")
    if paired and len(x) != n:
        raise ValueError(f"x has {len(x)} rows and source {n}: row i of x cannot come from row i of it")
    if not 1 <= k < 2 * n:
        raise ValueError(f"k: each picture has at least {2 * n - 1} others as neighbours, so 1 to that, not {k}")
    distances = pairwise_distances(x, np.concatenate([source, target]))  # (len(x), 2 n)
    if paired:
        np.fill_diagonal(distances, np.inf)
    return float((np.argsort(distances, axis=1, kind="stable")[:, :k] >= n).mean())


def two_sample_accuracy(x: torch.Tensor, y: torch.Tensor, *, seed: int = 0) -> float:
    """How well a classifier tells two sets apart on pictures that it was not trained on (Lopez-Paz & Oquab 2017).

    0.5 is the ideal, two samples of one distribution, with a standard error of √(1 / 8n) for n pictures a set; 1 is two
    sets that share nothing. The classifier is a logistic regression on standardised features, cross-validated in 5
    folds; both sets have equal numbers. No picture may be in both, nor two versions of one. Raises ValueError for
    fewer than 5 pictures a set, or if all rows are the same.
    """
    x, y = _checked(at_least=FOLDS, x=x, y=y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} pictures and y {len(y)}: with equal numbers, 0.5 is what guessing gives")
    both = np.concatenate([x, y])
    if (both == both[0]).all():
        raise ValueError(f"the features of all {len(both)} pictures are the same: there is nothing to tell apart")
    labels = np.repeat([0, 1], len(x))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return float((cross_val_predict(classifier, both, labels, cv=folds) == labels).mean())


def compare(
    x: torch.Tensor, source: torch.Tensor, target: torch.Tensor, *, k: int = 10, paired: bool = False, seed: int = 0
) -> dict[str, float]:
    """All numbers of one set of pictures `x`, as many as `target` has; none of them says enough alone.

    `target_share` (which domain is nearer), precision (the share of x that lies where the target does), recall (the
    share of the target that lies where x does; both as in `distances.precision_recall`) and `two_sample_accuracy`.
    """
    precision, recall = precision_recall(x, target)
    return {
        "share of target among neighbours": target_share(x, source, target, k=k, paired=paired),
        "precision": precision,
        "recall": recall,
        "two-sample accuracy": two_sample_accuracy(x, target, seed=seed),
    }


def _checked(at_least: int = 1, **sets: torch.Tensor) -> list[np.ndarray]:
    """The sets as float64 arrays (see `distances.checked`)."""
    return [features.numpy() for features in checked(at_least, narrowest=1, **sets)]
