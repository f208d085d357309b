"""A card (YAML) and data in, a problem to sample out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from lmaps_science.cards.calibration import read_factors
from lmaps_science.cards.files import override, read_card
from lmaps_science.cards.inputs import differences, made_from
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.registry import find_kind, trusting
from lmaps_science.cards.schema import Card, validate
from lmaps_science.cards.sections import FileSection, find_prior
from lmaps_science.io.files import DataError
from lmaps_science.priors import ConditionalDenoiser, Denoiser, NetworkDenoiser, load_control

__all__ = ["build_problem", "find_device", "load_card", "load_problem", "load_second"]


def load_card(name: str, overrides: Mapping[str, Any] | None = None) -> Card:
    """The validated card of a problem.

    Args:
        name: a shipped card, e.g. "black_hole/m87_2017" (see `list_problems`), or a YAML file.
        overrides: dotted paths, e.g. `{"observation.fraction": 0.1, "solver.levels": 25}`.

    Raises:
        DataError: no such card, or something wrong in it: the message names the key, and the
            nearest known one where it is misspelt.

    Example:
        >>> card = load_card("scattering/linear_60", {"observation.receivers": 90})
        >>> card.kind, card.observation.receivers
        ('scattering', 90)
    """
    content = override(read_card(name), overrides or {})
    kind = find_kind(content.get("kind"), f"card {name}")
    return validate(kind.card_class, content, name)


def load_problem(
    name: str,
    data: str | Path | None = None,
    prior: Denoiser | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """A problem, ready for `sample(problem, problem.solver)`.

    Args:
        name: a shipped card, e.g. "black_hole/m87_2017" (see `list_problems`), or a YAML file.
        data: the file to work on; default: the card's. A uvfits file or one of k-space, or for a
            simulation the image to observe (see the card's section).
        prior: "shipped" or None for the card's; "gaussian" for an analytic one that needs no file;
            the path of a checkpoint; or any denoiser.
        overrides: dotted paths, e.g. `{"observation.fraction": 0.1, "solver.levels": 25}`.
        preset: which of the card's solvers to use.
        device, dtype: where and in which precision to compute; default: CPU, float32. The device
            "auto" is a GPU where there is one.

    Raises:
        DataError: a wrong card, override, file or size of image; an override beside an argument
            that says the same.
        ValueError: there is no such device.

    Example:
        >>> problem = load_problem("black_hole/simulated", prior="gaussian")  # doctest: +SKIP
        >>> result = sample(problem, problem.solver, n_samples=4)             # doctest: +SKIP
        >>> problem.analyse(result)                                          # doctest: +SKIP
    """
    device = None if device is None else find_device(device)
    overrides = overrides or {}
    refuse_both(prior, preset, overrides)
    card = load_card(name, {**arguments(prior, preset), **overrides})
    if data is not None:
        refuse_second_data(card, overrides)
    given = prior if isinstance(prior, Denoiser) else None
    return build_problem(card, name, data, given, device, dtype)


def load_second(
    problem: Problem,
    prior: str,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    device: torch.device | str | None = None,
) -> Problem | str:
    """The same problem with a second prior, to see what depends on it: see `reconstruct`.

    Args:
        problem: of `load_problem`.
        prior: "gaussian", the path of a prior, the name of a shipped one, or one of
            `problem.classical`, which is returned as it is.
        data, overrides, preset, device: those with which `problem` was loaded; overrides of its
            prior are left out.

    Raises:
        DataError: there is no such prior.
    """
    if prior in problem.classical:
        return prior
    own = {key: value for key, value in (overrides or {}).items() if key.split(".")[0] != "prior"}
    try:
        return load_problem(problem.name, data, prior, own, preset=preset, device=device)
    except DataError as error:
        known = ["gaussian", *problem.classical, "a prior's file"]
        raise DataError(f"--prior-check {prior}: {error} It takes {', '.join(known)}.") from error


def build_problem(
    card: Card,
    name: str,
    data: str | Path | None = None,
    prior: Denoiser | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """The problem of a card that is loaded, with what it was made from among its facts.

    Raises:
        DataError: the data cannot be read or have an empty name, or the card's conditional weights
            are for another prior or another operator.
    """
    if data is not None and not str(data).strip():
        raise DataError(
            "data: the name of the file is empty, as that of a shell's variable that is not set. "
            "Give a file, or leave data (--data) out."
        )
    if card.calibration is not None:  # found out before hours of work, not after
        read_factors(Path(card.calibration).expanduser())
    problem = card.problem(name, data, prior, device, dtype)
    if card.conditional is not None:
        problem = _conditional(problem, card.conditional, name)
    return problem.with_facts(inputs=made_from(card, name, data, prior))


def _conditional(problem: Problem, file: str, name: str) -> Problem:
    """The problem with the conditional weights of a file beside its prior.

    Raises:
        DataError: no such file, weights for another prior or another operator, or a prior that is
            no network.
    """
    base = problem.prior
    if not isinstance(base, NetworkDenoiser):
        raise DataError(
            f"conditional: {file} belongs to a network prior, and this is {base!r}. Leave "
            "conditional out, or give that prior."
        )
    try:
        path = find_prior(file, problem.card.kind)
    except DataError as error:
        if file in find_kind(problem.card.kind, "conditional").checksums:
            raise  # left out of the wheel, and the error says where it is
        raise DataError(
            f"conditional: {file}: no such file. Train one: lmaps prior train-conditional {name} "
            "--out control, or leave conditional out."
        ) from error
    control, facts = load_control(path, base)
    _check_operator(problem.card, facts.get("training"), file, name)
    like = problem.misfit.like
    conditional = ConditionalDenoiser(base, control.to(like.device, like.dtype))
    return problem._changed(conditional=conditional).with_facts(conditional=facts)


def _check_operator(card: Card, training: Any, file: str, name: str) -> None:
    """Refuse conditional weights that were trained with another operator, where that is known."""
    try:
        told = {k: v for k, v in training["overrides"].items() if k.split(".")[0] in card.operator}
        with trusting(()):  # a file of someone else's: nothing is imported that it names
            trained = load_card(training["card"], told)
    except (DataError, LookupError, TypeError, AttributeError):
        return  # trained from Python, or with a card that is no longer there
    contents = [_without_seeds(c.model_dump(include=set(card.operator))) for c in (trained, card)]
    found = differences(*contents)
    if found:
        raise DataError(
            f"conditional: {file} was trained for the operator of {training['card']}, and this is "
            f"another: {found[0]}. Leave conditional out, or train for this one: lmaps "
            f"prior train-conditional {name} --out control."
        )


def _without_seeds(content: Any) -> Any:
    """The content of a card but for the keys `seed`: another draw is no other operator."""
    if not isinstance(content, Mapping):
        return content
    return {key: _without_seeds(value) for key, value in content.items() if key != "seed"}


def find_device(name: torch.device | str) -> torch.device:
    """The device of this name, "auto" being a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here, or PyTorch was built without it.
    """
    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if "cuda" in here else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        reason: Exception | str = "PyTorch knows no such device"
        cause: Exception = error
    else:
        try:
            torch.empty(0, device=device)
            return device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason, cause = str(error).splitlines()[0].removesuffix("."), error
    raise ValueError(
        f"device {name} cannot be used here: {reason}. Choose {', '.join(here)} or auto."
    ) from cause


def refuse_second_data(card: Card, overrides: Iterable[str]) -> None:
    """Refuse overrides, by their keys, that name data where the argument `data` does.

    Raises:
        DataError: there is one: one of them would be ignored.
    """
    _refuse_both(path for path in overrides if _names_data(card, path))


def arguments(prior: Denoiser | str | Path | None, preset: str | None) -> dict[str, Any]:
    """What the arguments `prior` and `preset` change of a card."""
    changes: dict[str, Any] = {} if preset is None else {"preset": preset}
    if prior == "gaussian":
        changes["prior.kind"] = "gaussian"
    elif isinstance(prior, (str, Path)) and prior != "shipped":
        changes["prior"] = {"kind": "network", "file": str(prior)}
    return changes


def refuse_both(prior: Any, preset: str | None, overrides: Iterable[str]) -> None:
    """Refuse overrides that say again what the arguments `prior` and `preset` have said.

    Raises:
        DataError: which.
    """
    told = {"preset": preset, "prior": prior, "prior.kind": prior, "prior.file": prior}
    _refuse_both(path for path in overrides if told.get(path) is not None)


def _refuse_both(overrides: Iterable[str]) -> None:
    """Refuse overrides that say again, and otherwise, what an argument has said."""
    for path in overrides:
        argument = {"preset": "preset", "prior": "prior"}.get(path.split(".")[0], "data")
        raise DataError(
            f"{path} would be ignored, or the argument {argument} (--{argument}) would: give one "
            "of them."
        )


def _names_data(card: Card, path: str) -> bool:
    """Whether a key says what the argument `data` says: which file, or which image."""
    name, _, key = path.partition(".")
    section = getattr(card, name, None)
    if isinstance(section, FileSection):
        return key in ("file", "manifest")
    return key == "image" and getattr(section, "kind", "simulation") == "simulation"
