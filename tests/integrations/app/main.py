"""A small Hydra application that treats its algorithms as InverseBench does."""

import os

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    torch.manual_seed(config.seed)
    folder = os.path.join(config.problem.exp_dir, config.algorithm.name, config.exp_name)
    os.makedirs(folder, exist_ok=True)
    OmegaConf.save(config, os.path.join(folder, "config.yaml"))
    operator = instantiate(config.problem.model, device="cpu")
    net = instantiate(config.problem.net)
    algorithm = instantiate(config.algorithm.method, forward_op=operator, net=net)
    for number in range(config.problem.count):
        shape = net.img_channels, net.img_resolution, net.img_resolution
        image = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        data = {"target": 0.5 * torch.nn.functional.avg_pool2d(image[None], 5, 1, 2)}
        observation = operator(data)
        found = algorithm.inference(observation, num_samples=config.num_samples)
        result = {
            "observation": observation,
            "recon": operator.unnormalize(found).cpu(),
            "target": operator.unnormalize(data["target"]).cpu(),
        }
        torch.save(result, os.path.join(folder, f"result_{number}.pt"))


if __name__ == "__main__":
    main()
