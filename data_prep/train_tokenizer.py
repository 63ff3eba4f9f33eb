"""Train a decoder vocabulary on the training split of any source and save it as a Hugging Face tokenizer.

    python data_prep/train_tokenizer.py SOURCE --out FOLDER [--kind sentencepiece|words] [--size 8192]

`textvae prepare SOURCE --decoder FOLDER` then uses it. `words` is for text that comes split into words.
"""

import argparse

from textvae.data.sources.corpus import CorpusOptions, read_corpus
from textvae.data.text.tokenizer import train_sentencepiece, train_words
from textvae.data.text.tree import TreeBuilder, paragraphs_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--out", required=True)
    parser.add_argument("--kind", choices=("sentencepiece", "words"), default="sentencepiece")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--hierarchy", default="document,paragraph,sentence")
    parser.add_argument("--language", default="en")
    parser.add_argument("--limit", type=int, help="read at most this many documents")
    arguments = parser.parse_args()

    build_tree = TreeBuilder(tuple(arguments.hierarchy.split(",")), arguments.language)
    documents = read_corpus(CorpusOptions(arguments.source, limit=arguments.limit)).splits["train"]
    texts = (text for document in documents for text in paragraphs_of(document, build_tree))
    train = train_words if arguments.kind == "words" else train_sentencepiece
    tokenizer = train(texts, arguments.size)
    tokenizer.save_pretrained(arguments.out)
    print(f"{len(tokenizer)} tokens in {arguments.out}")


if __name__ == "__main__":
    main()
