"""Networks as files for the pages: what is written is what was trained, and a file that is not whole is told."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from compatkit.models import split, split_points
from compatkit.normalization import batch_norms
from compatkit.recombination import accuracy
from reproduction import book
from reproduction.__main__ import main
from reproduction.experiments.evidence import index_of
from reproduction.experiments.presets import override
from reproduction.runs import measures
from reproduction.runs.context import Context
from reproduction.runs.export import digits, gallery, scripts, seams
from reproduction.runs.export import networks as export
from reproduction.runs.pair import prepare, train_pair
from reproduction.show import programs

RUN = override(export.run_of("IIW", "smoke"), {"recipe.steps": 40, "test_batch_size": 64})
RECORDED = {"own task/a": 0.25, "recombination at stem/b": 0.5}


@pytest.fixture(scope="module")
def pair():
    pair = prepare(RUN, Context())
    train_pair(pair, RUN, Context())
    return pair


@pytest.fixture(scope="module")
def networks(pair):
    return export.packed(pair, RUN, RECORDED)


@pytest.fixture
def file(networks, tmp_path):
    return export.write(tmp_path, networks)


def rounded(pair):
    """Both networks as the page has them."""
    parts = zip(pair.extractors, pair.heads, strict=True)
    return {
        role: copy.deepcopy(measures.in_one_piece(*part)).half().float() for role, part in zip("ab", parts, strict=True)
    }


def test_a_file_holds_what_was_written_with_weights_in_half_precision(networks, pair, file):
    found = export.read(file)
    assert found.header == networks.header
    np.testing.assert_array_equal(found.numbers, networks.numbers)
    for role, network in rounded(pair).items():
        arrays = found.header["networks"][role]["arrays"]
        assert list(arrays) == [name for name, _ in network.named_parameters()]
        for name, values in network.named_parameters():
            at, shape = arrays[name]["at"], arrays[name]["shape"]
            held = found.numbers[at : at + values.numel()].reshape(shape)
            np.testing.assert_array_equal(held, values.detach().numpy())


def test_every_recombination_is_there_with_the_record_beside_what_is_measured(pair, networks):
    points = split_points(rounded(pair)["a"])
    wanted = [
        (role, head, at) for role, other in ("ab", "ba") for head, at in [(role, None), *((other, p) for p in points)]
    ]
    combinations = {(c["extractor"], c["head"], c["split"]): c for c in networks.header["combinations"]}
    assert list(combinations) == wanted
    for combination in combinations.values():
        assert combination["outputs"] == list(range(9 if combination["split"] else 10)), "9 is not shared"
        assert combination["images"] == (180 if combination["split"] else 200)
    recorded = {where: c["recorded"] for where, c in combinations.items() if c["recorded"] is not None}
    assert recorded == {("a", "a", None): 0.25, ("b", "a", "stem"): 0.5}


@torch.no_grad()
def moments(part, batches):
    """Mean and variance of what each normalisation of a part gets, by hand: averages over the batches."""
    part, seen = copy.deepcopy(part).train(), {}
    for name, module in part.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):

            def look(_, inputs, name=name):
                columns = inputs[0].transpose(0, 1).flatten(1)
                seen.setdefault(name, []).append(torch.stack([columns.mean(1), columns.var(1)]))

            module.register_forward_pre_hook(look)
    for batch in batches:
        part(batch)
    found = {name: torch.stack(values).mean(0) for name, values in seen.items()}
    part.eval()
    for values, bn in zip(found.values(), batch_norms(part), strict=True):
        bn.running_mean.copy_(values[0])
        bn.running_var.copy_(values[1])
    return found, [part(batch) for batch in batches]


def test_statistics_are_those_of_the_test_images_in_each_combination(pair, networks):
    by_role, sets = rounded(pair), dict(zip("ab", pair.sets, strict=True))
    for combination in networks.header["combinations"]:
        extractor, head, at = (combination[key] for key in ("extractor", "head", "split"))
        images = sets[extractor].subset(pair.common) if at else sets[extractor]
        batches, _ = measures.mixed_batches(images, sets[extractor], 64)
        assert len(batches) > 2
        if at:
            found, features = moments(split(by_role[extractor], at)[0], batches)
            found |= moments(split(by_role[head], at)[1], features)[0]
        else:
            found, _ = moments(by_role[extractor], batches)
        assert list(combination["statistics"]) == list(found)
        for name, values in found.items():
            place, n = combination["statistics"][name], values.numel()
            held = networks.numbers[place : place + n].astype(np.float32)
            np.testing.assert_allclose(held, values.flatten(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format":1', '"format":2'),
        lambda text: re.sub('"count":([0-9]+)', lambda found: f'"count":{int(found[1]) + 4}', text),
        lambda text: text.replace('"numbers":"', '"numbers":"\\u0041\\u00e9'),
        lambda text: f"alert(1); {text}",
        lambda text: "[1, 2, 3]",
    ],
)
def test_a_file_that_is_not_whole_is_named(damage, file):
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: not what python -m reproduction export writes"):
        export.read(file)


def test_what_half_precision_or_the_page_cannot_hold_is_refused(pair):
    large = copy.deepcopy(pair)
    with torch.no_grad():
        large.heads[0][-1].bias[3] = 1e6
    with pytest.raises(ValueError, match="classifier.bias: has values that half precision cannot hold"):
        export.packed(large, RUN, {})
    other = replace(RUN, network="wrn10")
    with pytest.raises(ValueError, match="network: a page runs resnetD with shortcut A and BN, got stem"):
        export.packed(prepare(other, Context()), other, {})


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path / "results"))
    folder = tmp_path / "networks"
    assert main(["export", "RP+DCC", "--preset", "smoke", "--output", str(folder)]) == 0
    assert export.read(folder / "RP-DCC.js").header["method"] == "RP+DCC"
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"digits x mnist5k, RP+DCC, seed 0: {folder / 'RP-DCC.js'}") and len(out) == 5
    assert out[2].startswith("    extractor a, head b: ") and out[2].endswith(" %, on record none")
    assert main(["export", "RP", "magic", "--preset", "smoke", "--output", str(folder)]) == 2
    assert "method: must be one of independent, " in capsys.readouterr().err
    assert not (folder / "RP.js").exists(), "all methods are checked before the first is trained"


@pytest.mark.parametrize("method", export.METHODS)
def test_the_networks_of_the_pages_are_those_of_the_record(method):
    path = scripts.path_of(programs.EXPORTED, method)
    assert path.stat().st_size <= 400_000, "a reader waits for it"
    networks, run = export.read(path), export.run_of(method, "laptop")
    header, metrics = networks.header, index_of("laptop", book.ROOT / "results").record(run)["metrics"]
    assert (header["method"], header["seed"], header["network"], header["width"]) == (method, 0, run.network, run.width)
    for c in header["combinations"]:
        name = f"recombination at {c['split']}" if c["split"] else "own task"
        assert c["recorded"] == metrics[f"{name}/{c['extractor']}"]
    at_training = [c for c in header["combinations"] if c["split"] in (None, header["trained_split"])]
    # other processors add up in another order, and so train to slightly other weights
    assert all(abs(c["accuracy"] - c["recorded"]) < 0.05 for c in at_training)


def test_nothing_lies_there_that_no_page_can_load():
    files = {path.name: path.stat().st_size for path in programs.EXPORTED.iterdir()}
    seamed = {f"seam-{method}.js" for method in seams.METHODS}
    others = {"shapes.js", f"{digits.NAME}.js", f"{gallery.NAME}.js"}
    assert files.keys() == {scripts.path_of("", method).name for method in export.METHODS} | seamed | others
    assert sum(files.values()) < 3_000_000
    assert max(files[name] for name in seamed) < 30_000 and files[f"{gallery.NAME}.js"] < 500_000


def test_the_networks_of_the_pages_are_as_good_as_they_say():
    networks = export.read(programs.EXPORTED / "IIW-DCC.js")
    sets = dict(zip("ab", prepare(export.run_of("IIW+DCC", "laptop"), Context()).sets, strict=True))
    for combination in networks.header["combinations"]:
        if combination["split"] == networks.header["trained_split"]:
            image_set = sets[combination["extractor"]]
            batches, labels = measures.mixed_batches(image_set.subset("012345678"), image_set, 512)
            logits = torch.cat([export.rebuilt(networks, combination)(batch) for batch in batches])
            assert combination["accuracy"] == pytest.approx(accuracy(logits, labels, torch.arange(9)), abs=0.002)
            assert combination["accuracy"] > 0.9
