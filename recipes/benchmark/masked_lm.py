"""all-MiniLM-L6-v2 as a masked language model, because there is no package that carries one of English.

Trained for minutes on two cores it is weak, but it is as fast as a good one of its size (6 layers, 384 wide, 30,522
word pieces).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_pretext.files import atomic_folder
from hf_pretext.models.packaged import packaged_embedder

MASK_PROBABILITY = 0.3


def train_masked_lm(texts: Sequence[str], seconds: float, folder: Path, device: "torch.device | str" = "cpu") -> None:
    """Train the model on texts for some time, and save it with its tokenizer in a folder.

    Args:
        texts (`Sequence[str]`): Public texts.
        seconds (`float`): Time to train.
        folder (`Path`): Folder for the model.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`): Where it is trained.
    """
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(packaged_embedder())
    model = AutoModelForMaskedLM.from_pretrained(packaged_embedder()).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    end = time.monotonic() + seconds
    with tqdm(desc="Training a masked model", unit="step") as bar:
        while time.monotonic() < end:
            chosen = torch.randint(len(texts), (32,)).tolist()
            batch = tokenizer([texts[index] for index in chosen], padding=True, truncation=True, max_length=48)
            ids, there = (torch.tensor(batch[name], device=device) for name in ("input_ids", "attention_mask"))
            drawn = torch.rand(ids.shape).to(device) < MASK_PROBABILITY
            rows, columns = torch.nonzero(drawn & there.bool(), as_tuple=True)
            masked = ids.clone()
            masked[rows, columns] = tokenizer.mask_token_id
            # The head costs more than the rest, so it reads the masked positions only.
            hidden = model.bert(masked, attention_mask=there).last_hidden_state[rows, columns]
            loss = torch.nn.functional.cross_entropy(model.cls(hidden), ids[rows, columns])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.2f}")
    with atomic_folder(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
