"""Published state dicts: names, architecture read from shapes, and loading with clear errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmaps_science.priors.networks import PreconditionedNetwork, build_network

StateDict = Mapping[str, Tensor]
NetworkType = TypeVar("NetworkType", bound=nn.Module)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_STAGES = 1000
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_CONDITIONAL = ("model.map_label.weight", "model.label_emb.weight")
_UNUSED = ("model.map_augment.weight",)  # augmentation labels are zero outside training


def normalise(state: StateDict) -> dict[str, Tensor]:
    """Names as in `PreconditionedNetwork`: no wrapper prefixes, U-Net under `model.`.

    Raises:
        ValueError: not a mapping of names to tensors, or a class-conditional network.
    """
    if not (
        isinstance(state, Mapping)
        and state
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise ValueError(
            f"expected a state dict (names mapped to tensors), got a {type(state).__name__}; save "
            "the weights with torch.save({'ema': network.state_dict()}, path)."
        )
    named = {unwrapped(name): value for name, value in state.items()}
    if not any(name.startswith("model.") for name in named):
        named = {f"model.{name}": value for name, value in named.items()}
    for name in _CONDITIONAL:
        if name in named:
            raise ValueError(
                f"the state dict holds {name}: it is a class-conditional network, and a prior has "
                "no class to give it. Use an unconditional network."
            )
    return {name: value for name, value in named.items() if name not in _UNUSED}


def unwrapped(name: str) -> str:
    """A weight's name without what `DistributedDataParallel` and `torch.compile` put before it."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def infer_config(state: StateDict, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the architecture from the names and shapes of a state dict.

    Args:
        state: weights in EDM, InverseBench or guided-diffusion naming, any prefix.
        given: what weights cannot tell, and entries that override what is read:
            `preconditioning` always (except iDDPM, which stores its noise levels);
            `num_heads` or `channels_per_head` and `image_shape` for ADM; `patch` and
            `sigma_data` where they are not 1 and 0.5. The `model` section of an InverseBench
            configuration is understood as well.

    Returns:
        A configuration for `build_network`.

    Raises:
        ValueError: unknown naming, or a needed fact is neither in the weights nor given.
    """
    named = normalise(state)
    given = translate_config(given or {})
    if "u" in named:
        given.setdefault("preconditioning", "iddpm")
    if "preconditioning" not in given:
        raise ValueError(
            "the preconditioning (edm, vp, ddpm, ve or iddpm) leaves no trace in the weights, and "
            "a wrong one gives a wrong denoiser without any error; give the one it was trained "
            "with, for example config={'preconditioning': 'vp'}."
        )
    if "model.time_embed.0.weight" in named:
        found = _infer_adm(named, given)
    elif "model.map_layer0.weight" in named:
        found = _infer_edm(named, given)
    else:
        raise ValueError(
            "unknown naming of weights: neither SongUNet or DhariwalUNet (model.map_layer0.weight) "
            "nor ADM (model.time_embed.0.weight); the state dict begins with "
            f"{', '.join(list(named)[:3])}."
        )
    return {**found, **given}


def load_weights(
    config: Mapping[str, Any], state: StateDict, dtype: torch.dtype
) -> PreconditionedNetwork:
    """Build the network of `config` with the weights of `state`, cast to `dtype`.

    Raises:
        ValueError: names or shapes differ from those of the architecture, or values are not finite.
    """
    with torch.device("meta"):  # shapes only: nothing is allocated before the weights are checked
        network = build_network(config)
    return filled(
        network,
        normalise(state),
        dtype,
        f"the {config['architecture']} architecture",
        "Omit the architecture entries to have them read from the weights, or check the "
        "configuration.",
    )


def filled(
    network: NetworkType, named: StateDict, dtype: torch.dtype, what: str, advice: str
) -> NetworkType:
    """A network that was built on device `meta`, with these weights, cast to `dtype`.

    Args:
        network: of which only names and shapes count.
        named: the weights by its names.
        dtype: of the result.
        what: the network is, for the error, e.g. "the song architecture".
        advice: a sentence that says what to do where they do not fit.

    Raises:
        ValueError: other names, shapes or types than the network's, or values that are not finite.
    """
    expected = {name: value.shape for name, value in network.state_dict().items()}
    missing = [name for name in expected if name not in named]
    surplus = [name for name in named if name not in expected]
    wrong = [
        f"{name} {tuple(named[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in named and named[name].shape != shape
    ]
    wrong += [
        f"{name} of {named[name].dtype}"
        for name in expected
        if name in named and named[name].dtype not in _FLOATS
    ]
    faults = {"missing": missing, "unexpected": surplus, "of the wrong shape or type": wrong}
    if any(faults.values()):
        text = "; ".join(f"{len(v)} {kind}: {_some(v)}" for kind, v in faults.items() if v)
        raise ValueError(f"the weights do not fit {what}: {text}. {advice}")
    broken = [name for name, value in named.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(
            f"weights that are not finite: {_some(broken)}; the file is damaged or "
            "training diverged."
        )
    cast = {name: v.to(dtype) if v.is_floating_point() else v for name, v in named.items()}
    network.load_state_dict(cast, assign=True)
    return network


def translate_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of an InverseBench `model` section under our names; ours pass unchanged.

    Only what weights cannot tell is kept from InverseBench; the rest is read from the weights.
    """
    if "img_resolution" not in given and "_target_" not in given:
        return dict(given)
    target = re.fullmatch(r".*?(\w+)Precond", str(given.get("_target_", "")))
    kind = given.get("name") or (target.group(1) if target else None)
    translated: dict[str, Any] = {}
    if kind:
        translated["preconditioning"] = str(kind).lower()
    if "img_resolution" in given and "img_channels" in given:
        side = given["img_resolution"]
        translated["image_shape"] = [given["img_channels"], side, side]
    names = {
        "sigma_data": "sigma_data",
        "beta_d": "beta_d",
        "beta_min": "beta_min",
        "M": "steps",
        "num_head_channels": "channels_per_head",
        "num_heads": "num_heads",
        "use_new_attention_order": "new_attention_order",
    }
    for theirs, ours in names.items():
        if given.get(theirs, -1) != -1:
            translated[ours] = given[theirs]
    if "channels_per_head" in translated:  # it has precedence there
        translated.pop("num_heads", None)
    return translated


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    shown = (name if len(name) <= 100 else f"{name[:97]}..." for name in names[:limit])
    return ", ".join(shown) + (", ..." if len(names) > limit else "")


def _shape(named: StateDict, name: str) -> torch.Size:
    if name not in named:
        raise ValueError(
            f"the state dict lacks {name}; it is incomplete or of another architecture."
        )
    return named[name].shape


def _ratio(channels: int, base: int) -> float:
    """Channel multiplier, whole where it can be."""
    return channels // base if channels % base == 0 else channels / base


def _image(config: Mapping[str, Any], side: int, in_channels: int) -> dict[str, Any]:
    """Image shape of a U-Net with `in_channels` at `side` pixels, given the patch factor."""
    patch = config.get("patch", 1)
    return {"image_shape": [in_channels // patch**2, side * patch, side * patch], "patch": patch}


def _infer_edm(named: StateDict, given: Mapping[str, Any]) -> dict[str, Any]:
    convs = [re.fullmatch(r"model\.enc\.(\d+)x\1_conv\.weight", name) for name in named]
    sides = [int(match[1]) for match in convs if match]
    if len(sides) != 1:
        raise ValueError("the state dict lacks model.enc.<N>x<N>_conv.weight; it is incomplete.")
    side = sides[0]
    song = f"model.dec.{side}x{side}_aux_conv.weight" in named
    final = f"model.dec.{side}x{side}_aux_conv" if song else "model.out_conv"
    stem, in_channels = _shape(named, f"model.enc.{side}x{side}_conv.weight")[:2]
    emb, noise_channels = _shape(named, "model.map_layer0.weight")
    base = stem if song else noise_channels

    blocks = [re.match(r"model\.enc\.(\d+)x\1_block(\d+)\.conv1\.weight", name) for name in named]
    found = {(int(match[1]), int(match[2])) for match in blocks if match}
    levels = sorted({res for res, _ in found}, reverse=True)
    if not levels:
        raise ValueError("the state dict holds no model.enc.<N>x<N>_block<k>; it is incomplete.")
    widths = [_shape(named, f"model.enc.{r}x{r}_block0.conv1.weight")[0] for r in levels]
    config: dict[str, Any] = {
        "architecture": "song" if song else "dhariwal",
        **_image(given, side, in_channels),
        "model_channels": base,
        "channel_mult": [_ratio(width, base) for width in widths],
        "num_blocks": 1 + max(k for _, k in found),
        "attn_resolutions": [r for r in levels if f"model.enc.{r}x{r}_block0.qkv.weight" in named],
        "channel_mult_emb": emb // base,
        "dropout": 0.0,
    }
    out_channels = _shape(named, f"{final}.weight")[0]
    if out_channels != in_channels:
        config["out_channels"] = out_channels
    if song:
        config |= _song_options(named, noise_channels // base)
    return config


def _song_options(named: StateDict, channel_mult_noise: int) -> dict[str, Any]:
    def any_name(part: str) -> bool:
        return any(part in name for name in named)

    options: dict[str, Any] = {"channel_mult_noise": channel_mult_noise}
    options["embedding"] = "fourier" if "model.map_noise.freqs" in named else "positional"
    options["encoder"] = (
        "skip" if any_name("_aux_skip") else "residual" if any_name("_aux_residual") else "standard"
    )
    options["decoder"] = "skip" if any_name("_aux_up") else "standard"
    for name, value in named.items():
        if name.endswith("resample_filter"):
            taps = value[0, 0].float().sum(dim=1)
            options["resample_filter"] = [round(t) for t in (taps / taps[0]).tolist()]
            break
    return options


def _infer_adm(named: StateDict, given: Mapping[str, Any]) -> dict[str, Any]:
    if "image_shape" not in given:
        raise ValueError(
            "an ADM network works at any resolution, so its weights do not tell the image shape; "
            "give it, for example config={'image_shape': [3, 256, 256]}."
        )
    if "num_heads" not in given and "channels_per_head" not in given:
        raise ValueError(
            "the number of attention heads of an ADM network leaves no trace in its weights, and a "
            "wrong one gives a wrong denoiser without any error; give it as trained, for example "
            "config={'channels_per_head': 64} or config={'num_heads': 4}."
        )
    base = _shape(named, "model.time_embed.0.weight")[1]
    stem, in_channels = _shape(named, "model.input_blocks.0.0.weight")[:2]
    stages = 1 + max(int(n.split(".")[2]) for n in named if n.startswith("model.input_blocks."))

    if stages > _MOST_STAGES:
        raise ValueError(f"the ADM state dict names {stages} stages; it is damaged.")

    def holds(stage: int, layers: Iterable[int], part: str) -> bool:
        return any(f"model.output_blocks.{stage}.{k}.{part}" in named for k in layers)

    # The first stage of the decoder that ends in an up-sampling layer ends the coarsest level.
    up = [
        k
        for k in range(stages)
        if holds(k, (1, 2), "in_layers.2.weight") or holds(k, (1, 2), "conv.weight")
    ]
    per_level = up[0] + 1 if up else stages
    if stages % per_level or per_level < 2:
        raise ValueError("the ADM state dict is incomplete: its stages do not form whole levels.")
    side = given["image_shape"][1] // given.get("patch", 1)
    widths, attention = [stem], []
    for level in range(stages // per_level):
        first = 1 + level * per_level
        width = _shape(named, f"model.input_blocks.{first}.0.out_layers.3.weight")[0]
        widths[level:] = [width]
        if f"model.input_blocks.{first}.1.qkv.weight" in named:
            attention.append(side >> level)
    block = "model.input_blocks.1.0"
    doubled = _shape(named, f"{block}.emb_layers.1.weight")[0] == 2 * widths[0]
    config: dict[str, Any] = {
        "architecture": "adm",
        "model_channels": base,
        "channel_mult": [_ratio(width, base) for width in widths],
        "num_blocks": per_level - 1,
        "attn_resolutions": attention,
        "scale_shift": doubled,
        "resblock_updown": not any(name.endswith(".0.op.weight") for name in named),
        "dropout": 0.0,
    }
    out_channels = _shape(named, "model.out.2.weight")[0]
    if out_channels != in_channels:
        config["out_channels"] = out_channels
    return config
