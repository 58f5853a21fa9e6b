"""How names of classes are compared: phrases of a prompt, labels of a person, categories of a file."""

from grounded.data.phrases import phrase_key

_ARTICLES = ("a ", "an ", "the ")


def normalise_name(name: str) -> str:
    """Return the form in which names are compared: "The Fire_Hydrant" and "a fire hydrant" are one."""
    text = " ".join(phrase_key(name).replace("_", " ").split())
    article = next((article for article in _ARTICLES if text.startswith(article)), "")
    return text[len(article) :]
