"""Our physics for InverseBench's program: its algorithms and evaluators run on our operators.

Nothing here imports the program: what it builds from its configuration only has to have the right
methods. In Python:

    forward_op = as_forward_op(problem)                       # or any operator
    observation = forward_op({"target": images})
    algorithm = DPS(net=net, forward_op=forward_op, ...)      # its own class

and in a configuration of its own, in the place of one of its problems:

    name: mine
    prior: checkpoints/inv-scatter-5m.pt
    model:
      _target_: lmaps_science.integrations.inversebench.export.forward_op
      card: scattering/linear_60
    data:
      _target_: lmaps_science.integrations.inversebench.export.TrueImages
      card: scattering/linear_60
    evaluator:
      _target_: lmaps_science.integrations.inversebench.export.as_evaluator
    exp_dir: exps/inference/mine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.cards.load import load_problem
from lmaps_science.cards.problem import Problem
from lmaps_science.io.files import DataError
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.operators import Affine, Operator
from lmaps_science.sampling import InverseProblem

__all__ = [
    "Evaluator",
    "ForwardOperator",
    "TrueImages",
    "as_evaluator",
    "as_forward_op",
    "forward_op",
]

Device = torch.device | str | None


class ForwardOperator:
    """The methods and attributes of the program's `BaseOperator`, of a misfit of ours.

    Images are those of model space, (B, C, H, W). Observations have four axes, the first of them 1
    or B, since its algorithms repeat them so: fewer axes of ours are preceded by ones, more are
    merged. The loss is the program's: sum |H(x) - y|^2 for Gaussian noise, each datum weighted by
    its precision relative to the mean where they differ; the objective that published step sizes
    refer to for other misfits. Batches are safe: each sample has its own loss and gradient.

    Attributes:
        sigma_noise: standard deviation of the noise; 0 where it is not Gaussian.
        unnorm_shift, unnorm_scale: physical = (model + shift) scale; 0 and 1 for other maps.
        device: where it computes.
        problem: the problem of ours it was made of, or None.
    """

    def __init__(
        self,
        misfit: Misfit,
        decode: Operator,
        problem: InverseProblem | None = None,
        *,
        noisy: bool = True,
        measured: bool = False,
    ):
        self._misfit, self._decode, self.problem = misfit, decode, problem
        self._noisy, self._measured = noisy, measured
        self._data_shape = tuple(misfit.data.shape[1:])
        self._scale, self.sigma_noise = float(misfit.objective_scale), 0.0
        if isinstance(misfit, GaussianMisfit):
            # Half the squared residual is objective_scale times L; the program has all of it.
            self._scale *= 2
            self.sigma_noise = float(misfit.sigma.square().mean().sqrt()) if noisy else 0.0
        affine = decode if isinstance(decode, Affine) else None
        self.unnorm_shift = affine.shift if affine else 0.0
        self.unnorm_scale = affine.scale if affine else 1.0
        self.device = misfit.like.device

    def __call__(self, inputs: Mapping[str, Tensor], **kwargs: Any) -> Tensor:
        """The observation of `inputs["target"]`, with noise; the measured one where asked for.

        Random numbers come from PyTorch's global generator, as in the program, which seeds it.
        """
        if self._measured:
            return self._packed(self._misfit.data)
        x = self._model(inputs["target"])
        with torch.no_grad():
            make = self._misfit.simulate if self._noisy else self._misfit.expected
            return self._packed(make(x))

    def forward(self, inputs: Tensor, unnormalize: bool = True, **kwargs: Any) -> Tensor:
        """The same without noise; with `unnormalize=False` of images in physical units."""
        return self._packed(self._misfit.expected(self._model(inputs, unnormalize)))

    def loss(
        self, pred: Tensor, observation: Tensor, unnormalize: bool = True, **kwargs: Any
    ) -> Tensor:
        """The misfit of each image to the observation, (B,)."""
        return self._scale * self._observing(observation)(self._model(pred, unnormalize))

    def gradient(
        self, pred: Tensor, observation: Tensor, return_loss: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Gradient of the loss, like `pred`; with `return_loss` also the loss, summed over B."""
        with torch.no_grad():
            x = self._model(pred.detach())
            gradient, values = self._observing(observation).gradient(x)
        found = (self._scale * gradient).to(pred)
        return (found, self._scale * values.sum()) if return_loss else found

    def loss_m(self, measurements: Tensor, observation: Tensor) -> Tensor:
        """The loss (B,) of images whose `forward` is `measurements`."""
        return self._scale * self._observing(observation).of_expected(self._unpacked(measurements))

    def gradient_m(self, measurements: Tensor, observation: Tensor) -> Tensor:
        """Its gradient by the measurements."""
        with torch.enable_grad():
            leaf = measurements.detach().clone().requires_grad_()
            return torch.autograd.grad(self.loss_m(leaf, observation).sum(), leaf)[0]

    def unnormalize(self, inputs: Tensor) -> Tensor:
        """Model space to physical units."""
        found: Tensor = self._decode(inputs.to(self._misfit.like)).to(inputs)
        return found

    def normalize(self, inputs: Tensor) -> Tensor:
        """Physical units to model space.

        Raises:
            ValueError: the map has no inverse, as the decoder of an autoencoder.
        """
        if not isinstance(self._decode, Affine):
            raise ValueError(f"{self._decode!r} has no inverse: there is no normalize.")
        return self._decode.to_model(inputs.to(self._misfit.like)).to(inputs)

    def close(self) -> None:
        """Nothing is open."""

    def _model(self, images: Tensor, unnormalize: bool = True) -> Tensor:
        """Images in model space, where and in which precision the operator computes."""
        x = images if unnormalize else self.normalize(images)
        return x.to(self._misfit.like)

    def _observing(self, observation: Tensor) -> Misfit:
        return self._misfit.with_data(self._unpacked(observation))

    def _packed(self, data: Tensor) -> Tensor:
        shape = self._data_shape
        if len(shape) > 3:
            return data.reshape(len(data), -1, *shape[-2:])
        return data.reshape(len(data), *[1] * (3 - len(shape)), *shape)

    def _unpacked(self, packed: Tensor) -> Tensor:
        try:
            data = packed.reshape(-1, *self._data_shape)
        except RuntimeError as error:
            raise ValueError(
                f"an observation of shape {tuple(packed.shape)} was given, expected (1 or B, ...) "
                f"of {self._data_shape}, as forward_op(data) makes it."
            ) from error
        like = self._misfit.data
        return data.to(device=like.device, dtype=like.dtype)

    def __repr__(self) -> str:
        return f"ForwardOperator({self._misfit!r})"


def as_forward_op(
    source: InverseProblem | Operator,
    *,
    decode: Affine | None = None,
    sigma_noise: float = 0.0,
    measured: bool = False,
    device: Device = None,
) -> ForwardOperator:
    """A problem or an operator of ours as one of the program's forward operators.

    Args:
        source: a problem with one observation, whose misfit and noise are taken; or an operator on
            physical images, which gets Gaussian noise.
        decode: for an operator: the map from model space to its images; None: they are the same.
        sigma_noise: for an operator: the standard deviation of its data, E|n|^2 = sigma_noise^2.
        measured: calling it gives the problem's own data, whatever the image.
        device: where to compute; default: where the source is.

    Raises:
        ValueError: a problem of several observations; options of an operator given with a problem,
            or the other way round; a negative `sigma_noise`.

    Example:
        forward_op = as_forward_op(load_problem("scattering/linear_60"))
    """
    if isinstance(source, InverseProblem):
        if decode is not None or sigma_noise:
            raise ValueError("a problem has its own map and noise: omit decode and sigma_noise.")
        if source.observations != 1:
            raise ValueError(
                f"the problem holds {source.observations} observations, and a forward operator "
                "makes one: give the problems one by one."
            )
        problem = source if device is None else source.to(device=device)
        return ForwardOperator(problem.misfit, problem.decode, problem, measured=measured)
    if measured or not sigma_noise >= 0:
        raise ValueError(
            f"an operator alone has no measured data, and its noise cannot be {sigma_noise}: give "
            "a problem, or sigma_noise >= 0."
        )
    operator = source if device is None else source.to(device=device)
    chain = operator if decode is None else operator @ decode
    with torch.no_grad():
        zero = operator.like.new_zeros(1, *chain.image_shape)
        misfit = GaussianMisfit(chain, torch.zeros_like(chain(zero)), sigma_noise or 1.0)
    identity = Affine(1.0, 0.0, chain.image_shape)
    return ForwardOperator(misfit, decode or identity, noisy=sigma_noise > 0)


def forward_op(
    card: str,
    data: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    measured: bool = False,
    device: Device = None,
) -> ForwardOperator:
    """The forward operator of a card's problem, for `problem.model._target_`; see `load_problem`.

    The card's prior is not loaded: the program has its own network.
    """
    problem = load_problem(card, data, "gaussian", overrides, device=device)
    return as_forward_op(problem, measured=measured)


class TrueImages:
    """The true image of a card's simulation as a data set of one item, for `problem.data._target_`.

    Of measured data, whose truth is unknown, it gives zeros: run with `measured: true`, and mind
    that scores against that target mean nothing (`as_evaluator` leaves them out).
    """

    id_list = (0,)

    def __init__(
        self, card: str, data: str | None = None, overrides: Mapping[str, Any] | None = None
    ):
        problem = load_problem(card, data, "gaussian", overrides)
        truth = np.zeros(problem.image_shape) if problem.truth is None else problem.truth.values
        images = torch.as_tensor(truth).reshape(1, *problem.image_shape).to(problem.like(0))
        self._target = as_forward_op(problem).normalize(images)[0]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`{"target": image}`, in model space."""
        if index not in (0, -1):
            raise IndexError(f"there is one image, 0; there is no image {index}.")
        return {"target": self._target}


class Evaluator:
    """Scores as the program asks for them, with the metrics of our problem.

    Attributes:
        metric_state: the scores of all items so far, by the metrics' names.
        device: where the problem computes.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        self.device = problem.misfit.like.device
        self.metric_state: dict[str, list[float]] = {}

    def __call__(
        self, pred: Tensor, target: Tensor, observation: Tensor | None = None
    ) -> dict[str, float]:
        """The metrics of one item, each the mean over its samples.

        Args:
            pred: samples (n, C, H, W) in physical units.
            target: the truth, (C, H, W) or (1, C, H, W); left out where the problem's is unknown.
            observation: as the forward operator made it; default: the problem's own.
        """
        problem = self._problem
        template = problem.image
        if problem.truth is not None:
            truth = target.detach().cpu().reshape(template.shape).numpy()
            problem = replace(problem, truth=template.copy(data=truth))
        if observation is not None:
            like = problem.misfit.data
            problem = problem.with_data(observation.reshape(like.shape).to(like))
        images = pred.detach().cpu().numpy().reshape(len(pred), *template.shape)
        scores = {name: float(np.mean(v)) for name, v in problem.evaluate(images).items()}
        for name, value in scores.items():
            self.metric_state.setdefault(name, []).append(value)
        return scores

    def compute(self) -> dict[str, float]:
        """Mean and standard deviation (`NAME_std`, of the population) over the items so far."""
        found = {}
        with np.errstate(invalid="ignore"):  # the spread of infinite values, of perfect images
            for name, values in self.metric_state.items():
                found[name], found[f"{name}_std"] = float(np.mean(values)), float(np.std(values))
        return found


def as_evaluator(forward_op: ForwardOperator | Problem) -> Evaluator:
    """Our metrics as an evaluator of the program, which gives its forward operator.

    Raises:
        DataError: a forward operator that was made of a bare operator, which has no metrics.
    """
    problem = forward_op.problem if isinstance(forward_op, ForwardOperator) else forward_op
    if not isinstance(problem, Problem):
        raise DataError(
            "metrics belong to the problem of a card, and this forward operator was made of "
            f"{type(problem).__name__}: give as_forward_op(load_problem(...))."
        )
    return Evaluator(problem)
