"""A training loop of one's own: a hypernetwork, a data set and any torch optimiser.

python examples/own_loop.py
"""

import torch

import hyperfields as hf


def main(steps: int = 200) -> float:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    waves = [torch.stack((rows, columns, 0.5 + 0.5 * torch.sin(k * (rows + columns))), -1) for k in range(1, 9)]
    data = hf.Images(torch.stack(waves))

    field = hf.ImageField(hf.FactoredGrid(dims=2, levels=4, log2_table=10, coarsest=4, finest=32, bases=8))
    model = hf.HyperField(hf.ModelConfig(field, hf.LowRank(rank=4), latent_size=16), scenes=len(data.names))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    error = torch.tensor(torch.nan)
    for _, (scenes, batch) in zip(range(steps), hf.SceneLoader(data, scenes=4, samples=2048), strict=False):
        assert isinstance(batch, hf.Points)  # of pictures and shapes; views give hf.Pixels
        fields = model(scenes)  # the fields of these scenes as one function of points
        error = (fields(batch.x) - batch.target).square().mean()
        loss = error + 1e-6 * model.latents(scenes).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"psnr of the last batch: {-10 * error.detach().log10():.1f} dB")
    return float(error.detach())


if __name__ == "__main__":
    main()
