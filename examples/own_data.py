"""Train a linear classifier on data of your own, in whatever form they lie.

python examples/own_data.py "folder:~/birds?size=32"
python examples/own_data.py "parquet:~/patients.parquet?label=outcome"
python examples/own_data.py glyphs:greek
"""

import sys

import torch
from torch.nn.functional import cross_entropy

from landform import data

splits = data.load(sys.argv[1] if len(sys.argv) > 1 else "digits")
for name, split in splits.items():
    print(f"{name}: {split}")

train, test = splits["train"], splits["test"]
if train.x.ndim == 2:
    train, test = data.standardise(train, test)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(train.x[0].numel(), len(train.classes)))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    cross_entropy(model(train.x), train.y).backward()
    optimizer.step()
accuracy = (model(test.x).argmax(1) == test.y).float().mean()
print(f"a linear classifier: {accuracy:.1%} on the test split, {len(train.classes)} classes")
