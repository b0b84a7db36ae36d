"""Configs, runs and records: nothing is trained twice, what is interrupted goes on, bad settings are answered."""

import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch

from compatkit import experiments, normalization, recombination, results, training
from compatkit.data import write_npz
from compatkit.experiments import pair, runner
from compatkit.experiments.pair import METHODS, PairRun
from compatkit.experiments.presets import override, settings

from .test_data import small_set

TINY = {"n_train": 60, "n_test": 60, "recipe.steps": 3, "recipe.batch_size": 20}


def tiny(**changes) -> PairRun:
    smoke = experiments.EXPERIMENTS["fig2"]("smoke")[0]
    return override(replace(smoke, **changes), TINY)


def records(tmp_path, **options):
    options = {"settings": TINY, "show_progress": False, "root": tmp_path} | options
    return runner.records("fig2", "smoke", **options)


@pytest.mark.parametrize("preset", experiments.PRESETS)
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_at_every_preset_is_a_list_of_distinct_runs(name, preset):
    configs = runner.configs(name, preset)
    ids = {runner.Job(name, preset, c, None, "cpu", 1).run_id for c in configs}
    assert len(ids) == len(configs) > 0
    assert experiments.EXPERIMENTS[name].__doc__


def test_fig2_is_the_whole_grid_on_both_embedded_pairs():
    configs = runner.configs("fig2", "laptop")
    assert len(METHODS) == 9
    grid = {(c.a, c.b, c.method, c.seed) for c in configs}
    pairs = {("digits", "mnist5k"), ("glyphs_plain", "glyphs_cluttered")}
    assert grid == {(*p, m, s) for p in pairs for m in METHODS for s in range(3)}


def test_the_paper_preset_is_the_published_recipe():
    config = runner.configs("fig2", "paper")[0]
    recipe = config.recipe
    assert (config.a, config.b, config.network, config.split_at) == ("cifar10", "stl10", "resnet56", "stage2")
    assert (recipe.steps, recipe.batch_size, recipe.lr, recipe.weight_decay) == (20_000, 512, 0.01, 1e-7)
    assert (recipe.optimizer, recipe.schedule, recipe.decay_every, recipe.rotations) == ("adam", "step", 5_000, "all")


# --- one run ----------------------------------------------------------------------------------------------------------


def built(method, **changes):
    return pair.prepare(tiny(method=method, **changes))


def test_methods_are_what_their_names_say():
    for method in METHODS:
        p = built(method)
        a, b = p.tasks
        same = all(torch.equal(x, y) for x, y in zip(a.extractor.parameters(), b.extractor.parameters(), strict=True))
        assert same == ("IIW" in method), method
        assert (a.dcc_head is not None and a.dcc_head is b.dcc_head) == ("DCC" in method), method
        assert (a.rotation_head is not None and a.rotation_head is b.rotation_head) == ("RP" in method), method
        own = a.rotation_head is not None and b.rotation_head is not None and a.rotation_head is not b.rotation_head
        assert own == (method == "upper bound"), method
        assert a.head is not b.head and a.extractor is not b.extractor


def test_methods_of_a_seed_share_weights_and_batches():
    first, config = built("independent").tasks[0], tiny()
    for method in METHODS:
        task = built(method).tasks[0]
        assert all(torch.equal(x, y) for x, y in zip(first.head.parameters(), task.head.parameters(), strict=True))
        assert torch.equal(first.batches(config.recipe)(2)[0], task.batches(config.recipe)(2)[0])


def test_left_out_classes_are_not_common():
    assert built("DCC").common == tuple("012345678")
    assert built("DCC").tasks[0].common_index.tolist() == [*range(9), -1]


def test_untrained_identical_networks_recombine_to_themselves():
    p = built("IIW")
    scores = pair.evaluate(p)
    for name in ("a", "b", "mean"):
        assert scores[f"recombination/{name}"] == scores[f"not recombined/{name}"]
    assert scores.pop("chance/mean") == 1 / 9
    assert set(scores) == {
        f"{measure}/{name}"
        for measure in ("recombination", "recombination, unmasked", "not recombined", "own task")
        for name in ("a", "b", "mean")
    }


@pytest.fixture
def permuted_sets(tmp_path, monkeypatch):
    """Two sets that share three of four classes, in another order and at other places."""
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    write_npz(tmp_path / "one.npz", small_set(n=80, classes=("ant", "bee", "cat", "dog"), size=16, seed=1))
    write_npz(tmp_path / "two.npz", small_set(n=40, classes=("dog", "eel", "ant", "cat"), size=16, seed=2))
    return {"a": "one", "b": "two", "left_out": (), "n_train": None, "n_test": None}


def test_evaluate_against_a_loop_over_recombined_networks(permuted_sets):
    p = built("independent", **permuted_sets)
    pair.train_pair(p, tiny(**permuted_sets, method="independent"), show_progress=False)
    common = ("ant", "cat", "dog")
    assert p.common == common
    scores, swapped = pair.evaluate(p), {}
    for i, role in enumerate("ab"):
        image_set, other = p.sets[i], p.sets[1 - i]
        names = [image_set.classes[label] for label in image_set.test.labels]
        for measure, head, allowed in (
            ("recombination", 1 - i, set(common)),
            ("recombination, unmasked", 1 - i, set(other.classes)),
            ("not recombined", i, set(common)),
            ("own task", i, None),
        ):
            keep = [k for k, name in enumerate(names) if allowed is None or name in common]
            net = recombination.recombine(p.extractors[i], p.heads[head])
            with normalization.evaluation(net, "batch"), torch.no_grad():
                logits = net(image_set.normalise(image_set.test.images[keep]))
            outputs = p.sets[head].classes
            hits = 0
            for row, k in zip(logits.tolist(), keep, strict=True):
                answers = [(v, name) for v, name in zip(row, outputs, strict=True) if not allowed or name in allowed]
                hits += max(answers)[1] == names[k]
            assert scores[f"{measure}/{role}"] == pytest.approx(hits / len(keep), abs=1e-6), (measure, role)
            swapped[measure, role] = hits / len(keep)
    for measure in ("recombination", "own task"):
        assert scores[f"{measure}/mean"] == pytest.approx((swapped[measure, "a"] + swapped[measure, "b"]) / 2)
    assert scores["chance/mean"] == pytest.approx(1 / 3)


def test_each_network_learns_its_own_set_and_the_classes_that_are_common(permuted_sets):
    p = built("IIW+RP+DCC", **permuted_sets)
    assert [task.image_set.name for task in p.tasks] == ["one", "two"]
    assert p.tasks[0].common_index.tolist() == [0, -1, 1, 2]
    assert p.tasks[1].common_index.tolist() == [2, -1, 0, 1]
    assert p.tasks[0].dcc_head[-1].out_features == 3 and p.tasks[0].rotation_head[-1].out_features == 4


def test_both_networks_may_learn_the_same_set():
    scores = pair.run(tiny(b="digits", method="IIW"), show_progress=False)
    assert scores["recombination/mean"] == (scores["recombination/a"] + scores["recombination/b"]) / 2


CHANGES = {
    "b": "glyphs_plain",
    "left_out": ("8",),
    "method": "IIW",
    "scheme": "incremental",
    "network": "resnet14",
    "width": 5,
    "split_at": "stage1",
    "n_train": 70,
    "n_test": 50,
    "test_batch_size": 7,
    "seed": 1,
    "recipe.steps": 4,
    "recipe.batch_size": 10,
    "recipe.lr": 0.02,
    "recipe.crop": 2,
    "recipe.flip": True,
    "recipe.optimizer": "sgd",
    "recipe.rotations": "all",
    "recipe.schedule": "constant",
}


def outcome(config):
    p = pair.prepare(config)
    pair.train_pair(p, config, show_progress=False)
    weights = torch.cat([t.detach().flatten() for task in p.tasks for m in task.modules() for t in m.parameters()])
    sizes = []
    p.extractors[0].register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape)))
    pair.evaluate(p, config.test_batch_size)
    return weights, sizes


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_run(name):
    if name == "b":
        config = tiny(a="glyphs_cluttered", b="glyphs_cluttered", left_out=(), method="RP+DCC")
    else:
        config = tiny(method="RP+DCC")
    weights, sizes = outcome(config)
    other_weights, other_sizes = outcome(override(config, {name: CHANGES[name]}))
    assert sizes != other_sizes or not torch.equal(weights, other_weights)


def test_masking_can_only_help():
    scores = pair.run(tiny(method="DCC"), show_progress=False)
    assert scores["recombination/mean"] >= scores["recombination, unmasked/mean"]


@pytest.mark.parametrize("method", ["IIW+RP+DCC", "upper bound"])
def test_incremental_training_freezes_the_shared_heads_after_the_first_network(method):
    p = built(method, scheme="incremental")
    recorded = []
    original = pair.train

    def spy(tasks, *args, **kwargs):
        heads = [h for h in (tasks[0].dcc_head, tasks[0].rotation_head) if h is not None]
        before = [{k: v.clone() for k, v in h.state_dict().items()} for h in heads]
        history = original(tasks, *args, **kwargs)
        recorded.append(
            [all(torch.equal(b[k], v) for k, v in h.state_dict().items()) for b, h in zip(before, heads, strict=True)]
        )
        return history

    pair.train = spy
    try:
        history = pair.train_pair(p, tiny(method=method, scheme="incremental"), show_progress=False)
    finally:
        pair.train = original
    shared = method != "upper bound"
    assert recorded[0] == [False] * len(recorded[0]), "the first network trains its heads"
    assert recorded[1] == [shared] * len(recorded[1]), "a shared head is frozen for the second, one of its own is not"
    assert {row["task"] for row in history} == {0, 1}


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = records(tmp_path)
    assert [(r["config"]["a"], r["config"]["method"]) for r in first[:2]] == [
        ("digits", "independent"),
        ("digits", "IIW"),
    ]
    assert len(first) == 18 and not list((tmp_path / ".checkpoints").glob("*"))
    monkeypatch.setattr(runner, "make", lambda *a: pytest.fail("a recorded run was made again"))
    assert records(tmp_path) == first


def test_stale_records_are_made_again_on_request(tmp_path, monkeypatch):
    first = records(tmp_path)
    monkeypatch.setattr(results, "is_stale", lambda record: record["run_id"] == first[3]["run_id"])
    again = records(tmp_path, refresh=True)
    changed = [i for i, (a, b) in enumerate(zip(first, again, strict=True)) if a["provenance"] != b["provenance"]]
    assert changed == [3]
    assert [r["metrics"] for r in first] == [r["metrics"] for r in again], "the same code gives the same numbers"


def test_processes_and_executors_give_the_same_numbers(tmp_path):
    one = records(tmp_path / "one")
    two = records(tmp_path / "two", jobs=2)
    with ThreadPoolExecutor(1) as executor:
        three = records(tmp_path / "three", executor=executor)
    for r, s, t in zip(one, two, three, strict=True):
        assert r["run_id"] == s["run_id"] == t["run_id"]
        assert r["metrics"] == s["metrics"] == t["metrics"]


def test_records_say_where_they_come_from(tmp_path):
    record = records(tmp_path, seeds=[7])[0]
    made = record["provenance"]
    assert record["seed"] == record["config"]["seed"] == 7
    assert made["device"] == "cpu" and made["threads"] == 1 and made["wall_seconds"] > 0 and made["peak_memory_mb"] > 0
    assert (
        made["versions"]["torch"] == torch.__version__.split("+")[0] or made["versions"]["torch"] == torch.__version__
    )
    assert not results.is_stale(record)


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_that_fail_are_named_when_all_have_been_tried(tmp_path, jobs):
    settings = TINY | {"recipe.lr": 1e30, "recipe.steps": 200}
    with pytest.raises(runner.RunsFailed, match="18 of 18 runs failed") as failed:
        records(tmp_path, settings=settings, jobs=jobs)
    assert isinstance(failed.value.__cause__, FloatingPointError)


def test_an_interrupted_run_goes_on_from_its_checkpoint_unless_the_code_has_changed(tmp_path, monkeypatch):
    starts, original = [], pair.train
    config = tiny(method="IIW+RP+DCC", scheme="incremental")
    job = runner.Job("fig2", "smoke", config, tmp_path, "cpu", 1)

    def spy(tasks, *args, **kwargs):
        starts.append(training._Run(tasks, args[0], kwargs["checkpoint"]).step)
        return original(tasks, *args, **kwargs)

    def interrupted(*args, **kwargs):
        if starts:
            raise KeyboardInterrupt  # between the first network and the second
        return spy(*args, **kwargs)

    monkeypatch.setattr(pair, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.make(job)
    starts.clear()
    monkeypatch.setattr(pair, "train", spy)
    with monkeypatch.context() as patch:
        state = results.code_state(job.module) | {"fingerprint": "of another code"}
        patch.setattr(results, "code_state", lambda module: state)
        runner.make(replace(job, root=tmp_path / "changed"))
    assert starts == [0, 0], "other code starts anew"
    starts.clear()
    record = runner.make(job)
    assert starts == [config.recipe.steps, 0], "the first network was finished, the second not begun"
    assert record["provenance"]["resumed"]
    assert record["metrics"] == pair.run(config, show_progress=False), "the same bits as without a break"
    assert not list((tmp_path / ".checkpoints").iterdir())


def test_a_run_that_another_process_has_made_meanwhile_is_not_made_again(tmp_path):
    job = runner.Job("fig2", "smoke", tiny(), tmp_path, "cpu", 1)
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(runner.make, [job] * 3))
    assert made[0] == made[1] == made[2]
    assert len(results.load("fig2", "smoke", tmp_path)) == 1
    assert len((tmp_path / "smoke" / "fig2.jsonl").read_text().splitlines()) == 1


def test_provenance_is_of_the_code_that_was_imported(tmp_path, monkeypatch):
    state = results.code_state("compatkit.experiments.pair")
    monkeypatch.setattr(results, "code_fingerprint", lambda *a, **k: "edited since")
    record = runner.make(runner.Job("fig2", "smoke", tiny(), tmp_path, "cpu", 1))
    assert record["provenance"]["fingerprint"] == state["fingerprint"] != "edited since"
    assert results.is_stale(record)


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("device", "cuda:99"), ("threads", 0), ("jobs", 0)])
def test_bad_options_are_answered(tmp_path, option, value):
    with pytest.raises(ValueError, match=option):
        records(tmp_path, **{option: value})


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupting_leaves_a_resumable_state_and_says_so(tmp_path, jobs):
    command = [sys.executable, "-m", "compatkit", "run", "fig2", "--preset", "smoke", "--jobs", str(jobs)]
    command += ["--set", "recipe.steps=60", "--set", "n_test=60"]
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path)}
    # a shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, preexec_fn=heed, **pipes)
    file = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    done = len(results.load("fig2", "smoke", tmp_path))
    assert 0 < done < 18
    went_on = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr
    assert len(results.load("fig2", "smoke", tmp_path)) == 18
    assert len(file.read_text().splitlines()) == 18, "finished runs were not made again"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_override_reaches_into_the_recipe_and_changes_nothing_else():
    config = override(PairRun(), {"width": 32, "recipe.lr": 1})
    assert config.width == 32 and repr(config.recipe.lr) == "1.0", "1 and 1.0 are one run"
    before, after = asdict(PairRun()), asdict(config)
    assert {k for k in before if before[k] != after[k]} == {"width", "recipe"}
    assert "recipe.steps" in settings(config) and "method" in settings(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widht": 3}, "widht.*width"),
        ({"recipe.step": 3}, "step.*steps"),
        ({"seed.x": 3}, "seed.x"),
        ({"width": "wide"}, "width.*'wide'"),
        ({"recipe.flip": 1}, "flip"),
        ({"method": "magic"}, "method.*IIW"),
        ({"scheme": "together"}, "scheme"),
        ({"width": None}, "width"),
        ({"width": True}, "width"),
        ({"n_train": "all"}, "n_train"),
        ({"recipe.crop": -1}, "crop"),
    ],
)
def test_bad_settings_are_answered(changes, message):
    with pytest.raises(ValueError, match=message):
        override(PairRun(), changes)


def test_unknown_experiments_and_presets_are_answered():
    with pytest.raises(ValueError, match="experiment.*fig2"):
        runner.configs("fig99", "smoke")
    with pytest.raises(ValueError, match="preset.*laptop"):
        runner.configs("fig2", "huge")


def test_the_training_path_needs_only_torch_and_numpy(tmp_path):
    for seed, name in enumerate(("one", "two")):
        image_set = small_set(n=60, size=16, seed=seed)
        write_npz(tmp_path / f"{name}.npz", image_set)
    script = """
import sys
import torch, torch._dynamo  # which look for other packages themselves

class Absent:
    names = "scipy sklearn mlxtend matplotlib PIL plotly ipywidgets IPython tqdm torchvision yaml".split()
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is absent on this machine")

sys.meta_path.insert(0, Absent())
from compatkit.__main__ import main
settings = "a=one b=two left_out=() recipe.steps=3 recipe.batch_size=20 recipe.crop=1 recipe.flip=True".split()
command = ["run", "fig2", "--preset", "smoke", *(word for s in settings for word in ("--set", s))]
sys.exit(main(command) or main(["status"]) or main(["list"]))
"""
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path / "results"), "COMPATKIT_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(results.load("fig2", "smoke", tmp_path / "results")) == 9, "two pairs became one"
