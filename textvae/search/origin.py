"""Which model made an index, and where it may be found again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

from textvae.damage import sha256_of

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class ModelOrigin:
    sha256: str
    """Of the weights."""
    name: str
    """Absolute folder of the run, or its Hub name."""
    relative: str | None
    """The folder as seen from the index, so that both can be moved together; None for a Hub name."""

    @classmethod
    def of(cls, run: str, index: Path) -> ModelOrigin:
        """The origin of an index that is going to be at `index`."""
        if not Path(run).is_dir():
            return cls(weights_sha256(run), run, None)
        folder = Path(run).resolve()
        try:
            relative = Path(os.path.relpath(folder, index.resolve())).as_posix()
        except ValueError:  # another drive
            relative = None
        return cls(weights_sha256(run), str(folder), relative)

    def find(self, index: Path, named: str | None = None) -> str:
        """The run folder or Hub name of the model that made `index`: `named`, or where it was then.

        Nothing is fetched that was not named: an index may come from a stranger. Raises ValueError where there is no
        such model, or another one.
        """
        if named is not None:
            if weights_sha256(named) != self.sha256:
                raise ValueError(
                    f"'{named}' is not the model that made '{index}', its weights differ: give that one, or make a new "
                    "index with textvae embed"
                )
            return named
        places = (
            [self.name] if self.relative is None else [os.path.normpath(index.resolve() / self.relative), self.name]
        )
        folders = [place for place in places if (Path(place) / WEIGHTS_FILE).is_file()]
        for folder in folders:
            if weights_sha256(folder) == self.sha256:
                return folder
        if folders:
            raise ValueError(
                f"the model in {folders[0]} is not, or no longer, the one that made '{index}': give that one with "
                "--model RUN, or make a new index with textvae embed"
            )
        raise ValueError(
            f"the model that made '{index}' is not at {' or '.join(dict.fromkeys(places))}: give it with --model RUN"
        )


def weights_sha256(run: str) -> str:
    """Of the weights of a run folder or Hub name. Raises ValueError for a folder without any, OSError if the Hub does
    not give them."""
    path = Path(run) / WEIGHTS_FILE
    if not path.is_file():
        if Path(run).is_dir() or run.startswith((".", "/")) or run.count("/") > 1:
            raise ValueError(f"there is no model in '{run}': it has no {WEIGHTS_FILE}")
        path = Path(hf_hub_download(run, WEIGHTS_FILE))
    return sha256_of(path)
