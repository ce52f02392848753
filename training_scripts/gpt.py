"""A small character-level GPT, from text to samples in one file. It can be stopped anywhere and goes on where it was.

    python training_scripts/gpt.py                                  # learns Python from the standard library's source
    python training_scripts/gpt.py --steps 2000 --data notes.txt    # or from a file, a folder of texts, or a URL
    spotrun run training_scripts/gpt.py -- --steps 2000             # the same, as a job

Press Ctrl-C and run the same command again: it resumes at the next step, with the same bits as if nothing had happened.
"""

import argparse
import math
import os
import random
import sysconfig
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

import spotrun

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=1000, help="steps of the whole run")
parser.add_argument("--data", default=sysconfig.get_path("stdlib"), help="a file, a folder or a URL of text")
parser.add_argument("--batch-size", type=int, default=16, help="sequences in a step")
parser.add_argument("--layers", type=int, default=3, help="transformer blocks")
parser.add_argument("--width", type=int, default=96, help="width of the residual stream, a multiple of 32")
parser.add_argument("--context", type=int, default=64, help="characters that a prediction sees")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--threads", type=int, default=1, help="threads of one operation; another number gives other bits")
parser.add_argument("--print-every", type=int, default=50, metavar="STEPS")
arguments = parser.parse_args()

CHARACTERS_MAX = 1_500_000  # of the text; enough for a model this small
PEAK_RATE, WARM_UP_STEPS = 3e-3, 100
HEAD_WIDTH = 32
DROPOUT = 0.1

random.seed(arguments.seed)
np.random.seed(arguments.seed)
torch.manual_seed(arguments.seed)
torch.set_num_threads(arguments.threads)
torch.use_deterministic_algorithms(mode=True)
device = "cuda" if torch.cuda.is_available() else "cpu"

# --- text -----------------------------------------------------------------------------------------------------------


def read_text(source: str) -> str:
    """The text of a file, a URL, or a folder's files in the order of their names."""
    if source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source) as reply:
            return reply.read(4 * CHARACTERS_MAX).decode("utf-8", "replace")[:CHARACTERS_MAX]
    path = Path(source)
    files = sorted(path.glob("*.py")) or sorted(file for file in path.rglob("*") if file.is_file())
    text = ""
    for file in files if path.is_dir() else [path]:
        text += file.read_text(encoding="utf-8", errors="replace")
        if len(text) >= CHARACTERS_MAX:
            break
    return text[:CHARACTERS_MAX]


text = read_text(arguments.data)
characters = sorted(set(text))
number_of = {character: number for number, character in enumerate(characters)}
numbers = torch.tensor([number_of[character] for character in text])
held_out = numbers[len(numbers) * 9 // 10 :]
numbers = numbers[: len(numbers) * 9 // 10]
print(f"{len(text):,} characters, {len(characters)} different ones, from {arguments.data}")


class Windows(torch.utils.data.Dataset):
    """Pieces of the text that lie side by side: what the model sees, and the same one character later."""

    def __init__(self, stream: torch.Tensor, length: int) -> None:
        self.stream, self.length = stream, length

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        piece = self.stream[index * self.length : (index + 1) * self.length + 1]
        return piece[:-1], piece[1:]


loader = torch.utils.data.DataLoader(
    Windows(numbers, arguments.context), batch_size=arguments.batch_size, shuffle=True, drop_last=True
)
held_out_loader = torch.utils.data.DataLoader(Windows(held_out, arguments.context), batch_size=arguments.batch_size)

# --- model ----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention over what came before, then a small network for each position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.gather = nn.Linear(width, width, bias=False)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        batch, length, width = stream.shape
        parts = self.query_key_value(self.before_attention(stream)).split(width, dim=2)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.dropout(self.gather(seen.transpose(1, 2).reshape(batch, length, width)))
        return stream + self.dropout(self.network(self.before_network(stream)))


class GPT(nn.Module):
    """Predicts the next character at every position."""

    def __init__(self, vocabulary: int, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        return self.head(self.norm(self.blocks(self.embedding(text) + self.position(places))))

    @torch.no_grad()
    def write(self, start: torch.Tensor, length: int) -> torch.Tensor:
        """Goes on writing after `start`, character by character."""
        for _ in range(length):
            odds = F.softmax(self(start[:, -self.context :])[:, -1], dim=-1)
            start = torch.cat([start, torch.multinomial(odds, 1)], dim=1)
        return start


def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(inputs.to(device)).flatten(0, 1), targets.to(device).flatten())


def rate_at(step: int) -> float:
    """A share of the peak rate: up in a line, down in half a cosine."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = min(1.0, (step - WARM_UP_STEPS) / max(1, arguments.steps - WARM_UP_STEPS))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


model = GPT(len(characters), arguments.width, arguments.layers, arguments.context).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_at)
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters on {device}")

# --- training -------------------------------------------------------------------------------------------------------

run = spotrun.attach(model=model, optimizer=optimizer, scheduler=scheduler, total_steps=arguments.steps)
for epoch in run.epochs():
    model.train()
    for inputs, targets in run.batches(loader):
        loss = loss_of(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        run.log(loss=loss, rate=scheduler.get_last_lr()[0])
        if (run.steps_done + 1) % arguments.print_every == 0:
            print(f"step {run.steps_done + 1}/{arguments.steps}  epoch {epoch}  loss {loss.item():.4f}", flush=True)

# --- what it has learnt ---------------------------------------------------------------------------------------------

model.eval()
with torch.no_grad():
    losses = [loss_of(*batch).item() for batch, _ in zip(held_out_loader, range(50), strict=False)]
sample = model.write(torch.tensor([[number_of.get("\n", 0)]], device=device), 300)[0].tolist()
written = "".join(characters[number] for number in sample)
print(f"held-out loss {sum(losses) / len(losses):.4f}")
if os.environ.get("SPOTRUN_OUTPUT_DIR"):
    Path(os.environ["SPOTRUN_OUTPUT_DIR"], "sample.txt").write_text(written, encoding="utf-8")
else:
    print(written)
