"""The Hugging Face Trainer: a callback attaches the lens; records go to the Trainer's log."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from telescope_core.callbacks.transformers import TelescopeCallback

torch.manual_seed(0)
pairs = torch.cartesian_prod(torch.arange(11), torch.arange(11))[torch.randperm(121)]
rows = [{"input_ids": pair, "labels": pair.sum() % 11} for pair in pairs]

config = BertConfig(
    vocab_size=11, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=2, num_labels=11,
)  # fmt: skip
arguments = TrainingArguments(
    output_dir="output", num_train_epochs=10, per_device_train_batch_size=16, learning_rate=1e-3,
    use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
)  # fmt: skip
callback = TelescopeCallback(probes=30, every=10)
trainer = Trainer(
    BertForSequenceClassification(config), arguments, train_dataset=rows[:80],
    eval_dataset=rows[80:], callbacks=[callback],
)  # fmt: skip
trainer.train()

record = callback.lens.snapshot().to_record()
print("step", record["step"])
print("degrees_of_freedom", round(record["train/degrees_of_freedom"], 2))
print("standard_error", round(record["train/degrees_of_freedom_stderr"], 2))
