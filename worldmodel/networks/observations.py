"""All entries of an observation together: their normalizers, encoders and decoders, in the order of specs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qdreamer.envs.entries import Spec
from qdreamer.worldmodel.networks import binary, discrete, image, vector  # noqa: F401 - they register
from qdreamer.worldmodel.networks.entry import NETWORKS, Gather

Entries = dict[str, Tensor]
"""Name of an entry → its tensor (B, T, ·)."""


class Normalizers(nn.Module):
    """A normalizer for each entry."""

    def __init__(self, specs: Mapping[str, Spec], config: Any) -> None:
        super().__init__()
        self.names = list(specs)
        self.parts = nn.ModuleList(NETWORKS[type(spec)].normalizer(spec, config) for spec in specs.values())

    def of(self, name: str) -> Any:
        """Return the normalizer of an entry."""
        return self.parts[self.names.index(name)]

    def scale(self, observation: Entries) -> Entries:
        """Return each entry as its encoder sees it and its decoder predicts it."""
        return {name: part(observation[name]) for name, part in zip(self.names, self.parts, strict=True)}

    def update(self, observation: Entries, gather: Gather) -> None:
        """Learn from a batch of this rank's rows."""
        for name in self.names:
            self.of(name).update(observation[name], gather)


class Encoders(nn.Module):
    """Encoders of the entries that are seen; `width` is E, that of all embeddings together."""

    def __init__(self, specs: Mapping[str, Spec], config: Any) -> None:
        super().__init__()
        made = {name: NETWORKS[type(spec)].encoder(spec, config) for name, spec in specs.items()}
        self.names = [name for name, part in made.items() if part is not None]
        self.parts = nn.ModuleList(part for part in made.values() if part is not None)
        self.width = sum(part.width for part in made.values() if part is not None)

    def embed(self, scaled: Entries) -> Entries:
        """Return the embedding of each entry."""
        return {name: part(scaled[name]) for name, part in zip(self.names, self.parts, strict=True)}


class Decoders(nn.Module):
    """A decoder for each entry."""

    def __init__(self, specs: Mapping[str, Spec], config: Any, features: int) -> None:
        super().__init__()
        self.names = list(specs)
        self.parts = nn.ModuleList(
            NETWORKS[type(spec)].decoder(spec, config, features) for spec in specs.values()
        )
        # Correlations with the embedding are those of a whole batch.
        self.by_sequence = all(getattr(part, "by_sequence", True) for part in self.parts)

    def losses(self, features: Tensor, scaled: Entries, embeddings: Entries) -> Entries:
        """Return the loss of each entry (B, T), of features (B, T, F)."""
        found = {}
        for name, part in zip(self.names, self.parts, strict=True):
            without_decoder = isinstance(part, image.EmbeddingHead)
            target = embeddings[name].detach() if without_decoder else scaled[name]
            found[name] = part(features).loss(target)
        return found

    def predict(self, features: Tensor) -> Entries:
        """Return scaled predictions (…, ·) of features (…, F), for all entries that have a decoder."""
        return {
            name: part(features).pred()
            for name, part in zip(self.names, self.parts, strict=True)
            if not isinstance(part, image.EmbeddingHead)
        }

    def of(self, name: str) -> nn.Module:
        """Return the decoder of an entry."""
        return self.parts[self.names.index(name)]


def joined(embeddings: Entries) -> Tensor:
    """Return all embeddings as one, (B, T, E)."""
    parts = list(embeddings.values())
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
