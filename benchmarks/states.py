"""What is trained and saved: a transformer, a frozen base with adapters, many small tensors or few large ones."""

from collections.abc import Iterator

import torch
from torch import nn

VOCABULARY = 2048
TOKENS = 32
FROZEN_MB = 679
ADAPTED_MB = 28.3
WORK = 1024  # side of the matrix that stands for forward and backward of a bag of tensors


class Transformer(nn.Module):
    """d = 256 up to 300 MB, 768 up to 2.5 GB, 1536 beyond; as many layers as fit: 12 of 768 are 1.06 GB with AdamW."""

    def __init__(self, size_mb: float) -> None:
        super().__init__()
        width = 256 if size_mb <= 300 else 768 if size_mb <= 2500 else 1536
        parameters = size_mb * 1e6 / 12
        layers = max(1, round((parameters - 2 * VOCABULARY * width) / (12 * width * width + 13 * width)))
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)
        self.tokens = torch.arange(TOKENS).unsqueeze(0)

    def loss(self) -> torch.Tensor:
        hidden = self.embedding(self.tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return nn.functional.cross_entropy(self.head(self.norm(hidden))[0], self.tokens[0])


class Adapted(nn.Module):
    """A frozen base and small trainable adapters: what a save has to upload is the adapters and their moments."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.ParameterList(_filled(180, FROZEN_MB / 180))
        self.base.requires_grad_(requires_grad=False)
        self.adapters = nn.ParameterList(_filled(180, ADAPTED_MB / 3 / 180))

    def loss(self) -> torch.Tensor:
        return sum((one.square().mean() for one in self.adapters), torch.zeros(()))


class Bag(nn.Module):
    """A number of equal tensors."""

    def __init__(self, count: int, size_mb: float) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(_filled(count, size_mb / 3 / count))
        self.work = torch.rand(WORK, WORK)

    def loss(self) -> torch.Tensor:
        for _ in range(4):
            self.work @ self.work
        return sum((one.square().mean() for one in self.tensors), torch.zeros(()))


def build(kind: str, size_mb: float, *, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its AdamW, both warm: the optimizer has stepped once."""
    torch.manual_seed(seed)
    makers = {
        "transformer": lambda: Transformer(size_mb),
        "adapters": Adapted,
        "small": lambda: Bag(1500, size_mb),
        "large": lambda: Bag(6, size_mb),
    }
    model = makers[kind]()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
    train_step(model, optimizer)
    optimizer.zero_grad()
    return model, optimizer


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.loss().backward()  # type: ignore[operator]
    optimizer.step()


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that a resume has to bring back, by name."""
    for name, tensor in model.state_dict().items():
        yield name, tensor
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            yield f"{index}.{name}", value


def size_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    return sum(tensor.nbytes for _, tensor in tensors(model, optimizer))


def _filled(count: int, size_mb: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.rand(max(1, round(size_mb * 1e6 / 4)))) for _ in range(count)]
