"""The loop: what it touches and what it does not, schedules, resuming to the same bits, stopping at NaN; what several
runs need is trained once."""

import copy
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from compatkit import models, objectives, recombination, training
from compatkit.images import class_index
from compatkit.objectives import DCC, Pretext, Target, UnitLength
from compatkit.recipes import Recipe
from compatkit.training import Task

from ..conftest import each_step, part
from ..samples import same, small_set, state

RECIPE = Recipe(steps=6, batch_size=8, rotations="sampled", schedule="one-cycle", crop=1)


def make_task(
    seed=0, sets=None, *, classes=("cat", "dog", "eel"), dcc=None, rp=None, head=True, length=False, pretext="rotation"
) -> Task:
    image_set = sets or small_set(classes=classes, seed=seed)
    net = models.build("resnet8", len(classes), seed=seed, width=4)
    extractor, own = models.split(net, "stage2")
    terms = [Target(own)] if head else []
    terms += [DCC(dcc, class_index(classes, classes[:2]))] if dcc else []
    terms += [Pretext(rp, pretext)] if rp else []
    return Task(image_set, extractor, terms + [UnitLength()] * length, seed)


def aux(outputs, seed=9):
    _, head = models.split(models.build("resnet8", 3, width=4, seed=0), "stage2")
    return models.auxiliary_head(head, outputs, seed=seed)


def everything(tasks):
    return state(nn.ModuleList([module for task in tasks for module in task.modules()]))


def joint_pair():
    dcc, rp = aux(2), aux(4)
    return [make_task(seed, dcc=dcc, rp=rp) for seed in (1, 2)]


def test_joint_training_alternates_shares_heads_and_logs_each_term():
    a, b = joint_pair()
    before = copy.deepcopy(part(a, "dcc"))
    history = training.train([a, b], RECIPE)
    assert [(row["step"], row["task"]) for row in history] == [(s, t) for s in range(6) for t in (0, 1)]
    assert all(row.keys() == {"step", "task", "target", "dcc", "rp"} for row in history)
    assert len({module for task in (a, b) for module in task.modules()}) == 6, "2 extractors, 2 heads, 2 shared heads"
    assert not torch.equal(before[-1].weight, part(b, "dcc")[-1].weight)


def test_a_frozen_head_keeps_parameters_and_buffers_and_still_teaches():
    a, b = joint_pair()
    training.train([a], RECIPE)
    training.freeze(part(a, "dcc")), training.freeze(part(a, "rp"))
    frozen = [state(head) for head in (part(a, "dcc"), part(a, "rp"))]
    extractor = everything([b])
    training.train([b], RECIPE)
    for head, before in zip((part(b, "dcc"), part(b, "rp")), frozen, strict=True):
        assert same(before, head.state_dict())
    assert not same(extractor, everything([b]))
    only_aux = make_task(3, dcc=part(a, "dcc"), head=False)
    before = everything([only_aux])
    training.train([only_aux], RECIPE)
    assert not torch.equal(before["0.stem.0.weight"], only_aux.extractor.stem[0].weight), "gradients pass through"


def test_without_shared_heads_joint_training_is_two_separate_ones():
    joint = [make_task(seed) for seed in (1, 2)]
    training.train(joint, RECIPE)
    for i, seed in enumerate((1, 2)):
        alone = make_task(seed)
        training.train([alone], RECIPE)
        assert same(everything([alone]), everything([joint[i]]))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(lr=1.0, schedule="constant", steps=9), {0: 1, 8: 1}),
        (Recipe(lr=0.01), {0: 0.01, 4_999: 0.01, 5_000: 0.001, 10_000: 1e-4, 19_999: 1e-5}),
        (Recipe(lr=1.0, schedule="one-cycle", steps=100), {0: 0.04, 12: 0.52, 24: 1.0, 61: 0.5105, 98: 4.386e-4}),
        (Recipe(lr=2.0, schedule="cosine", steps=100), {0: 0.4, 2: 1.2, 4: 2.0, 51: 1.01653, 98: 5.4674e-4}),
        (Recipe(lr=2.0, schedule="cosine", steps=100, warm_up=0.2), {0: 0.1, 9: 1.0, 19: 2.0, 59: 1.0}),
    ],
)
def test_schedules(recipe, expected):
    for step, value in expected.items():
        assert training.learning_rate(recipe, step) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, optimizer, monkeypatch):
    recipe = Recipe(steps=8, batch_size=8, optimizer=optimizer, rotations="sampled", crop=1)
    whole = joint_pair()
    history = training.train(whole, recipe)

    losses, seen = Task.losses, []

    def interrupted(*arguments):
        if len(seen) == 11:  # in the second minibatch of step 5, when the first network is one ahead
            raise KeyboardInterrupt
        seen.append(1)
        return losses(*arguments)

    file = tmp_path / "run.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Task, "losses", interrupted)
        training.train(joint_pair(), recipe, checkpoint=file, checkpoint_seconds=0)
    resumed = joint_pair()
    assert training.train(resumed, recipe, checkpoint=file) == history
    assert same(everything(resumed), everything(whole))


def accuracies(tasks, calls):
    """A probe as experiments have it: the networks' accuracies, and a weight to know them by."""

    def probe():
        calls.append(1)
        (logits,), labels = recombination.all_logits(tasks[0].extractor, [part(tasks[0], "target")], tasks[0].data)
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        return {"accuracy": accuracy, "weight": part(tasks[0], "target")[-1].weight[0, 0].item()}

    return probe


def probed(history):
    return [row for row in history if "task" not in row]


def test_networks_are_probed_after_the_steps_asked_for():
    """And nowhere else; training goes on as if nobody had looked."""
    recipe, tasks, plain = replace(RECIPE, schedule="constant"), joint_pair(), joint_pair()
    unseen = training.train(plain, recipe, probe=accuracies(plain, calls := []))
    assert not calls and not probed(unseen)
    history = training.train(tasks, recipe, probe=accuracies(tasks, calls), probe_at=(6, 0, 2, 2, 99))
    rows = probed(history)
    assert [row["step"] for row in rows] == [0, 2, 6] and len(calls) == 3
    assert [row for row in history if "task" in row] == unseen and same(everything(plain), everything(tasks))
    for row in rows:
        alone = joint_pair()
        if row["step"]:
            training.train(alone, replace(recipe, steps=row["step"]))
        assert row == {"step": row["step"]} | accuracies(alone, [])()
    assert len({row["weight"] for row in rows}) == 3
    assert history[0] is rows[0] and history[-1] is rows[-1], "before the first step and after the last"


@pytest.mark.parametrize("looks", [0, 2, 4])  # that succeed before the run is interrupted
def test_an_interrupted_run_has_each_probe_once_and_a_finished_one_is_only_read(tmp_path, looks):
    whole, halted, resumed, again = joint_pair(), joint_pair(), joint_pair(), joint_pair()
    options = {"recipe": replace(RECIPE, steps=8), "probe_at": (0, 3, 5, 7)}
    history = training.train(whole, probe=accuracies(whole, []), **options)
    look, calls = accuracies(halted, counted := []), []

    def interrupted(step=0):
        if len(counted) == looks:
            raise KeyboardInterrupt
        return look() if step == 0 else None

    file = tmp_path / "run.pt"
    options |= {"checkpoint": file, "checkpoint_seconds": 0}
    on_step = interrupted if looks == 4 else None
    with pytest.raises(KeyboardInterrupt):
        training.train(halted, probe=interrupted, on_step=on_step, **options)
    assert training.train(resumed, probe=accuracies(resumed, calls), **options) == history
    assert len(calls) == 4 - min(looks, 3) and [row["step"] for row in probed(history)] == [0, 3, 5, 7]
    assert same(everything(resumed), everything(whole))
    os.utime(file, ns=(10**18, 10**18))
    assert training.train(again, probe=accuracies(again, []), **options) == history
    assert file.stat().st_mtime_ns == 10**18 and same(everything(again), everything(whole))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    file = tmp_path / "run.pt"
    task = make_task()
    with pytest.raises(FloatingPointError, match=r"step \d+.*keeps the last good state"):
        training.train([task], Recipe(steps=400, batch_size=8, lr=1e30), checkpoint=file, checkpoint_seconds=0)
    if file.exists():
        kept = torch.load(file, weights_only=True)
        assert all(v.isfinite().all() for v in kept["modules"].values() if v.is_floating_point())


def test_a_network_that_the_last_update_broke_is_no_result(tmp_path):
    task, file = make_task(), tmp_path / "run.pt"
    training.train([task], Recipe(steps=1, batch_size=8), checkpoint=file)
    recipe = Recipe(steps=1, batch_size=8, lr=1e38, optimizer="sgd")  # the loss before the update is finite
    with pytest.raises(FloatingPointError):
        for parameter in task.modules()[0].parameters():
            parameter.data.mul_(1e3)
        training.train([task], recipe)


def naive_run(task, recipe):
    """Adam or SGD, weight decay, momentum and schedule as torch documents them, written out for one task."""
    moments = {}
    parameters = [p for module in task.modules() for p in module.parameters()]
    draw = task.minibatches(recipe)
    for step in range(recipe.steps):
        batch = draw(step)
        images, labels, turns = batch.images, batch.labels, batch.variants(4)
        rotated = images.repeat(1, 1, 1, 1)
        for i in range(len(images)):
            rotated[i] = images[i].rot90(int(turns[i]), (1, 2))
        loss = torch.nn.functional.cross_entropy(part(task, "target")(task.extractor(images)), labels)
        loss = loss + torch.nn.functional.cross_entropy(part(task, "rp")(task.extractor(rotated)), turns)
        gradients = torch.autograd.grad(loss, parameters)
        lr = recipe.lr * 0.1 ** (step // recipe.decay_every)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
                g = g + recipe.weight_decay * p
                if recipe.optimizer == "sgd":
                    moments[i] = g if i not in moments else recipe.momentum * moments[i] + g
                    p -= lr * moments[i]
                else:
                    m, v = moments.get(i, (0, 0))
                    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                    moments[i] = m, v
                    scale = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    p -= lr * m / (1 - 0.9 ** (step + 1)) / scale


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_loop_against_its_arithmetic(optimizer):
    options = {"steps": 4, "lr": 0.003, "weight_decay": 0.1, "decay_every": 2, "rotations": "sampled", "crop": 2}
    recipe = Recipe(batch_size=8, optimizer=optimizer, **options)
    ours, naive = make_task(rp=aux(4)), make_task(rp=aux(4))
    for task in (ours, naive):
        for module in task.modules():
            module.double()
    normalise = small_set().normalise
    for task in (ours, naive):
        object.__setattr__(task.data, "normalise", lambda images: normalise(images).double())
    training.train([ours], recipe)
    naive_run(naive, recipe)
    expected = everything([naive])
    for name, tensor in everything([ours]).items():
        assert torch.allclose(tensor.double(), expected[name].double(), atol=1e-6), name


def test_precision_and_memory_order_train_the_same_task():
    plain = training.train(joint_pair(), RECIPE)
    for change in ({"precision": "bf16"}, {"channels_last": True}, {"precision": "fp64"}):
        other = training.train(joint_pair(), Recipe(**{**vars(RECIPE), **change}))
        for a, b in zip(plain[:2], other[:2], strict=True):
            assert a["target"] == pytest.approx(b["target"], rel=0.05), change
    [task] = tasks = [make_task()]
    training.train(tasks, replace(RECIPE, channels_last=True))
    assert task.extractor.stage1_block1.conv1.weight.is_contiguous(memory_format=torch.channels_last)


BAD = {"optimizer": "lion", "schedule": "triangle", "precision": "fp8", "steps": 0, "lr": -1, "warm_up": 1, "crop": -1}


@pytest.mark.parametrize("name", BAD)
def test_recipes_are_checked(name):
    with pytest.raises(ValueError, match=f"^{name}: .* got {BAD[name]!r}"):
        Recipe(**{name: BAD[name]})


def test_tasks_are_checked():
    with pytest.raises(ValueError, match="terms: at least one"):
        make_task(head=False)
    task = make_task()
    with pytest.raises(ValueError, match="a name of its own.*'target', 'target'"):
        Task(task.data, task.extractor, task.terms * 2)
    with pytest.raises(ValueError, match="pretext.*rotation, jigsaw.*'colour'"):
        make_task(rp=aux(4), pretext="colour")
    with pytest.raises(ValueError, match="tasks"):
        training.train([], RECIPE)


def test_a_head_that_works_in_place_changes_nothing_for_the_terms_after_it():
    task = make_task(dcc=aux(2))
    target, dcc = task.terms
    heads = [nn.Sequential(nn.ReLU6(inplace=True), *term.head) for term in (target, dcc)]
    changed = [replace(term, head=head) for term, head in zip((target, dcc), heads, strict=True)]
    batch = task.minibatches(RECIPE)(0)
    together = Task(task.data, task.extractor, changed).losses(batch)
    for term in changed:
        [(name, alone)] = Task(task.data, task.extractor, [term]).losses(batch).items()
        assert torch.equal(together[name], alone)


@dataclass(frozen=True)
class Fit(objectives.Term):
    """A term of one's own, on what is no image."""

    offset: torch.Tensor
    power: int = 2
    name = "fit"

    def loss(self, batch):
        return (batch.features - batch.labels - self.offset).abs().pow(self.power).mean()


def line(slope=2.0, offset=1.0, **options):
    x = torch.linspace(-1, 1, 40)[:, None]
    torch.manual_seed(0)
    return Task((x, slope * x), nn.Linear(1, 1), [Fit(torch.tensor(offset), **options)])


def test_a_term_of_ones_own_on_rows_of_tensors_is_trained(tmp_path):
    recipe = Recipe(steps=100, batch_size=8, optimizer="sgd", lr=0.1, schedule="cosine")
    task = line()
    history = training.train([task], recipe, checkpoint=tmp_path / "line.pt")
    net = task.extractor
    assert net.weight.item() == pytest.approx(2, abs=0.1) and net.bias.item() == pytest.approx(1, abs=0.1)
    assert history[0].keys() == {"step", "task", "fit"}
    assert training.train([line()], recipe, checkpoint=tmp_path / "line.pt") == history
    for other in (line(slope=3.0), line(offset=0.0), line(power=1), line(weight=2.0)):
        with pytest.raises(ValueError, match="checkpoint"):
            training.train([other], recipe, checkpoint=tmp_path / "line.pt")


def test_a_weight_multiplies_the_gradient_and_not_what_is_logged():
    tasks = {weight: line(weight=weight) for weight in (1.0, 3.0)}
    for weight, task in tasks.items():
        [row] = training.train([task], Recipe(steps=1, batch_size=40, optimizer="sgd", lr=0.1, schedule="constant"))
        tasks[weight] = row["fit"], task.extractor.weight.item()
    start = line().extractor.weight.item()
    (one, once), (three, thrice) = tasks.values()
    assert one == three and thrice - start == pytest.approx(3 * (once - start), rel=1e-5)
    loss = torch.tensor(0.1)
    assert Fit(loss).weighted(loss) is loss, "at 1 nothing is multiplied"


def test_features_are_computed_once_a_network_and_minibatch():
    runs, task = [], make_task(dcc=aux(2), length=True)
    task.extractor.register_forward_hook(lambda *_: runs.append(1))
    task.losses(task.minibatches(RECIPE)(0))
    assert len(runs) == 1


@pytest.fixture
def taken(monkeypatch):
    """One entry for each step of any training: the thread that took it."""
    return each_step(monkeypatch, lambda tasks, recipe: threading.current_thread().name)


def test_the_second_call_of_train_once_loads_and_trains_nothing(tmp_path, taken):
    plain, first, second = [make_task()], [make_task()], [make_task()]
    expected, folder = training.train(plain, RECIPE), tmp_path / "new" / "folder"
    assert training.train_once(first, RECIPE, folder) == training.train_once(second, RECIPE, folder) == expected
    assert len(taken) == 2 * 6 and len(list(tmp_path.rglob("*.pt"))) == 1
    assert same(everything(second), everything(first)) and same(everything(first), everything(plain))


def changed(change):
    task = make_task(dcc=aux(2))
    with torch.no_grad():
        change(task)
    return task


def reverse(task):
    target, dcc = task.terms
    task.terms = target, replace(dcc, index=dcc.index.flip(0))


OTHERWISE = {
    "a Tanh for a ReLU": lambda: changed(lambda task: task.extractor.stem.__setitem__(2, nn.Tanh())),
    "a frozen head": lambda: changed(lambda task: training.freeze(part(task, "dcc"))),
    "classes in reverse": lambda: changed(reverse),
    "a loss without weights": lambda: make_task(dcc=aux(2), length=True),
    "other images": lambda: make_task(dcc=aux(2), sets=small_set(seed=3)),
    "another order": lambda: replace(make_task(dcc=aux(2)), seed=1),
    "another weight": lambda: changed(lambda task: next(task.extractor.parameters())[0, 0, 0, 0].add_(1e-6)),
    "another recipe": lambda: make_task(dcc=aux(2)),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_weights_are_not_handed_to_a_task_that_learns_otherwise(tmp_path, taken, name):
    other, recipe = OTHERWISE[name], replace(RECIPE, lr=0.02 if name == "another recipe" else RECIPE.lr)
    training.train_once([make_task(dcc=aux(2))], RECIPE, tmp_path / "shared")
    alone, shared = other(), other()
    training.train([alone], recipe)
    taken.clear()
    training.train_once([shared], recipe, tmp_path / "shared")
    assert len(taken) == 6 and same(everything([shared]), everything([alone]))
    if name != "another weight":  # which a checkpoint brings itself
        training.train([make_task(dcc=aux(2))], RECIPE, checkpoint=tmp_path / "run.pt")
        with pytest.raises(ValueError, match="checkpoint.*remove it"):
            training.train([other()], recipe, checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("torch.__version__", "0.1"),
        ("compatkit.training.uses_bf16", lambda recipe, device, here=training.uses_bf16: not here(recipe, device)),
        ("torch.get_num_threads", lambda: 99),  # sums are taken in another order then
    ],
)
def test_another_torch_precision_or_number_of_threads_does_not_go_on(tmp_path, monkeypatch, what, value):
    training.train([make_task()], RECIPE, checkpoint=tmp_path / "run.pt")
    monkeypatch.setattr(what, value)
    with pytest.raises(ValueError, match="is of other networks, data, recipe, device, threads or torch version"):
        training.train([make_task()], RECIPE, checkpoint=tmp_path / "run.pt")


def test_train_once_without_a_folder_keeps_nothing(tmp_path, taken, monkeypatch):
    monkeypatch.chdir(tmp_path)
    histories = [training.train_once([make_task()], RECIPE, None) for _ in range(2)]
    assert histories[0] == histories[1] and len(taken) == 12 and not list(tmp_path.iterdir())


def test_train_once_waits_for_another_that_trains_the_same(tmp_path, taken, monkeypatch):
    started, go_on, losses = threading.Event(), threading.Event(), Task.losses

    def slow(*arguments):
        started.set()
        assert go_on.wait(60)
        return losses(*arguments)

    monkeypatch.setattr(Task, "losses", slow)
    tasks = [[make_task()], [make_task()]]
    first, second = (threading.Thread(target=training.train_once, args=(task, RECIPE, tmp_path)) for task in tasks)
    first.start()
    assert started.wait(60)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    go_on.set()
    first.join(), second.join()
    assert taken == [first.name] * 6 and same(*map(everything, tasks))


@pytest.mark.parametrize(
    ("before", "gpu_in_use", "after"), [(None, False, ":4096:8"), (":16:8", False, ":16:8"), (None, True, None)]
)
def test_products_on_a_gpu_are_told_to_be_the_same_each_time(before, gpu_in_use, after):
    script = f"""
        import os, torch
        torch.cuda.is_initialized = lambda: {gpu_in_use}
        from compatkit import training
        print(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
    """
    environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    environment |= {"CUBLAS_WORKSPACE_CONFIG": before} if before else {}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(after)


def test_a_promise_that_comes_too_late_for_a_gpu_is_a_warning(monkeypatch):
    gpu = torch.device("cuda")
    training._deterministic(RECIPE, gpu)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    training._deterministic(replace(RECIPE, deterministic=False), gpu)
    training._deterministic(RECIPE, torch.device("cpu"))
    with pytest.warns(UserWarning, match="deterministic.*in use before.*CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        training._deterministic(RECIPE, gpu)


def test_networks_of_half_precision_have_an_identity():
    tasks = {dtype: make_task() for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    for dtype, task in tasks.items():
        nn.ModuleList(task.modules()).to(dtype)
    assert len({training.identity([task], RECIPE) for task in tasks.values()}) == 3


def test_an_extractor_that_gives_no_tensor_is_named():
    class Keyed(nn.Module):
        def forward(self, x):
            return {"features": x}

    task = training.Task(small_set(), Keyed(), [Target(nn.Conv2d(3, 3, 1))])
    with pytest.raises(ValueError, match="module: .* got dict of features: pass one of these, from Keyed"):
        training.train([task], RECIPE)
