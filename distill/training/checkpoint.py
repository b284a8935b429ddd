"""Checkpoints: a training that was stopped goes on after its last whole epoch, and ends as if it had not been stopped.

accelerate writes and reads the state; this says where it lies, and that it is there whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from distill.errors import StoppedError
from distill.stages import Stage

_PHASES = "phases"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder for the state of one training after its last epoch. `key` tells the training from earlier ones there."""

    folder: Path
    key: str

    @classmethod
    def of(cls, stage: Stage) -> Checkpoint:
        """Return the place for the training of a stage, beside the stage."""
        return cls(stage.path.with_name(f".checkpoint-{stage.path.name}"), stage.fingerprint)

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Remove what is stored once the work within is done. Raises StoppedError on Ctrl-C, saying what is kept."""
        try:
            yield
        except KeyboardInterrupt as error:
            kept = any(self.folder.rglob(f"{self.key}-*"))
            raise StoppedError(
                "stopped: the epochs so far are kept; run the command again to go on"
                if kept
                else "stopped before the end of an epoch; run the command again to train from the start"
            ) from error
        self.remove()

    def phase(self, name: str) -> Checkpoint:
        """Return the place for an earlier phase of the training. It is kept until `remove`."""
        return Checkpoint(self.folder / _PHASES / name, self.key)

    def load(self, accelerator: Accelerator) -> None:
        """Put all that `accelerator` prepared and registered into the stored state, if there is one."""
        epochs = self._epochs()
        if epochs:
            accelerator.load_state(str(self._path(max(epochs))))

    def save(self, accelerator: Accelerator, epochs: int) -> None:
        """Store the state after so many epochs in place of the one before."""
        writing = self.folder / "writing"
        if accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(writing))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            earlier = [path for path in self.folder.iterdir() if path not in (writing, self.folder / _PHASES)]
            writing.rename(self._path(epochs))
            for path in earlier:
                shutil.rmtree(path)
        accelerator.wait_for_everyone()

    def remove(self) -> None:
        """Delete what is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, epochs: int) -> Path:
        return self.folder / f"{self.key}-{epochs}"

    def _epochs(self) -> list[int]:
        """Return after how many epochs of this training there is a state."""
        found = [path.name.rpartition("-") for path in self.folder.glob(f"{self.key}-*")]
        return [int(number) for key, _, number in found if key == self.key and number.isdigit()]
