import torch

from grounded.models.embedding_cache import EmbeddingCache


def test_the_least_recently_used_entry_is_dropped():
    cache = EmbeddingCache(capacity=2)
    cache.store({name: torch.full((1,), float(i)) for i, name in enumerate("ab")})
    assert list(cache.find(["a", "z"])) == ["a"]
    cache.store({"c": torch.full((1,), 2.0)})
    assert sorted(cache.find(["a", "b", "c"])) == ["a", "c"]
    assert len(cache) == 2
