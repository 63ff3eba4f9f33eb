"""An index: what is in its files, that it is whole or not there, what it refuses, and what it finds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DOCUMENT, FOUR, perturb

from textvae.build import build_model
from textvae.cli.main import main
from textvae.config import ModelConfig
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.processor import DocumentProcessor
from textvae.search.embed import embed_corpus
from textvae.search.index import Index
from textvae.search.moments import Moments
from textvae.search.query import embed_query
from textvae.search.rows import unit_texts
from textvae.search.storage import IndexDescription
from textvae.search.units import embeddings_of, read_level
from textvae.text_vae import HierarchicalTextVAE

MakeRun = Callable[..., str]
SHARD = "shard-000000000000"
TEXTS = {
    "harbour": "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it.",
    "soup": "Is there soup? Everybody laughed.\n\nThe wind rose in the afternoon. It was late.",
    "night": "At midnight a light was seen. It was the boat, with a torn sail.",
    "wall": "The people stood on the wall and said very little.",
}


def documents_of(model: HierarchicalTextVAE, texts: dict[str, str]) -> Documents:
    return Documents.of(model.process([SourceDocument(id=name, text=text) for name, text in texts.items()]))


@pytest.fixture(scope="module")
def made(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    embed_corpus(model, documents_of(model, TEXTS), folder, run, batch_tokens=30)
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """One that may be damaged."""
    return shutil.copytree(made, tmp_path / "index")


def test_rows_are_units_in_the_order_of_the_data_and_know_their_parents(
    model: HierarchicalTextVAE, index: Path
) -> None:
    described = IndexDescription.read(index)
    tables = {name: read_level(index, described, name).to_pylist() for name in DOCUMENT}
    assert [row["document"] for row in tables["document"]] == list(TEXTS)
    assert [row["text"] for row in tables["document"]] == list(TEXTS.values())
    assert [row["text"] for row in tables["paragraph"][:3]] == [
        "The harbour lay quiet. A single boat moved out.",
        "Old Marta watched it.",
        "Is there soup? Everybody laughed.",
    ]
    for above, below in (("document", "paragraph"), ("paragraph", "sentence")):
        for row in tables[below]:
            parent = tables[above][row["parent"]]
            assert row["text"] in parent["text"]
            assert (row["row"], row["source_id"]) == (parent["row"], parent["source_id"])
    for name, texts in (("document", list(TEXTS)), ("sentence", None)):
        vectors = np.concatenate(list(embeddings_of(read_level(index, described, name))))
        alone = [model.encode([text])[name].mean.numpy() for text in TEXTS.values()]
        np.testing.assert_allclose(vectors, np.concatenate(alone), atol=1e-5)
        np.testing.assert_allclose(described.levels[name].mean, vectors.mean(0), atol=1e-6)
        np.testing.assert_allclose(described.levels[name].std, vectors.std(0), atol=1e-6)
        assert texts is None or len(vectors) == len(texts)


@pytest.mark.parametrize("hierarchy", [("text",), ("text", "line"), DOCUMENT, FOUR], ids=len)
def test_a_units_place_and_span_lead_to_its_text(
    settings: Callable[..., ModelConfig],
    make_processor: Callable[..., DocumentProcessor],
    hierarchy: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """Documents of several chapters, whose units are counted from the beginning of the document."""
    torch.manual_seed(0)
    model = build_model(settings(*hierarchy[:3], context=hierarchy[-1]), make_processor(*hierarchy)).eval()
    model.save_pretrained(tmp_path / "run")
    sources = [SourceDocument(id=name, text=text) for name, text in TEXTS.items()]
    if len(hierarchy) == 4:
        paragraphs = [text.split("\n\n") for text in TEXTS.values()]
        sources = [
            SourceDocument(id="first", units=[[[text] for text in part] for part in paragraphs[:3]]),
            SourceDocument(id="second", units=[[["It was late.", "So?"], ["Marta laughed."]], [["A light was seen."]]]),
        ]
    embed_corpus(model, Documents.of(model.process(sources)), tmp_path / "index", str(tmp_path / "run"))
    index, texts = Index(tmp_path / "index"), {}
    whole = {document.id: document.text() for document in model.process(sources)}
    for level in index.levels:
        seen: dict[str, int] = {}
        found = index.search(model, "boat", level, k=1000, by="encoder")
        for unit in sorted(found, key=lambda unit: (unit.document, unit.start)):
            assert whole[unit.document][unit.start : unit.end] == unit.text
            seen[unit.document] = seen.get(unit.document, 0) + 1
            assert unit.place.get(level, 1) == seen[unit.document]
            texts[unit.document, level, unit.place.get(level, 1)] = unit.text
            for above in unit.place:
                assert unit.text in texts[unit.document, above, unit.place[above]]
            if unit.passage is not None:
                passage = unit.passage
                assert whole[unit.document][passage.start : passage.end] == passage.text
                assert unit.start <= passage.start < passage.end <= unit.end
                assert passage.place[index.levels[-1]] >= passage.number


def test_moments_add_up_as_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(loc=1e4, size=(50, 3))
    parts = [rows[:1], rows[1:1], rows[1:30], rows[30:]]
    total = sum((Moments.of(part) for part in parts[1:]), Moments.of(parts[0]))
    np.testing.assert_allclose(total.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.std, rows.std(0), rtol=1e-9)


def test_an_embedding_that_is_interrupted_leaves_nothing_in_the_way(
    model: HierarchicalTextVAE, run: str, tmp_path: Path
) -> None:
    whole = documents_of(model, TEXTS)

    def interrupted(row: int) -> EncodedDocument:
        if row == 3:
            raise KeyboardInterrupt
        return whole.read(row)

    out = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(model, replace(whole, read=interrupted), out, run, batch_tokens=1)
    assert not out.exists()
    embed_corpus(model, whole, out, run, batch_tokens=1)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert len(Index(out).search(model, "boat", k=9)) == len(TEXTS)


def test_a_document_of_one_sentence_is_found_by_it(model: HierarchicalTextVAE, index: Path) -> None:
    (best, *_) = Index(index).search(model, TEXTS["wall"], "document", k=1, by="latents")
    assert (best.document, best.text) == ("wall", TEXTS["wall"])
    assert best.score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("level", DOCUMENT)
def test_one_document_has_finite_scores(model: HierarchicalTextVAE, run: str, tmp_path: Path, level: str) -> None:
    embed_corpus(model, documents_of(model, {"wall": TEXTS["wall"]}), tmp_path / "index", run)
    (found,) = Index(tmp_path / "index").search(model, "ferry", level, by="latents")
    assert -1 <= found.score <= 1
    (itself,) = Index(tmp_path / "index").search(model, TEXTS["wall"], level, by="latents")
    assert itself.score == pytest.approx(1, abs=1e-4)


def test_dimensions_that_do_not_vary_say_nothing(model: HierarchicalTextVAE, run: str, tmp_path: Path) -> None:
    """Two copies of a text: what they have in common is compared as it is."""
    copies = {"one": TEXTS["wall"], "two": TEXTS["wall"]}
    embed_corpus(model, documents_of(model, copies), tmp_path / "copies", run)
    found = Index(tmp_path / "copies").search(model, "soup", by="latents")
    assert found[0].score == pytest.approx(found[1].score, abs=1e-6)
    assert 0.01 < abs(found[0].score) <= 1


@pytest.mark.parametrize("level", DOCUMENT)
def test_by_words_is_how_much_likelier_a_unit_makes_the_query(
    model: HierarchicalTextVAE, index: Path, level: str
) -> None:
    query = "Marta went to light the stove"
    documents = [documents_of(model, TEXTS).read(row) for row in range(len(TEXTS))]
    batch = model.batch(documents)
    depth, inferred = batch.level_number(level), model.latents(batch)
    above = [name for name in DOCUMENT if batch.level_number(name) <= depth]
    z = {name: inferred[name].mean[batch.ancestor(depth, batch.level_number(name))] for name in above}
    ids = model.processor.decoder_tokenizer(f" {query}", add_special_tokens=False)["input_ids"]
    head = model.decoder.topic_head
    with torch.no_grad():
        expected = (model.decoder.bag_log_prob(z) - head.unigram)[:, ids].mean(1)
    found = Index(index).scores(model, query, level, "words")
    np.testing.assert_allclose(np.sort(found), np.sort(expected.numpy()), atol=1e-5)
    assert np.ptp(found) > 0.01
    best = Index(index).search(model, query, level, k=1, by="words")[0]
    assert best.text == unit_texts(documents, batch, depth)[int(expected.argmax())]


def test_both_counts_deviations_of_latents_and_words_alike(model: HierarchicalTextVAE, index: Path) -> None:
    scores = {by: Index(index).scores(model, "the boat", "sentence", by) for by in ("latents", "words", "both")}
    standard = [(scores[by] - scores[by].mean()) / scores[by].std() for by in ("latents", "words")]
    np.testing.assert_allclose(scores["both"], sum(standard), atol=1e-4)
    assert np.abs(scores["both"]).max() > 0.1


@pytest.mark.parametrize("level", DOCUMENT)
def test_by_encoder_is_a_mean_of_two_cosines_and_the_best_passage_is_shown(
    model: HierarchicalTextVAE, index: Path, level: str
) -> None:
    """Sentence by sentence, from the encoder's states of the texts themselves."""
    query, opened = "The boat moved in the wind.", Index(index)
    batch = model.batch([documents_of(model, TEXTS).read(row) for row in range(len(TEXTS))])
    depth, lowest = batch.level_number(level), len(batch.levels) - 1
    with torch.no_grad():
        states = model.sentence_features(batch)
        asked = model.sentence_features(model.batch(model.process(query)))[0]
    sentences = [row["text"] for row in read_level(index, opened.description, "sentence").to_pylist()]
    expected, passages = [], []
    for unit in range(len(batch.levels[depth])):
        within = (batch.ancestor(lowest, depth) == unit).nonzero()[:, 0].tolist()
        cosines = torch.cosine_similarity(states[within], asked[None])
        mean = torch.cosine_similarity(states[within].mean(0), asked, dim=0)
        weight = 32 / (32 + len(within))
        expected.append(((cosines.max() + weight * mean) / (1 + weight)).item())
        passages.append((int(cosines.argmax()) + 1, sentences[within[int(cosines.argmax())]]))
    np.testing.assert_allclose(opened.scores(model, query, level, "encoder"), expected, atol=2e-3)
    best = opened.search(model, query, level, k=1, by="encoder")[0]
    if level == "sentence":
        assert best.passage is None
    else:
        assert (best.passage.number, best.passage.text) == passages[int(np.argmax(expected))]


def test_hybrid_adds_the_querys_words_to_its_meaning(model: HierarchicalTextVAE, index: Path) -> None:
    """A word that is in one text only brings that text up, a third as much as meaning does; words that are nowhere
    change nothing."""
    opened = Index(index)
    by = {by: opened.scores(model, "torn", "document", by) for by in ("encoder", "hybrid")}
    gained = by["hybrid"] - 3 * (by["encoder"] - by["encoder"].mean()) / by["encoder"].std()
    assert list(TEXTS)[int(gained.argmax())] == "night"
    assert gained.max() == pytest.approx(3**0.5, rel=1e-3)
    assert gained[gained < 0] == pytest.approx(-(3**-0.5), rel=1e-3)
    by = {by: opened.scores(model, "zzyzx", "document", by) for by in ("encoder", "hybrid")}
    assert np.corrcoef(by["hybrid"], by["encoder"])[0, 1] == pytest.approx(1)


def test_a_texts_features_are_those_of_the_encoder_whatever_the_lowest_latent_is(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = settings(*DOCUMENT)
    model = build_model(replace(given, levels=given.levels[:1]), make_processor()).eval()
    model.save_pretrained(tmp_path / "run")
    embed_corpus(model, documents_of(model, TEXTS), tmp_path / "index", str(tmp_path / "run"))
    (best, *_) = Index(tmp_path / "index").search(model, TEXTS["wall"], by="encoder")
    assert (best.document, best.passage) == ("wall", None)
    assert best.score == pytest.approx(1, abs=1e-3)


def test_without_topics_all_but_words_can_be_searched(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = settings(*DOCUMENT, logit_rank=0)
    plain = build_model(replace(given, encoder=replace(given.encoder, words=False)), make_processor()).eval()
    plain.save_pretrained(tmp_path / "run")
    embed_corpus(plain, documents_of(plain, TEXTS), tmp_path / "index", str(tmp_path / "run"))
    index = Index(tmp_path / "index")
    assert index.search(plain, "boat") == index.search(plain, "boat", by="hybrid")
    found = {by: index.search(plain, "boat", by=by) for by in ("hybrid", "encoder", "latents")}
    assert all({result.document for result in results} == set(TEXTS) for results in found.values())
    with pytest.raises(ValueError, match="no topics to find words by"):
        index.search(plain, "boat", by="words")


LABELLED = {"harbour": "sea", "soup": "land", "night": "sea", "wall": None}


@pytest.fixture(scope="module")
def labelled(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    sources = [
        SourceDocument(id=name, text=text, label=LABELLED[name], title=f"On {name}") for name, text in TEXTS.items()
    ]
    folder = tmp_path_factory.mktemp("labelled") / "index"
    embed_corpus(model, Documents.of(model.process(sources)), folder, run)
    return Index(folder)


@pytest.mark.parametrize("level", DOCUMENT)
def test_a_filter_leaves_scores_as_they_are_and_other_documents_out(
    model: HierarchicalTextVAE, labelled: Index, level: str
) -> None:
    """The search of everything, its results of other documents struck out."""
    all_of_it = labelled.search(model, "the boat", level, k=100)
    assert {result.document: result.label for result in all_of_it} == LABELLED
    for only, left in (
        ({"label": ["sea"]}, {"harbour", "night"}),
        ({"label": ["sea", "land"]}, {"harbour", "night", "soup"}),
        ({"label": ["sea"], "title": ["On night", "On soup"]}, {"night"}),
        ({"document": ["wall"]}, {"wall"}),
    ):
        expected = [result for result in all_of_it if result.document in left]
        assert expected
        assert labelled.search(model, "the boat", level, k=100, only=only) == expected
        assert labelled.search(model, "the boat", level, k=1, only=only) == expected[:1]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"label": ["fire"]}, "has label 'fire'; some have 'sea', 'land'"),
        ({"colour": ["red"]}, "confined by 'colour': choose one of label, title, document, source_id"),
        ({"label": ["sea"], "document": ["soup"]}, "though each of them fits some"),
    ],
)
def test_a_filter_that_nothing_fits_is_an_error(
    model: HierarchicalTextVAE, labelled: Index, only: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        labelled.search(model, "the boat", only=only)


def test_a_filter_by_what_no_document_has_says_so(model: HierarchicalTextVAE, index: Path) -> None:
    with pytest.raises(ValueError, match="has label 'sea': none has a label"):
        Index(index).search(model, "the boat", only={"label": ["sea"]})


def test_k_is_checked_and_all_units_are_the_most(model: HierarchicalTextVAE, index: Path) -> None:
    assert len(Index(index).search(model, "boat", "sentence", k=10**9)) == 10
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k is {k}; it must be 1 or more"):
            Index(index).search(model, "boat", k=k)


@pytest.mark.parametrize("query", ["", "  \n\t", "\u0000"])
def test_an_empty_query_is_refused(model: HierarchicalTextVAE, index: Path, query: str) -> None:
    with pytest.raises(ValueError, match="the query is empty"):
        Index(index).search(model, query)


@pytest.mark.parametrize("hierarchy", [("text",), ("text", "line"), DOCUMENT, FOUR], ids=len)
def test_a_query_is_one_unit_of_every_level(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], hierarchy: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    small = settings(*hierarchy[:3], context=hierarchy[-1])
    model = build_model(small, make_processor(*hierarchy)).eval()
    perturb(model)
    for level in model.level_names:
        first = embed_query(model, "The wind rose. It was late.", level)
        assert first.shape == (model.hierarchy.stack[level].latent_size,)
        # What comes last counts, whatever it follows.
        assert np.abs(first - embed_query(model, "The wind rose. Marta laughed.", level)).max() > 1e-3
        assert np.abs(first - embed_query(model, "The wind rose.\n\nIt was late.", level)).max() < 1e-5


def test_a_query_too_long_for_one_sentence_is_the_mean_of_its_parts(model: HierarchicalTextVAE) -> None:
    long = " ".join(["The harbour lay quiet in the early light."] * 20) + " Marta laughed."
    parts = model.encode([SourceDocument("long", units=[[long]])])["sentence"].mean.numpy()
    assert len(parts) > 2
    np.testing.assert_allclose(embed_query(model, long, "sentence"), parts.mean(0), atol=1e-6)


# The model of an index


def test_the_model_is_found_from_any_folder_and_when_both_are_moved(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "wall", "text": TEXTS["wall"]}), encoding="utf-8")
    shutil.copytree(run, tmp_path / "project" / "run")
    monkeypatch.chdir(tmp_path / "project")
    assert main(["embed", str(corpus), "--model", "run", "--out", "run/index"]) == 0
    monkeypatch.chdir("/")
    assert main(["search", str(tmp_path / "project" / "run" / "index"), "ferry"]) == 0
    (tmp_path / "project").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "run"
    capsys.readouterr()
    assert main(["search", str(moved / "index"), "ferry"]) == 0
    assert "wall" in capsys.readouterr().out
    (moved / "index").rename(tmp_path / "index")
    assert main(["search", str(tmp_path / "index"), "ferry"]) == 2
    assert "give it with --model RUN" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "index"), "ferry", "--model", str(moved)]) == 0


def test_another_model_is_refused(
    make_run: MakeRun, run: str, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = make_run(*DOCUMENT, conditioning="embedding")
    assert main(["search", str(index), "ferry", "--model", other]) == 2
    assert f"'{other}' is not the model that made '{index}'" in capsys.readouterr().err
    # Trained again in the same place.
    described = IndexDescription.read(index)
    replace(described, model=replace(described.model, sha256="0" * 64)).write(index)
    assert main(["search", str(index), "ferry"]) == 2
    assert "is not, or no longer, the one that made" in capsys.readouterr().err


def test_another_model_is_refused_in_python_too(
    make_run: MakeRun, model: HierarchicalTextVAE, run: str, index: Path
) -> None:
    other = HierarchicalTextVAE.from_pretrained(make_run(*DOCUMENT, conditioning="embedding")).eval()
    for use in (
        lambda opened: opened.search(other, "boat"),
        lambda opened: opened.scores(other, "boat", "document", "bm25"),
        lambda opened: opened.embedder(other),
    ):
        with pytest.raises(ValueError, match="is not the one that made"):
            use(Index(index))
    its_own = HierarchicalTextVAE.from_pretrained(run).eval()
    assert Index(index).search(its_own, "boat") == Index(index).search(model, "boat")


def test_an_index_fetches_nothing(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Its model is a stranger's Hub repository: it must be named by the user, not by the file."""

    def fetched(*names: str) -> str:
        raise AssertionError(f"asked the Hub for {names}")

    monkeypatch.setattr("textvae.search.origin.hf_hub_download", fetched)
    described = IndexDescription.read(index)
    replace(described, model=replace(described.model, name="stranger/model", relative=None)).write(index)
    assert main(["search", str(index), "ferry"]) == 2
    assert "is not at stranger/model: give it with --model RUN" in capsys.readouterr().err


# Foreign and damaged files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format=1), "is no index of this version of textvae"),
        (lambda values: values["levels"].update({"../document": values["levels"].pop("document")}), "'../document'"),
        (lambda values: values["levels"].update({"/etc": values["levels"]["document"]}), "'/etc'"),
        (lambda values: values.update(levels={}), "levels"),
        (lambda values: values["levels"]["document"]["std"].pop(), "mean and std differ in length"),
        (lambda values: values["levels"]["document"].update(mean=["x"]), "levels.document.mean"),
        (lambda values: values["levels"]["document"].update(units=3), "(4 documents, not 3)"),
        (lambda values: values["shards"].update({"../elsewhere": values["shards"].popitem()[1]}), "'../elsewhere'"),
        (lambda values: values["shards"].update({SHARD: "0" * 64}), "shard.json' is damaged"),
        (lambda values: values["levels"].pop("sentence"), "its levels are not the index's"),
        (lambda values: values.pop("model"), "model"),
    ],
)
def test_a_damaged_description_is_said_in_a_line(
    index: Path, capsys: pytest.CaptureFixture, change: Callable[[dict], object], message: str
) -> None:
    path = index / "index.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    assert main(["search", str(index), "ferry"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("name", ["index.json", f"{SHARD}/shard.json", f"{SHARD}/document.arrow"])
def test_no_damaged_byte_makes_a_traceback(index: Path, name: str) -> None:
    """A search finds something, or says in a line what is damaged."""
    path, sought = index / name, np.ones(8, dtype=np.float32)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        place = int(random.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([int(random.integers(256))]) + whole[place + 1 :])
        try:
            assert all(-1 <= result.score <= 1 for result in Index(index).nearest(sought, "document"))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)
    # Without the newline at its end it is whole.
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"is damaged|is not JSON|no index"):
            Index(index).nearest(sought, "document")
