"""The encoder half in a folder of its own: the same vectors, from less."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.search.embed import embed_corpus
from textvae.search.embedder import TextEmbedder
from textvae.search.export import export_encoder, load_exported
from textvae.search.index import Index
from textvae.search.query import embed_query
from textvae.text_vae import HierarchicalTextVAE

TEXTS = [
    "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it.",
    "The people stood on the wall and said very little.",
    "Is there soup? Everybody laughed.\n\nThe wind rose in the afternoon. It was late.",
]
QUERY = "Where is the boat? It was night."


@pytest.fixture(scope="module")
def index(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    sources = [SourceDocument(id=str(number), text=text) for number, text in enumerate(TEXTS)]
    embed_corpus(model, Documents.of(model.process(sources)), folder, run)
    return folder


@pytest.fixture(scope="module")
def exported(index: Path, run: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By level, what the command writes."""
    root = tmp_path_factory.mktemp("exported")
    for level in DOCUMENT:
        command = ["export-encoder", "--index", str(index), "--model", run, "--level", level]
        assert main([*command, "--out", str(root / level)]) == 0
    return {level: str(root / level) for level in DOCUMENT}


def test_its_vectors_are_those_of_the_model(model: HierarchicalTextVAE, index: Path, exported: dict[str, str]) -> None:
    for level, folder in exported.items():
        ours, theirs = load_exported(folder), Index(index).embedder(model, level)
        assert (ours.size, ours.corpus) == (theirs.size, {level: theirs.corpus[level]})
        for one, other in zip(ours.encode(TEXTS), theirs.encode(TEXTS), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_it_holds_no_decoder(model: HierarchicalTextVAE, exported: dict[str, str]) -> None:
    half = load_exported(exported["document"]).model
    decoder = sum(value.numel() for value in model.decoder.parameters())
    topics = sum(value.numel() for value in half.decoder.parameters())
    assert topics == model.decoder.topic_head.weight.numel()
    whole = sum(value.numel() for value in model.parameters())
    assert sum(value.numel() for value in half.parameters()) == whole - decoder + topics


def test_sentence_transformers_gives_a_documents_latent(
    model: HierarchicalTextVAE, index: Path, exported: dict[str, str], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", "6.0")
    loaded = library.SentenceTransformer(exported["document"], trust_remote_code=True, device="cpu")
    embedder = Index(index).embedder(model)
    np.testing.assert_allclose(loaded.encode(TEXTS, batch_size=2), embedder.encode(TEXTS), rtol=1e-5, atol=1e-5)
    asked = embedder.corpus["document"].standardised(embed_query(model, QUERY, "document"))
    np.testing.assert_allclose(loaded.encode_query(QUERY), asked, rtol=1e-5, atol=1e-5)
    cosines = embedder.similarity(embedder.encode([QUERY]), embedder.encode(TEXTS))
    np.testing.assert_allclose(loaded.similarity(loaded.encode([QUERY]), loaded.encode(TEXTS)), cosines, atol=1e-5)
    assert loaded.get_embedding_dimension() == embedder.size
    loaded.save_pretrained(str(tmp_path / "again"))
    again = library.SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), loaded.encode(TEXTS))


def test_sentence_transformers_gives_the_vectors_of_a_lower_level(
    model: HierarchicalTextVAE, index: Path, exported: dict[str, str]
) -> None:
    library = pytest.importorskip("sentence_transformers", "6.0")
    loaded = library.MultiVectorEncoder(exported["sentence"], trust_remote_code=True, device="cpu")
    expected = Index(index).embedder(model, "sentence").encode(TEXTS, normalize_embeddings=True)
    for ours, theirs in zip(loaded.encode_document(TEXTS, convert_to_numpy=True), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "embedding.json").unlink(), "holds no embedding.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors' is damaged"),
        (lambda folder: (folder / "checksums.json").write_text("[]"), "checksums.json' is damaged"),
    ],
)
def test_a_spoilt_folder_is_named(
    model: HierarchicalTextVAE, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    export_encoder(TextEmbedder(model), tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_exported(tmp_path)


def test_what_cannot_be_exported_is_said(
    index: Path, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        (["--index", str(index), "--level", "verse"], "has no level 'verse'"),
        ([], "give --index, or --model"),
        (["--model", run, "--out", str(tmp_path)], "exists; name a new folder"),
    ):
        assert main(["export-encoder", "--out", str(tmp_path / "new"), *command]) == 2
        assert message in capsys.readouterr().err
