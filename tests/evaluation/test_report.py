"""The report page: its structure, what a real browser makes of it, its numbers, and its errors.

The browser's tests need Chromium (CONTRIBUTING.md says how to get it) and are skipped without.
"""

import base64
import json
import re
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Page, render
from report_results import ELBO, FEWER, IWAE, LATENTS, LEVEL, POSITIONS, written
from run_scripts import run_script
from shared import STORY
from tiny import perturb

from textvae.build import build_model
from textvae.config import Config, DataConfig, ModelConfig, TrainConfig
from textvae.data.dataset import open_documents
from textvae.data.text.processor import DocumentProcessor
from textvae.evaluation.report.drawing import level_colours
from textvae.evaluation.report.figures import gain_pictures
from textvae.evaluation.report.measurements import (
    TSNE_DOCUMENTS,
    ReportDocuments,
    document_map,
    elbo_perplexity_of,
    measure_perplexities,
    themed_samples,
)
from textvae.evaluation.report.page import MISSING
from textvae.runs import load_run
from textvae.training.loop import train

BOO = "<script>console.error('boo')</script> & <img src=https://example.org/boo.png>"
MODELS = {"three": ("document", "paragraph", "sentence"), "one": ("sentence",), "none": ()}
NUM_FIGURES = {"three": 9, "one": 9, "none": 1}


@pytest.fixture(scope="module")
def runs(
    prepared: Path, settings: Callable[..., ModelConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Real training runs of four steps."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str, levels: tuple[str, ...]) -> Path:
        options = TrainConfig(
            str(folder / name),
            steps=4,
            learning_rate=0.02,
            warmup_steps=0,
            log_every=1,
            validate_every=2,
            tracker="none",
            mixed_precision="no",
        )
        return train(Config(DataConfig(str(prepared), 400, 400), settings(*levels), train=options))

    return {name: trained(name, levels) for name, levels in MODELS.items()}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source whose texts, titles and labels would be markup if they were not escaped."""
    lines = [
        {
            "id": f"d{number}",
            "title": f"<b>{number}</b> & $x^$",
            "label": ("_<i>a</i>", "$b^$ & c")[number % 2],
            "paragraphs": [f"{BOO} {sentence}.", "The boats turned back. It was late."],
        }
        for number, sentence in enumerate(STORY.split(".")[:8])
    ]
    file = tmp_path_factory.mktemp("hostile") / "corpus.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def pages(runs: dict[str, Path], hostile: Path) -> dict[str, Path]:
    """The three models' pages, everything on them measured for them."""
    for run in runs.values():
        assert run_script("eval/report.py", str(run), "--data", str(hostile), "--limit", "5") == 0
    return {name: run / "report.html" for name, run in runs.items()}


def read(file: Path) -> Page:
    return Page(file.read_text(encoding="utf-8"))


def assert_shows_the_samples(shown: list[str], run: Path, source: Path) -> None:
    """Letter by letter: the model's bytes are often no text, and white space is folded."""
    model = load_run(run)
    themes = themed_samples(model, ReportDocuments.open(str(source), model, "validation", 5).measured, 0)
    expected = [letters(text) for theme in themes for text in theme.texts]
    found = [letters(text.strip().removeprefix(f"sample {text.strip()[7]}")) for text in shown if "sample" in text[:20]]
    assert len(found) == len(expected)
    for mine, whole in zip(found, expected, strict=True):
        assert len(mine) > 20 or mine == whole
        assert whole.startswith(mine)


def letters(text: str) -> str:
    return re.sub(r"[^A-Za-z<>&]", "", text)


@pytest.mark.parametrize("name", MODELS)
def test_a_page_needs_nothing_else_and_shows_everything(
    name: str, pages: dict[str, Path], runs: dict[str, Path], hostile: Path
) -> None:
    page = read(pages[name])
    assert not {"script", "iframe", "object", "i"} & set(page.tags)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len(page.images) == NUM_FIGURES[name]
    for image in page.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        drawn = xml.etree.ElementTree.fromstring(base64.b64decode(content))
        assert len(drawn.findall(".//{*}path")) > 10
        assert len(image["alt"]) > 30
    for level in MODELS[name]:
        assert any(row[0] == level for row in page.rows)
    assert_shows_the_samples(page.samples, runs[name], hostile)
    assert ("plain language model has no latents" in page.words) == (name == "none")
    for told in ("--limit 5", f"train.output=runs/{name}-again", "learning_rate:", torch.__version__):
        assert told in page.words


def test_corpus_text_is_escaped(pages: dict[str, Path]) -> None:
    page = read(pages["three"])
    assert any(BOO in text for text in page.samples)
    assert "Theme: <b>" in page.words


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("name", MODELS)
def test_a_browser_renders_every_figure_and_asks_for_nothing(
    name: str, pages: dict[str, Path], runs: dict[str, Path], hostile: Path, tmp_path: Path
) -> None:
    seen = render(pages[name], tmp_path)
    assert seen.console == []
    assert seen.fetched == []
    assert seen.title == f"{name}: textvae report"
    assert len(seen.figures) == NUM_FIGURES[name]
    for figure in seen.figures:
        assert min(figure["width"], figure["shown"]) > 300, figure["alt"]
        assert figure["ink"] > 500, figure["alt"]
    for level in MODELS[name]:
        assert level in seen.words
    assert seen.overflow == 0
    assert_shows_the_samples(seen.samples, runs[name], hostile)
    if name == "three":
        assert sum(BOO in text for text in seen.samples) == 2


def test_given_results_are_shown_as_they_are(runs: dict[str, Path], hostile: Path, tmp_path: Path) -> None:
    files = written(tmp_path, latents=LATENTS, elbo=ELBO, iwae=IWAE, fewer=FEWER)
    given = ["--latents", files["latents"], "--perplexity", files["elbo"], files["iwae"], files["fewer"]]
    out = tmp_path / "deeper" / "page.html"
    figures = tmp_path / "figures"
    arguments = [
        str(runs["one"]),
        "--data",
        str(hostile),
        "--limit",
        "3",
        *given,
        "--out",
        str(out),
        "--figures",
        str(figures),
    ]
    assert run_script("eval/report.py", *arguments) == 0
    page = read(out)
    shown = {base64.b64decode(image["src"].partition(",")[2]) for image in page.images}
    assert {file.read_bytes() for file in figures.glob("*.svg")} == shown
    level, elbo, iwae = (next(row for row in page.rows if row[0] == name) for name in ("sentence", "elbo", "iwae"))
    assert level[1:8] == ["2", "1", "678", "3.06", "6.12", "1.80", "6.52"]
    assert level[8:] == ["+14.22 ±1.81", "+5.00 ±0.50", "3.38", MISSING]
    assert elbo[1:-1] == ["1", "1,200", "10,000", "50.00", "403.43", "162,754.8", "2.885", "40.00 / 1.00", "9.00"]
    assert (iwae[1], iwae[-1]) == ("4", files["iwae"])
    # The best bound on the most text, not the lowest number.
    assert "390.50\nperplexity per token, at most" in page.words
    assert "different documents" in page.words
    assert "documents 3, exact match 0.125" in page.words
    assert len(page.images) == NUM_FIGURES["one"] - 1


def test_an_older_latents_file_lacks_one_section_only(runs: dict[str, Path], hostile: Path, tmp_path: Path) -> None:
    older = {"levels": {"sentence": {key: value for key, value in LEVEL.items() if "zeroed" not in key}}}
    del older["levels"]["sentence"]["payoff_over_prior_mean"]
    files = written(tmp_path, latents=older, elbo=ELBO)
    given = ["--latents", files["latents"], "--perplexity", files["elbo"]]
    arguments = [str(runs["one"]), "--data", str(hostile), "--limit", "3", *given, "--out", str(tmp_path / "page.html")]
    assert run_script("eval/report.py", *arguments) == 0
    page = read(tmp_path / "page.html")
    assert next(row for row in page.rows if row[0] == "sentence")[-3:] == [MISSING, "3.38", MISSING]
    assert "write it again with eval/latents.py" in page.words
    assert "No curve over samples" in page.words


def test_every_sampled_result_carries_the_elbo_of_its_documents(runs: dict[str, Path], hostile: Path) -> None:
    model = load_run(runs["three"])
    elbo, iwae, smc = measure_perplexities(model, ReportDocuments.open(str(hostile), model, "validation", 1), 0)
    assert elbo["tokens"] == iwae["tokens"] == smc["tokens"]
    assert elbo_perplexity_of(iwae) == pytest.approx(elbo["perplexity_per_token"], rel=1e-5)
    assert elbo_perplexity_of(smc) == pytest.approx(elbo["perplexity_per_token"], rel=1e-5)
    assert elbo_perplexity_of(elbo) == pytest.approx(elbo["perplexity_per_token"], rel=1e-5)


def test_documents_are_spread_over_a_prepared_split(runs: dict[str, Path], prepared: Path) -> None:
    model = load_run(runs["none"])
    found = ReportDocuments.open(str(prepared), model, "train", 2)
    whole = open_documents(str(prepared), model.processor, "train")
    assert [found.measured.read(number).id for number in range(2)] == [whole.read(0).id, whole.read(len(whole) - 1).id]
    assert found.measured.token_counts.tolist() == [whole.token_counts[0], whole.token_counts[-1]]
    assert len(found.for_map) == 20
    assert len(found.for_curve) == 1


@pytest.mark.parametrize("name", ["three", "one"])
def test_the_map_holds_the_mean_of_every_document_at_the_top_level(
    name: str, settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], hostile: Path
) -> None:
    """PCA is a rotation: two points are as far apart as their means are, as far as two components tell."""
    torch.manual_seed(0)
    model = build_model(settings(*MODELS[name]), make_processor()).eval()
    perturb(model)
    documents = ReportDocuments.open(str(hostile), model, "validation", 3).measured
    found = document_map(model, documents, seed=0)
    assert (found.level, found.method) == (MODELS[name][0], "PCA")
    batch = model.batch([documents.read(number) for number in range(3)])
    means = torch.stack([model.latents(batch)[found.level].of(number).mean(0) for number in range(3)])
    # Three points lie in a plane, so nothing is lost; the map's order is that of length.
    expected = torch.pdist(means).sort().values
    distances = torch.pdist(torch.from_numpy(found.points)).sort().values.float()
    assert expected.min() > 1e-3
    torch.testing.assert_close(distances, expected, rtol=1e-3, atol=0)
    assert sorted(map(str, found.labels)) == sorted(str(documents.read(number).label) for number in range(3))


def test_many_documents_are_mapped_by_tsne(runs: dict[str, Path], prepared: Path) -> None:
    model = load_run(runs["three"])
    train_split = ReportDocuments.open(str(prepared), model, "train", 10).for_map
    repeated = replace(
        train_split,
        token_counts=np.resize(train_split.token_counts, TSNE_DOCUMENTS),
        read=lambda number: train_split.read(number % len(train_split)),
    )
    found = document_map(model, repeated, seed=0)
    assert found.method == "t-SNE"
    assert "t-SNE" in found.caption
    assert found.points.shape == (TSNE_DOCUMENTS, 2)
    assert set(found.labels) == {None}


def test_a_level_has_its_colour_in_every_model() -> None:
    colours = level_colours(("book", "chapter", "sentence"))
    assert len(set(colours.values())) == 3
    assert list(level_colours(("book", "chapter")).items()) == list(colours.items())[:2]


def test_gain_by_unit_position_needs_units() -> None:
    colours = {"document": "#123456"}
    by_token = {"document": {"by_token_position": POSITIONS}}
    assert len(gain_pictures(by_token, colours)) == 1
    by_both = {"document": by_token["document"] | {"by_unit_position": {"level": "stanza", **POSITIONS}}}
    _, picture = gain_pictures(by_both, colours)
    assert "stanza of its document, first to last: document from 0.250 to -0.050" in picture.alt
