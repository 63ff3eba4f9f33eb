"""Penn Treebank (Mikolov's files) -> one JSON line a sentence, for a hierarchy of one level.

    python data_prep/ptb.py FOLDER --out data/ptb-jsonl
    python data_prep/train_tokenizer.py data/ptb-jsonl --out data/ptb-words --kind words --size 10002 \\
        --hierarchy sentence
    textvae prepare data/ptb-jsonl --out data/ptb --hierarchy sentence --decoder data/ptb-words \\
        --max-sentence-tokens 256 --cache-features

`experiments/run.py ptb` does all this, trains and scores.
10,002: the closed vocabulary of the training split, 9,999 with its `<unk>`, and three special tokens. The
encoder spells `<unk>` in three tokens, so a few sentences need more room than the usual 128.
"""

import argparse
import json
from pathlib import Path

FILES = {"train": "ptb.train.txt", "validation": "ptb.valid.txt", "test": "ptb.test.txt"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds " + ", ".join(FILES.values()))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, name in FILES.items():
        sentences = (arguments.folder / name).read_text(encoding="utf-8").splitlines()
        with (arguments.out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number, sentence in enumerate(sentences, 1):
                file.write(json.dumps({"id": f"{split}:{number}", "text": sentence.strip()}) + "\n")
        print(f"{split}: {len(sentences)} sentences")


if __name__ == "__main__":
    main()
