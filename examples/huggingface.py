"""The Hugging Face Trainer: a callback attaches the lens; records go to the Trainer's log."""

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from telescope_core.callbacks import IndexedDataset
from telescope_core.callbacks.transformers import TelescopeCallback

torch.manual_seed(0)
pairs = torch.cartesian_prod(torch.arange(11), torch.arange(11))[torch.randperm(121)]
sums = pairs.sum(dim=1) % 11
train = [{"input_ids": pairs[i], "labels": sums[i]} for i in range(80)]

config = BertConfig(
    vocab_size=11, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=2, num_labels=11,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
arguments = TrainingArguments(
    output_dir="output", num_train_epochs=10, per_device_train_batch_size=16, learning_rate=1e-3,
    remove_unused_columns=False, use_cpu=True, report_to="none", save_strategy="no",
    logging_strategy="no", disable_tqdm=True,
)  # fmt: skip
model = BertForSequenceClassification(config)
trainer = Trainer(model, arguments, train_dataset=IndexedDataset(train))
callback = TelescopeCallback(
    nn.CrossEntropyLoss(), {"input_ids": pairs[:80]}, sums[:80],
    {"test": {"input_ids": pairs[80:]}}, probes=30, every=10,
)  # fmt: skip
callback.attach(trainer)
trainer.train()

record = callback.lens.snapshot().to_record()
print("step", record["step"])
print("degrees_of_freedom", round(record["train/degrees_of_freedom"], 2))
print("standard_error", round(record["train/degrees_of_freedom_stderr"], 2))
