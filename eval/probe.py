"""What the latents know of a label: a linear probe on every level's latents, beside two baselines."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from run_arguments import evaluation_parser, exit_code, write_json
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textvae.data.dataset import open_documents
from textvae.evaluation.probing import document_features
from textvae.runs import load_run

ENCODER = "encoder_mean"
TEST_SHARE = 0.3


@dataclass(frozen=True)
class Score:
    accuracy: float
    f1_macro: float


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--label", default="label", metavar="FIELD", help="field to predict (default: %(default)s)")
    arguments = parser.parse_args()
    model = load_run(arguments.model)
    documents = open_documents(arguments.data, model.processor, arguments.split, arguments.limit)
    features, labels = document_features(model, documents, arguments.label)
    classes, counts = np.unique(labels, return_counts=True)
    rare = set(classes[counts < 2])
    kept = np.array([label not in rare for label in labels])
    num_classes = len(classes) - len(rare)
    if num_classes < 2:
        raise ValueError(f"field '{arguments.label}' needs two or more values with two or more documents each")
    labels = labels[kept]
    num_test = math.ceil(TEST_SHARE * len(labels))
    if num_test < num_classes:
        raise ValueError(
            f"there are {num_classes} values of field '{arguments.label}' in {len(labels)} documents: too few to test "
            "each; give more documents, or a coarser field with --label"
        )
    train, test = train_test_split(
        np.arange(len(labels)), test_size=num_test, random_state=arguments.seed, stratify=labels
    )

    def score(classifier, values: np.ndarray) -> Score:
        predicted = classifier.fit(values[train], labels[train]).predict(values[test])
        return Score(
            float(accuracy_score(labels[test], predicted)),
            float(f1_score(labels[test], predicted, average="macro")),
        )

    def probe(values: np.ndarray) -> Score:
        return score(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1)), values[kept])

    levels = {name: probe(features[name]) for name in model.level_names}
    baselines = {
        "majority": score(DummyClassifier(strategy="most_frequent"), np.zeros((len(labels), 1))),
        ENCODER: probe(features[ENCODER]),
    }
    write_json(
        arguments.out,
        {
            "label": arguments.label,
            "classes": num_classes,
            "train": len(train),
            "test": len(test),
            "left_out_rare": int((~kept).sum()),
            "levels": {name: asdict(value) for name, value in levels.items()},
            "baselines": {name: asdict(value) for name, value in baselines.items()},
        },
    )
    for name, value in (levels | baselines).items():
        print(f"{name:<14} accuracy {value.accuracy:.3f}  macro F1 {value.f1_macro:.3f}")


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
