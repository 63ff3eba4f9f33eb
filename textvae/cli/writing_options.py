"""What the commands that write share: how text is drawn, which file is read, how documents are shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from textvae.text_vae import GeneratedDocument
from textvae.writing.options import SamplingOptions, check_range

SAMPLING = {
    "temperature": "of the tokens; 0 is greedy, 1 with --top-p 1 draws as the model has it",
    "top-p": "draw only among the most probable tokens of this total probability; 1 is off",
    "top-k": "draw only among this many of the most probable tokens; 0 is off",
    "min-p": "draw only tokens of at least this share of the best one's probability; 0 is off",
    "repetition-penalty": "divides the logits of tokens that were there before; 1 is off",
    "no-repeat-ngram": "no run of so many tokens comes twice in one context window; 0 is off",
    "topic-weight": "more (above 1) or fewer (below) of the words that the latents make likelier",
    "max-sentence-tokens": "a sentence is cut after so many tokens",
    "max-children": "a unit is ended after so many children",
    "best-of": "versions of every part, of which those are kept whose text is read most as planned",
}
"""Option that is a number -> its help; the names are those of `SamplingOptions`."""


def add_sampling(parser: argparse.ArgumentParser, *, seed: bool = True) -> None:
    """`seed`: with --seed, where the parser has none yet."""
    group = parser.add_argument_group("drawing")
    if seed:
        said = "the same seed writes the same text (default: %(default)s)"
        group.add_argument("--seed", type=int, default=0, help=said)
    for option, said in SAMPLING.items():
        default = getattr(SamplingOptions, option.replace("-", "_"))
        group.add_argument(f"--{option}", type=type(default), default=default, help=f"{said} (default: %(default)s)")
    group.add_argument(
        "--latent-temperature",
        metavar="[LEVEL=]N",
        nargs="+",
        default=["1"],
        help="scales the standard deviation of latents drawn from their priors; 0 takes the means; of all levels, or "
        "of those named, such as document=0.7 sentence=0 (default: 1)",
    )


def sampling(arguments: argparse.Namespace) -> SamplingOptions:
    """Raises ValueError, naming the option, for numbers that make no sense; --seed and, where there are any, --num and
    --steps included."""
    values = {option: getattr(arguments, option.replace("-", "_")) for option in SAMPLING}
    counts = {name: getattr(arguments, name) for name in ("seed", "num", "steps") if name in arguments}
    for option, value in {**values, **counts}.items():
        check_range(option.replace("-", "_"), value, f"--{option}")
    numbers = {option.replace("-", "_"): value for option, value in values.items()}
    return SamplingOptions(**numbers, latent_temperature=latent_temperature(arguments.latent_temperature))


def latent_temperature(given: Sequence[str]) -> float | dict[str, float]:
    """['0.7'] -> 0.7, ['document=0.7', 'sentence=0'] -> a number by level. Raises ValueError for anything else, a
    level that is named twice and numbers that make no sense."""
    found: dict[str, float] = {}
    for item in given:
        level, equals, number = item.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = None
        if value is None or level in found or bool(level) != bool(equals) or (len(given) > 1 and not level):
            raise ValueError(
                f"--latent-temperature is given '{item}'; it must be one number for all levels, or one for each of "
                "some levels, such as document=0.7 sentence=0"
            )
        check_range("latent_temperature", value, f"--latent-temperature{' of ' if level else ''}{level}")
        found[level] = value
    return found.get("", found)


def check_out(out: str | None) -> None:
    """Before the writing, which takes the time: make the folder of --out. Raises ValueError where it is one itself,
    OSError where it cannot be made."""
    if out is None:
        return
    if Path(out).is_dir():
        raise ValueError(f"--out is '{out}', a folder; give a file in it, such as {Path(out) / 'out.jsonl'}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)


def show(
    written: Sequence[GeneratedDocument],
    out: str | None,
    headings: Sequence[str],
    arguments: argparse.Namespace,
) -> None:
    """Print, or write Markdown, or JSON lines that say how each was made: the arguments, and every unit's latent, held
    or drawn."""
    if out is None:
        for heading, document in zip(headings, written, strict=True):
            print(f"--- {heading} ---\n{document.text}\n")
        return
    if Path(out).suffix == ".md":
        sections = [f"## {heading}\n\n{document.text}\n" for heading, document in zip(headings, written, strict=True)]
        Path(out).write_text("\n".join(sections), encoding="utf-8")
        return
    settings = {name: value for name, value in vars(arguments).items() if name not in ("command", "out", "verbose")}
    with Path(out).open("w", encoding="utf-8") as file:
        for number, document in enumerate(written):
            record = {
                "id": str(number),
                "text": document.text,
                "sentences": document.sentences,
                "structure": document.structure,
                "latents": {
                    name: {"held": document.plan.given[name].tolist(), "z": z.tolist()}
                    for name, z in document.plan.z.items()
                },
                "settings": settings,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
