"""A training that knows nothing of spotrun and keeps one checkpoint in `out/`, every six of 24 steps; slow enough to be kept."""

import os
import random
import time
from pathlib import Path

import torch

STEPS, EVERY = 24, 6
LAST = Path("out/last.pt")

if __name__ == "__main__":
    random.seed(1), torch.manual_seed(1)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = 0
    LAST.parent.mkdir(exist_ok=True)
    if LAST.exists():
        state = torch.load(LAST)
        model.load_state_dict(state["model"])
        if os.environ.get("DROP") != "optimizer":
            optimizer.load_state_dict(state["optimizer"])
        random.setstate(state["python"]), torch.set_rng_state(state["torch"])
        step = state["step"]
    while step < STEPS:
        loss = model(torch.randn(8, 4) + random.gauss(0, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save({**state, "python": random.getstate(), "torch": torch.get_rng_state()}, LAST.with_suffix(".new"))
            LAST.with_suffix(".new").replace(LAST)
        time.sleep(0.1)  # the agent commits what has been left alone for half a second
    Path("out/weights").write_bytes(model.weight.detach().numpy().tobytes())
    LAST.unlink()  # what pickle writes of equal states differs from load to load
