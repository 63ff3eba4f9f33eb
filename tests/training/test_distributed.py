"""Training in two processes, with a copy of the model each (DDP) or sharing it (FSDP2), is training in one."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from run_scripts import ACCELERATE, FSDP2, KINDS, forked, launch
from safetensors.torch import load_file
from training_runs import Settings, assert_close_records, configured, final_weights, records, written

from textvae.build import build_model
from textvae.config import Config, LoraConfig
from textvae.data.dataset import load_prepared
from textvae.data.loader import TrainingSteps, evaluation_groups
from textvae.data.plan import BatchPlan
from textvae.runs import RunFolder, load_run
from textvae.training.distributed import check_sharding
from textvae.training.loop import train

LEVELS = ("document", "paragraph", "sentence")
CLOSE = 1e-5
SHARE = """
import json
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from textvae.training.distributed import distribute, gathered, how_shared, whole_state

def sizes():
    return [(p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters()]

accelerator = Accelerator(cpu=True)
layers = torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(5, 2, bias=False).requires_grad_(False)
model = distribute(torch.nn.Sequential(*layers), accelerator)
optimizer = torch.optim.AdamW([model[0].weight], fused=True)
model[0].weight.grad = torch.ones_like(model[0].weight)
optimizer.step()
with gathered(model):
    everything = sizes()
between = sizes()
state = whole_state(model.state_dict(keep_vars=True), accelerator.is_main_process)
print(json.dumps({
    "how": how_shared(model, accelerator),
    "weights": between,
    "gathered": everything,
    "moments": optimizer.state[model[0].weight]["exp_avg"].to_local().numel(),
    "written": [value if value is None else value.numel() for value in state.values()],
    "main": accelerator.is_main_process,
}))
"""
UNEVEN = """
import sys
from contextlib import nullcontext
from datetime import timedelta
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from textvae.training.distributed import accumulating, distribute, whole_state

accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=10))])
model = distribute(torch.nn.Linear(2, 1, bias=False), accelerator)
count = 1 + 2 * accelerator.process_index
for number in range(count):
    meet = number == count - 1 or "every time" in sys.argv
    with nullcontext() if meet else accumulating(model, accelerator):
        model(torch.ones(1, 2)).sum().backward()
print(whole_state([parameter.grad for parameter in model.parameters()], keep=True)[0].tolist())
"""
MICRO = 120
"""Tokens: some steps then have more micro-batches in one process than in the other."""


def felt(name: str, values: torch.Tensor) -> torch.Tensor:
    """Of a parameter, what the loss depends on. A bias that moves all scores of a softmax alike is not: its gradient is
    rounding, which Adam makes a step of."""
    if name.endswith((".score.bias", ".key.bias")):
        return values[:0]
    if name.endswith("attn.c_attn.bias"):
        queries, _, values_ = values.chunk(3)
        return torch.cat([queries, values_])
    return values


def assert_same_training(one: Path, two: Path) -> None:
    """All that was logged, the last weights and the best model."""
    assert_close_records(one, two, CLOSE)
    for ours, theirs in (
        (final_weights(one), final_weights(two)),
        (load_file(one / "model.safetensors"), load_file(two / "model.safetensors")),
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            a, b = felt(name, ours[name]), felt(name, theirs[name])
            far = ~torch.isclose(b, a, atol=CLOSE, rtol=CLOSE)
            # Where a single gradient happens to vanish Adam makes a step of its rounding, too.
            assert far.sum() <= 1 + a.numel() // 1000, f"{name}: {a[far]} {b[far]}"
    assert (one / "config.json").read_bytes() == (two / "config.json").read_bytes()
    # Tied weights are written once.
    sizes = {next(RunFolder(run).checkpoints.glob("*/model.safetensors")).stat().st_size for run in (one, two)}
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_takes_every_file(name: str) -> None:
    """Every key is one that it knows, and the command at the head of the file is what it is for."""
    head, command, *_ = ACCELERATE[name].read_text(encoding="utf-8").splitlines()
    assert head.startswith("# ")
    assert command.startswith(f"# accelerate launch --config_file configs/accelerate/{name}.yaml ")
    stored = load_config_from_file(str(ACCELERATE[name]))
    parser = launch_command_parser()
    known = vars(parser.parse_args(["train.py"]))
    assert stored.fsdp_config.keys() <= known.keys()
    words = command.removeprefix("# accelerate launch ").replace("configs/accelerate", str(ACCELERATE[name].parent))
    arguments, _, _ = _validate_launch_command(parser.parse_args(words.split()))
    assert arguments.use_fsdp == (name == "fsdp2")
    assert arguments.multi_gpu == (name in ("eight-gpus", "nodes"))
    assert (arguments.num_processes, arguments.num_machines) == (stored.num_processes, stored.num_machines)
    assert arguments.training_script == "train.py"


def test_a_key_that_accelerate_does_not_know_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(ACCELERATE["cpu"].read_text(encoding="utf-8") + "num_gpus: 8\n", encoding="utf-8")
    with pytest.raises(ValueError, match="num_gpus"):
        load_config_from_file(str(file))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"FSDP_VERSION": "1", "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "fsdp_version must be 2"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "true"}, "fsdp_reshard_after_forward must be false"),
        ({"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}, "fsdp_auto_wrap_policy must be NO_WRAP"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params must be false"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading must be false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"set model.decoder.gradient_checkpointing"),
    ],
)
def test_what_fsdp_cannot_do_here_is_said(
    monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str], said: str
) -> None:
    for key, value in (FSDP2 | dict(changes)).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=f"accelerate's configuration: .*{said}.*configs/accelerate/fsdp2.yaml"):
        check_sharding()


def test_processes_run_different_numbers_of_micro_batches(prepared: Path, settings: Settings) -> None:
    """In the configurations that the tests below train: where gradients met at every micro-batch, or at every chunk,
    one process would wait for ever."""
    split, validation = load_prepared(prepared, "train"), load_prepared(prepared, "validation")
    model = build_model(settings(*LEVELS), split.processor)
    model.set_chunk_tokens(MICRO)
    plan = BatchPlan(split.token_counts, 400, seed=0)
    counts = []
    for process in range(2):
        steps = TrainingSteps(
            split.read, plan, model.layout, steps=20, micro_batch_tokens=MICRO, process=process, num_processes=2
        )
        counts.append([[len(batch.decoder_chunks) for batch in steps[step].batches] for step in range(20)])
    assert any(len(one) != len(other) for one, other in zip(*counts, strict=True))
    assert any(sum(one) != sum(other) for one, other in zip(*counts, strict=True))
    groups = [
        evaluation_groups(validation.token_counts, MICRO, process=process, num_processes=2) for process in range(2)
    ]
    assert len(groups[0]) != len(groups[1])


def test_processes_hold_a_part_each_of_what_is_trained(tmp_path: Path) -> None:
    """Of the weights, and of the optimiser's state; all of what is frozen, and of all between two steps' passes."""
    script = tmp_path / "share.py"
    script.write_text(SHARE, encoding="utf-8")
    printed = forked(2, [str(script)], **FSDP2)
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(found) == 2
    for sizes in found:
        assert sizes == {
            "how": "2 processes (FSDP2)",
            "weights": [12, 10],
            "gathered": [24, 10],
            "moments": 12,
            "written": [24 if sizes["main"] else None, 10],
            "main": sizes["main"],
        }
    assert [sizes["main"] for sizes in found] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_meet_once_however_many_micro_batches_there_are(tmp_path: Path, kind: str) -> None:
    """One in the first process, three in the second; where they meet every time, the processes do not come to an
    end."""
    script = tmp_path / "uneven.py"
    script.write_text(UNEVEN, encoding="utf-8")
    assert forked(2, [str(script)], **KINDS[kind]).splitlines() == ["[[2.0, 2.0]]"] * 2
    with pytest.raises(AssertionError, match=r"gloo|the processes do not end"):
        forked(2, [str(script), "every time"], **KINDS[kind])


ALONE = {
    "twenty": ({"steps": 20, "learning_rate": 1e-3, "validate_every": 10, "save_every": 20}, {}),
    "small": ({"batch_tokens": 40, "validation_documents": 1}, {"bag_of_words": 0.5}),
    "bag": ({}, {"likelihood": "bag_of_words"}),
}
"""Options and objective. A smaller learning rate makes less of rounding in many steps."""


@pytest.fixture(scope="module", params=ALONE)
def alone(
    request: pytest.FixtureRequest, prepared: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """Of a run of one process that has ended."""
    options, objective = ALONE[request.param]
    model = settings(*LEVELS, logit_rank=8 if objective else 0)
    options = {"steps": 6, "micro_batch_tokens": MICRO, **options}
    config = configured(prepared, tmp_path_factory.mktemp("alone") / "one", model, objective=objective, **options)
    train(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(alone: Config, tmp_path: Path, kind: str) -> None:
    """Also where a global batch has a document, or the validation a group, for one process only."""
    printed = forked(2, written(alone, tmp_path / "two"), **KINDS[kind])
    assert f"2 processes ({kind.upper()})" in printed
    assert_same_training(Path(alone.train.output), tmp_path / "two")


@pytest.mark.slow
def test_precision_is_the_same_copied_or_sharded(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Autocast's: the weights, and what must not be rounded, stay in single precision."""
    found = {}
    for kind, precision in (("ddp", "no"), ("ddp", "bf16"), ("fsdp2", "bf16")):
        output = tmp_path / f"{kind}-{precision}"
        config = configured(prepared, output, settings(*LEVELS), steps=2, mixed_precision=precision)
        forked(2, written(config, output), **KINDS[kind])
        found[kind, precision] = records(output)[0]["nll_per_token"]
    assert found["fsdp2", "bf16"] == pytest.approx(found["ddp", "bf16"], rel=1e-6)
    assert found["ddp", "no"] != pytest.approx(found["ddp", "bf16"], rel=1e-5)


@pytest.mark.slow
def test_the_file_for_fsdp2_is_what_is_tested(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Started as its head says, in as many processes as there are processors for; accumulated micro-batches are one
    batch."""
    config = configured(prepared, tmp_path / "one", settings(*LEVELS), steps=5, micro_batch_tokens=10_000)
    small = replace(config, data=replace(config.data, micro_batch_tokens=60))
    printed = launch(2, written(small, tmp_path / "two"), config_file=ACCELERATE["fsdp2"])
    assert "2 processes (FSDP2)" in printed
    assert_same_training(train(config), tmp_path / "two")


@pytest.fixture(scope="module")
def pretrained(settings: Settings, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of two blocks, its output layer tied to its embeddings."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    deep = settings(model_type="llama", architecture={"num_hidden_layers": 2})
    build_model(deep, load_prepared(prepared, "train").processor).decoder.backbone.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def still_encoder(encoder_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout, which every process draws for itself."""
    folder = tmp_path_factory.mktemp("still") / "encoder"
    shutil.copytree(encoder_backbone, folder)
    values = json.loads((folder / "config.json").read_bytes())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(values | still), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "adapters", "last block", "language model"])
def test_sharded_training_takes_what_is_trained(
    prepared: Path, settings: Settings, tmp_path: Path, pretrained: Path, still_encoder: Path, part: str
) -> None:
    """What is frozen stays as it is, and what is tied stays tied, in the run's model, too."""
    if part == "encoder":
        model = settings(*LEVELS, model_type="llama")
        model = replace(model, encoder=replace(model.encoder, name=str(still_encoder), trainable=True))
    elif part == "language model":
        model = settings(model_type="llama", context="document")
    else:
        adapters = {"lora": LoraConfig(rank=4), "trainable": False, "save_frozen": False}
        trained = {"adapters": adapters, "last block": {"trainable": "last 1"}}
        model = settings(*LEVELS, name=str(pretrained), **trained[part])
    config = configured(prepared, tmp_path / "one", model, steps=5, micro_batch_tokens=MICRO)
    forked(2, written(config, tmp_path / "two"), **FSDP2)
    assert_same_training(train(config), tmp_path / "two")
    torch.manual_seed(config.train.seed)
    start = build_model(model, load_prepared(prepared, "train").processor)
    after = load_run(tmp_path / "two")
    backbone = after.decoder.backbone
    assert backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight
    for name, parameter in start.named_parameters():
        assert torch.equal(after.state_dict()[name], parameter) == (not parameter.requires_grad), name


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_one_process(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Checkpoints say nothing of how many processes shared what is in them."""
    config = configured(prepared, tmp_path / "one", settings(*LEVELS), steps=6, save_every=3)
    forked(2, written(config, tmp_path / "two"), **FSDP2)
    folder = RunFolder(tmp_path / "two")
    assert folder.steps() == [3, 6]
    (folder.checkpoints / "latest").write_text("step-000003\n", encoding="utf-8")
    alone = replace(config, train=replace(config.train, output=str(tmp_path / "two"), resume=True))
    assert_same_training(train(config), train(alone))
