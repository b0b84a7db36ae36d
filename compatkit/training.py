"""The one training loop (Gygli et al., Sec. 3.4): networks that share auxiliary heads, trained jointly or, with
``freeze``, one after the other.

Everything random depends on a seed and the step alone, so that a run which was killed goes on to the same bits.
"""

import functools
import hashlib
import json
import math
import operator
import os
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batches, Rows
from .devices import content, digest
from .files import lock_file, replacing
from .images import ImageSet
from .inspection import Module
from .normalization import batch_norms, check_settable
from .objectives import Minibatch, Term
from .progress import progress
from .recipes import Recipe

CUBLAS, FIXED_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
if not torch.cuda.is_initialized():  # cuBLAS reads it once, at its first product
    os.environ.setdefault(CUBLAS, FIXED_WORKSPACE)


@dataclass
class Task:
    """One network in training, and the terms that it learns from. Two tasks whose terms hold the same head share it.

    Attributes:
        data: an image set, whose training split is used; or tensors (n, ...) on one device, the inputs of the network
            and last what belongs to each item.
        extractor: images (n, c, h, w), or other inputs, -> features.
        terms: see ``objectives``; each adds its loss, times its weight (paper A, eqs. (1) and (2)).
        seed: of the order and the augmentation of the images.

    Raises:
        ValueError: for no terms, and two of one name.
    """

    data: ImageSet | tuple[Tensor, ...]
    extractor: nn.Module
    terms: Sequence[Term]
    seed: int = 0

    def __post_init__(self):
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"terms: at least one is needed, each of a name of its own, got {names}")
        self.terms = tuple(term.to(self.device) for term in self.terms)

    @cached_property
    def digest(self) -> str:
        """Text that tells what is learnt from, and how, from anything else, but for the modules."""
        seen = self.data.train_digest if isinstance(self.data, ImageSet) else digest(*self.data)
        return f"{seen} {self.seed} {[term.settings() for term in self.terms]}"

    @property
    def device(self) -> torch.device:
        return self.data.device if isinstance(self.data, ImageSet) else self.data[0].device

    def modules(self) -> list[nn.Module]:
        """The modules that are used, learning or frozen, each once."""
        return list(dict.fromkeys([self.extractor, *(module for term in self.terms for module in term.modules())]))

    def minibatches(
        self, recipe: Recipe, prepare: Callable[[Tensor], Tensor] = lambda x: x
    ) -> Callable[[int], Minibatch]:
        """A function ``draw(step)`` that gives one minibatch, each of its tensors through ``prepare``."""
        source: Batches | Rows
        if isinstance(self.data, ImageSet):
            source = Batches(self.data, recipe.batch_size, seed=self.seed, crop=recipe.crop, flip=recipe.flip)
        else:
            source = Rows(self.data, recipe.batch_size, seed=self.seed)

        def draw(step: int) -> Minibatch:
            *inputs, labels = map(prepare, source(step))
            return Minibatch(self.extractor, tuple(inputs), labels, step, recipe, source)

        return draw

    def losses(self, batch: Minibatch) -> dict[str, Tensor]:
        """The terms on one minibatch by name, without their weights."""
        return {term.name: term.loss(batch) for term in self.terms}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss that is minimised: the sum of the ``losses``, each times its weight."""
        return functools.reduce(operator.add, (term.weighted(losses[term.name]) for term in self.terms))


def freeze(module: Module) -> Module:
    """Fix parameters and BN buffers of a head for incremental training (paper A, Sec. 3.4); returns ``module``. Its BN
    still normalises by the batch at hand. Raises ValueError as ``normalization.check_settable``."""
    check_settable(module)
    module.requires_grad_(False)
    for bn in batch_norms(module):
        bn.track_running_stats = False
    return module


def unfreeze(module: Module) -> Module:
    """Undo ``freeze``; returns ``module``."""
    module.requires_grad_(True)
    for bn in batch_norms(module):
        bn.track_running_stats = bn.running_mean is not None
    return module


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** (step // recipe.decay_every)
    if recipe.schedule in ("one-cycle", "cosine"):
        done, climb = (step + 1) / recipe.steps, 0.25 if recipe.schedule == "one-cycle" else recipe.warm_up
        rise, fall = done / climb, (1 + math.cos(math.pi * (done - climb) / (1 - climb))) / 2
        return recipe.lr * (rise if done < climb else fall)
    return recipe.lr


def train(
    tasks: Sequence[Task],
    recipe: Recipe,
    *,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_seconds: float = 30.0,
    label: str = "training",
    show_progress: bool = True,
    probe: Callable[[], Mapping[str, float]] | None = None,
    probe_at: Collection[int] = (),
    on_step: Callable[[int], object] | None = None,
) -> list[dict]:
    """Train the networks of ``tasks`` in place, one minibatch each in turn (joint training: paper A, Sec. 3.4).

    Args:
        tasks: one, or several that may share heads.
        recipe: see ``Recipe``.
        checkpoint: a file to go on from if it is there, and to write every ``checkpoint_seconds`` and at the end.
        label, show_progress: of a line where a person is watching.
        probe: measures the networks, and leaves them as they are, after each number of steps in ``probe_at``; 0 is
            before the first.
        on_step: is called with the number of steps taken after each step, before a checkpoint is written.

    Returns:
        The history: about 100 dicts of step, task (its number) and the loss terms of that minibatch; and a dict of step
        and what ``probe`` returned for each time it was called.

    Raises:
        FloatingPointError: a loss is not finite; the checkpoint stays at the last good state.
        ValueError: the checkpoint is of other networks, data or recipe, or of another device, thread count or torch
            version, with which it could not go on to the same bits.
    """
    run = _Run(tasks, recipe, None if checkpoint is None else Path(checkpoint))
    saved_at = time.monotonic()
    log_every = math.ceil(recipe.steps * len(tasks) / 100)
    with _deterministic(recipe, run.device):
        run.probe(probe, probe_at)
        for step in progress(run.step, recipe.steps, label, shown=show_progress):
            run.advance(log=step % log_every == 0 or step == recipe.steps - 1)
            run.probe(probe, probe_at)
            if on_step is not None:
                on_step(run.step)
            # between steps only: in the middle of one, the first network is a minibatch ahead of the second
            if time.monotonic() - saved_at > checkpoint_seconds:
                run.save()
                saved_at = time.monotonic()
    if run.step > run.saved:
        run.save()
    return run.history


def train_once(tasks: Sequence[Task], recipe: Recipe, folder: Path | None, **options) -> list[dict]:
    """``train`` networks that several runs need: the first run keeps their weights in a folder, if one is given, under
    the name that ``identity`` gives; the others wait and load them."""
    if folder is None:
        return train(tasks, recipe, **options)
    file = folder / f"{identity(tasks, recipe)}.pt"
    with lock_file(file.with_suffix(".lock")):
        return train(tasks, recipe, checkpoint=file, **options)


def identity(tasks: Sequence[Task], recipe: Recipe) -> str:
    """A name for where training will end: 16 hex digits of the present weights and of what a checkpoint depends on."""
    run = _Run(tasks, recipe, None)
    found = hashlib.sha256(run.fingerprint().encode())
    for tensor in run.modules.state_dict().values():
        found.update(content(tensor))
    return found.hexdigest()[:16]


class _Run:
    """The state of one call of ``train``: what a checkpoint holds and how one step changes it."""

    def __init__(self, tasks: Sequence[Task], recipe: Recipe, checkpoint: Path | None):
        if not tasks:
            raise ValueError("tasks: at least one is needed, got none")
        self.tasks, self.recipe, self.checkpoint = tasks, recipe, checkpoint
        self.modules = nn.ModuleList(dict.fromkeys(m for task in tasks for m in task.modules()))
        self.device = tasks[0].device
        self.dtype = torch.float64 if recipe.precision == "fp64" else None  # None: as it is
        self.modules.to(self.device, self.dtype).train()
        channels_last = self.device.type == "cuda" if recipe.channels_last is None else recipe.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.modules.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.optimizer = _optimizer([p for p in self.modules.parameters() if p.requires_grad], recipe)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(recipe, self.device))
        self.minibatches = [task.minibatches(recipe, self._prepared) for task in tasks]
        self.step, self.saved = 0, -1
        self.history: list[dict[str, Any]] = []
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def advance(self, log: bool) -> None:
        """Take a step: one minibatch of each task, each followed by an update."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        for number, (task, draw) in enumerate(zip(self.tasks, self.minibatches, strict=True)):
            batch = draw(self.step)
            with self.autocast:
                losses = task.losses(batch)
            loss = task.total(losses)
            # gradients are None, not 0, where a task does not reach: its step leaves the other network alone
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            # checked on the device; asking for the answer at each step would make a GPU wait
            self.finite &= loss.detach().isfinite()
            if log:
                self._check_finite()
                self.history.append({"step": self.step, "task": number} | {k: v.item() for k, v in losses.items()})
        self.step += 1

    def probe(self, measure: Callable[[], Mapping[str, float]] | None, at: Collection[int]) -> None:
        """Note what ``measure`` says of the networks as they are, if it is asked for here and not known yet."""
        known = any(row["step"] == self.step and "task" not in row for row in self.history)
        if measure is not None and self.step in at and not known:
            self.history.append({"step": self.step, **measure()})

    def _prepared(self, part: Tensor) -> Tensor:
        """A tensor of a minibatch in the precision and memory order of the networks."""
        part = part.to(self.dtype if part.is_floating_point() else None)
        return part.contiguous(memory_format=self.memory_format) if part.ndim == 4 else part

    def save(self) -> None:
        """Write the checkpoint, atomically; never one of a network that is not finite."""
        for tensor in self.modules.state_dict().values():  # which the last update may have broken
            self.finite &= tensor.isfinite().all()
        self._check_finite()
        if self.checkpoint is None:
            return
        state = {
            "fingerprint": self.fingerprint(),
            "step": self.step,
            "history": self.history,
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.checkpoint) as file:
            torch.save(state, file)
        self.saved = self.step

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        if state["fingerprint"] != self.fingerprint():
            others = "networks, data, recipe, device, threads or torch version"
            raise ValueError(f"checkpoint: {checkpoint} is of other {others}; remove it to start anew")
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        self.step = self.saved = state["step"]

    def fingerprint(self) -> str:
        """A fingerprint of all that must be the same for a checkpoint to be continued to the same bits."""
        places = {module: place for place, module in enumerate(self.modules)}
        streams = [[task.digest, [places[module] for module in task.modules()]] for task in self.tasks]
        machine = [torch.__version__, self.device.type, torch.get_num_threads(), uses_bf16(self.recipe, self.device)]
        modules = [_described(module) for module in self.modules]
        content = json.dumps([asdict(self.recipe), streams, machine, str(self.memory_format), modules])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _check_finite(self) -> None:
        if not bool(self.finite):
            kept = f"; {self.checkpoint} keeps the last good state" if self.checkpoint else ""
            rate = f"learning rate {learning_rate(self.recipe, self.step):.3g}"
            raise FloatingPointError(f"the loss became infinite or NaN at step {self.step} or before ({rate}){kept}")


def _described(module: nn.Module) -> list:
    """All that decides what a module computes and learns, but for the values of its parameters and buffers."""
    parts = [[name, type(part).__qualname__, _settings(part)] for name, part in module.named_modules()]
    learns = [[name, list(p.shape), p.requires_grad] for name, p in module.named_parameters()]
    return [parts, learns, [[name, list(b.shape)] for name, b in module.named_buffers()]]


def _settings(part: nn.Module) -> dict[str, str]:
    def is_one(name: str, value: Any) -> bool:
        plain = value is None or isinstance(value, bool | int | float | str | tuple) or callable(value)
        return plain and name != "training" and not isinstance(value, nn.Module)

    return {k: getattr(v, "__qualname__", None) or str(v) for k, v in vars(part).items() if is_one(k, v)}


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    # not fused: that form fails when a shared head has momentum already and the second network has none yet
    decay = recipe.weight_decay
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay, foreach=True)


def uses_bf16(recipe: Recipe, device: torch.device | str) -> bool:
    """Tell whether a recipe trains in bf16: it says so, or is "auto" and the device multiplies bf16 itself."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _deterministic(recipe: Recipe, device: torch.device) -> AbstractContextManager:
    if not recipe.deterministic or device.type != "cuda":
        return nullcontext()
    if CUBLAS not in os.environ:
        warnings.warn(
            "deterministic: the GPU was in use before compatkit.training was imported, so last bits may differ "
            f"from run to run; import it earlier, or set {CUBLAS}={FIXED_WORKSPACE} before Python starts",
            stacklevel=3,
        )
    allow_tf32 = torch.backends.cudnn.allow_tf32  # which flags() would set to True
    return torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=allow_tf32)
