"""`python -m tests.support.defective_service`: the service with a planted defect, which no traffic could provoke.

Every fourth text that is shadowed cannot be placed in its confidence band.
"""

from __future__ import annotations

from itertools import count

from service.serve import main
from service.shadow.sampler import Sampler

place, texts = Sampler.place, count(1)


def place_most(sampler: Sampler, score: float) -> tuple[int, float]:
    """Place an answer, but for every fourth."""
    if not next(texts) % 4:
        raise RuntimeError("a planted defect")
    return place(sampler, score)


if __name__ == "__main__":
    Sampler.place = place_most  # type: ignore[assignment, method-assign]
    main()
