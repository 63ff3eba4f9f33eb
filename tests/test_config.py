import re
from pathlib import Path

import pytest
import yaml

from textvae.config import Config, LevelConfig, ModelConfig, RatePolicy, parse, to_dict
from textvae.config_file import load_config
from textvae.model.vae import check_levels

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_of_the_repository_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.train.output
    assert parse(Config, to_dict(config), "itself") == config


def test_there_are_configurations() -> None:
    assert CONFIGS


def test_file_goes_over_defaults_and_overrides_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "train: {steps: 7, learning_rate: 1e-4}\nmodel: {units: {width: 64}}")
    config = load_config(path, ["train.steps=9", "model.units.layers=1", "objective.default.beta=0.5", "data.path=x"])
    assert (config.train.steps, config.train.learning_rate) == (9, 1e-4)
    assert (config.model.units.width, config.model.units.layers) == (64, 1)
    assert (config.objective.default.beta, config.data.path) == (0.5, "x")
    assert config.train.seed == Config().train.seed


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


@pytest.mark.parametrize("name", ["keys", "type", "training", "sec.tion", "a/b", "..", "_own", "", "two words"])
def test_a_level_whose_name_cannot_be_a_key_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a level cannot be called '{name}'")):
        load_config(written(tmp_path, yaml.safe_dump({"model": {"levels": [{"name": name}]}})))
    with pytest.raises(ValueError, match=re.escape(f"a level cannot be called '{name}'")):
        check_levels((name, "sentence"), ModelConfig((LevelConfig("sentence"),)))


@pytest.mark.parametrize("name", ["sub-section", "chapitre_é", "абзац", "level2"])
def test_a_level_has_a_name_in_any_language(name: str) -> None:
    assert LevelConfig(name).name == name
