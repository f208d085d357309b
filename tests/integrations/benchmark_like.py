"""Operators and networks of our own with the interface, and the habits, of InverseBench's.

Not its code: what docs/inversebench.md says of its interface, written down as small classes. Some
refuse or ignore batches, none enables gradients, losses come back summed, precisions are mixed.
"""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import torch

from lmaps_science.physics.scattering_geometry import ScatteringGeometry


class Network(torch.nn.Module):
    """The exact denoiser of N(0, std^2), bent a little by a weight; it wants sigma as a tensor."""

    def __init__(self, img_channels, img_resolution, std=0.5):
        super().__init__()
        self.img_channels, self.img_resolution, self.std = img_channels, img_resolution, std
        self.bend = torch.nn.Parameter(torch.tensor(0.01))
        self.largest_batch = 0

    def forward(self, x, sigma):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)  # a float has no `to`
        self.largest_batch = max(self.largest_batch, len(x))
        x = x.to(torch.float32)
        smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        return self.std**2 / (self.std**2 + sigma**2) * (x + self.bend * torch.tanh(smooth))


class Operator:
    def __init__(self, sigma_noise=0.0, unnorm_shift=0.0, unnorm_scale=1.0, device="cpu"):
        self.sigma_noise, self.device = sigma_noise, device
        self.unnorm_shift, self.unnorm_scale = unnorm_shift, unnorm_scale

    def unnormalize(self, inputs):
        return (inputs + self.unnorm_shift) * self.unnorm_scale

    def normalize(self, inputs):
        return inputs / self.unnorm_scale - self.unnorm_shift

    def __call__(self, data):
        clean = self.forward(data["target"])
        return clean + self.sigma_noise * torch.randn_like(clean)

    def loss(self, pred, observation):
        apart = self.forward(pred) - observation
        return (apart * apart.conj()).real.flatten(1).sum(1)

    def gradient(self, pred, observation, return_loss=False):
        leaf = pred.clone().detach().requires_grad_(True)
        loss = self.loss(leaf, observation).sum()
        slope = torch.autograd.grad(loss, leaf)[0]
        return (slope, loss) if return_loss else slope


class Scattering(Operator):
    """complex128; it sees the first image of a batch alone."""

    def __init__(
        self, npix=16, transmitters=6, receivers=24, svd=False, side=0.18, radius=1.6, **options
    ):
        super().__init__(
            **{"sigma_noise": 1e-4, "unnorm_shift": 1.0, "unnorm_scale": 0.5} | options
        )
        self.Nx = self.Ny = npix
        self.dx = self.dy = side / npix
        self.numRec, self.numTrans = receivers, transmitters
        angles = np.linspace(0, 359, transmitters), np.linspace(0, 359, receivers)
        geometry = ScatteringGeometry(npix, side, 6 * side / npix, *angles, radius, radius)
        self.uinc_dom_set, self.sensor_greens_function_set = (
            torch.as_tensor(f.T.reshape(npix, npix, -1, 1))
            for f in (geometry.incident(), geometry.sensor_green())
        )
        if svd:
            self._decompose()

    def forward(self, f, unnormalize=True):
        f = f.to(torch.float64)
        f = self.unnormalize(f) if unnormalize else f
        sources = (f[0, 0, :, :, None] * self.uinc_dom_set[..., 0]).conj()
        return (
            self.dx
            * self.dy
            * torch.einsum("yxt,yxr->tr", sources, self.sensor_greens_function_set[..., 0])[None]
        )

    def _decompose(self):
        pixels = torch.eye(self.Nx**2, dtype=torch.float64).reshape(-1, 1, 1, self.Nx, self.Nx)
        columns = [torch.view_as_real(self.forward(p, False)).flatten() for p in pixels]
        self.A = torch.stack(columns, 1)
        self.U, self.S, self.V_t = torch.linalg.svd(self.A, full_matrices=False)

    def Vt(self, x):
        return (self.V_t @ x.to(torch.float64).flatten(-3)[..., None]).squeeze(-1)

    def V(self, c):
        images = self.V_t.T @ c[..., None].to(torch.float64)
        return images.reshape(-1, 1, self.Ny, self.Nx).to(torch.float32)


class KSpace(Operator):
    """Pairs of real numbers, float64 predictions of float32 data; maps of the last call."""

    def __init__(self, npix=24, coils=3, acceleration=3, **options):
        super().__init__(**options)
        mask = np.zeros(npix, bool)
        mask[npix // 2 - 4 : npix // 2 + 4] = mask[::acceleration] = True
        self.mask = torch.as_tensor(mask)[None, None, None]
        y, x = np.mgrid[:npix, :npix] / npix - 0.5
        places = 2 * np.pi * np.arange(coils) / coils
        maps = [
            np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * (a + x)) for a in places
        ]
        maps = torch.as_tensor(np.stack(maps)).to(torch.complex64)
        self.every_map = (maps / maps.abs().square().sum(0).sqrt())[None]

    def unnormalize(self, inputs):
        return inputs

    normalize = unnormalize

    def get_mask(self):
        return self.mask

    @staticmethod
    def fft(x):
        x = torch.fft.fft2(torch.fft.fftshift(x, (-2, -1)), norm="ortho")
        return torch.fft.ifftshift(x, (-2, -1))

    @staticmethod
    def ifft(x):
        x = torch.fft.ifft2(torch.fft.ifftshift(x, (-2, -1)), norm="ortho")
        return torch.fft.fftshift(x, (-2, -1))

    def __call__(self, data):
        self.maps = self.every_map
        image = torch.view_as_complex(data["target"].permute(0, 2, 3, 1).contiguous())
        kspace = self.fft(self.maps * image[:, None]).to(torch.complex64)
        return torch.view_as_real(self.mask * (kspace + 0.02 * torch.randn_like(kspace)))

    def forward(self, image):
        image = torch.view_as_complex(image.to(torch.float64).permute(0, 2, 3, 1).contiguous())
        return torch.view_as_real(self.mask * self.fft(self.maps * image[:, None]))


class BlackHole(Operator):
    """Data (1, 1, n, 1): amplitudes, phases, log amplitudes, each with deviations, and flux."""

    def __init__(self, npix=16, stations=5, times=4, weight_amp=0.0, **options):
        super().__init__(**{"unnorm_shift": 1.0, "unnorm_scale": 0.5} | options)
        rng = np.random.default_rng(0)
        self.C, self.H, self.W = 1, npix, npix
        self.ref_im = SimpleNamespace(psize=1e-11)
        self.observation_time_ratio = 1.0
        u, v, phases, conjugate, amplitudes = [], [], [], [], []
        for _ in range(times):
            at = {pair: len(u) + k for k, pair in enumerate(combinations(range(stations), 2))}
            place = rng.uniform(-3e9, 3e9, (stations, 2))
            for i, j in at:
                du, dv = place[i] - place[j]
                u.append(du)
                v.append(dv)
            for j, k in combinations(range(1, stations), 2):
                phases.append([at[0, j], at[j, k], at[0, k]])
                conjugate.append([0, 0, 1])
            for k in range(2, stations - 1):
                amplitudes.append([at[0, 1], at[k, k + 1], at[0, k + 1], at[1, k]])
        self.ref_obs = SimpleNamespace(data={"u": np.array(u), "v": np.array(v)})
        self.cp_index, self.cp_conjugate = torch.tensor(phases), torch.tensor(conjugate)
        self.camp_index = torch.tensor(amplitudes)
        self.amp_dim, self.cphase_dim, self.logcamp_dim = map(len, (u, phases, amplitudes))
        self.weight_amp, self.weight_cp = weight_amp, self.cphase_dim
        self.weight_camp, self.weight_flux = self.logcamp_dim, 0.5
        axis = ((npix - 1) / 2 - np.arange(npix)) * self.ref_im.psize
        y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
        waves = np.exp(2j * np.pi * (np.outer(u, x) + np.outer(v, y)))
        pulse = np.sinc(self.ref_im.psize * np.array(u)) * np.sinc(self.ref_im.psize * np.array(v))
        self.waves = torch.as_tensor(pulse[:, None] ** 2 * waves).to(torch.complex64)
        self.sigma = 1.0

    def quantities(self, z):
        x = self.unnormalize(z)
        vis = x.flatten(1).to(self.waves) @ self.waves.T
        v = vis[:, self.cp_index]
        cphase = torch.where(self.cp_conjugate.bool(), v.conj(), v).prod(-1).angle()
        logs = vis.abs().log()[:, self.camp_index]
        return (
            vis.abs(),
            cphase,
            logs @ torch.tensor([1.0, 1, -1, -1]),
            x.flatten(1).sum(1)[:, None],
        )

    def forward(self, z):
        amp, cphase, logcamp, flux = self.quantities(z)
        deviations = torch.ones_like(amp), 0.1 + 0 * cphase, 0.1 + 0 * logcamp
        parts = [amp, deviations[0], cphase, deviations[1], logcamp, deviations[2], flux]
        return torch.cat(parts, 1).float()[:, None, :, None]

    def decompress(self, y):
        n = self.amp_dim, self.cphase_dim, self.logcamp_dim
        return y.split([n[0], n[0], n[1], n[1], n[2], n[2], 1], dim=2)

    def loss(self, pred, observation):
        _, cphase, logcamp, flux = self.quantities(pred)
        known = [part[:, 0, :, 0] for part in self.decompress(observation)]
        phase = 2 * ((1 - torch.cos(known[2] - cphase)) / known[3] ** 2).sum(1)
        amplitude = ((known[4] - logcamp) / known[5]).square().sum(1)
        return 2 * (phase + amplitude + 0.5 * ((known[6] - flux) / 2).square().sum(1))


class Waves(Operator):
    """Full-waveform inversion: a list of receivers, NumPy inside, a loss that has its half."""

    def __init__(self, npix=8, shots=3, **options):
        super().__init__(unnorm_shift=3.0, **options)
        self.matrices = np.random.default_rng(0).normal(size=(shots, 20, npix * npix)) / npix

    def _shots(self, image):
        return [matrix @ np.tanh(image.ravel() / 3) for matrix in self.matrices]

    def __call__(self, data):
        image = self.unnormalize(data["target"])[0, 0].numpy()
        return [SimpleNamespace(data=shot) for shot in self._shots(image)]

    def loss(self, pred, observation):
        images = self.unnormalize(pred).detach().numpy()
        losses = [
            sum(0.5 * ((s - r.data) ** 2).sum() for s, r in zip(shots, observation, strict=True))
            for shots in (self._shots(image) for image in images)
        ]
        return torch.tensor(losses)

    def gradient(self, pred, observation, return_loss=False):
        image = self.unnormalize(pred).detach().numpy()[0, 0]
        shots = zip(self._shots(image), observation, self.matrices, strict=True)
        slope = sum(matrix.T @ (s - r.data) for s, r, matrix in shots)
        slope = slope.reshape(image.shape) * (1 - np.tanh(image / 3) ** 2) / 3
        slope = torch.as_tensor(slope)[None, None] * self.unnorm_scale
        return (slope, self.loss(pred[:1], observation)[0]) if return_loss else slope


class Flow(Operator):
    """Like the Navier-Stokes operator, its forward model is cut off from gradients."""

    @torch.no_grad()
    def forward(self, x):
        return torch.fft.fft2(x).abs()


class Amplitudes(Operator):
    """An operator that this package has never heard of: nonlinear, takes batches."""

    def forward(self, x):
        return torch.fft.fft2(self.unnormalize(x), norm="ortho").abs()
