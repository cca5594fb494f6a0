"""The 3x3 convolution by fewer multiplications, against the sum that it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from trainers.models import convolution


@given(
    images=st.integers(1, 2),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_those_of_the_sum(
    images: int, inputs: int, outputs: int, size: tuple[int, int], channels_last: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, inputs, *size, generator=draw)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    weight = torch.randn(outputs, inputs, 3, 3, generator=draw)
    bias = torch.randn(outputs, generator=draw)
    given = [value.requires_grad_() for value in (x, weight, bias)]
    found = convolution._Winograd.apply(*given)
    expected = functional.conv2d(*given, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    back = torch.randn(expected.shape, generator=draw)
    for one, other in zip(
        torch.autograd.grad(found, given, back), torch.autograd.grad(expected, given, back), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("side", "channels", "taken"), [(40, 160, True), (8, 160, False), (40, 8, False)])
def test_it_is_taken_where_it_pays(side: int, channels: int, taken: bool) -> None:
    torch.manual_seed(0)
    layer, x = convolution.Conv3x3(channels, channels), torch.rand(1, channels, side, side)
    found = layer(x)
    assert ("Winograd" in type(found.grad_fn).__name__) == taken
    expected = functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    frozen = layer.requires_grad_(False)(x.requires_grad_())
    frozen.sum().backward()
    assert x.grad is not None and layer.weight.grad is None
    whole = torch.export.export(layer.eval(), (x.detach(),))
    assert any("conv2d" in str(node.target) for node in whole.graph.nodes), "an exported graph has the plain layer"


def test_large_maps_keep_their_precision() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 256, 24, 40, generator=draw).relu(), torch.randn(256, 256, 3, 3, generator=draw) / 48
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    off = (convolution._Winograd.apply(x, weight, torch.zeros(256)) - exact).abs().max() / exact.abs().max()
    assert off < 2e-5
