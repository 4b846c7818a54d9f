# %% [markdown]
# # A tour: from a preset to a folded, exported model
# Runs without network in a few seconds. Open it as a notebook in any editor that knows `# %%` cells, or run it:
# `python docs/examples/tour.py`.

# %%
import tempfile
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

import hf_effmodels
from hf_effmodels.hub import export

# %% [markdown]
# What is there, and what is known about it:

# %%
names = hf_effmodels.list_models("ghostnetv3*")
info = hf_effmodels.model_info("ghostnetv3-0.5x")
print(names)
print(f"{info.name}: {info.parameters} M parameters, {info.macs} M multiply-adds, {info.paper}")

# %% [markdown]
# A model with a head of our own. The weights are random: `hf-effmodels convert` makes trained ones from the official
# checkpoint.

# %%
torch.manual_seed(0)
model = hf_effmodels.create_model("ghostnetv3-0.5x", id2label={0: "cat", 1: "dog", 2: "bird"})
processor = hf_effmodels.create_image_processor("ghostnetv3-0.5x")
picture = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
pixels = processor(picture, return_tensors="pt")["pixel_values"]

# %% [markdown]
# One training step, by hand. `scripts/train.py` does this with everything around it.

# %%
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loss = model(pixels.repeat(4, 1, 1, 1), labels=torch.tensor([0, 1, 2, 0])).loss
loss.backward()
optimizer.step()
model.eval()
print(f"loss {loss.item():.3f}")

# %% [markdown]
# Fold: a third of the multiply-adds is left, the outputs stay.

# %%
with torch.no_grad():
    trained = model(pixels).logits
    count = sum(p.numel() for p in model.parameters())
    model.reparameterize()
    folded = model(pixels).logits
print(f"{count / 1e6:.2f} M parameters -> {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M")
print(f"largest difference {(trained - folded).abs().max().item():.1e}")

# %% [markdown]
# A folder for the Hub, and back. It would also load where hf_effmodels is not installed.

# %%
with tempfile.TemporaryDirectory() as folder:
    export(model, processor, Path(folder) / "my-ghostnet", license="apache-2.0")
    print(sorted(path.name for path in (Path(folder) / "my-ghostnet").iterdir()))
    again = AutoModelForImageClassification.from_pretrained(Path(folder) / "my-ghostnet")
    answer = pipeline("image-classification", model=str(Path(folder) / "my-ghostnet"))(picture)
print(type(again).__name__, answer)
