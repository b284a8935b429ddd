"""The action that leaves a text to a human, by the rules of a task and of a bundle. A service needs no more of them."""

ABSTAIN = "abstain"
