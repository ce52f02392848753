"""A training with Hugging Face's Trainer and spotrun's callback, as a user would write it; eighteen steps in three epochs."""

import warnings

import torch
import transformers

from spotrun.integrations.transformers import SpotrunCallback

warnings.simplefilter("ignore")


class Tokens(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.tensor([(index * 7 + place) % 50 for place in range(12)])
        return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    arguments = transformers.TrainingArguments(
        "out", num_train_epochs=3, per_device_train_batch_size=4, learning_rate=1e-2, save_strategy="no", report_to=[], use_cpu=True,
        logging_steps=2, disable_tqdm=True,
    )  # fmt: skip
    spot = SpotrunCallback()
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config), args=arguments, train_dataset=Tokens(), callbacks=[spot]
    )
    trainer.train(resume_from_checkpoint=spot.resume(trainer))
