"""Commands as a user types them, in this process; errors are one line and exit status 2."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.data.dataset import load_prepared
from textvae.runs import load_run
from textvae.search.storage import IndexDescription
from textvae.writing.operations import zoom

ROOT = Path(__file__).parent.parent
TEXT = "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it."


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:  # not `splitlines`: random text holds every separator of lines
        return list(map(json.loads, file))


def test_documents_of_one_theme(run: str, text_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", "--model", run, "--theme-from", text_file, "--num", "3", "--out", str(out)]
    assert main(command) == 0
    first = lines(out)
    assert len({record["text"] for record in first}) == 3
    assert main(command) == 0
    assert lines(out) == first
    assert main([*command, "--seed", "1"]) == 0
    assert lines(out) != first


def test_a_given_number_of_units_is_written(run: str, text_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", "--model", run, "--theme-from", text_file, "--num", "2", "--out", str(out)]
    assert main([*command, "--units", "paragraph=3", "sentence=1,2,1"]) == 0
    assert [record["structure"] for record in lines(out)] == [[[3], [1, 2, 1]]] * 2
    assert main([*command, "--units", "paragraph=2", "sentence=2"]) == 0
    assert [record["structure"] for record in lines(out)] == [[[2], [2, 2]]] * 2


def test_what_was_written_says_how_it_was_made(run: str, text_file: str, tmp_path: Path) -> None:
    """The theme of several documents is the mean of theirs."""
    out, other = tmp_path / "out.jsonl", tmp_path / "other.txt"
    other.write_text("The wind rose. It came from the north.", encoding="utf-8")
    files = [text_file, str(other)]
    assert main(["generate", "--model", run, "--theme-from", *files, "--seed", "5", "--out", str(out)]) == 0
    (record,) = lines(out)
    assert record["settings"]["seed"] == 5
    assert record["settings"]["theme_from"] == files
    theme = load_run(run).encode([TEXT, other.read_text(encoding="utf-8")])["document"].mean.mean(0)
    assert record["latents"]["document"]["held"] == [True]
    torch.testing.assert_close(torch.tensor(record["latents"]["document"]["z"][0]), theme, atol=1e-5, rtol=1e-5)
    paragraphs = record["latents"]["paragraph"]
    assert paragraphs["held"] == [False] * record["structure"][0][0]
    assert len(paragraphs["z"]) == record["structure"][0][0]


def test_a_theme_is_a_weighted_sum_of_those_of_files(run: str, text_file: str, tmp_path: Path) -> None:
    out, other = tmp_path / "out.jsonl", tmp_path / "other.txt"
    other.write_text("The wind rose. It came from the north.", encoding="utf-8")
    command = ["generate", "--model", run, "--theme-from", text_file, str(other), text_file, "--out", str(out)]
    assert main([*command, "--theme-weights", "0.5", "-1", "1"]) == 0
    (record,) = lines(out)
    one, two = load_run(run).encode([TEXT, other.read_text(encoding="utf-8")])["document"].mean
    found = torch.tensor(record["latents"]["document"]["z"][0])
    torch.testing.assert_close(found, 1.5 * one - two, atol=1e-5, rtol=1e-5)


def test_levels_of_several_files_are_combined(run: str, text_file: str, tmp_path: Path) -> None:
    """The theme of one, the paragraphs of another as they are read under it; sentences are drawn, here their means."""
    out, other = tmp_path / "out.jsonl", tmp_path / "other.txt"
    other.write_text("The wind rose.\n\nIt came from the north.\n\nIt was cold.", encoding="utf-8")
    command = ["generate", "--model", run, "--theme-from", text_file, "--level-from", f"paragraph={other}"]
    assert main([*command, "--latent-temperature", "sentence=0", "--num", "2", "--out", str(out)]) == 0
    model = load_run(run)
    theme = model.plan(TEXT).z["document"]
    plan = model.plan(other.read_text(encoding="utf-8"), under=zoom(model.plan(TEXT), "document"))
    for record in lines(out):
        assert record["structure"][0] == [3]
        assert record["latents"]["paragraph"]["held"] == [True] * 3
        assert not any(record["latents"]["sentence"]["held"])
        for name, expected in (("document", theme), ("paragraph", plan.z["paragraph"])):
            found = torch.tensor(record["latents"][name]["z"])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_markdown_has_a_heading_for_every_document(run: str, tmp_path: Path) -> None:
    lined, marked = tmp_path / "new" / "out.jsonl", tmp_path / "new" / "folder" / "out.md"
    for out in (lined, marked):
        assert main(["generate", "--model", run, "--num", "2", "--max-children", "2", "--out", str(out)]) == 0
    first, second = (record["text"] for record in lines(lined))
    expected = f"## document 1\n\n{first}\n\n## document 2\n\n{second}\n"
    assert marked.read_bytes().decode() == expected


def test_the_theme_of_a_document_of_an_index(
    run: str, text_file: str, tmp_path: Path, make_run: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    out, index = tmp_path / "out.jsonl", str(tmp_path / "index")
    assert main(["embed", text_file, "--model", run, "--out", index]) == 0
    identity = Path(text_file).stem
    assert main(["generate", "--model", run, "--theme-id", index, identity, "--out", str(out)]) == 0
    (record,) = lines(out)
    theme = load_run(run).encode([TEXT])["document"].mean[0]
    assert record["latents"]["document"]["held"] == [True]
    torch.testing.assert_close(torch.tensor(record["latents"]["document"]["z"][0]), theme, atol=1e-5, rtol=1e-5)
    capsys.readouterr()
    assert main(["generate", "--model", run, "--theme-id", index, "nobody"]) == 2
    assert f"no document with the id 'nobody'; its first is '{identity}'" in capsys.readouterr().err
    assert main(["generate", "--model", make_run("document"), "--theme-id", index, identity]) == 2
    assert "is not the model that made" in capsys.readouterr().err


def test_every_unit_is_described(run: str, text_file: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["describe", "--model", run, text_file, "--words", "3"]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"{level} ") for level in ("document 1", "paragraph 2", "sentence 3")] == [1, 1, 1]
    assert "Old Marta watched it." in printed


def test_a_resampled_level_keeps_the_structure_above(run: str, text_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", "--model", run, "--theme-from", text_file, "--resample", "sentence", "--num", "2"]
    assert main([*command, "--out", str(out)]) == 0
    assert [record["structure"][0] for record in lines(out)] == [[2], [2]]


def test_a_way_from_one_text_to_itself_stays(run: str, text_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ends = ["--from", text_file, "--to", text_file, "--steps", "3"]
    assert main(["interpolate", "--model", run, *ends, "--out", str(out)]) == 0
    assert len({record["text"] for record in lines(out)}) == 1


def test_a_document_is_found_by_its_own_text(
    run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One of a single sentence, which a query is too: nothing can be nearer."""
    index = str(tmp_path / "index")
    split = load_prepared(prepared, "train")
    documents = [split.read(row) for row in range(len(split))]
    single = next(document for document in documents if len(document.sentences) == 1)
    equals = [document.id for document in documents if document.sentences == single.sentences]
    assert main(["embed", str(prepared), "--model", run, "--out", index]) == 0
    assert f"{len(split)} documents\nembedded into {index}: {len(split)} documents, " in capsys.readouterr().out
    for level in DOCUMENT:
        assert main(["search", index, single.sentences[0], "-k", "3", "--level", level, "--by", "latents"]) == 0
        *found, _, _, _, _ = capsys.readouterr().out.splitlines()
        assert found[0].split()[:2] == ["1.", "1.000"]
        assert found[1].strip().endswith(single.sentences[0])
        if level == "document":
            assert found[1].strip() == single.sentences[0]
            assert found[0].split()[2] in equals


def test_queries_are_read_line_by_line(
    run: str, text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    index, queries = str(tmp_path / "index"), ["Old Marta watched it.", "A single boat moved out."]
    assert main(["embed", text_file, "--model", run, "--out", index]) == 0
    capsys.readouterr()
    alone = []
    for query in queries:
        assert main(["search", index, query, "--level", "sentence"]) == 0
        alone.append(capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([queries[0], "", queries[1]])))
    assert main(["search", index, "--level", "sentence"]) == 0
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in alone)
    # One that cannot be answered leaves the others their answers.
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([queries[0], "\u0000", queries[1]])))
    assert main(["search", index, "--level", "sentence"]) == 2
    said = capsys.readouterr()
    assert said.out == f"{alone[0]}\n\n{alone[1]}\n"
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: the query is empty: give some words to search for",
        "error: 1 queries could not be answered",
    ]


@pytest.mark.parametrize("faster", [True, False])
def test_auto_embeds_in_bfloat16_where_it_is_faster(
    run: str, text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    monkeypatch.setattr("textvae.devices._multiplies_bfloat16_faster", lambda: faster)
    index = tmp_path / "index"
    command = ["embed", text_file, "--model", run, "--out", str(index), "--device", "cpu", "--dtype", "auto"]
    assert main(command) == 0
    assert ("bfloat16" in IndexDescription.read(index).dtype) == faster


def test_words_that_are_nowhere_find_nothing(
    run: str, text_file: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    index = str(tmp_path / "index")
    assert main(["embed", text_file, "--model", run, "--out", index]) == 0
    capsys.readouterr()
    for query, level, found in (("Marta", "sentence", 1), ("zzyzx", "sentence", 0), ("zzyzx", "document", 0)):
        assert main(["search", index, query, "--by", "bm25", "--level", level]) == 0
        said = capsys.readouterr()
        assert len(said.out.splitlines()) == 2 * found
        assert ("nothing has a word of 'zzyzx'" in said.err) == (not found)


def test_what_cannot_be_searched_is_said_before_a_model_is_loaded(
    run: str, text_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    index = str(tmp_path / "index")
    assert main(["embed", text_file, "--model", run, "--out", index]) == 0
    monkeypatch.setattr("textvae.cli.search.load_model", lambda *given: pytest.fail("a model was loaded"))
    for wrong in (["--level", "chapter"], ["-k", "0"], ["--filter", "colour=red"]):
        assert main(["search", index, "boat", *wrong]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_a_search_is_confined_by_a_filter(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus, index = tmp_path / "corpus.jsonl", str(tmp_path / "index")
    records = [{"id": name, "text": TEXT, "label": label} for name, label in (("a", "x=1"), ("b", "y"), ("c", "z"))]
    corpus.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert main(["embed", str(corpus), "--model", run, "--out", index]) == 0
    capsys.readouterr()
    assert main(["search", index, "boat", "--json", "--filter", "label=x=1", "--filter", "label=y"]) == 0
    assert {json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()} == {"x=1", "y"}
    both = ["--filter", "label=x=1", "--filter", "label=y", "--filter", "document=a"]
    assert main(["search", index, "boat", "--json", *both]) == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["document"], found["label"]) == ("a", "x=1")
    assert main(["search", index, "boat", "--filter", "label"]) == 2
    assert "--filter 'label' is no condition: give FIELD=VALUE" in capsys.readouterr().err


def test_what_was_set_aside_is_counted(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus = tmp_path / "corpus.jsonl"
    records = [{"id": "a", "words": TEXT}, {"id": "b", "words": None}]
    corpus.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    command = ["embed", str(corpus), "--model", run, "--out", str(tmp_path / "index")]
    assert main([*command, "--text-field", "words"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 documents")
    assert "1 documents set aside" in printed


def test_a_kept_unit_stays_and_the_others_are_written_anew(run: str, text_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", "--model", run, "--theme-from", text_file, "--keep", "paragraph:2", "--num", "2"]
    assert main([*command, "--max-sentence-tokens", "8", "--out", str(out)]) == 0
    first, second = (record["text"] for record in lines(out))
    assert first.endswith("\n\nOld Marta watched it.")
    assert second.endswith("\n\nOld Marta watched it.")
    assert first != second


def test_a_seed_draws_a_theme_and_holds_it(run: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["generate", "--model", run, "--out", str(out), "--max-sentence-tokens", "8", "--max-children", "3"]
    texts = []
    for theme in ("1", "1", "2"):
        assert main([*command, "--theme-seed", theme]) == 0
        texts.append(lines(out)[0]["text"])
    assert texts[0] == texts[1] != texts[2]


def test_a_reconstruction_goes_down_to_a_level(run: str, text_file: str, capsys: pytest.CaptureFixture) -> None:
    shown = []
    for level in ("paragraph", "sentence"):
        assert main(["reconstruct", "--model", run, text_file, "--down-to", level]) == 0
        shown.append(capsys.readouterr().out)
    assert main(["reconstruct", "--model", run, text_file]) == 0
    assert capsys.readouterr().out == shown[1] != shown[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--num", "0"),
        ("--num", "-2"),
        ("--top-p", "1.5"),
        ("--temperature", "1e-45"),
        ("--temperature", "-0.5"),
        ("--latent-temperature", "-1"),
        ("--seed", "99999999999999999999"),
        ("--seed", "-1"),
        ("--theme-seed", "-1"),
        ("--min-p", "2"),
        ("--max-children", "0"),
        ("--max-sentence-tokens", "-3"),
        ("--best-of", "0"),
        ("--topic-weight", "-1"),
        ("--top-k", "-1"),
        ("--no-repeat-ngram", "-1"),
        ("--repetition-penalty", "0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_the_name_of_its_option(
    run: str, capsys: pytest.CaptureFixture, option: str, value: str
) -> None:
    assert main(["generate", "--model", run, option, value]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {option} is ")
    assert "it must be" in error


def test_python_and_the_command_line_draw_alike(run: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["generate", "--model", run, "--num", "2", "--seed", "4", "--out", str(out)]) == 0
    expected = load_run(run).generate(num=2, seed=4)
    assert [record["text"] for record in lines(out)] == [document.text for document in expected]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["generate", "--model", "nowhere/at/all"], "no run folder"),
        (["generate", "--model", "RUN", "--resample", "sentence"], "give --theme-from FILE"),
        (["generate", "--model", "RUN", "--units", "sentence=2"], "but not how many paragraphs"),
        (["generate", "--model", "RUN", "--units", "paragraph"], "--units is given 'paragraph'"),
        (["generate", "--model", "RUN", "--units", "document=2"], "a document has one document"),
        (["generate", "--model", "RUN", "--units", "verse=2"], "no level 'verse'"),
        (["generate", "--model", "RUN", "--units", "paragraph=0"], "numbers of paragraphs are 0"),
        (
            ["generate", "--model", "RUN", "--units", "paragraph=2", "sentence=1,2,3"],
            "one for each of the 2 paragraphs",
        ),
        (
            ["generate", "--model", "RUN", "--theme-from", "FILE", "FILE", "--keep", "paragraph:1"],
            "needs one document to keep",
        ),
        (["describe", "--model", "RUN", "FILE", "--words", "0"], "--words is 0; it must be 1 or more"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--resample", "verse"], "no level 'verse'"),
        (["generate", "--model", "RUN", "--theme-from", "missing.txt"], "missing.txt"),
        (["generate", "--model", "RUN", "--theme-from", "EMPTY"], "empty.txt' holds no text"),
        (["generate", "--model", "RUN", "--keep", "paragraph:1"], "give --theme-from FILE"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--keep", "paragraph:3"], "no paragraph 3 to keep"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--keep", "verse:1"], "no level 'verse'"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--keep", "sentence:0"], "a number from 1"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--keep", "sentence:-1"], "a number from 1"),
        (["generate", "--model", "RUN", "--theme-from", "FILE", "--keep", "paragraph"], "--keep is given 'paragraph'"),
        (
            ["generate", "--model", "RUN", "--theme-from", "FILE", "--theme-weights", "1", "2"],
            "each of --theme-from's 1",
        ),
        (["generate", "--model", "RUN", "--level-from", "paragraph"], "--level-from is given 'paragraph'"),
        (["generate", "--model", "RUN", "--level-from", "verse=FILE"], "FILE"),
        (["generate", "--model", "RUN", "--latent-temperature", "verse=1"], "latent_temperature names 'verse'"),
        (
            ["generate", "--model", "RUN", "--latent-temperature", "1", "sentence=0"],
            "is given '1'; it must be one number",
        ),
        (["reconstruct", "--model", "RUN", "FILE", "--down-to", "verse"], "no level 'verse'"),
        (["reconstruct", "--model", "RUN", "EMPTY"], "empty.txt' holds no text"),
        (
            ["interpolate", "--model", "RUN", "--from", "FILE", "--to", "FILE", "--level", "verse"],
            "no latent level 'verse'",
        ),
        (["interpolate", "--model", "RUN", "--from", "FILE", "--to", "FILE", "--steps", "1"], "must be 2 or more"),
        (["generate", "--model", "RUN", "--theme-id", "nowhere", "a"], "'nowhere' is no index"),
        (["generate", "--model", "RUN", "--out", "FOLDER"], "a folder; give a file in it"),
        (["interpolate", "--model", "RUN", "--from", "FILE", "--to", "FILE", "--out", "FOLDER"], "a folder"),
        (["embed", "EMPTY", "--model", "RUN", "--out", "OUT"], "empty.txt"),
        (["search", "FILE", "query"], "is no index"),
        (["embed", "FILE", "--model", "RUN", "--out", "OUT", "--limit", "0"], "limit is 0; it must be 1 or more"),
        (["generate", "--model", "RUN", "--device", "gpu"], "there is no kind of device 'gpu'"),
        (["prepare", "FILE", "--out", "OUT", "--dtype", "bfloat16"], "only --cache-features runs"),
    ],
)
def test_what_the_user_can_mend_is_said_in_a_line(
    run: str, text_file: str, tmp_path: Path, capsys: pytest.CaptureFixture, command: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").touch()
    given = {"RUN": run, "FILE": text_file, "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty.txt")}
    given["FOLDER"] = str(tmp_path)
    assert main([given.get(word, word) for word in command]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("contradiction", [["--resample", "sentence"], ["--units", "paragraph=4"]], ids=str)
def test_what_is_kept_has_its_structure_already(
    run: str, text_file: str, capsys: pytest.CaptureFixture, contradiction: list[str]
) -> None:
    command = ["generate", "--model", run, "--theme-from", text_file, "--keep", "paragraph:2"]
    with pytest.raises(SystemExit, match="2"):
        main([*command, *contradiction])
    assert f"argument {contradiction[0]}: not allowed with argument --keep" in capsys.readouterr().err


def test_training_names_an_unknown_key(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = tmp_path / "run.yaml"
    path.write_text("train: {stepz: 3}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(path)])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert "train.stepz: unknown key" in error
    assert str(path) in error
