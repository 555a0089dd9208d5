"""speed.choose: what is slow on this processor is avoided, and a choice is made once."""

import torch
from torch import nn

from distill_utils import speed
from distill_utils.training import Schedule, fit


class Slow(nn.Module):
    """A network whose kernels are slow in bfloat16, or in one memory order."""

    def __init__(self, *, in_bf16=False, when_contiguous=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.in_bf16, self.when_contiguous, self.calls = in_bf16, when_contiguous, 0

    def extra_repr(self):
        return f"{self.in_bf16}, {self.when_contiguous}"

    def forward(self, images):
        self.calls += 1
        contiguous = not self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        if (self.in_bf16 and torch.is_autocast_enabled("cpu")) or (self.when_contiguous and contiguous):
            for _ in range(100):
                torch.rand(64, 64) @ torch.rand(64, 64)
        return self.norm(self.conv(images)).mean((2, 3))


IMAGES = torch.rand(8, 2, 12, 12)


def test_slow_kernels_are_avoided(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    assert not speed.choose(Slow(in_bf16=True), IMAGES).bf16
    chosen = speed.choose(Slow(in_bf16=True, when_contiguous=True), IMAGES)
    assert chosen[:2] == (False, True)
    assert chosen.ratio > 2
    assert str(chosen).startswith("float32, channels_last")
    assert str(chosen).endswith(speed.processor())


def test_choosing_is_done_once_and_leaves_the_network_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    model = Slow().eval()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    first = speed.choose(model, IMAGES)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert not model.training
    assert model.calls == 0
    (kept,) = tmp_path.glob("speed-*.json")
    kept.write_text("[true, true, 9.0]")
    assert speed.choose(model, IMAGES) == (True, True, 9.0) != first


def test_fit_computes_as_was_chosen(tmp_path, monkeypatch, tiny_set, capsys):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    orders = []

    def loss(network, batch):
        orders.append(batch.images.is_contiguous(memory_format=torch.channels_last))
        return network(batch.images).square().mean(), {}

    fit(Slow(in_bf16=True, when_contiguous=True), tiny_set, loss, Schedule(steps=2, batch_size=8, bf16="auto"))
    assert orders == [True, True]
    assert "float32, channels_last" in capsys.readouterr().out
    (kept,) = tmp_path.glob("speed-*.json")
    kept.write_text("[false, false, 1.0]")
    fit(Slow(in_bf16=True, when_contiguous=True), tiny_set, loss, Schedule(steps=2, batch_size=8, bf16="auto"))
    assert orders[2:] == [False, False]
