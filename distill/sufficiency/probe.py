"""The probe: a student so fast that it can be trained dozens of times to measure a learning curve.

A linear layer on word n-grams, trained with logistic loss. It is not served; `distill.students` has those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Classes = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float32]

_MOST_FEATURES = 2**16
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"  # Thai, kana and Han, which are written without spaces
_WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
_PATTERN = re.compile(_WORD)
_STRENGTH = 1e-5  # of the regularisation
_EPOCHS = (5, 20)  # the fewest and the most
_STEPS = 20_000  # a small set is passed over until the probe has taken so many


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case; a sign of a script without spaces is a word."""
    return _PATTERN.findall(text.lower())


def features(texts: Sequence[str]) -> csr_matrix:
    """Return the TF-IDF weights of the words and pairs of words of N texts, [N, D].

    Raises ValueError if the texts have no word in common.
    """
    vectoriser = TfidfVectorizer(
        tokenizer=words,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, 2),
        min_df=2,  # a word of one text tells nothing about others
        max_features=_MOST_FEATURES,
        sublinear_tf=True,
        dtype=np.float32,
    )
    return vectoriser.fit_transform(texts)


def train_and_predict(
    inputs: csr_matrix, classes: Classes, labels: int, learn: Classes, answer: Classes, seed: int = 0
) -> Floats:
    """Train on the rows `learn` and return the probabilities of the rows `answer`, [len(answer), K], K = `labels`.

    `inputs` is [N, D] and `classes` [N]. A label without a row to learn from gets the probability 0.
    """
    seen = np.unique(classes[learn])
    probabilities = np.zeros((len(answer), labels), dtype=np.float32)
    if len(seen) == 1:
        probabilities[:, seen] = 1.0
        return probabilities
    few, many = _EPOCHS
    model = SGDClassifier(
        loss="log_loss",
        alpha=_STRENGTH,
        max_iter=int(np.clip(_STEPS // len(learn), few, many)),
        tol=None,
        average=True,
        random_state=seed,
    )
    model.fit(inputs[learn], classes[learn])
    probabilities[:, seen] = model.predict_proba(inputs[answer])
    return probabilities
