"""Where the training set's embeddings lie: the reference of the out-of-distribution score."""

import torch
from torch import Tensor


class EmbeddingReference:
    """Mean and whitening of (B, E) embeddings."""

    def __init__(self, mean: Tensor, whitening: Tensor) -> None:
        self.mean, self.whitening = mean, whitening

    @classmethod
    def fit(cls, embedding: Tensor) -> "EmbeddingReference":
        """Fit to (B, E) embeddings; directions without spread are given a little."""
        embedding = embedding.double()
        mean = embedding.mean(0)
        covariance = torch.cov((embedding - mean).T)
        ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance + ridge))
        return cls(mean.float(), inverse.float())

    def distance(self, embedding: Tensor) -> Tensor:
        """(B,) Mahalanobis distance over sqrt(E)."""
        white = (embedding - self.mean.to(embedding)) @ self.whitening.to(embedding).T
        return (white**2).mean(1).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Tensors for the weights file."""
        return {"mean": self.mean, "whitening": self.whitening}
