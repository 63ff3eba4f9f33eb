import re
from pathlib import Path

import pytest
import yaml

from textvae.config import Config, LevelConfig, ModelConfig, RatePolicy, to_dict
from textvae.config_file import list_settings, load_config
from textvae.model.vae import check_levels


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_goes_over_defaults_and_overrides_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "train: {steps: 7, learning_rate: 1e-4}\nmodel: {units: {width: 64}}")
    config = load_config(path, ["train.steps=9", "model.units.layers=1", "objective.default.beta=0.5", "data.path=x"])
    assert (config.train.steps, config.train.learning_rate) == (9, 1e-4)
    assert (config.model.units.width, config.model.units.layers) == (64, 1)
    assert (config.objective.default.beta, config.data.path) == (0.5, "x")
    assert config.train.seed == Config().train.seed


def test_no_is_a_word(tmp_path: Path) -> None:
    """YAML 1.1 reads it as false."""
    path = written(tmp_path, "train: {mixed_precision: no, resume: true}")
    assert load_config(path).train.mixed_precision == "no"
    assert load_config(path).train.resume is True
    assert load_config(path, ["train.mixed_precision=bf16"]).train.mixed_precision == "bf16"
    assert load_config(written(tmp_path, ""), ["train.mixed_precision=no"]).train.mixed_precision == "no"


def test_the_run_is_named_after_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "train: {steps: 7}")
    assert load_config(path).train.output == str(Path("runs") / "run")
    assert load_config(path, ["train.output=here"]).train.output == "here"


def test_a_level_is_addressed_by_its_name(tmp_path: Path) -> None:
    usual = load_config(written(tmp_path, ""), ["model.levels.document.latent_size=5"])
    assert [level.latent_size for level in usual.model.levels] == [
        5,
        *(level.latent_size for level in ModelConfig().levels[1:]),
    ]
    own = written(tmp_path, "model: {levels: [{name: scene}, {name: line}]}")
    assert load_config(own, ["model.levels.line.latent_size=3"]).model.levels[1] == LevelConfig("line", 3)
    none = load_config(own, ["model.levels=[]"])
    assert none.model.levels == ()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {stepz: 3}", "train.stepz: unknown key"),
        ("trian: {steps: 3}", "trian: unknown key"),
        ("model: {levels: [{name: a, latent: 3}]}", "model.levels.0.latent: unknown key"),
        ("train: {steps: many}", "train.steps"),
        ("train: {steps: 1.5}", "train.steps"),
        ("train: {steps: 0}", "train.steps"),
        ("model: {decoder: {word_dropout: 1.0}}", "model.decoder.word_dropout"),
        ("model: {decoder: {conditioning: prefix}}", "model.decoder.conditioning"),
        ("model: {decoder: {conditioning: none, logit_rank: 0}}", "the latents reach no text"),
        ("model: {decoder: {logit_rank: 0}}", "encoder.words=false"),
        ("train: 3", "train"),
        ("model: {levels: [{name: a}, {name: a}]}", "a name twice"),
        ("model: {units: {width: 30, heads: 4}}", "not a multiple"),
        ("objective: {default: {start: 0.5, end: 0.4}}", "must lie behind start"),
        ("objective: {levels: {verse: {beta: 2}}}", "'verse'"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match="bad configuration") as error:
        load_config(path)
    assert key in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz: unknown key"),
        ("train.steps=many", "train.steps"),
        ("train.steps", "not of the form"),
        ("model.levels.verse.latent_size=3", "no 'model.levels.verse'"),
        ("model.levels.document=3", "name an entry's key"),
        ("train.steps.more=3", "no 'train.steps'"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"override|configuration") as error:
        load_config(written(tmp_path, "train: {steps: 5}"), [override])
    assert message in str(error.value)
    assert override in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("[1]", "must hold a mapping")])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(written(tmp_path, text))
    with pytest.raises(ValueError, match="does not exist"):
        load_config(tmp_path / "none.yaml")


def test_a_level_states_only_what_differs_from_the_default_policy(tmp_path: Path) -> None:
    """In the file and in an override alike; what one level states is no other's."""
    text = """objective:
      default: {anneal: constant, free_bits: 0.1}
      levels: {paragraph: {target_rate: 3}}"""
    found = load_config(written(tmp_path, text), ["objective.levels.document.free_bits=0.5"]).objective
    assert found.policy("paragraph") == RatePolicy(anneal="constant", free_bits=0.1, target_rate=3.0)
    assert found.policy("document") == RatePolicy(anneal="constant", free_bits=0.5)
    assert found.policy("sentence") == found.default == RatePolicy(anneal="constant", free_bits=0.1)


def test_what_is_resolved_can_be_read_back(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "model: {levels: [{name: line}]}\nobjective: {levels: {line: {beta: 2}}}"))
    again = written(tmp_path, yaml.safe_dump(to_dict(config)))
    assert load_config(again) == config


def files(folder: Path, **texts: str) -> Path:
    """Files by stem in `folder`; returns the last one's path."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return path


def test_a_file_states_what_differs_from_its_base(tmp_path: Path) -> None:
    """Section by section, over two bases, one of them in another folder; the run is named after the file itself."""
    (tmp_path / "common").mkdir()
    files(
        tmp_path / "common",
        first="train: {steps: 7, seed: 3, output: there}\nobjective: {levels: {document: {beta: 2}}}",
    )
    path = files(
        tmp_path,
        second="base: common/first.yaml\ntrain: {steps: 8, output: here}\nmodel: {units: {width: 64}}",
        third="base: second.yaml\nmodel: {units: {layers: 1}}\nobjective: {levels: {sentence: {beta: 3}}}",
    )
    config = load_config(path, ["train.log_every=2"])
    assert (config.train.steps, config.train.seed, config.train.log_every) == (8, 3, 2)
    assert (config.model.units.width, config.model.units.layers) == (64, 1)
    assert list(config.objective.levels) == ["sentence"], "what a key holds is replaced whole"
    assert config.train.output == str(Path("runs") / "third")
    assert load_config(tmp_path / "second.yaml").train.output == "here"


def test_an_architecture_is_replaced_not_mixed(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        gpt2="model: {decoder: {attention: eager, architecture: {model_type: gpt2, n_layer: 2}}}",
        llama="base: gpt2.yaml\nmodel: {decoder: {architecture: {model_type: llama}}}",
    )
    decoder = load_config(path).model.decoder
    assert (decoder.architecture, decoder.attention) == ({"model_type": "llama"}, "eager")


def test_levels_are_merged_by_name(tmp_path: Path) -> None:
    """A file, or an override, that lists levels says which there are; what it does not state of one is the base's."""
    path = files(
        tmp_path,
        three="model: {levels: [{name: a, latent_size: 9}, {name: b, latent_size: 5, prior: independent}, {name: c}]}",
        two="base: three.yaml\nmodel: {levels: [{name: b, latent_size: 4}, {name: d}]}",
    )
    assert load_config(path).model.levels == (LevelConfig("b", 4, "independent"), LevelConfig("d"))
    overridden = load_config(tmp_path / "three.yaml", ["model.levels=[{name: a}, {name: c, latent_size: 2}]"])
    assert overridden.model.levels == (LevelConfig("a", 9), LevelConfig("c", 2))
    assert load_config(path, ["model.levels=[]"]).model.levels == ()
    usual = load_config(files(tmp_path, empty=""), ["model.levels=[{name: sentence}]"])
    assert usual.model.levels == ModelConfig().levels[2:]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "base: b.yaml", "b": "base: a.yaml"}, r"a.yaml: its bases run in a circle, b.yaml -> a.yaml -> b.yaml"),
        ({"a": "base: a.yaml"}, r"a.yaml: its bases run in a circle, a.yaml -> a.yaml"),
        ({"a": "base: none.yaml"}, r"none.yaml, the base of .*a.yaml, does not exist"),
        ({"b": "base: [x]", "a": "base: b.yaml"}, r"b.yaml: base must name a file, got \['x'\]"),
        ({"b": "train: {stepz: 1}", "a": "base: b.yaml"}, r"bad configuration in .*a.yaml(.|\n)*train.stepz"),
        ({"b": "[1]", "a": "base: b.yaml"}, r"b.yaml must hold a mapping"),
    ],
    ids=["circle", "itself", "missing", "no name", "unknown key", "no mapping"],
)
def test_a_wrong_base_is_named(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(files(tmp_path, **texts))


def test_an_override_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"override 'train.steps=\[' is not valid YAML"):
        load_config(written(tmp_path, ""), ["train.steps=["])


def test_every_setting_is_listed_as_it_is_overridden(tmp_path: Path) -> None:
    """What `train.py --help` prints can be given back, line by line, and changes nothing."""
    lines = [line.strip() for line in list_settings().splitlines()]
    assert {"train.steps=1000", "model.units.width=256", "objective.levels.NAME.free_bits=0.0"} <= set(lines)
    path = written(tmp_path, "model: {levels: [{name: a}]}")
    overrides = [line.replace(".NAME.", ".a.").replace('"NAME"', "a") for line in lines]
    before = load_config(path)
    after = load_config(path, [line for line in overrides if not line.startswith(("train.output", "objective.lev"))])
    assert after == before
    assert load_config(path, [*overrides]).objective.policy("a") == before.objective.default


@pytest.mark.parametrize("name", ["keys", "type", "training", "sec.tion", "a/b", "..", "_own", "", "two words"])
def test_a_level_whose_name_cannot_be_a_key_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a level cannot be called '{name}'")):
        load_config(written(tmp_path, yaml.safe_dump({"model": {"levels": [{"name": name}]}})))
    with pytest.raises(ValueError, match=re.escape(f"a level cannot be called '{name}'")):
        check_levels((name, "sentence"), ModelConfig((LevelConfig("sentence"),)))


@pytest.mark.parametrize("name", ["sub-section", "chapitre_é", "абзац", "level2"])
def test_a_level_has_a_name_in_any_language(name: str) -> None:
    assert LevelConfig(name).name == name
