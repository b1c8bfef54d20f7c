import pytest
import torch


@pytest.fixture
def make_video():
    """Random features (T, N, D) whose frames resemble each other, and two importance maps (T, N)."""

    def make(frames, grid, width, *, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        tokens = grid[0] * grid[1]
        base = torch.randn(1, tokens, width, generator=generator)
        drift = torch.randn(frames, tokens, width, generator=generator)
        features = (base + 0.5 * drift).to(dtype)
        shallow = torch.rand(frames, tokens, generator=generator)
        deep = torch.rand(frames, tokens, generator=generator)
        return features, shallow, deep

    return make
