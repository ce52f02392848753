"""Handwritten digits with a small convolutional network: batch norm, dropout, a schedule, augmentation, loader workers.

    pip install scikit-learn                              # the digits come with it
    python training_scripts/digits.py
    python training_scripts/digits.py --workers 2         # augmentation in two worker processes

Augmentation draws from Python's and NumPy's global randomness, as much existing code does. With workers it is wrapped in
`spotrun.data.PerSampleRandom`, which makes it exact for any number of them. Press Ctrl-C and run the same command again.
"""

import argparse
import os
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows

import spotrun

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--workers", type=int, default=0, help="processes that load data")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--threads", type=int, default=1, help="threads of one operation; another number gives other bits")
arguments = parser.parse_args()

random.seed(arguments.seed)
np.random.seed(arguments.seed)
torch.manual_seed(arguments.seed)
torch.set_num_threads(arguments.threads)
torch.use_deterministic_algorithms(mode=True)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Digits(torch.utils.data.Dataset):
    """Images of 8 by 8 pixels, shifted and dirtied anew each time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, augment: bool) -> None:
        self.images, self.labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        if self.augment:
            image = np.roll(image, (random.randint(-1, 1), random.randint(-1, 1)), axis=(0, 1))
            image = image + np.random.normal(scale=0.1, size=image.shape)
        return torch.tensor(image, dtype=torch.float32)[None], int(self.labels[index])


digits = load_digits()
images, labels = digits.images / 16, digits.target
training = Digits(images[:1500], labels[:1500], augment=True)
if arguments.workers:
    training = spotrun.data.PerSampleRandom(training, seed=arguments.seed)
loader = torch.utils.data.DataLoader(
    training, batch_size=arguments.batch_size, shuffle=True, num_workers=arguments.workers
)
test_loader = torch.utils.data.DataLoader(Digits(images[1500:], labels[1500:], augment=False), batch_size=256)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Flatten(),
    nn.Dropout(0.3),
    nn.Linear(32 * 4 * 4, 10),
).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=arguments.epochs)
accuracies = {}  # by epoch; a plain dict is part of the state, too

run = spotrun.attach(model=model, optimizer=optimizer, scheduler=scheduler, accuracies=accuracies)
for epoch in run.epochs(arguments.epochs):
    model.train()
    for inputs, targets in run.batches(loader):
        loss = F.cross_entropy(model(inputs.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
    scheduler.step()

    model.eval()
    with torch.no_grad():
        right = sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in test_loader)
    accuracies[epoch] = right / len(test_loader.dataset)
    print(f"epoch {epoch + 1}/{arguments.epochs}  right {accuracies[epoch]:.1%}", flush=True)

print(f"best: {max(accuracies.values()):.1%} after epoch {max(accuracies, key=accuracies.get) + 1}")
if os.environ.get("SPOTRUN_OUTPUT_DIR"):
    weights = np.concatenate([value.detach().cpu().numpy().ravel() for value in model.parameters()])
    np.save(Path(os.environ["SPOTRUN_OUTPUT_DIR"], "weights.npy"), weights)
